"""Is it gone, and what else moved? Parent and edited teacher paint the same captions with the same seeds."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stablerep import runtime
from stablerep.captions.worlds import world_name
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.evaluation.asked import Paintings
from stablerep.evaluation.benchmarks import BenchmarkData, load_benchmark
from stablerep.evaluation.contact_sheet import Block, save_sheet
from stablerep.evaluation.near_copies import NearCopies, NearCopyConfig, find_near_copies
from stablerep.features import TableImages
from stablerep.generation.concepts import ConceptEdit, mentions, without
from stablerep.generation.execute import generate
from stablerep.generation.settings import GenerateConfig, PaintConfig
from stablerep.store import OK, CaptionTable, ImageTable, caption_id
from stablerep.workflows.edit_judges import Judge
from stablerep.workflows.edit_scores import (
    CopyShares,
    EditAudit,
    EditedConcept,
    Moved,
    Preserved,
    Ranks,
    fall,
    how_far,
    paired,
)

_Two = tuple[np.ndarray, np.ndarray]
"""Before and after."""

FOLDER = "audit"
SHEET = "before-after.png"
_SHOWN = 6
_SHOWN_CAPTIONS = 8


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """Sizes of the audit of an edit."""

    num_images: int = 64
    """Pictures of each caption."""
    num_edited: int = 4
    """Captions that name an edited concept, for each edit."""
    num_preserved: int = 50
    """Captions that name none, each of another concept."""
    num_distractors: int = 100
    """Further captions that a picture may fit better; they are not painted."""
    where: str | None = None
    """Only captions that match this filter."""
    edited_where: str | None = None
    """Captions that name an edited concept must match this one too; for words that also mean something else."""
    search_copies: bool = True
    """Search the training pictures of the world for near-copies, where a world is given."""
    copies: NearCopyConfig = field(default_factory=NearCopyConfig)
    """Settings of that search."""
    num_bootstrap: int = 1000
    """Replicates of the bootstrap."""

    def __post_init__(self) -> None:
        if min(self.num_images, self.num_edited, self.num_preserved, self.num_bootstrap) < 1:
            raise ValueError("the sizes of an audit must be positive")


@dataclass(frozen=True, kw_only=True)
class AuditRequest:
    """What is audited: which edits of which teacher, asked with which captions."""

    parent: str
    child: Path
    edits: tuple[ConceptEdit, ...]
    captions: Path
    judge: Path
    world: Path | None
    paint: PaintConfig
    sizes: AuditConfig
    prompt: str
    """What is asked for to measure a rebalance, with {} where the concept goes."""
    seed: int


@dataclass(frozen=True)
class _Asked:
    """Captions by edited concept, captions that stay, captions that only compete, and the rows to paint."""

    edited: dict[str, list[str]]
    preserved: list[str]
    distractors: list[str]
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class _Pairs:
    """M pairs of pictures with the text of their caption."""

    before: Sequence[bytes]
    after: Sequence[bytes]
    texts: np.ndarray
    origins: tuple[str, str]
    num_failed: int


def audit_edit(request: AuditRequest, judge: Judge, console: Console) -> EditAudit:
    """Paint before and after into ``audit/`` of the edited teacher, measure, and draw ``before-after.png``.

    Raises ``UserError`` where no caption of the table can be used.
    """
    asked = _choose(request, judge)
    pairs = _paint(request, asked, console)
    vectors = judge.vectors(pairs.before), judge.vectors(pairs.after)
    phrases = [*asked.edited, *(edit.target for edit in request.edits if edit.kind == "replace")]
    classes = np.concatenate([judge.phrases(phrases), judge.captions([*asked.preserved, *asked.distractors])])
    own = _own_class(pairs.texts, asked, len(phrases))
    ranks = [Ranks.among(judge.similarities(part, classes), own) for part in vectors]
    is_edited = own < len(phrases)
    _draw(request.child / SHEET, pairs, asked)
    moved = [_moved(pairs, vectors, np.flatnonzero(rows)) for rows in (is_edited, ~is_edited)]
    return EditAudit(
        judge=str(request.judge),
        judge_fingerprint=judge.fingerprint,
        num_classes=len(classes),
        num_images=request.sizes.num_images,
        num_failed=pairs.num_failed,
        edited=tuple(
            _concept(request, edit, tuple(asked.edited[edit.concept]), (phrases, vectors, own, ranks), judge)
            for edit in request.edits
        ),
        preserved=_preserved(request, pairs.texts[~is_edited], [part.rank[~is_edited] for part in ranks]),
        moved_edited=moved[0],
        moved_preserved=moved[1],
        near_copies=_near_copies(request, pairs, console),
        origins=pairs.origins,
    )


def _choose(request: AuditRequest, judge: Judge) -> _Asked:
    """Captions at random but for the seed: some that name each concept, and others, each of another concept."""
    rows = _matching(request.captions, request.sizes.where, "where")
    meant = {row["text"] for row in _matching(request.captions, request.sizes.edited_where, "edited-where")}
    rng = runtime.numpy_generator("audit captions", request.seed)
    shuffled = {rows[number]["text"]: rows[number] for number in rng.permutation(len(rows))}
    texts, edited = list(shuffled), dict[str, list[str]]()
    for edit in request.edits:
        if edit.kind == "rebalance":  # most captions say more, and so leave no choice
            text = request.prompt.replace("{}", edit.concept)
            shuffled.setdefault(text, _caption(text))
            edited[edit.concept] = [text]
            continue
        own = [text for text in texts if text in meant and mentions(text, edit.concept) and judge.has(text)]
        if not own:
            raise UserError(
                f"{request.captions}: no caption that can be judged names {edit.concept!r}; "
                "give --verify-captions with some"
            )
        edited[edit.concept] = own[: request.sizes.num_edited]
    avoided = [*edited, *(edit.target for edit in request.edits if edit.kind == "replace")]
    others = _distinct(
        [shuffled[text] for text in without(texts, avoided)],
        request.sizes.num_preserved + request.sizes.num_distractors,
        judge,
    )
    if not others:
        raise UserError(
            f"{request.captions}: no caption is left that should stay as it is; give more captions"
        )
    preserved = others[: request.sizes.num_preserved]
    chosen = dict.fromkeys([*(text for part in edited.values() for text in part), *preserved])
    return _Asked(edited, preserved, others[len(preserved) :], [shuffled[text] for text in chosen])


def _matching(captions: Path, where: str | None, option: str) -> list[dict[str, Any]]:
    table = CaptionTable.open(captions)
    try:
        there = [name for name in table.schema.names if name in table.dataset.schema.names]
        rows: list[dict[str, Any]] = table.read(there, where).sort_by("id").to_pylist()
    except (ValueError, OSError) as error:
        raise UserError(f"--audit.{option} {where!r} cannot be used on {captions}: {error}") from error
    return rows


def _caption(text: str) -> dict[str, Any]:
    return {"id": caption_id(text), "text": text, "source": "edit", "group": text}


def _distinct(rows: Sequence[Mapping[str, Any]], most: int, judge: Judge) -> list[str]:
    """The first captions, one for each concept, that the judge can tell."""
    chosen: dict[str, str] = {}
    for row in rows:
        concept = row.get("concept") or row["id"]
        if concept not in chosen and len(chosen) < most and judge.has(row["text"]):
            chosen[concept] = row["text"]
    return list(chosen.values())


def _paint(request: AuditRequest, asked: _Asked, console: Console) -> _Pairs:
    folder = request.child / FOLDER
    CaptionTable.open_or_create(folder / "captions.lance").append(asked.rows)
    ids = ", ".join(f"'{caption_id(row['text'])}'" for row in asked.rows)
    painting = {
        **{name.name: getattr(request.paint, name.name) for name in dataclasses.fields(PaintConfig)},
        "captions": folder / "captions.lance",
        "num_images": request.sizes.num_images,
        "seed": request.seed,
        "format": "png",
        "where": f"id IN ({ids})",
    }
    tables, origins = [], []
    for name, teacher in (("before", request.parent), ("after", str(request.child))):
        out = folder / f"{name}.lance"
        summary = generate(GenerateConfig(**painting, teacher=teacher, out=out), console=console)
        tables.append(ImageTable.open(out))
        origins.append(summary.origin)
    return _matched(tables, (origins[0], origins[1]), asked, request.sizes.num_images)


def _matched(
    tables: Sequence[ImageTable], origins: tuple[str, str], asked: _Asked, num_images: int
) -> _Pairs:
    """The pictures that both teachers painted, in the order of captions and image indices."""
    found = []
    for table in tables:
        rows = table.read(["caption_id", "image_index", "status"]).to_pylist()
        found.append(
            {
                (row["caption_id"], row["image_index"]): position
                for position, row in enumerate(rows)
                if row["status"] == OK
            }
        )
    keys = [
        (row["text"], (row["id"], index))
        for row in asked.rows
        for index in range(num_images)
        if all((row["id"], index) in part for part in found)
    ]
    if not keys:
        raise UserError("parent or edited teacher painted no picture that could be compared")
    before, after = (
        TableImages(table, [part[key] for _, key in keys]) for table, part in zip(tables, found, strict=True)
    )
    return _Pairs(
        before[:],
        after[:],
        np.array([text for text, _ in keys], dtype=object),
        origins,
        len(asked.rows) * num_images - len(keys),
    )


def _own_class(texts: np.ndarray, asked: _Asked, num_phrases: int) -> np.ndarray:
    """The class (M,) that each picture should fit: of its edited concept, else of its caption."""
    number = {text: num_phrases + index for index, text in enumerate(asked.preserved)}
    number |= {
        text: index for index, part in reversed(list(enumerate(asked.edited.values()))) for text in part
    }
    return np.array([number[text] for text in texts])


def _concept(
    request: AuditRequest,
    edit: ConceptEdit,
    captions: tuple[str, ...],
    measured: tuple[list[str], _Two, np.ndarray, list[Ranks]],
    judge: Judge,
) -> EditedConcept:
    phrases, vectors, own, ranks = measured
    rows = np.flatnonzero(own == phrases.index(edit.concept))
    is_right = [part.rank[rows] == 1 for part in ranks]
    numbers = np.arange(len(rows))  # few captions: the interval is over pictures
    before, after = paired(is_right[0], is_right[1], numbers, request.sizes.num_bootstrap, request.seed)
    as_target: list[float | None] = [None, None]
    if edit.kind == "replace":
        as_target = [float((part.best[rows] == phrases.index(edit.target)).mean()) for part in ranks]
    shares: list[dict[str, float]] = [{}, {}]
    if edit.kind == "rebalance":
        named = [judge.named(part[rows], list(edit.shares)) for part in vectors]
        shares = [
            {name: float((part == number).mean()) for number, name in enumerate(edit.shares)}
            for part in named
        ]
    return EditedConcept(
        concept=edit.concept,
        kind=edit.kind,
        captions=captions,
        num_pictures=len(rows),
        before=before.interval("top1"),
        after=after.interval("top1"),
        fall=fall(before, after),
        rank_before=float(np.median(ranks[0].rank[rows])),
        rank_after=float(np.median(ranks[1].rank[rows])),
        as_target_before=as_target[0],
        as_target_after=as_target[1],
        shares_before=shares[0],
        shares_after=shares[1],
        wanted=dict(edit.shares),
        judge_accuracy=judge.accuracy(list(edit.shares)) if edit.shares else None,
    )


def _preserved(request: AuditRequest, texts: np.ndarray, ranks: Sequence[np.ndarray]) -> Preserved:
    before, after = paired(
        ranks[0] == 1, ranks[1] == 1, texts.astype(str), request.sizes.num_bootstrap, request.seed
    )
    return Preserved(
        num_captions=len(np.unique(texts.astype(str))),
        num_pictures=len(texts),
        before=before.interval("top1"),
        after=after.interval("top1"),
        change=after.ahead_of(before, "top1"),
    )


def _moved(pairs: _Pairs, vectors: _Two, rows: np.ndarray) -> Moved:
    images = [pairs.before[row] for row in rows], [pairs.after[row] for row in rows]
    return how_far(images, (vectors[0][rows], vectors[1][rows]), pairs.texts[rows].astype(str))


def _near_copies(request: AuditRequest, pairs: _Pairs, console: Console) -> CopyShares | None:
    if request.world is None or not request.sizes.search_copies:
        return None
    data = BenchmarkData(world=request.world, fashion=request.world)
    benchmark = load_benchmark(world_name(request.world), data)
    texts = {text: text for text in pairs.texts}

    def search(images: Sequence[bytes], origin: str) -> NearCopies:
        paintings = Paintings(origin, images, pairs.texts.astype(str), pairs.texts.astype(str), 0, 0)
        found, _ = find_near_copies(
            paintings, texts, benchmark, request.sizes.copies, seed=request.seed, console=console
        )
        return found

    before, after = search(pairs.before, pairs.origins[0]), search(pairs.after, pairs.origins[1])
    return CopyShares(before=before.share, after=after.share, false_alarms=before.false_alarms)


def _draw(path: Path, pairs: _Pairs, asked: _Asked) -> None:
    """Before and after side by side: edited captions first, then some that should have stayed."""
    shown = [*dict.fromkeys(text for part in asked.edited.values() for text in part)]
    blocks = []
    for text in [*shown[:_SHOWN_CAPTIONS], *asked.preserved[:_SHOWN_CAPTIONS]]:
        rows = np.flatnonzero(pairs.texts == text)[:_SHOWN]
        for name, images in (("before", pairs.before), ("after", pairs.after)):
            if len(rows):
                blocks.append(Block(tuple(images[row] for row in rows), f"{name}: {text}"))
    save_sheet(path, blocks, columns=2)
