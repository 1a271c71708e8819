"""Finds the real picture that a painted one repeats: candidates by descriptor, then a decision by pixels.

The score of a pair is the logarithm of how much the pictures differ in their worst places, with its sign turned, less
half of what the query scores with the runners-up: score normalisation, as in copy detection (Pizzi et al. 2022,
section 5.3; Douze et al. 2021). A picture that resembles everything a little must resemble its original much more.

Shapes: Q painted pictures, N real ones, E explanations, S side in pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from stablerep.audit.copy_alignment import Pairs, align, blurred, difference, likely_difference, on_grid
from stablerep.audit.copy_duplicates import joined
from stablerep.audit.copy_index import CopyIndex
from stablerep.audit.copy_search import Neighbours, exact_neighbours
from stablerep.audit.copy_views import EXPLANATIONS, Explanation, ViewDescriptor, Views, thumbnails

_BLOCK = 64
_HOPELESS = 0.6  # cosine of descriptors below which no planted copy was found
_SMALLEST = 1e-4  # difference that counts as none
_DIFFERENT = 0.9  # difference where a view puts a picture above which it must be moved to be a copy
_UNLIKELY = 1.2
# What would remain, by a few coarse steps, above which it is none. Of 358 pairs of planted copies that moving brought
# below the difference of a near-copy, 0.28, one stood at 1.00 and the next at 0.80; of genuine pictures' a fifth pass.
_BACKGROUND = 0.5  # share of the runners-up that is subtracted


@dataclass(frozen=True)
class Bank:
    """The real pictures as they are searched."""

    descriptor: ViewDescriptor
    descriptors: Tensor
    """(N, D)."""
    grids: Tensor
    """uint8 (N, 3, G, G)."""
    groups: np.ndarray
    """Integers (N,): pictures of one group show one subject, and are no runners-up of one another. Groups that hold the
    same picture are one."""
    index: CopyIndex | None = None
    """Where candidates are searched approximately."""

    @classmethod
    def build(
        cls, pictures: Sequence[Tensor], groups: np.ndarray, *, exact_up_to: int | None = None
    ) -> "Bank":
        """Of pictures uint8 (m, 3, S, S) in parts of any size, together N; beyond ``exact_up_to`` with an index."""
        small = torch.cat([thumbnails(part)[:, 0] for part in pictures])
        descriptor = ViewDescriptor.fit(small)
        descriptors = descriptor(small)
        grids = torch.cat([on_grid(part) for part in pictures])
        is_large = exact_up_to is not None and len(grids) > exact_up_to
        index = CopyIndex.build(descriptors) if is_large else None
        return cls(descriptor, descriptors, grids, joined(groups, descriptors, grids, index), index)

    def __len__(self) -> int:
        return len(self.grids)


@dataclass(frozen=True)
class Matches:
    """The best real picture of each of Q painted ones, for each of E explanations."""

    score: np.ndarray
    """(Q, E); the larger, the more surely a copy."""
    index: np.ndarray
    """Which real picture (Q, E)."""

    @classmethod
    def joined(cls, parts: Sequence["Matches"]) -> "Matches":
        """Of consecutive painted pictures."""
        return cls(
            np.concatenate([part.score for part in parts]), np.concatenate([part.index for part in parts])
        )


def find_matches(
    pictures: Tensor,
    bank: Bank,
    explanations: Sequence[Explanation] = EXPLANATIONS,
    *,
    excluded: np.ndarray | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Matches:
    """Search the bank for each painted picture uint8 (Q, 3, S, S).

    ``excluded`` (Q,) names for each the group that must not be found, such as that of a real picture itself.
    """

    def barred(rows: Tensor) -> Tensor:
        assert excluded is not None
        return torch.from_numpy(excluded[rows.numpy()][:, None] == bank.groups)

    return _search(pictures, bank, explanations, None if excluded is None else barred, advance)


def find_earlier(pictures: Tensor, bank: Bank, explanation: Explanation) -> Matches:
    """For each of the pictures uint8 (N, 3, S, S) that the bank was made of, the best of those before it; E = 1."""
    every = torch.arange(len(bank))

    def barred(rows: Tensor) -> Tensor:
        return every >= rows[:, None]

    matches = _search(pictures, bank, [explanation], barred, lambda _: None)
    first = _first_scores(pictures[: explanation.num_candidates], bank, explanation, barred)
    return Matches(np.concatenate([first[:, None], matches.score[len(first) :]]), matches.index)


_Barred = Callable[[Tensor], Tensor]
"""For some of the Q pictures, by number (B,), which of the bank they must not find (B, N)."""


@torch.inference_mode()
def _search(
    pictures: Tensor,
    bank: Bank,
    explanations: Sequence[Explanation],
    barred: _Barred | None,
    advance: Callable[[int], None],
) -> Matches:
    parts = []
    for start in range(0, len(pictures), _BLOCK):
        some = pictures[start : start + _BLOCK]
        block = _Block(some, bank, explanations, barred, start)
        found = [_explained(block, explanation) for explanation in explanations]
        parts.append(
            Matches(np.stack([score for score, _ in found], 1), np.stack([index for _, index in found], 1))
        )
        advance(len(some))
    return Matches.joined(parts)


class _Block:
    """Some painted pictures, and what several explanations need of them."""

    def __init__(
        self,
        pictures: Tensor,
        bank: Bank,
        explanations: Sequence[Explanation],
        barred: _Barred | None,
        start: int,
    ) -> None:
        self.bank = bank
        self.blurred = blurred(pictures)
        self._pictures, self._explanations = pictures, explanations
        self._barred, self._start = barred, start
        self._looked: dict[tuple[object, ...], tuple[Views, Neighbours]] = {}

    def candidates(self, explanation: Explanation) -> tuple[Views, Neighbours]:
        """The views of an explanation and the real pictures nearest to them, searched once for equal windows."""
        if explanation.windows not in self._looked:
            alike = [one for one in self._explanations if one.windows == explanation.windows]
            views = self.bank.descriptor.views(self._pictures, explanation)
            self._looked[explanation.windows] = (
                views,
                self._near(views, max(one.num_candidates for one in alike)),
            )
        views, near = self._looked[explanation.windows]
        return views, near.first(explanation.num_candidates)

    def _near(self, views: Views, num: int) -> Neighbours:
        """The nearest of the bank; of views in which nothing is seen, none is near."""
        seen = torch.nonzero(views.descriptors.flatten(1).any(1))[:, 0]
        descriptors, barred = views.descriptors[seen], self._barred
        if len(seen) and self.bank.index is not None and barred is None:
            near = self.bank.index.neighbours(descriptors, num)
        else:
            numbers = self._start + seen
            near = exact_neighbours(
                descriptors,
                self.bank.descriptors,
                num,
                excluded=None if barred is None else lambda rows: barred(numbers[rows]),
            )
        return near.spread_over(seen, len(views.descriptors))


@dataclass(frozen=True)
class _Compared:
    """The K candidates of Q painted pictures, the least different first."""

    logs: np.ndarray
    """Of the differences (Q, K)."""
    index: np.ndarray
    """Which real picture (Q, K)."""
    groups: np.ndarray
    """Of the real pictures (Q, K)."""
    is_aligned: np.ndarray
    """Which were moved into the best place (Q, K); others only seem to differ, and some places hold no candidate."""

    @classmethod
    def of(cls, block: _Block, explanation: Explanation) -> "_Compared":
        views, near = block.candidates(explanation)
        differences, order = _compare(block, near, views, explanation).sort(dim=1, stable=True)
        index = near.index.gather(1, order).numpy()
        is_aligned = near.similarity.gather(1, order).isfinite().numpy()
        is_aligned[:, explanation.num_aligned :] = False
        logs = differences.clamp(min=_SMALLEST).log10().numpy()
        return cls(logs, index, block.bank.groups[index], is_aligned)

    def score(self, background: np.ndarray) -> np.ndarray:
        """How surely the best is a copy (Q,), beside the mean logarithm of the runners-up (Q,)."""
        scores: np.ndarray = _BACKGROUND * background - self.logs[:, 0]
        return scores

    def background(self, subjects: np.ndarray) -> np.ndarray:
        """Mean logarithm (Q,) of the runners-up, those of none of the groups (Q, S); 0 where there is none."""
        others = self.is_aligned & (self.groups[:, :, None] != subjects[:, None]).all(2)
        mean: np.ndarray = (self.logs * others).sum(1) / np.maximum(others.sum(1), 1)
        return mean


def _explained(block: _Block, explanation: Explanation) -> tuple[np.ndarray, np.ndarray]:
    compared = _Compared.of(block, explanation)
    return compared.score(compared.background(compared.groups[:, :1])), compared.index[:, 0]


@torch.inference_mode()
def _first_scores(pictures: Tensor, bank: Bank, explanation: Explanation, barred: _Barred) -> np.ndarray:
    """Scores (Q,) of the first of the pictures that the bank was made of, before which fewer stand than are compared.

    Runners-up are those in the whole bank, or what resembles everything a little would repeat the only one before it.
    """
    earlier = _Compared.of(_Block(pictures, bank, [explanation], barred, 0), explanation)
    wider = replace(  # the nearest is the picture itself
        explanation, num_candidates=explanation.num_candidates + 1, num_aligned=explanation.num_aligned + 1
    )
    among_all = _Compared.of(_Block(pictures, bank, [wider], None, 0), wider)
    subjects = np.stack([bank.groups[: len(pictures)], earlier.groups[:, 0]], axis=1)
    return earlier.score(among_all.background(subjects))


def _compare(block: _Block, near: Neighbours, views: Views, explanation: Explanation) -> Tensor:
    """Differences (Q, K) with the candidates: where a view puts them, and moved where that is promising."""
    differences = torch.ones(near.index.shape)
    rows, columns = torch.nonzero(near.similarity > _HOPELESS, as_tuple=True)
    if len(rows) == 0:
        return differences
    pairs = Pairs(
        pictures=block.blurred,
        real=block.bank.grids[near.index[rows, columns]].float() / 255,
        placements=views.placements[rows, near.view[rows, columns]],
        is_mirrored=explanation.is_mirrored,
        margin=explanation.margin,
        which=rows,
    )
    differences[rows, columns] = difference(pairs, is_recoloured=explanation.is_recoloured)
    promising = differences.argsort(dim=1, stable=True)[:, : explanation.num_aligned]
    chosen = torch.zeros(differences.shape, dtype=torch.bool).scatter_(1, promising, True)[rows, columns]
    some = torch.nonzero(chosen)[:, 0]
    some = some[_worth_moving(pairs.rows(some), differences)]
    if len(some):
        moved = pairs.rows(some)
        moved = replace(moved, placements=align(moved, stays_in_place=explanation.stays_in_place))
        after = difference(moved, is_recoloured=explanation.is_recoloured)
        rows, columns = rows[some], columns[some]
        differences[rows, columns] = torch.minimum(differences[rows, columns], after)
    return differences


def _worth_moving(pairs: Pairs, differences: Tensor) -> Tensor:
    """Which pairs (B,) are to be aligned: all of a picture of which any may be a copy, by its differences (Q, K).

    What is as different where a view puts it, and would be after a few coarse steps, is none, whatever the others are.
    """
    hopeful = differences.amin(1) < _DIFFERENT
    open_ = torch.nonzero(~pairs.of(hopeful))[:, 0]
    if len(open_):
        doubtful = pairs.rows(open_)
        assert doubtful.which is not None
        hopeful[doubtful.which[likely_difference(doubtful) < _UNLIKELY]] = True
    return pairs.of(hopeful)
