"""How alike two pictures must be to count as copies: set on real pictures that are known not to be copies.

Every real picture of a sample is searched among the real pictures of other groups. The tail of these scores is
continued as an exponential to the rate that is asked for, so that a thousand pictures can say something about one
in ten thousand. The slope comes from quantiles of the excess: a few twins across groups, which are copies, do not lift
it. Of two quantiles the smaller slope counts, since a tail that falls faster than an exponential is continued too far.

Shapes: M genuine pictures, E explanations.
"""

import math

import numpy as np

_TAIL = 0.03  # in the last hundredth, pictures of icons that share a drawn head set the slope
FEWEST = 500
"""Genuine pictures below which they set no threshold: 15 are in the tail."""
_QUANTILES = (0.5, 0.8)
_FAR = 1.5
_FLOOR = 0.55
# Whatever the real pictures are like. Chosen on one half of the reference against the other: of its planted copies of
# each kind 95 % or more score above, of its genuine pictures none but true repetitions and one drawing made of another.


def tail_threshold(scores: np.ndarray, rate: float, floor: float = _FLOOR) -> float | None:
    """The score that a genuine picture exceeds at this rate, from scores (M,); None where M is too small to say."""
    if not 0 < rate < 1:
        raise ValueError(f"rate must be in (0, 1), got {rate}")
    if len(scores) < FEWEST:
        return None
    begin = float(np.quantile(scores, 1 - _TAIL))
    beyond = scores[scores > begin] - begin
    share = len(beyond) / len(scores)
    if len(beyond) == 0 or share <= rate:
        return max(begin, floor)
    slope = min(float(np.quantile(beyond, part)) / -math.log(1 - part) for part in _QUANTILES)
    return max(begin + slope * math.log(share / rate), floor)


def thresholds(scores: np.ndarray, usual: list[float], rate: float) -> np.ndarray:
    """One threshold (E,) per explanation from genuine scores (M, E), together at this rate of false alarms."""
    found = [tail_threshold(column, rate / len(usual)) for column in scores.T]
    return np.array([given if own is None else own for own, given in zip(found, usual, strict=True)])


def far_above(limits: np.ndarray, usual: list[float]) -> np.ndarray:
    """Which thresholds (E,) lie more than half above their usual values, where many copies score lower."""
    above: np.ndarray = limits > _FAR * np.array(usual)
    return above
