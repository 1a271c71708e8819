"""How well pictures fit their captions in comparison with captions of other things: pure functions.

A cosine says little by itself: another encoder, and even another caption, has another scale. The level of a picture is
the share of captions of other things that fit it worse than its own. Of wrong captions, drawn at random, a share of
1 - L reaches a level of L, whatever the encoder is worth: that is the calibration.

Shapes: M pictures, P captions of the pool, E width of the joint space.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_BLOCK = 2048


@dataclass(frozen=True)
class Pool:
    """Captions that pictures are held against, with what tells whether they are about the same thing."""

    vectors: np.ndarray
    """Unit vectors (P, E)."""
    groups: np.ndarray
    """(P,)."""
    concepts: np.ndarray
    """(P,)."""


@dataclass(frozen=True)
class Asked:
    """What M pictures were asked to show."""

    vectors: np.ndarray
    """Unit vectors (M, E) of their captions."""
    groups: np.ndarray
    concepts: np.ndarray

    def __getitem__(self, rows: np.ndarray | slice) -> "Asked":
        return Asked(self.vectors[rows], self.groups[rows], self.concepts[rows])


def centred(pictures: np.ndarray) -> np.ndarray:
    """Picture vectors (M, E) without their mean.

    The similarity of a caption with the mean picture is what it has with any picture; some captions fit everything.
    """
    without: np.ndarray = pictures - pictures.mean(axis=0, keepdims=True)
    return without


def levels(pictures: np.ndarray, asked: Asked, pool: Pool) -> np.ndarray:
    """The level (M,) of pictures (M, E), centred: share of captions of other groups and concepts that fit worse.

    A caption that fits equally well counts half. NaN where the pool has no caption of another group and concept.
    """
    found = []
    for start in range(0, len(pictures), _BLOCK):
        rows = slice(start, start + _BLOCK)
        own = asked[rows]
        similarity = pictures[rows] @ pool.vectors.T
        mine = (pictures[rows] * own.vectors).sum(axis=1, keepdims=True)
        worse = (similarity < mine) + 0.5 * (similarity == mine)
        others = ~related(own, pool)
        number = others.sum(axis=1)
        found.append(np.where(number > 0, (worse * others).sum(axis=1) / np.maximum(number, 1), np.nan))
    return np.concatenate(found)


def related(asked: Asked, pool: Pool) -> np.ndarray:
    """Whether caption p of the pool is of the group or concept that picture m was asked for, (M, P)."""
    same_group = asked.groups[:, None] == pool.groups[None]
    same: np.ndarray = same_group | (asked.concepts[:, None] == pool.concepts[None])
    return same


def shuffled(asked: Asked, pool: Pool, generator: np.random.Generator) -> Asked:
    """What pictures would have been asked for, had each the caption of another group and concept of the pool."""
    chosen = []
    for start in range(0, len(asked.groups), _BLOCK):
        others = ~related(asked[slice(start, start + _BLOCK)], pool)
        chosen.append((generator.random(others.shape) * others).argmax(axis=1))
    rows = np.concatenate(chosen)
    return Asked(pool.vectors[rows], pool.groups[rows], pool.concepts[rows])


def ranks(match: np.ndarray, captions: Sequence[np.ndarray]) -> np.ndarray:
    """Rank (M,) of pictures within their caption by match (M,), 0 the best; ``captions``: the rows of each caption."""
    rank = np.zeros(len(match), dtype=np.int32)
    for rows in captions:
        rank[rows[np.argsort(-match[rows], kind="stable")]] = np.arange(len(rows))
    return rank
