"""Edits of concepts as matrices for a teacher's layers: prompts in, one matrix per stretch of layers out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stablerep.errors import UserError
from stablerep.generation.concepts import ConceptEdit, PromptPair, prompt_pairs
from stablerep.generation.edit_targets import (
    PromptVectors,
    Stream,
    StreamName,
    TextSide,
    TokenChoice,
    moves,
    shifts,
)
from stablerep.generation.editing import Moves, mapped, text_map

Alphas = Mapping[str, Mapping[str, float]]
"""Concept -> attribute -> how much of the attribute is added to it."""


@dataclass(frozen=True, kw_only=True)
class EditSettings:
    """How edits are solved."""

    ridge: float = 0.5
    """Weight l of staying near the old weights; published: 0.5."""
    tokens: TokenChoice = "following"
    """Which tokens of a prompt are edited: the last one of the concept, that and those that follow, or all of them."""
    strength: float = 1.0
    """How far removed and replaced concepts are sent, in distances from their target; published: 1. What is preserved
    holds them back, so that with 1 they stop before it."""
    templates: tuple[str, ...] = ("{}", "a {}")
    """Prompts that name a concept, with {} where it goes; published: the concept alone."""
    max_prompts: int = 600
    """Captions that name a concept are edited in every style of the teacher while that makes no more prompts than this,
    else in fewer styles each; published: no captions."""
    preserved_weight: float = 1.0
    """What a preserved vector counts beside an edited one; published: 1."""

    def __post_init__(self) -> None:
        if min(self.ridge, self.strength) <= 0 or self.preserved_weight < 0:
            raise ValueError("ridge and strength must be positive and preserved_weight not negative")
        if self.max_prompts < 1:
            raise ValueError(f"max_prompts must be at least 1, got {self.max_prompts}")
        if not self.templates or any("{}" not in template for template in self.templates):
            raise ValueError(f"templates must hold {{}} where the concept goes, got {self.templates}")


class Editor:
    """All vectors that some edits need, read once; matrices follow for any strength of rebalancing.

    ``contexts`` are further captions that name a concept, ``preserved`` are prompts whose pictures should not change.
    Raises ``UserError`` where the teacher reads a concept and its replacement alike.
    """

    def __init__(
        self,
        side: TextSide,
        edits: Sequence[ConceptEdit],
        contexts: Mapping[str, Sequence[str]],
        preserved: Sequence[str],
        settings: EditSettings,
        styles: Sequence[str] = (),
    ) -> None:
        self._side = side
        self._settings = settings
        self._contexts = contexts
        self._styles = styles
        self._edits = list(edits)
        self._moments = side.moments(preserved or [""])
        self._pairs = {
            (edit.concept, target): self._read(edit, target) for edit in edits for target in _targets(edit)
        }

    def changes(self, alphas: Alphas | None = None) -> dict[str, Tensor]:
        """Name of a weight -> the matrix (D, D) that it is multiplied by from the right, to be shared by its stream.

        ``alphas`` hold the strengths of the concepts that are rebalanced; those without stay as they are.
        """
        found: dict[str, Tensor] = {}
        for stream in self._side.streams:
            parts = [part for edit in self._edits for part in self._moves(edit, stream.name, alphas or {})]
            if not parts:
                continue
            sources, targets = Moves.joined(parts).scaled()
            preserved = self._settings.preserved_weight * self._moments[stream.name]
            change = text_map(sources, targets, preserved, self._settings.ridge)
            found |= dict.fromkeys(stream.weights, change)
        return found

    def _read(self, edit: ConceptEdit, target: str) -> list[tuple[PromptVectors, PromptVectors]]:
        pairs = prompt_pairs(
            edit.concept,
            target,
            templates=self._settings.templates,
            captions=self._contexts.get(edit.concept, ()),
            styles=self._styles,
            most=self._settings.max_prompts,
        )
        vectors = self._vectors(pairs)
        read = [(vectors[pair.source], vectors[pair.target]) for pair in pairs]
        streams = self._side.streams
        if not any(moves(*pair, stream.name, "last") for pair in read for stream in streams):
            raise UserError(
                f"the teacher reads {edit.concept!r} and {target!r} as the same tokens; name the concept by words that "
                "it knows"
            )
        return read

    def _vectors(self, pairs: Sequence[PromptPair]) -> dict[str, PromptVectors]:
        prompts = list(dict.fromkeys(prompt for pair in pairs for prompt in (pair.source, pair.target)))
        return dict(zip(prompts, self._side.vectors(prompts), strict=True))

    def _moves(self, edit: ConceptEdit, stream: StreamName, alphas: Alphas) -> list[Moves]:
        if edit.kind == "rebalance":
            found, strength = self._towards(edit, stream, alphas.get(edit.concept, {})), 1.0
        else:
            pairs, strength = self._pairs[edit.concept, edit.target], self._settings.strength
            found = (moves(*pair, stream, self._settings.tokens) for pair in pairs)
        return [part.stretched(strength) for part in found if part is not None]

    def _towards(
        self, edit: ConceptEdit, stream: StreamName, alphas: Mapping[str, float]
    ) -> Iterator[Moves | None]:
        """Every prompt of the concept, moved by its attributes."""
        for pairs in zip(*(self._pairs[edit.concept, name] for name in edit.shares), strict=True):
            strengths = [alphas.get(name, 0.0) for name in edit.shares]
            shifted = [(alpha, target) for alpha, (_, target) in zip(strengths, pairs, strict=True)]
            yield shifts(pairs[0][0], shifted, stream, self._settings.tokens)


def apply(side: TextSide, changes: Mapping[str, Tensor], original: Mapping[str, Tensor]) -> None:
    """Put the changed weights into the teacher in memory, from the ``original`` values that ``weights_of`` gave."""
    parameters = dict(side.model.named_parameters())
    with torch.no_grad():
        for name, weight in original.items():
            parameters[name].copy_(mapped(weight, changes[name]) if name in changes else weight)


def weights_of(side: TextSide) -> dict[str, Tensor]:
    """A copy of every weight that an edit may change, by name."""
    parameters = dict(side.model.named_parameters())
    streams: Sequence[Stream] = side.streams
    return {name: parameters[name].detach().clone() for stream in streams for name in stream.weights}


def _targets(edit: ConceptEdit) -> list[str]:
    """What stands in place of the concept: its target, or for a rebalanced one each attribute."""
    return list(edit.shares) if edit.kind == "rebalance" else [edit.target]
