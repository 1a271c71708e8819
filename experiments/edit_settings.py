"""How well closed-form edits of the shipped icons teacher are solved, in its text space alone: nothing is painted.

    python experiments/edit_settings.py --world icons --out edit-settings.json

A third of the captions that name a concept is held out of its contexts, and captions that are not preserved are held
out beside those that are. An edit sends text vectors c to Mc that should be t; what a picture sees of them are the keys
and values W of all layers. For every choice of settings the table says

- *error left*: the sum of |W(Mc - t)|^2 over that of |W(c - t)|^2 in every style, on the captions of the contexts
  themselves (*known*) and on held-out captions of the concept (*new*): 0 is a perfect edit, 1 none;
- *to go*: how much of the way from Wc to Wt the *new* ones have still to go, whatever they strayed from it: 0 where
  nothing is left of the concept itself, below 0 beyond the target;
- *others*: root mean square of |W(Mc - c)| over that of |Wc|, on held-out captions of other concepts.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor

from mistakes import in_one_sentence
from stablerep import runtime
from stablerep.console import Console
from stablerep.generation.concepts import PromptPair, mentions, prompt_pairs, without
from stablerep.generation.edit_targets import TextSide, moves
from stablerep.generation.editing import Moves, text_map
from stablerep.generation.editor import EditSettings, weights_of
from stablerep.generation.pipelines import DiffusersTeacher
from stablerep.generation.settings import PaintConfig
from stablerep.generation.teacher import load_diffusers_teacher
from stablerep.run import write_text
from stablerep.store import CaptionTable, in_style

_EVERY = 10**6  # prompts at most: every caption in every style


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is edited, and which settings are tried."""

    world: Path
    """Folder of the world icons."""
    out: Path
    """JSON file for the rows of the table."""
    teacher: str = "icons"
    concepts: tuple[str, ...] = ("heart", "face")
    """Removed one by one."""
    num_preserved: int = 500
    num_held_out: int = 300
    """Captions of other concepts on which the change is measured."""
    ridges: tuple[float, ...] = (0.5, 0.1)
    preserved_weights: tuple[float, ...] = (9.0, 3.0, 1.0, 0.3)
    strengths: tuple[float, ...] = (1.0, 1.2, 1.4)
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Row:
    """One solved edit."""

    concept: str
    styles: str
    """In which the contexts were asked."""
    num_moves: int
    """Edited vectors."""
    preserved_weight: float
    ridge: float
    strength: float
    error_known: float
    error_new: float
    to_go: float
    others_moved: float

    def cells(self) -> tuple[str, ...]:
        """As one line of the table."""
        settings = self.preserved_weight, self.ridge, self.strength
        shares = self.error_known, self.error_new, self.to_go, self.others_moved
        edited = self.concept, self.styles, str(self.num_moves)
        return (*edited, *(f"{one:g}" for one in settings), *(f"{100 * share:.1f}" for share in shares))


HEADER = (
    "concept", "styles", "vectors", "weight", "ridge", "strength", "known, %", "new, %", "to go, %", "others, %",
)  # fmt: skip


def main(config: Config) -> None:
    """Solve the edits with all settings and print what they leave."""
    teacher = load_diffusers_teacher(config.teacher, PaintConfig(dtype="float32", device="cpu"))
    texts = CaptionTable.open(config.world / "captions.lance").read(["id", "text"], "split = 'train'")
    ordered = texts.sort_by("id")["text"].to_pylist()
    rng = runtime.numpy_generator("edit settings", config.seed)
    shuffled = [ordered[number] for number in rng.permutation(len(ordered))]
    rows = [row for concept in config.concepts for row in solved(config, teacher, concept, shuffled)]
    write_text(config.out, json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n")
    Console().table(str(config.out), HEADER, [row.cells() for row in rows])


def solved(config: Config, teacher: DiffusersTeacher, concept: str, texts: Sequence[str]) -> Iterator[Row]:
    """A row for every choice of settings."""
    side, styles = TextSide(teacher), teacher.styles
    layers = torch.cat([weight.double() for weight in weights_of(side).values()])
    seen = layers.T @ layers  # |W x|^2 = x^T W^T W x
    naming = [text for text in texts if mentions(text, concept)]
    contexts = [text for number, text in enumerate(naming) if number % 3]
    every = styles or (None,)
    others = [
        in_style(text, every[number % len(every)]) for number, text in enumerate(without(texts, [concept]))
    ]
    preserved = side.moments(others[: config.num_preserved])["tokens"]
    rest = _tokens(side, others[config.num_preserved :][: config.num_held_out])
    known, new = (
        moved(side, prompt_pairs(concept, "", templates=(), captions=some, styles=styles, most=_EVERY))
        for some in (contexts, naming[::3])
    )
    for name, most in (("one", 1), ("all", _EVERY)):
        templates = EditSettings().templates
        pairs = prompt_pairs(concept, "", templates=templates, captions=contexts, styles=styles, most=most)
        edited = moved(side, pairs)
        settings = itertools.product(config.preserved_weights, config.ridges, config.strengths)
        for weight, ridge, strength in settings:
            change = text_map(*edited.stretched(strength).scaled(), weight * preserved, ridge)
            yield Row(
                concept=concept,
                styles=name,
                num_moves=len(edited.sources),
                preserved_weight=weight,
                ridge=ridge,
                strength=strength,
                error_known=_error(change, known, seen),
                error_new=_error(change, new, seen),
                to_go=_to_go(change, new, seen),
                others_moved=_length(rest @ change.T - rest, seen) / _length(rest, seen),
            )


def moved(side: TextSide, pairs: Sequence[PromptPair]) -> Moves:
    """Every vector that an edit of these prompts sends elsewhere."""
    sources, targets = (side.vectors([getattr(pair, end) for pair in pairs]) for end in ("source", "target"))
    found = (moves(*pair, "tokens", EditSettings().tokens) for pair in zip(sources, targets, strict=True))
    return Moves.joined([part for part in found if part is not None])


def _error(change: Tensor, edited: Moves, seen: Tensor) -> float:
    """Share of the squared distance of its sources from their targets that an edit leaves."""
    sources, targets = edited.scaled()
    return (_length(sources @ change.T - targets, seen) / _length(sources - targets, seen)) ** 2


def _to_go(change: Tensor, edited: Moves, seen: Tensor) -> float:
    """Share of the way of its sources to their targets that an edit leaves."""
    sources, targets = edited.scaled()
    way = (sources - targets) @ seen
    return float(((sources @ change.T - targets) * way).sum() / ((sources - targets) * way).sum())


def _tokens(side: TextSide, prompts: Sequence[str]) -> Tensor:
    """All vectors (N, D) of the prompts but padding."""
    rows = [
        one.tokens[s.start : s.start + len(s.ids)] for one in side.vectors(prompts) for s in one.stretches
    ]
    return torch.cat(rows).double()


def _length(vectors: Tensor, seen: Tensor) -> float:
    """Root mean square of |W x| over vectors (N, D)."""
    return float(((vectors @ seen) * vectors).sum(dim=1).mean().sqrt())


if __name__ == "__main__":
    with in_one_sentence():
        main(tyro.cli(Config))
