"""Is it gone, and what else moved? Parent and edited teacher paint the same captions with the same seeds.

Shapes: M pairs of pictures, K controls, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.evaluation.asked import Paintings
from stablerep.evaluation.intervals import Accuracies, Interval
from stablerep.evaluation.near_copies import NearCopies, find_near_copies
from stablerep.generation.concepts import ConceptEdit
from stablerep.workflows.edit_judges import Judge, mean_accuracy
from stablerep.workflows.edit_paint import Pairs, draw, paint_pairs
from stablerep.workflows.edit_plan import AuditPlan
from stablerep.workflows.edit_scores import (
    Control,
    CopyShares,
    EditAudit,
    EditedConcept,
    Moved,
    Preserved,
    Ranks,
    attribute_shares,
    fall,
    fall_above,
    how_far,
    paired,
)

_Two = tuple[np.ndarray, np.ndarray]
"""Before and after."""


def audit_edit(plan: AuditPlan, judge: Judge, console: Console) -> EditAudit:
    """Paint before and after into ``audit/`` of the edited teacher, measure, and draw ``before-after.png``.

    Raises ``UserError`` where nothing is painted of a concept, or of what should stay, that could be compared; all else
    that can fail, ``plan_audit`` tried.
    """
    request = plan.request
    pairs = paint_pairs(plan, console)
    draw(plan, pairs)
    judged = _judged(plan, pairs, judge)
    known = [plan.num_known(np.unique(judged.texts[rows])) for rows in (~judged.stays, judged.stays)]
    moved = [_moved(pairs, judged.vectors, np.flatnonzero(rows)) for rows in (~judged.stays, judged.stays)]
    return EditAudit(
        judge=str(request.judge),
        judge_fingerprint=judge.fingerprint,
        num_classes=len(plan.classes),
        num_images=request.sizes.num_images,
        num_failed=pairs.num_failed,
        edited=tuple(_concept(judged, edit, judge) for edit in request.edits),
        preserved=_preserved(judged),
        num_edited_known=known[0],
        num_preserved_known=known[1],
        moved_edited=moved[0],
        moved_preserved=moved[1],
        near_copies=_near_copies(plan, pairs, console),
        origins=pairs.origins,
    )


@dataclass(frozen=True)
class _Judged:
    """What the judge says of every picture."""

    plan: AuditPlan
    texts: np.ndarray
    """(M,)."""
    own: np.ndarray
    """(M,) the class that each pair should fit: of its edited concept, else of its caption."""
    vectors: _Two
    ranks: tuple[Ranks, Ranks]
    controls: np.ndarray
    """(K,) the class that each control fits best."""
    controlled: np.ndarray
    """(K,) the pairs that they belong to."""

    @property
    def stays(self) -> np.ndarray:
        """(M,) whether a pair's caption names no edited concept."""
        staying: np.ndarray = self.own >= len(self.plan.phrases)
        return staying

    def paired(self, parts: Sequence[np.ndarray], groups: np.ndarray) -> list[Accuracies]:
        """Shares of what is right, with replicates as the request asks for them."""
        return paired(parts, groups, self.plan.request.sizes.num_bootstrap, self.plan.request.seed)


def _judged(plan: AuditPlan, pairs: Pairs, judge: Judge) -> _Judged:
    own = _own_class(pairs.texts, plan)
    _require_pairs(own, plan)
    vectors = judge.vectors(pairs.before), judge.vectors(pairs.after)
    before, after = (Ranks.among(judge.similarities(part, plan.classes), own) for part in vectors)
    controls = np.empty(0, dtype=np.int64)
    if len(pairs.controls):
        controls = judge.similarities(judge.vectors(pairs.controls), plan.classes).argmax(axis=1)
    return _Judged(plan, pairs.texts.astype(str), own, vectors, (before, after), controls, pairs.controlled)


def _require_pairs(own: np.ndarray, plan: AuditPlan) -> None:
    for concept in plan.asked.edited:
        if not (own == plan.phrases.index(concept)).any():
            raise UserError(
                f"no pair of pictures is left of {concept!r}: all failed, or its captions are asked for another edited "
                "concept; give --verify-captions with others"
            )
    if not (own >= len(plan.phrases)).any():
        raise UserError("no pair of pictures is left of captions that should stay; give more captions")


