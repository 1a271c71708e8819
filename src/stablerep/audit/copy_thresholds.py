"""How alike two pictures must be to count as copies: set on real pictures that are known not to be copies.

Every real picture of a sample is searched among the real pictures of other groups. The tail of these scores is
continued as an exponential to the rate that is asked for, so that a thousand pictures can say something about one
in ten thousand. The mean excess comes from the smaller half of the excesses alone: twins across groups, which are
copies, do not lift it.

Shapes: M genuine pictures, E explanations.
"""

import math
from collections.abc import Sequence

import numpy as np

from stablerep.audit.copy_views import Explanation

_TAIL = 0.03  # in the last hundredth, pictures of icons that share a drawn head set the slope
_FEWEST_BEYOND = 15
FEWEST = 500
"""Genuine pictures below which they set no threshold: 15 are in the tail."""
_COUNTED = 0.5  # share of the excesses, the smallest, that set their mean: the others may be twins
_FAR = 1.5


def tail_threshold(scores: np.ndarray, rate: float, least: float = 0.0) -> float | None:
    """The score, ``least`` or more, that a genuine picture exceeds at this rate, from scores (M,); None where too few
    tell: where M is small, or most score the same, as pictures do that resemble nothing, and the others may be twins.

    Of n excesses over the beginning of the tail the r smallest give the mean of all, s, as if the others were censored
    (Epstein and Sobel 1953); the threshold lies log(p / rate) times s above that beginning, with p the share beyond it.
    At a rate of 1 in 5,000 alarms are, from 1,500 scores, 1.7 times as frequent as is asked for where the tail is
    exponential, 0.5 times where scores are normal, and 3.1 times under a Pareto distribution of shape 10; from 500
    scores 3.6, 1.8 and 5.3 times. To count s as uncertain would make the first of these numbers 1, and cost copies.
    """
    if not 0 < rate < 1:
        raise ValueError(f"rate must be in (0, 1), got {rate}")
    if len(scores) < FEWEST:
        return None
    ascending = np.sort(scores)
    begin = float(ascending[-int(_TAIL * len(scores)) - 1])
    excesses = ascending[ascending > begin] - begin
    num = len(excesses)
    share = (num + 1) / (len(scores) + 1)  # with which a further picture exceeds the beginning
    if share <= rate:
        return max(float(np.quantile(scores, 1 - rate)), least)
    if num < _FEWEST_BEYOND:
        return None
    counted = int(_COUNTED * num)
    mean = float(excesses[:counted].sum() + (num - counted) * excesses[counted - 1]) / counted
    return max(begin + mean * math.log(share / rate), least)


def thresholds(scores: np.ndarray, explanations: Sequence[Explanation], rate: float) -> np.ndarray:
    """One threshold (E,) per explanation from genuine scores (M, E), together at this rate of false alarms."""
    found = [
        tail_threshold(column, rate / len(explanations), one.least_threshold)
        for column, one in zip(scores.T, explanations, strict=True)
    ]
    return np.array(
        [one.usual_threshold if own is None else own for own, one in zip(found, explanations, strict=True)]
    )


def far_above(limits: np.ndarray, explanations: Sequence[Explanation]) -> np.ndarray:
    """Which thresholds (E,) lie more than half above their usual values, where many copies score lower."""
    above: np.ndarray = limits > _FAR * np.array([one.usual_threshold for one in explanations])
    return above
