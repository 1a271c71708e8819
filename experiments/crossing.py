"""How many pictures of one kind equal what was reached with others: where a curve over their number crosses a score."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stablerep import runtime
from stablerep.evaluation.intervals import Accuracies, GroupBootstrap, over_seeds
from stablerep.evaluation.scores import Scores

_METRIC = "mean_per_class"
_NUM_BOOTSTRAP = 2000


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """The number of pictures at which a curve reaches a score, and a sentence on it."""

    pictures: float | None
    """None where the curve does not cross: it lies above with the fewest pictures already, or below with the most."""
    said: str


def crossing(score: float, curve: Mapping[int, float]) -> Crossing:
    """Where a curve (number of pictures -> score) first reaches ``score``, linear in the logarithm of the number."""
    pictures = _reached(score, sorted(curve.items()))
    if pictures == 0:
        return Crossing(pictures=None, said=f"reached with the fewest that were tried, {min(curve):,}")
    if pictures == math.inf:
        return Crossing(pictures=None, said=f"not reached with the most that were tried, {max(curve):,}")
    return Crossing(pictures=pictures, said=f"reached with {pictures:,.0f}, interpolated")


def crossing_of_runs(
    test: tuple[str, str, str], ours: Sequence[Scores], theirs: Mapping[int, Sequence[Scores]]
) -> Crossing:
    """The same of means over runs (number of pictures -> runs) in one test, its interval at the end of the sentence.

    The middle 95 % of the replicates cross there. All runs share the draws of the test's groups, and every mean draws
    its own runs, widened as that of few runs alone is: where several means err, the interval is rather too wide.
    ``test``: benchmark, test and protocol.
    """
    mine, *others = _accuracies(test, [ours, *theirs.values()])
    curve = {num: one.value[_METRIC] for num, one in zip(theirs, others, strict=True)}
    found = crossing(mine.value[_METRIC], curve)
    curves = np.stack([one.drawn(_METRIC) for one in others], axis=1)
    reached = [
        _reached(score, sorted(zip(theirs, drawn, strict=True)))
        for score, drawn in zip(mine.drawn(_METRIC).tolist(), curves.tolist(), strict=True)
    ]
    tail = round(0.025 * len(reached))
    ends = (_bound(place, theirs) for place in np.sort(reached)[[tail, -1 - tail]])
    return replace(found, said=f"{found.said} (95 %: {' to '.join(dict.fromkeys(ends))})")


def _reached(score: float, points: Sequence[tuple[int, float]]) -> float:
    """The number at which the first of these points, or a line between two, has the score; 0 or infinity beyond."""
    if points[0][1] >= score:
        return 0.0
    for (left, low), (right, high) in itertools.pairwise(points):
        if high >= score:
            return float(left * (right / left) ** ((score - low) / (high - low)))
    return math.inf


def _bound(pictures: float, tried: Iterable[int]) -> str:
    if pictures == 0:
        return f"fewer than {min(tried):,}"
    return f"more than {max(tried):,}" if pictures == math.inf else f"{pictures:,.0f}"


def _accuracies(test: tuple[str, str, str], sides: Sequence[Sequence[Scores]]) -> list[Accuracies]:
    """Each side's mean over its runs in a test, all under the same draws of its groups."""
    outcomes = [[run.of_the_run()[test] for run in runs] for runs in sides]
    first = outcomes[0][0]
    bootstrap = GroupBootstrap(first.labels, first.groups, num=_NUM_BOOTSTRAP, seed=0)
    return [
        over_seeds(
            [bootstrap.accuracies(outcome.correct) for outcome in found],
            runtime.seed_for("crossing", *(run.run for run in runs)),
        )
        for found, runs in zip(outcomes, sides, strict=True)
    ]
