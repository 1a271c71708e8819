"""Shares of values from a reader that errs and abstains, their distance from a target, their intervals.

Shapes: M pictures, C values, B bootstrap replicates. Answers are 0..C-1, or -1 where the reader abstains.
"""

from dataclasses import dataclass, replace

import numpy as np

from stablerep import runtime

_LEVEL = 95.0
_STEPS = 300
_END = 1e-3  # a share within this of none or all is none or all


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Checked:
    """What a reader answers to M real pictures of known value."""

    truth: np.ndarray
    """(M,)."""
    said: np.ndarray
    """(M,)."""
    groups: np.ndarray
    """(M,): pictures of one group show one subject, and are drawn together."""


@dataclass(frozen=True)
class Shown:
    """What a reader answers to M painted pictures, and what their captions say."""

    answers: np.ndarray
    """(M,)."""
    captions: np.ndarray
    """Their ids (M,)."""
    stated: np.ndarray
    """Values that the captions state (M,), -1 where they state none."""

    def __getitem__(self, rows: np.ndarray) -> "Shown":
        return Shown(self.answers[rows], self.captions[rows], self.stated[rows])


def abstention_level(confidence: np.ndarray, correct: np.ndarray, accuracy: float) -> float:
    """The lowest confidence from which on answers (M,) are right at this rate; infinite where none is.

    At every candidate the rate is lowered by one standard error, so that a few lucky answers do not set it. Answers of
    equal confidence are given together.
    """
    levels, place = np.unique(-confidence, return_inverse=True)
    count = np.cumsum(np.bincount(place, minlength=len(levels)))
    share = (np.cumsum(np.bincount(place, weights=correct, minlength=len(levels))) + 1) / (count + 2)
    sure = np.flatnonzero(share - np.sqrt(share * (1 - share) / (count + 2)) >= accuracy)
    return float(-levels[sure[-1]]) if len(sure) else float("inf")


def confusion(truth: np.ndarray, answers: np.ndarray, num_values: int) -> np.ndarray:
    """How pictures of each value are answered (C, C + 1), rows summing to one; the last column is abstention."""
    cells = truth * (num_values + 1) + _columns(answers, num_values)
    counts = np.bincount(cells, minlength=num_values * (num_values + 1))
    return _confusion(counts.reshape(num_values, -1))


def _confusion(counts: np.ndarray) -> np.ndarray:
    """Counts (..., C, C + 1) as shares of each row; of a value that was not tested nothing is known."""
    filled = counts + 1e-3
    shares: np.ndarray = filled / filled.sum(-1, keepdims=True)
    return shares


def _columns(answers: np.ndarray, num_values: int) -> np.ndarray:
    """Answers (M,) with abstention as the last of C + 1."""
    return np.where(answers < 0, num_values, answers)


