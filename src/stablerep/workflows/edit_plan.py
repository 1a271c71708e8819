"""What an audit of an edit asks, and all that it needs of judge and world: what can fail before painting fails here.

Shapes: C classes, E width of the judge's vectors.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stablerep import runtime
from stablerep.audit.shares import Checked
from stablerep.captions.worlds import world_name
from stablerep.errors import UserError
from stablerep.evaluation.benchmarks import Benchmark, BenchmarkData, load_benchmark
from stablerep.evaluation.near_copies import NearCopyConfig
from stablerep.generation.concepts import ConceptEdit, exchanged, mentions, without
from stablerep.generation.settings import PaintConfig
from stablerep.store import CaptionTable, caption_id
from stablerep.workflows.edit_judges import Judge


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
    """Captions that name an edited concept must match this one too, as must the real pictures that say what it looks
    like; for words that also mean something else."""
    search_copies: bool = True
    """Search the training pictures of the world for near-copies, where a world is given."""
    copies: NearCopyConfig = field(default_factory=NearCopyConfig)
    """Settings of that search."""
    num_bootstrap: int = 1000
    """Replicates of the bootstrap."""

    def __post_init__(self) -> None:
        if min(self.num_images, self.num_edited, self.num_preserved, self.num_bootstrap) < 1:
            raise ValueError("the sizes of an audit must be positive")
        if self.num_images < 2:
            raise ValueError(
                "num_images must be at least 2: how far pictures move is read against another seed"
            )


@dataclass(frozen=True, kw_only=True)
class AuditRequest:
    """What is audited: which edits of which teacher, asked with which captions."""

    parent: str
    child: Path
    edits: tuple[ConceptEdit, ...]
    captions: Path
    where: str | None
    """Only captions that match this filter, beside those of ``sizes``: what the edit itself was restricted to."""
    known: frozenset[str]
    """Ids of all captions that the edit was solved for."""
    judge: Path
    world: Path | None
    paint: PaintConfig
    sizes: AuditConfig
    prompt: str
    """What is asked for to measure a rebalance, with {} where the concept goes."""
    seed: int


@dataclass(frozen=True)
class Asked:
    """Captions by edited concept, captions that stay, captions that only compete, and the rows to paint."""

    edited: dict[str, list[str]]
    preserved: list[str]
    distractors: list[str]
    rows: list[dict[str, Any]]

    def targets(self, edits: Sequence[ConceptEdit]) -> dict[str, str]:
        """Caption that names a removed or replaced concept -> what its edit makes of it, where anything is left."""
        settled = {edit.concept: edit.target for edit in edits if edit.kind != "rebalance"}
        texts = dict.fromkeys(text for concept in settled for text in self.edited[concept])
        targets = {text: exchanged(text, settled) for text in texts}
        return {text: target for text, target in targets.items() if target}


@dataclass(frozen=True)
class AuditPlan:
    """A request with its captions, and what they are held against."""

    request: AuditRequest
    asked: Asked
    phrases: list[str]
    """The edited concepts and what takes the place of replaced ones."""
    classes: np.ndarray
    """(C, E) first the phrases, then preserved captions and distractors."""
    tested: Mapping[str, Checked | None]
    """Rebalanced concept -> what the judge says of real pictures of its attributes; None where it cannot be tested."""
    reference: Benchmark | None
    """Real pictures for the search for near-copies; None where there is none."""

    def num_known(self, texts: Iterable[str]) -> int:
        """How many of the captions the edit was solved for."""
        return sum(caption_id(text) in self.request.known for text in texts)


def plan_audit(request: AuditRequest, judge: Judge) -> AuditPlan:
    """Choose the captions, and look up in judge and world all that the audit will need.

    Raises ``UserError`` where no caption of the table can be used, where the judge has no picture of a concept or an
    attribute, and where the world cannot be searched for near-copies.
    """
    asked = _choose(request, judge)
    replaced = [edit.target for edit in request.edits if edit.kind == "replace"]
    phrases = list(dict.fromkeys([*asked.edited, *replaced]))
    where = request.sizes.edited_where
    meant = None if where is None else _texts(request, where)
    classes = [judge.phrases(phrases, meant), judge.captions([*asked.preserved, *asked.distractors])]
    return AuditPlan(
        request,
        asked,
        phrases,
        np.concatenate(classes),
        dict(_tested(request, judge)),
        _reference(request),
    )


def _tested(request: AuditRequest, judge: Judge) -> Iterator[tuple[str, Checked | None]]:
    for edit in request.edits:
        if edit.kind == "rebalance":
            judge.phrases(list(edit.shares))  # raises for an attribute that it could not name later
            yield edit.concept, judge.tested(list(edit.shares))


def _choose(request: AuditRequest, judge: Judge) -> Asked:
    """Captions at random but for the seed: some that name each concept, and others, each of another concept."""
    within = _texts(request, request.where)
    meant = _texts(request, request.sizes.edited_where)
    rows = [row for row in _matching(request, request.sizes.where) if row["text"] in within]
    rng = runtime.numpy_generator("audit captions", request.seed)
    drawn = [rows[number] for number in rng.permutation(len(rows))]
    # What the edit was solved for says little of what it does elsewhere: it is asked where others run out.
    drawn.sort(key=lambda row: row["id"] in request.known)
    shuffled = {row["text"]: row for row in drawn}
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
        # Of two concepts in one caption the first counts.
        taken = {text for part in edited.values() for text in part}
        own = [text for text in own if text not in taken]
        if not own:
            raise UserError(
                f"{request.captions}: every caption that names {edit.concept!r} is asked for another edited concept; "
                "give --verify-captions with others, or a smaller --audit.num-edited"
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
    return Asked(edited, preserved, others[len(preserved) :], [shuffled[text] for text in chosen])


def _texts(request: AuditRequest, where: str | None) -> set[str]:
    return {row["text"] for row in _matching(request, where)}


def _matching(request: AuditRequest, where: str | None) -> list[dict[str, Any]]:
    table = CaptionTable.open(request.captions)
    there = [name for name in table.schema.names if name in table.dataset.schema.names]
    rows: list[dict[str, Any]] = table.read(there, where).sort_by("id").to_pylist()
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


def _reference(request: AuditRequest) -> Benchmark | None:
    if request.world is None or not request.sizes.search_copies:
        return None
    try:
        data = BenchmarkData(world=request.world, fashion=request.world)
        return load_benchmark(world_name(request.world), data)
    except UserError as error:
        raise UserError(f"near-copies: {error}; --audit.no-search-copies leaves the search out") from error
