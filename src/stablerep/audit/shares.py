"""Shares of values from a reader that errs and abstains, their distance from a target, their intervals.

Shapes: M pictures, C values, B bootstrap replicates. Answers are 0..C-1, or -1 where the reader abstains.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stablerep import runtime

_LEVEL = 95.0
_STEPS = 300


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


def abstention_level(confidence: np.ndarray, correct: np.ndarray, accuracy: float) -> float:
    """The lowest confidence from which on answers (M,) are right at this rate; infinite where none is.

    At every candidate the rate is lowered by one standard error, so that a few lucky answers do not set it.
    """
    order = np.argsort(-confidence, kind="stable")
    count = np.arange(1, len(order) + 1)
    share = (np.cumsum(correct[order]) + 1) / (count + 2)
    sure = np.flatnonzero(share - np.sqrt(share * (1 - share) / (count + 2)) >= accuracy)
    return float(confidence[order[sure[-1]]]) if len(sure) else float("inf")


def confusion(truth: np.ndarray, answers: np.ndarray, num_values: int) -> np.ndarray:
    """How pictures of each value are answered (C, C + 1), rows summing to one; the last column is abstention."""
    cells = truth * (num_values + 1) + np.where(answers < 0, num_values, answers)
    counts = 1e-3 + np.bincount(cells, minlength=num_values * (num_values + 1))
    counts = counts.reshape(num_values, -1)
    shares: np.ndarray = counts / counts.sum(1, keepdims=True)
    return shares


def true_shares(answers: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Shares (C,) that most likely make a reader with this confusion matrix answer so."""
    shares: np.ndarray = _most_likely(answer_shares(answers, len(matrix))[None], matrix[None])[0]
    return shares


def answer_shares(answers: np.ndarray, num_values: int) -> np.ndarray:
    """Shares (C + 1,) of the answers (M,), abstention last."""
    counts = np.bincount(np.where(answers < 0, num_values, answers), minlength=num_values + 1)
    shares: np.ndarray = counts / max(len(answers), 1)
    return shares


def _most_likely(seen: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """Shares (B, C) from shares of answers (B, C + 1) and confusion (B, C, C + 1), by expectation maximisation.

    As Saerens et al. (2002) adjust a classifier to new priors, on hard answers.
    """
    shares = np.full(matrices.shape[:2], 1 / matrices.shape[1])
    for _ in range(_STEPS):
        expected = np.einsum("bc,bca->ba", shares, matrices)
        shares = shares * np.einsum("bca,ba->bc", matrices, seen / expected.clip(1e-12))
        shares /= shares.sum(1, keepdims=True)
    return shares


def total_variation(left: np.ndarray, right: np.ndarray) -> float:
    """Half the sum of absolute differences of two distributions (C,): the share that would have to move."""
    return float(np.abs(left - right).sum() / 2)


def jensen_shannon(left: np.ndarray, right: np.ndarray) -> float:
    """Jensen-Shannon divergence of two distributions (C,), in bits, 0 to 1 (Lin 1991)."""
    middle = (left + right) / 2

    def to_middle(shares: np.ndarray) -> float:
        some = shares > 0
        return float((shares[some] * np.log2(shares[some] / middle[some])).sum())

    return (to_middle(left) + to_middle(right)) / 2


def amplification(before: np.ndarray, after: np.ndarray) -> float:
    """How much larger the share of the value that led before (C,) is after: positive where bias grows."""
    leader = int(before.argmax())
    return float(after[leader] - before[leader])


class ShareBootstrap:
    """B draws of captions, with replacement, and of the reader's own test pictures: both make shares uncertain."""

    def __init__(
        self,
        answers: np.ndarray,
        captions: Sequence[str] | np.ndarray,
        test: tuple[np.ndarray, np.ndarray],
        num_values: int,
        *,
        num: int,
        seed: int,
    ) -> None:
        rng = runtime.numpy_generator("bias", seed)
        _, codes = np.unique(np.asarray(captions).astype(str), return_inverse=True)
        counts = np.zeros((codes.max() + 1, num_values + 1))  # of the answers to the pictures of each caption
        np.add.at(counts, (codes, np.where(answers < 0, num_values, answers)), 1)
        truth, said = test
        self.value = true_shares(answers, confusion(truth, said, num_values))
        seen, matrices = [], []
        for _ in range(num):
            drawn = np.bincount(rng.integers(len(counts), size=len(counts)), minlength=len(counts)) @ counts
            seen.append(drawn / drawn.sum())
            again = rng.integers(len(truth), size=len(truth))
            matrices.append(confusion(truth[again], said[again], num_values))
        self.replicates = _most_likely(np.stack(seen), np.stack(matrices))

    def share(self, value: int) -> Estimate:
        """Of one value."""
        return around(float(self.value[value]), self.replicates[:, value])


def around(value: float, replicates: np.ndarray) -> Estimate:
    """A value with the percentiles of its replicates (B,)."""
    low, high = np.percentile(replicates, [50 - _LEVEL / 2, 50 + _LEVEL / 2])
    return Estimate(value=value, low=float(low), high=float(high))