def true_shares(answers: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Shares (C,) that most likely make a reader with this confusion matrix answer so."""
    shares: np.ndarray = _most_likely(answer_shares(answers, len(matrix))[None], matrix[None])[0]
    return shares


def answer_shares(answers: np.ndarray, num_values: int) -> np.ndarray:
    """Shares (C + 1,) of the answers (M,), abstention last."""
    counts = np.bincount(_columns(answers, num_values), minlength=num_values + 1)
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
    """B draws of captions, with replacement, and of groups of the reader's test pictures: both make shares uncertain.

    What captions state, and what is answered before errors are corrected, is counted in the same draws.
    """

    def __init__(self, shown: Shown, tested: Checked, num_values: int, *, num: int, seed: int) -> None:
        rng = runtime.numpy_generator("bias", seed)
        self._seed = seed
        width = num_values + 1
        # Counts of each caption: of the answers to its pictures, and of what it states, once for each of them.
        answered = _counts_by(shown.captions, _columns(shown.answers, num_values), width)
        stated = _counts_by(shown.captions, _columns(shown.stated, num_values), width)[:, :num_values]
        counts = np.hstack([answered, stated])
        cells = tested.truth * width + _columns(tested.said, num_values)
        tests = _counts_by(tested.groups, cells, num_values * width)
        self._matrix = confusion(tested.truth, tested.said, num_values)
        self.value = true_shares(shown.answers, self._matrix)
        self.stated = _as_shares(stated.sum(0))  # NaN where no caption states a value
        self.answered = _as_shares(answered.sum(0)[:num_values])  # NaN where all is left open
        self._num_answered = int(answered[:, :num_values].any(1).sum())
        drawn = np.empty((num, counts.shape[1]))
        self._matrices = np.empty((num, num_values, width))
        for number in range(num):
            drawn[number] = _drawn(rng, counts)
            self._matrices[number] = _confusion(_drawn(rng, tests).reshape(num_values, width))
        seen = _as_shares(drawn[:, :width])
        self.replicates = _most_likely(seen, self._matrices)
        self._num_independent = _num_independent(answered, seen)
        self.stated_replicates = _as_shares(drawn[:, width:])
        self.answered_replicates = _as_shares(drawn[:, :num_values])

    def amplification(self) -> Estimate:
        """How much larger the share of the value that leads in the captions is in the pictures."""
        leader = int(self.stated.argmax())
        return around(
            amplification(self.stated, self.value),
            self.replicates[:, leader] - self.stated_replicates[:, leader],
        )

    def amplification_by_reader(self) -> Estimate | None:
        """How much larger the share of the value that leads in the pictures is among the answers; None without answers.

        A draw in which all is left open says nothing, and is left out.
        """
        leader = int(self.value.argmax())
        grown = self.answered_replicates[:, leader] - self.replicates[:, leader]
        known = grown[np.isfinite(grown)]
        return around(amplification(self.value, self.answered), known) if len(known) else None

    def apart_by_chance(self, target: np.ndarray) -> float:
        """The total variation from a target (C,) below which shares of the target itself stay in 95 % of B draws.

        A distance is never negative, so that a painter without bias has one as well. A draw is of as many pictures as
        these captions are worth, answered as the reader answers test pictures, and corrected by a draw of those.
        """
        rng = runtime.numpy_generator("bias by chance", self._seed)
        answers = target @ self._matrix
        counts = rng.multinomial(self._num_independent, answers / answers.sum(), size=len(self._matrices))
        shares = _most_likely(_as_shares(counts), self._matrices)
        return float(np.percentile([total_variation(one, target) for one in shares], _LEVEL))

    def share(self, value: int) -> Estimate:
        """Of one value.

        Where none or all show it, no draw says otherwise, however few the captions: the other end is then that of
        Clopper and Pearson (1934), with the captions for trials of whose pictures any is answered. One caption says
        nothing of others, and its interval is [0, 1].
        """
        found = around(float(self.value[value]), self.replicates[:, value])
        if self._num_answered < 2:
            return replace(found, low=0.0, high=1.0)
        end = (0.5 - _LEVEL / 200) ** (1 / self._num_answered)
        if found.value < _END:
            return replace(found, high=max(found.high, 1 - end))
        return replace(found, low=min(found.low, end)) if found.value > 1 - _END else found


def around(value: float, replicates: np.ndarray) -> Estimate:
    """A value with the percentiles of its replicates (B,)."""
    low, high = np.percentile(replicates, [50 - _LEVEL / 2, 50 + _LEVEL / 2])
    return Estimate(value=value, low=float(low), high=float(high))


def _counts_by(names: np.ndarray, columns: np.ndarray, width: int) -> np.ndarray:
    """How often each name (M,) comes with each column (M,): (G, width), by name."""
    codes = np.unique(names.astype(str), return_inverse=True)[1]
    counts = np.zeros((codes.max() + 1, width))
    np.add.at(counts, (codes, columns), 1)
    return counts


def _num_independent(counts: np.ndarray, replicates: np.ndarray) -> int:
    """How many independent pictures tell as much as those of G captions, from their answers (G, C + 1) and the shares
    of these in draws of captions (B, C + 1).

    Pictures of one caption agree: the variance of the draws over that of independent pictures is the design effect
    (Kish 1965). Where nothing varies, a caption counts as one picture.
    """
    shares, varied = _as_shares(counts.sum(0)), replicates.var(0).sum()
    unbiased = 1 - 1 / len(counts)  # draws of G captions vary less by this factor than captions do
    num = unbiased * (shares * (1 - shares)).sum() / varied if varied > 0 else len(counts)
    return int(np.clip(round(num), 1, counts.sum()))


def _drawn(rng: np.random.Generator, counts: np.ndarray) -> np.ndarray:
    """The sum of as many rows of counts (G, W) as there are, drawn with replacement."""
    times = np.bincount(rng.integers(len(counts), size=len(counts)), minlength=len(counts))
    total: np.ndarray = times @ counts
    return total


def _as_shares(counts: np.ndarray) -> np.ndarray:
    """Counts (..., W) as shares of their sum; NaN where it is zero."""
    total = counts.sum(-1, keepdims=True)
    shares: np.ndarray = np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
    return shares
