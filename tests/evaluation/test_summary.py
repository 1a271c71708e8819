"""Summaries over training seeds: which rows there are, and that both sides of a comparison say the same."""

import dataclasses
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stablerep.errors import UserError
from stablerep.evaluation.intervals import GroupBootstrap
from stablerep.evaluation.protocols import EvaluateConfig, evaluate
from stablerep.evaluation.scores import Outcome, Scores, summarise

GOOD, BAD = [True] * 90 + [False] * 10, [True] * 50 + [False] * 50
EMPTY = Scores(
    run="", path="", config={}, precision="float32", benchmarks={}, skipped={}, provenance={}, records=(), outcomes=()
)  # fmt: skip


def scores(run: str, correct: list[bool], *protocols: str) -> Scores:
    """The scores of a run that was right where said, each picture a group of its own."""
    outcomes = [
        Outcome(
            benchmark="icons",
            test="t",
            encoder=run,
            protocol=protocol,
            groups=np.arange(len(correct)).astype(str),
            labels=np.array(["x"] * len(correct)),
            predicted=np.where(correct, "x", "y"),
        )
        for protocol in protocols or ("knn",)
    ]
    return dataclasses.replace(EMPTY, run=run, outcomes=tuple(outcomes))


def test_summary_over_seeds() -> None:
    runs = [scores("a", GOOD), scores("b", BAD)]
    (summary,) = summarise(runs)
    assert summary.num_runs == 2
    assert summary.per_run == pytest.approx((0.9, 0.5))
    assert summary.mean_per_class.value == pytest.approx(0.7)
    assert summary.mean_per_class.low < 0.52  # replicates that drew the bad seed twice
    assert 0.88 < summary.mean_per_class.high <= 1
    (alone,) = summarise(runs[:1])
    assert 0.8 < alone.mean_per_class.low < 0.9 < alone.mean_per_class.high < 1
    (compared,) = summarise(runs[:1], against=runs[1:])
    assert compared.ahead is not None
    assert compared.ahead.value == pytest.approx(0.4)
    assert 0.25 < compared.ahead.low < 0.4


def test_the_other_side_sees_the_negative_exactly() -> None:
    rng = np.random.default_rng(0)
    sides = [
        [scores(f"{name}-{seed}", (rng.random(60) < share).tolist()) for seed in range(num)]
        for name, share, num in (("a", 0.6, 3), ("b", 0.5, 2))
    ]
    (there,), (back,) = (summarise(one, against=other) for one, other in (sides, sides[::-1]))
    assert there.ahead is not None and back.ahead is not None
    assert there.ahead.low < there.ahead.value < there.ahead.high
    assert (there.ahead.value, there.ahead.low, there.ahead.high) == (
        -back.ahead.value,
        -back.ahead.high,
        -back.ahead.low,
    )


def test_a_protocol_that_the_other_side_lacks_stands_alone() -> None:
    ours, theirs = [scores("a", GOOD, "knn", "linear")], [scores("b", BAD, "linear")]
    assert [(one.protocol, one.ahead is None) for one in summarise(ours, against=theirs)] == [
        ("knn", True),
        ("linear", False),
    ]
    assert [(one.protocol, one.ahead is None) for one in summarise(theirs, against=ours)] == [
        ("linear", False)
    ]


def test_different_pictures_and_nothing_shared_are_refused() -> None:
    first = scores("a", [True, False, True])
    with pytest.raises(UserError, match="different pictures"):
        summarise([first, scores("b", [True, False])])
    with pytest.raises(UserError, match="different pictures"):
        summarise([first], against=[scores("b", [True, False])])
    with pytest.raises(UserError, match="at least one"):
        summarise([])
    with pytest.raises(UserError, match="share no"):
        summarise([first, dataclasses.replace(first, outcomes=())])


def test_the_draws_of_one_test_are_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[GroupBootstrap] = weakref.WeakSet()
    others, drawn = [], []

    class Watched(GroupBootstrap):
        def __init__(self, labels: np.ndarray, groups: np.ndarray, **more: Any) -> None:
            others.append(len(alive))
            drawn.append(len(labels))
            super().__init__(labels, groups, **more)
            alive.add(self)

    monkeypatch.setattr("stablerep.evaluation.scores.GroupBootstrap", Watched)
    first, second = scores("a", GOOD, "knn", "linear"), scores("a", BAD[20:], "knn", "linear")
    mixed = [
        outcome
        for one, other in zip(first.outcomes, second.outcomes, strict=True)
        for outcome in (one, dataclasses.replace(other, test="b"))
    ]
    found = summarise([dataclasses.replace(EMPTY, run="a", outcomes=tuple(mixed))], num_bootstrap=50)
    assert [(one.test, one.protocol) for one in found] == [
        ("t", "knn"), ("b", "knn"), ("t", "linear"), ("b", "linear"),
    ]  # fmt: skip
    assert [one.top1.value for one in found] == pytest.approx([0.9, 0.375, 0.9, 0.375])
    assert (others, sorted(drawn)) == ([0, 0], [80, 100])


@pytest.mark.slow
def test_summary_of_real_evaluations(world: Path, make_run: Callable[[str, int], Path]) -> None:
    one, other = (
        evaluate(
            EvaluateConfig(
                run=make_run(name, seed), world=world, baselines=False, num_bootstrap=20, precision="float32",
                device="cpu",
            )
        )
        for name, seed in (("one", 3), ("other", 9))
    )  # fmt: skip
    summaries = summarise([one, other], against=[other], num_bootstrap=50)
    found = [(summary.test, summary.protocol) for summary in summaries]
    assert sorted(found) == sorted((record.test, record.protocol) for record in one.records)
    for summary in summaries:
        assert summary.mean_per_class.value == pytest.approx(np.mean(summary.per_run))
