"""How many pictures of one kind equal what was reached with others: where a curve over their number crosses a score."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """The number of pictures at which a curve reaches a score, and a sentence on it."""

    pictures: float | None
    """None where the curve does not cross: it lies above with the fewest pictures already, or below with the most."""
    said: str


def crossing(score: float, curve: Mapping[int, float]) -> Crossing:
    """Where a curve (number of pictures -> score) first reaches ``score``, linear in the logarithm of the number."""
    points = sorted(curve.items())
    fewest, most = points[0], points[-1]
    if fewest[1] >= score:
        return Crossing(pictures=None, said=f"reached with the fewest that were tried, {fewest[0]:,}")
    for (left, low), (right, high) in itertools.pairwise(points):
        if high >= score:
            pictures = left * (right / left) ** ((score - low) / (high - low))
            return Crossing(pictures=pictures, said=f"reached with {pictures:,.0f}, interpolated")
    return Crossing(pictures=None, said=f"not reached with the most that were tried, {most[0]:,}")