def _own_class(texts: np.ndarray, plan: AuditPlan) -> np.ndarray:
    number = {text: len(plan.phrases) + index for index, text in enumerate(plan.asked.preserved)}
    # Of two concepts in one caption the first counts.
    for concept, part in reversed(plan.asked.edited.items()):
        number |= dict.fromkeys(part, plan.phrases.index(concept))
    return np.array([number[text] for text in texts])


def _concept(judged: _Judged, edit: ConceptEdit, judge: Judge) -> EditedConcept:
    plan, number = judged.plan, judged.plan.phrases.index(edit.concept)
    rows = np.flatnonzero(judged.own == number)
    # Few captions: the interval is over pictures.
    before, after = judged.paired([part.rank[rows] == 1 for part in judged.ranks], np.arange(len(rows)))
    as_target: list[float | None] = [None, None]
    if edit.kind == "replace":
        target = plan.phrases.index(edit.target)
        as_target = [float((part.best[rows] == target).mean()) for part in judged.ranks]
    shares: list[dict[str, Interval]] = [{}, {}]
    tested, attributes, sizes = plan.tested.get(edit.concept), list(edit.shares), plan.request.sizes
    if edit.kind == "rebalance":
        named = [judge.named(part[rows], attributes) for part in judged.vectors]
        draws = {"num": sizes.num_bootstrap, "seed": plan.request.seed}
        shares = [attribute_shares(part, attributes, tested, **draws) for part in named]
    (unasked,) = judged.paired([judged.ranks[0].best[judged.stays] == number], judged.texts[judged.stays])
    return EditedConcept(
        concept=edit.concept,
        kind=edit.kind,
        captions=tuple(plan.asked.edited[edit.concept]),
        num_pictures=len(rows),
        before=before.interval("top1"),
        after=after.interval("top1"),
        fall=fall(before, after),
        control=_control(judged, number),
        unasked=unasked.interval("top1"),
        rank_before=float(np.median(judged.ranks[0].rank[rows])),
        rank_after=float(np.median(judged.ranks[1].rank[rows])),
        as_target_before=as_target[0],
        as_target_after=as_target[1],
        shares_before=shares[0],
        shares_after=shares[1],
        wanted=dict(edit.shares),
        judge_accuracy=None if tested is None else mean_accuracy(tested),
    )


def _control(judged: _Judged, number: int) -> Control | None:
    """Of the pairs that show a concept those with a control: before, after, and where only the target was asked for."""
    places = np.flatnonzero(judged.own[judged.controlled] == number)
    if not len(places):
        return None
    rows = judged.controlled[places]
    parts = [part.rank[rows] == 1 for part in judged.ranks] + [judged.controls[places] == number]
    before, after, control = judged.paired(parts, np.arange(len(rows)))
    return Control(
        num_pictures=len(rows), named=control.interval("top1"), fall_above=fall_above(before, after, control)
    )


def _preserved(judged: _Judged) -> Preserved:
    texts = judged.texts[judged.stays]
    before, after = judged.paired([part.rank[judged.stays] == 1 for part in judged.ranks], texts)
    return Preserved(
        num_captions=len(np.unique(texts)),
        num_pictures=len(texts),
        before=before.interval("top1"),
        after=after.interval("top1"),
        change=after.ahead_of(before, "top1"),
    )


def _moved(pairs: Pairs, vectors: _Two, rows: np.ndarray) -> Moved:
    images = [pairs.before[row] for row in rows], [pairs.after[row] for row in rows]
    return how_far(images, (vectors[0][rows], vectors[1][rows]), pairs.texts[rows].astype(str))


def _near_copies(plan: AuditPlan, pairs: Pairs, console: Console) -> CopyShares | None:
    reference, request = plan.reference, plan.request
    if reference is None:
        return None
    texts, sizes = {text: text for text in pairs.texts}, request.sizes

    def search(images: Sequence[bytes], origin: str) -> NearCopies:
        paintings = Paintings(origin, images, pairs.texts.astype(str), pairs.texts.astype(str), 0, 0)
        console.say(sizes.copies.search_of(len(images), len(reference.train)))
        found, _ = find_near_copies(
            paintings, texts, reference, sizes.copies, num_bootstrap=sizes.num_bootstrap, seed=request.seed
        )
        return found

    before, after = search(pairs.before, pairs.origins[0]), search(pairs.after, pairs.origins[1])
    return CopyShares(before=before.share, after=after.share, false_alarms=before.false_alarms)
