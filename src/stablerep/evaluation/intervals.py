"""Bootstrap intervals over groups, paired between encoders, and hierarchical over training seeds.

Pictures of one group (styles of one concept, variants of one caption) succeed or fail together, so groups are
drawn, not pictures. Shapes: M pictures, G groups, C classes present, B replicates, S training seeds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from stablerep import runtime

_LEVEL = 95.0
_NORMAL_95 = 1.96  # standard errors to each side
_ROWS = 1024
METRICS = ("mean_per_class", "top1")


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def around(cls, value: float, replicates: np.ndarray) -> Self:
        """The percentile interval of replicates (B,)."""
        tail = 50 - _LEVEL / 2
        low = float(np.percentile(replicates, tail))
        # Not the other percentile, which is rounded otherwise: a difference the other way round is to be the negative.
        high = 0.0 - float(np.percentile(-replicates, tail))
        return cls(value=float(value), low=low, high=high)

    @classmethod
    def normal(cls, value: float, standard_error: float) -> Self:
        """The interval of a value whose error is normally distributed."""
        margin = _NORMAL_95 * standard_error
        return cls(value=value, low=value - margin, high=value + margin)

    @classmethod
    def read(cls, stored: Any) -> Self:
        """Back from JSON."""
        return cls(value=stored["value"], low=stored["low"], high=stored["high"])

    def in_percent(self, *, sign: bool = False) -> str:
        """``71.3 [69.0, 73.5]``."""
        spec = "+.1f" if sign else ".1f"
        return f"{100 * self.value:{spec}} [{100 * self.low:{spec}}, {100 * self.high:{spec}}]"

    def as_number(self) -> str:
        """``12.3 [11.9, 12.7]``, of something that is no share."""
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


@dataclass(frozen=True)
class Accuracies:
    """Accuracy of one set of predictions, and of its replicates (B,), by metric."""

    value: dict[str, float]
    replicates: dict[str, np.ndarray]

    def interval(self, metric: str) -> Interval:
        """The accuracy with its interval, which ends where shares end."""
        return Interval.around(self.value[metric], self.replicates[metric].clip(0, 1))

    def ahead_of(self, other: "Accuracies", metric: str) -> Interval:
        """The paired difference to predictions for the same pictures, replicate by replicate."""
        return Interval.around(
            self.value[metric] - other.value[metric], self.replicates[metric] - other.replicates[metric]
        )


class GroupBootstrap:
    """B draws, with replacement, of the groups of one set of pictures; all that is compared shares the draws.

    Mean per-class accuracy is computed anew in each replicate, over the classes that are present in it.
    """

    def __init__(
        self, labels: np.ndarray, groups: Sequence[str] | np.ndarray, *, num: int, seed: int
    ) -> None:
        names, self._group = np.unique(np.asarray(groups), return_inverse=True)
        classes, self._class = np.unique(np.asarray(labels), return_inverse=True)
        self.num_groups, self.num_classes = len(names), len(classes)
        self._draws = self._draw(num, seed)
        self._totals = self._by_class(np.ones(len(self._class)))

    def accuracies(self, correct: np.ndarray) -> Accuracies:
        """Accuracy of predictions that are right (True) or wrong (False) for each of the M pictures."""
        hits = self._by_class(correct.astype(np.float64))
        values = {name: self._accuracy(hits, self._totals, name) for name in METRICS}
        return Accuracies(
            value={name: float(value[0]) for name, value in values.items()},
            replicates={name: value[1:] for name, value in values.items()},
        )

    def _draw(self, num: int, seed: int) -> np.ndarray:
        """How often each group is in each replicate (1 + B, G); row 0 is the data itself."""
        rng = runtime.numpy_generator("bootstrap", seed)
        # A byte holds any count that can occur: 256 draws of one group among many have a probability of 1e-507.
        draws = np.ones((1 + num, self.num_groups), dtype=np.uint8)
        for row in draws[1:]:
            drawn = rng.integers(self.num_groups, size=self.num_groups)
            row[:] = np.bincount(drawn, minlength=self.num_groups)
        return draws

    def _by_class(self, weights: np.ndarray) -> np.ndarray:
        """Sums (1 + B, C) of per-picture weights (M,) over the pictures of each replicate and class."""
        cell = self._group * self.num_classes + self._class
        table = np.bincount(cell, weights=weights, minlength=self.num_groups * self.num_classes)
        cells = table.reshape(self.num_groups, self.num_classes).astype(np.float32)
        blocks = (self._draws[row : row + _ROWS] for row in range(0, len(self._draws), _ROWS))
        sums = np.concatenate([block.astype(np.float32) @ cells for block in blocks])
        return sums.astype(np.float64)  # counts are exact in float32, their quotients should be in float64

    @staticmethod
    def _accuracy(hits: np.ndarray, totals: np.ndarray, metric: str) -> np.ndarray:
        if metric == "top1":
            accuracy: np.ndarray = hits.sum(1) / totals.sum(1)
            return accuracy
        present = totals > 0
        shares = np.divide(hits, totals, out=np.zeros_like(hits), where=present)
        mean: np.ndarray = shares.sum(1) / present.sum(1)
        return mean


def mean_interval(values: np.ndarray, groups: Sequence[str] | np.ndarray, *, num: int, seed: int) -> Interval:
    """The mean of values (M,) with its bootstrap interval over groups."""
    return share_interval(values, np.ones(len(values)), groups, num=num, seed=seed)


def share_interval(
    hits: np.ndarray, totals: np.ndarray, groups: Sequence[str] | np.ndarray, *, num: int, seed: int
) -> Interval:
    """The sum of hits (M,) over the sum of totals (M,) with its bootstrap interval over groups."""
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    above = np.bincount(group, weights=hits, minlength=len(names))
    below = np.bincount(group, weights=totals, minlength=len(names))
    rng = runtime.numpy_generator("bootstrap of a mean", seed)
    replicates = np.empty(num)
    for place in range(num):
        drawn = rng.integers(len(names), size=len(names))
        replicates[place] = above[drawn].sum() / max(below[drawn].sum(), 1e-12)
    return Interval.around(hits.sum() / totals.sum(), replicates)


def over_seeds(runs: Sequence[Accuracies], seed: int) -> Accuracies:
    """Mean accuracy over S training seeds; each replicate draws seeds with replacement beside the groups.

    All runs must come from one ``GroupBootstrap``. With a_s the accuracy of seed s under the groups of a replicate, m
    the mean of a_s over all seeds and d that over the drawn ones, the replicate is m + sqrt(S / (S - 1)) (d - m): seeds
    drawn from S show (S - 1) / S of the variance between seeds, and the factor makes up for it (Davison and Hinkley
    1997, section 3.8). Two or three seeds still make an interval rather too narrow, as they may lie together by chance;
    one seed says nothing of the spread, and its interval is that over groups alone.
    """
    num = len(runs)
    rng = runtime.numpy_generator("bootstrap seeds", seed)
    num_replicates = len(runs[0].replicates[METRICS[0]])
    share = rng.multinomial(num, [1 / num] * num, size=num_replicates) / num
    if num > 1:
        share = 1 / num + math.sqrt(num / (num - 1)) * (share - 1 / num)
    return Accuracies(
        value={name: float(np.mean([run.value[name] for run in runs])) for name in METRICS},
        replicates={
            name: np.einsum("bs,sb->b", share, np.stack([run.replicates[name] for run in runs]))
            for name in METRICS
        },
    )
