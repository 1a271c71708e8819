"""How alike two pictures must be to count as copies: set on real pictures that are known not to be copies.

Every real picture of a sample is searched among the real pictures of other groups. The tail of these scores is
continued as an exponential to the rate that is asked for, so that a thousand pictures can say something about one
in ten thousand. The slope comes from quantiles of the excess: a few twins across groups, which are copies, do not lift
it. Of two quantiles the smaller slope counts, since a tail that falls faster than an exponential is continued too far.

Shapes: M genuine pictures, E explanations.
"""

import math
from collections.abc import Sequence

import numpy as np

from stablerep.audit.copy_views import Explanation

_TAIL = 0.03  # in the last hundredth, pictures of icons that share a drawn head set the slope
FEWEST = 500
"""Genuine pictures below which they set no threshold: 15 are in the tail."""
_QUANTILES = (0.5, 0.8)
_FAR = 1.5


def tail_threshold(scores: np.ndarray, rate: float, least: float = 0.0) -> float | None:
    """The score, ``least`` or more, that a genuine picture exceeds at this rate, from scores (M,); None where M is too
    small to say."""
    if not 0 < rate < 1:
        raise ValueError(f"rate must be in (0, 1), got {rate}")
    if len(scores) < FEWEST:
        return None
    begin = float(np.quantile(scores, 1 - _TAIL))
    beyond = scores[scores > begin] - begin
    share = len(beyond) / len(scores)
    if len(beyond) == 0 or share <= rate:
        return max(begin, least)
    slope = min(float(np.quantile(beyond, part)) / -math.log(1 - part) for part in _QUANTILES)
    return max(begin + slope * math.log(share / rate), least)


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
