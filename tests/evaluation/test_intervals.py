"""Bootstrap over groups: against a plain loop, and its coverage where the truth is known."""

import numpy as np
import pytest

from stablerep.evaluation.intervals import (
    METRICS,
    Accuracies,
    GroupBootstrap,
    Interval,
    SeedSpread,
    mean_interval,
    over_seeds,
    share_interval,
)
from stablerep.probes import mean_per_class_accuracy


def clustered(
    rng: np.random.Generator, *, num_groups: int = 40, size: int = 6
) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong per picture, with groups that agree within; the true accuracy is one half."""
    hard = rng.beta(0.8, 0.8, num_groups)
    groups = np.repeat(np.arange(num_groups), size)
    return rng.random(num_groups * size) < hard[groups], groups


def test_replicates_equal_a_plain_loop_over_the_drawn_pictures() -> None:
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 4, 50), rng.integers(0, 12, 50).astype(str)
    predicted = np.where(rng.random(50) < 0.6, labels, (labels + 1) % 4)
    bootstrap = GroupBootstrap(labels, groups, num=20, seed=1)
    accuracies = bootstrap.accuracies(labels == predicted)
    assert accuracies.value["mean_per_class"] == pytest.approx(mean_per_class_accuracy(labels, predicted))
    assert accuracies.value["top1"] == pytest.approx((labels == predicted).mean())
    names = np.unique(groups)
    for replicate, draw in enumerate(bootstrap._draws[1:]):
        assert draw.sum() == len(names)
        rows = np.concatenate(
            [
                np.repeat(np.flatnonzero(groups == name), int(times))
                for name, times in zip(names, draw, strict=True)
            ]
        )
        assert accuracies.replicates["mean_per_class"][replicate] == pytest.approx(
            mean_per_class_accuracy(labels[rows], predicted[rows]), abs=1e-6
        )
        assert accuracies.replicates["top1"][replicate] == pytest.approx(
            (labels == predicted)[rows].mean(), abs=1e-6
        )


@pytest.mark.slow
def test_groups_cover_the_truth_where_single_pictures_do_not() -> None:
    rng = np.random.default_rng(0)
    by_group = by_picture = 0
    num = 200
    for trial in range(num):
        correct, groups = clustered(rng)
        for clusters in (groups, np.arange(len(groups))):
            bootstrap = GroupBootstrap(np.zeros(len(groups)), clusters.astype(str), num=200, seed=trial)
            interval = bootstrap.accuracies(correct).interval("top1")
            covered = interval.low <= 0.5 <= interval.high
            by_group += covered and clusters is groups
            by_picture += covered and clusters is not groups
    assert 0.89 <= by_group / num <= 0.99  # nominal 0.95
    assert by_picture / num < 0.85


def test_random_guessing_has_chance_within_its_interval() -> None:
    rng = np.random.default_rng(3)
    labels, predicted = rng.integers(0, 10, 2000), rng.integers(0, 10, 2000)
    bootstrap = GroupBootstrap(labels, np.arange(2000).astype(str), num=500, seed=0)
    interval = bootstrap.accuracies(labels == predicted).interval("mean_per_class")
    assert interval.low < 0.1 < interval.high < 0.13


def test_all_right_and_all_wrong_are_as_sure_as_there_are_groups() -> None:
    """Clopper and Pearson 1934: with 0 of 9 below 33.6 %, with 9 of 9 above 66.4 %."""
    groups = np.arange(9).astype(str)
    bootstrap = GroupBootstrap(np.arange(9) % 3, groups, num=50, seed=0)
    right = bootstrap.accuracies(np.ones(9, dtype=bool)).interval("mean_per_class")
    assert (right.value, right.low, right.high) == (1, pytest.approx(0.6637, abs=1e-4), 1)
    wrong = mean_interval(
        np.zeros(18), np.repeat(groups, 2), num=50, seed=0
    )  # nine groups, not eighteen pictures
    assert (wrong.value, wrong.low, wrong.high) == (0, 0, pytest.approx(0.3363, abs=1e-4))
    assert share_interval(np.ones(9), np.ones(9), groups, num=50, seed=0) == right


def test_one_group_says_nothing_of_others() -> None:
    bootstrap = GroupBootstrap(np.zeros(4), ["a"] * 4, num=50, seed=0)
    some, none = bootstrap.accuracies(np.arange(4) < 3), bootstrap.accuracies(np.zeros(4, dtype=bool))
    assert some.interval("top1") == Interval(value=0.75, low=0, high=1)
    assert some.ahead_of(none, "top1") == Interval(value=0.75, low=-1, high=1)
    assert mean_interval(np.zeros(4), ["a"] * 4, num=50, seed=0) == Interval(value=0, low=0, high=1)


def test_differences_are_paired() -> None:
    rng = np.random.default_rng(0)
    correct, groups = clustered(rng)
    better = correct | (rng.random(len(correct)) < 0.1)
    bootstrap = GroupBootstrap(np.zeros(len(groups)), groups.astype(str), num=500, seed=0)
    ours, theirs = bootstrap.accuracies(better), bootstrap.accuracies(correct)
    assert ours.ahead_of(ours, "top1") == Interval(value=0, low=0, high=0)
    ahead = ours.ahead_of(theirs, "top1")
    assert 0 < ahead.low < ahead.value < ahead.high
    alone = ours.interval("top1")
    assert ahead.high - ahead.low < 0.6 * (alone.high - alone.low)


def test_the_same_seed_gives_the_same_interval() -> None:
    correct, groups = clustered(np.random.default_rng(0))

    def interval(seed: int) -> Interval:
        bootstrap = GroupBootstrap(np.zeros(len(groups)), groups.astype(str), num=100, seed=seed)
        return bootstrap.accuracies(correct).interval("top1")

    assert interval(0) == interval(0) != interval(1)


def constant(value: float, num: int = 400) -> Accuracies:
    return Accuracies(
        value={"mean_per_class": value, "top1": value},
        replicates={"mean_per_class": np.full(num, value), "top1": np.full(num, value)},
        num_groups=100,
    )


def test_seeds_add_their_spread() -> None:
    interval = over_seeds([constant(0.4), constant(0.5), constant(0.6)], seed=0).interval("top1")
    assert interval.value == pytest.approx(0.5)
    assert interval.low < 0.44
    assert interval.high > 0.56
    alone = over_seeds([constant(0.4)], seed=0).interval("top1")
    assert alone.low == alone.high == pytest.approx(0.4)


def drawn_runs(rng: np.random.Generator, num: int, spread: float) -> list[Accuracies]:
    """Runs around 0.5 whose seeds spread so; the error of the test pictures, of 0.01, is the same for all."""
    seeds = 0.5 + rng.normal(0, 0.01) + rng.normal(0, spread, num)
    noise = rng.normal(0, 0.01, 400)
    return [
        Accuracies(dict.fromkeys(METRICS, seed), dict.fromkeys(METRICS, seed + noise), num_groups=100)
        for seed in seeds
    ]


@pytest.mark.parametrize("num", [2, 3, 5])
def test_few_seeds_cover_the_truth(num: int) -> None:
    rng = np.random.default_rng(num)
    trials, covered, ahead = 300, 0, 0
    for trial in range(trials):
        mine, theirs = (over_seeds(drawn_runs(rng, num, 0.03), 2 * trial + side) for side in range(2))
        interval, difference = mine.interval("top1"), mine.ahead_of(theirs, "top1")
        covered += interval.low < 0.5 < interval.high
        ahead += difference.low < 0 < difference.high
    assert 0.92 <= covered / trials <= 0.99
    assert 0.92 <= ahead / trials <= 0.99


def test_a_difference_has_the_freedom_of_welch() -> None:
    """Equal arms of S seeds have 2 (S - 1); a side without seeds adds none; the larger spread decides."""
    three, five = (SeedSpread(np.ones(4), 0.01, freedom) for freedom in (2, 4))
    assert three.minus(three).freedom == pytest.approx(4)
    assert five.minus(three).freedom == three.minus(five).freedom == pytest.approx(4 / (1 / 2 + 1 / 4))
    assert three.minus(SeedSpread(np.zeros(1), 0.0, np.inf)).freedom == pytest.approx(2)
    assert three.widened() == pytest.approx(np.full(4, 4.302653 / 1.959964))


@pytest.mark.slow
def test_the_variance_between_seeds_is_not_understated() -> None:
    """Over many sets of S seeds, deviations vary as the mean of S seeds does: by the variance of a seed over S."""
    rng = np.random.default_rng(1)
    for num in (2, 3, 8):
        variances = [
            over_seeds([constant(seed) for seed in rng.normal(0, 1, num)], trial)
            .seeds["top1"]
            .deviations.var()
            for trial in range(1500)
        ]
        assert np.mean(variances) == pytest.approx(1 / num, rel=0.08)


def test_an_interval_of_the_negative_is_the_negative() -> None:
    replicates = np.random.default_rng(0).normal(0.1, 0.3, 997)
    there, back = Interval.around(0.1, replicates), Interval.around(-0.1, -replicates)
    assert (there.low, there.high) == (-back.high, -back.low)
    assert Interval.around(0.0, np.zeros(9)).in_percent(sign=True) == "+0.0 [+0.0, +0.0]"


def test_percent() -> None:
    assert Interval(value=0.1234, low=-0.01, high=0.2).in_percent(sign=True) == "+12.3 [-1.0, +20.0]"
