"""The interval of near-copies: what captions were drawn, and what real pictures set the threshold."""

import numpy as np
import pytest

from stablerep.copies import alarm_threshold
from stablerep.evaluation.intervals import mean_interval
from stablerep.evaluation.near_copies import Alike, share_above


def alone(similarity: np.ndarray) -> Alike:
    """Every picture is a group."""
    return Alike.of(similarity, np.arange(len(similarity)))


@pytest.mark.slow
def test_the_threshold_is_drawn_as_well_as_the_captions() -> None:
    """Painted pictures as like the training ones as real ones are: 5 % are, whatever 200 real ones say of it."""
    rng, inside, inside_of_captions = np.random.default_rng(0), 0, 0
    for trial in range(40):
        genuine, painted = rng.normal(size=200), rng.normal(size=1000)
        found = share_above(alone(painted), alone(genuine), 0.05, num=100, seed=trial)
        is_above = painted > alarm_threshold(genuine, 0.05)
        captions = mean_interval(is_above, np.arange(1000), num=100, seed=trial)
        assert found.value == pytest.approx(captions.value)
        inside += found.low <= 0.05 <= found.high
        inside_of_captions += captions.low <= 0.05 <= captions.high
    assert inside >= 34 > 30 >= inside_of_captions


def test_real_pictures_of_one_group_are_drawn_together() -> None:
    rng = np.random.default_rng(0)
    genuine, painted = rng.normal(size=50).repeat(8), alone(rng.normal(size=1000))
    apart = share_above(painted, alone(genuine), 0.05, num=200, seed=0)
    together = share_above(painted, Alike.of(genuine, np.arange(50).repeat(8)), 0.05, num=200, seed=0)
    assert together.value == apart.value
    assert together.high - together.low > 1.5 * (apart.high - apart.low)


def test_where_none_is_a_near_copy_a_lower_threshold_might_have_found_one() -> None:
    genuine = np.linspace(0, 1, 40)
    below = share_above(alone(np.full(500, 0.97)), alone(genuine), 0.0, num=200, seed=0)
    assert (below.value, below.low, below.high) == (0, 0, 1), "without its two largest the threshold is 0.95"
    far = share_above(alone(np.zeros(500)), alone(genuine), 0.0, num=200, seed=0)
    assert (far.value, far.low) == (0, 0) and far.high == pytest.approx(1 - 0.025 ** (1 / 500))
