"""How well pictures fit their captions in comparison with captions of other things: pure functions.

A cosine says little by itself: another encoder, and even another caption, has another scale. The level of a picture is
the share of captions of other things that fit it worse than its own. Of wrong captions, drawn at random, a share of
1 - L reaches a level of L, whatever the encoder is worth: that is the calibration. Where many captions are about what
the picture shows, as with few labels, it is less: to a good encoder all of these fit better than the wrong one.

Shapes: M pictures, P captions of the pool, E width of the joint space.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_BLOCK = 2048


FEWEST = 20
"""Captions without which neither a level nor a mean picture says anything."""


@dataclass(frozen=True)
class CaptionVectors:
    """P captions, as what pictures were asked to show or are held against, with what they are about."""

    vectors: np.ndarray
    """Unit vectors (P, E)."""
    subjects: np.ndarray
    """Integers (P, S), such as group and concept: captions that share one of them are about the same thing."""

    def __getitem__(self, rows: np.ndarray | slice) -> "CaptionVectors":
        return CaptionVectors(self.vectors[rows], self.subjects[rows])


def mean_picture(pictures: np.ndarray) -> np.ndarray:
    """The mean (E,) of picture vectors (M, E), to be taken off others; rows of NaN do not count.

    The similarity of a caption with the mean picture is what it has with any picture; some captions fit everything.
    Zero where fewer than ``FEWEST`` pictures are there: their mean would mostly be themselves.
    """
    some = pictures[np.isfinite(pictures).all(axis=1)]
    mean: np.ndarray = some.mean(axis=0) if len(some) >= FEWEST else np.zeros_like(pictures[0])
    return mean


def levels(pictures: np.ndarray, asked: CaptionVectors, pool: CaptionVectors) -> np.ndarray:
    """The level (M,) of pictures (M, E) without their mean: share of captions of other subjects that fit worse.

    A caption that fits equally well counts half. NaN where the pool has no caption of other subjects.
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


def related(asked: CaptionVectors, pool: CaptionVectors) -> np.ndarray:
    """Whether caption p of the pool shares a subject with what picture m was asked to show, (M, P)."""
    same = np.zeros((len(asked.subjects), len(pool.subjects)), dtype=np.bool_)
    for own, others in zip(asked.subjects.T, pool.subjects.T, strict=True):
        same |= own[:, None] == others[None]
    return same


def shuffled(asked: CaptionVectors, pool: CaptionVectors, generator: np.random.Generator) -> CaptionVectors:
    """What pictures would have been asked to show, had each a caption of other subjects of the pool."""
    chosen = []
    for start in range(0, len(asked.subjects), _BLOCK):
        others = ~related(asked[slice(start, start + _BLOCK)], pool)
        chosen.append((generator.random(others.shape) * others).argmax(axis=1))
    return pool[np.concatenate(chosen)]


def wanted_level(real: np.ndarray, false_alarms: float) -> float:
    """The level that a further real picture misses with this probability, from the levels (M,) of some.

    The k-th lowest of M is missed with a probability of k / (M + 1); between them it is interpolated. Of fewer than
    1 / false_alarms - 1 the lowest is taken, which more of the others miss. NaN does not count.
    """
    return float(np.nanquantile(real, false_alarms, method="weibull"))


def ranks(match: np.ndarray, captions: Sequence[np.ndarray]) -> np.ndarray:
    """Rank (M,) of pictures within their caption by match (M,), 0 the best; ``captions``: the rows of each caption."""
    rank = np.zeros(len(match), dtype=np.int32)
    for rows in captions:
        rank[rows[np.argsort(-match[rows], kind="stable")]] = np.arange(len(rows))
    return rank
