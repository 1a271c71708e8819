"""How alike two pictures must be to count as copies: set on real pictures that are known not to be copies.

Every real picture of a sample is searched among the real pictures of other groups. The tail of these scores is
continued as an exponential to the rate that is asked for, so that a thousand pictures can say something about one
in ten thousand. The slope comes from the median excess: a few twins across groups, which are copies, do not lift it.

Shapes: M genuine pictures, E explanations.
"""

import math

import numpy as np

_TAIL = 0.03  # in the last hundredth, pictures of icons that share a drawn head set the slope
_FEWEST = 15  # pictures in the tail
_FLOOR = 0.3  # whatever the real pictures are like, half as different as strangers is no copy


def tail_threshold(scores: np.ndarray, rate: float, floor: float = _FLOOR) -> float | None:
    """The score that a genuine picture exceeds at this rate, from scores (M,); None where M is too small to say."""
    if not 0 < rate < 1:
        raise ValueError(f"rate must be in (0, 1), got {rate}")
    if _TAIL * len(scores) < _FEWEST:
        return None
    begin = float(np.quantile(scores, 1 - _TAIL))
    beyond = scores[scores > begin] - begin
    share = len(beyond) / len(scores)
    if len(beyond) == 0 or share <= rate:
        return max(begin, floor)
    return max(begin + float(np.median(beyond)) / math.log(2) * math.log(share / rate), floor)


def thresholds(scores: np.ndarray, usual: list[float], rate: float) -> np.ndarray:
    """One threshold (E,) per explanation from genuine scores (M, E), together at this rate of false alarms."""
    found = [tail_threshold(column, rate / len(usual)) for column in scores.T]
    return np.array([given if own is None else own for own, given in zip(found, usual, strict=True)])
