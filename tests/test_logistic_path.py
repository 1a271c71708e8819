"""The path of logistic regressions against scikit-learn, alone and together."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from stablerep.probes import Labelled, PathConfig, ProbeConfig, fit_logistic, solve_path
from stablerep.probes.metrics import average_precisions, mean_average_precision

SHORT = PathConfig(strongest_l2=1e2, weakest_l2=1e-1, num_l2=4, tolerance=1e-6)


def overlapping(seed: int, num: int, classes: int = 4) -> Labelled:
    mix = np.random.default_rng(7).normal(size=(10, 10)) * np.geomspace(1, 0.05, 10)[:, None]
    centres = np.random.default_rng(8).normal(size=(classes, 10))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, num)
    features = (centres[labels] + 1.3 * rng.normal(size=(num, 10))) @ mix + 2
    return Labelled(features.astype(np.float32), labels)


def standardised(data: Labelled, features: np.ndarray) -> np.ndarray:
    mean, std = (statistic(data.features, axis=0, dtype=np.float64) for statistic in (np.mean, np.std))
    result: np.ndarray = (features - mean) / std
    return result


def test_the_published_path() -> None:
    constants = PathConfig().constants()
    assert len(constants) == 45
    assert constants[0] == pytest.approx(1e5)
    assert constants[-1] == pytest.approx(1e-6)


@pytest.mark.parametrize("together", [None, 2, 4])
def test_every_constant_equals_scikit_learn(together: int | None) -> None:
    data, test = overlapping(0, 400), overlapping(1, 200)
    config = PathConfig(strongest_l2=1e2, weakest_l2=1e-1, num_l2=4, tolerance=1e-6, together=together)
    solutions = list(solve_path(data.features, data.labels, config.constants(), config, num_classes=4))
    assert [found.solved for found in solutions] == [True] * 4
    for found, l2 in zip(solutions, config.constants(), strict=True):
        reference = LogisticRegression(C=1 / l2, tol=1e-9, max_iter=3000)
        reference.fit(standardised(data, data.features), data.labels)
        expected = reference.predict_proba(standardised(data, test.features))
        np.testing.assert_allclose(found.probabilities(test.features), expected, atol=1e-3)


@pytest.mark.parametrize("num", [1, 2, 25, 29, 30, 31])
def test_few_examples_of_many_features_equal_scikit_learn(num: int) -> None:
    """Fewer than features, and about as many."""
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(2 * num, 60)) + np.arange(2 * num)[:, None] % 2).astype(np.float32)
    data = Labelled(features, np.arange(2 * num) % 2)
    (found,) = solve_path(features, data.labels, [2.0], SHORT, num_classes=2)
    assert found.solved
    # Two classes share what is one weight there, so that half the penalty is left.
    reference = LogisticRegression(C=1.0, tol=1e-9, max_iter=3000)
    reference.fit(standardised(data, features), data.labels)
    tests = rng.normal(size=(20, 60)).astype(np.float32) + 0.5
    expected = reference.predict_proba(standardised(data, tests))
    np.testing.assert_allclose(found.probabilities(tests), expected, atol=1e-3)


def test_features_that_say_nothing_leave_the_frequencies() -> None:
    features = np.ones((4, 6), np.float32)
    (found,) = solve_path(features, np.array([0, 0, 0, 1]), [1.0], SHORT, num_classes=2)
    np.testing.assert_allclose(found.probabilities(features)[0], [0.75, 0.25], atol=1e-3)


def test_several_classes_are_one_regression_each() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 6)).astype(np.float32)
    targets = (features @ rng.normal(size=(6, 3)) + rng.normal(size=(300, 3)) > 0.5).astype(np.int64)
    (found,) = solve_path(features, targets, [2.0], SHORT, num_classes=3)
    data = Labelled(features, targets)
    for column in range(3):
        reference = LogisticRegression(C=0.5, tol=1e-9).fit(standardised(data, features), targets[:, column])
        expected = reference.predict_proba(standardised(data, features))[:, 1]
        np.testing.assert_allclose(found.probabilities(features)[:, column], expected, atol=1e-3)
    difficult = np.where(targets == 1, 1, rng.integers(-1, 1, targets.shape))  # which counts as not shown
    (again,) = solve_path(features, difficult, [2.0], SHORT, num_classes=3)
    np.testing.assert_array_equal(again.probabilities(features), found.probabilities(features))


def test_a_solution_that_is_not_reached_is_said() -> None:
    data = overlapping(0, 300)
    config = ProbeConfig(logistic=PathConfig(num_l2=3, weakest_l2=1e-3, strongest_l2=1, max_iterations=1))
    assert "3 of 3 constants not solved" in fit_logistic(data, overlapping(1, 100), 4, config).note


@pytest.mark.slow
def test_the_choice_is_validations_and_the_refit_uses_both() -> None:
    train, validation = overlapping(0, 200), overlapping(1, 400)
    probe = fit_logistic(train, validation, 4, ProbeConfig(logistic=SHORT))
    assert probe.validation_accuracy == max(probe.along_path)
    assert len(probe.along_path) == 4
    both = np.concatenate([train.features, validation.features])
    np.testing.assert_allclose(probe.solution.mean.numpy(), both.mean(0), atol=1e-5)
    labels = np.concatenate([train.labels, validation.labels])
    reference = LogisticRegression(C=1 / probe.chosen["l2"], tol=1e-9, max_iter=3000)
    every = Labelled(both, labels)
    reference.fit(standardised(every, both), labels)
    expected = reference.predict_proba(standardised(every, both))
    np.testing.assert_allclose(probe.probabilities(both), expected, atol=2e-3)


def test_eleven_point_precision_by_hand() -> None:
    targets = np.array([[1], [0], [1], [0]])
    scores = np.array([[0.9], [0.8], [0.7], [0.1]])
    # recall 0.5 at precision 1, recall 1 at precision 2/3: six levels reach 1, five reach 2/3
    assert average_precisions(targets, scores)[0] == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert mean_average_precision(targets, -scores) < 0.6
    with_difficult = np.array([[1], [-1], [1], [0]])
    assert average_precisions(with_difficult, scores)[0] == 1
    assert np.isnan(average_precisions(np.zeros((4, 1), dtype=int), scores)[0])
    twice = average_precisions(np.repeat(targets, 2, 0), np.repeat(scores, 2, 0))
    weighted = average_precisions(targets, scores, np.full(4, 2.0))
    assert weighted[0] == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert twice[0] == pytest.approx(weighted[0], abs=0.1)


def test_eleven_points_stay_near_the_area() -> None:
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 2, (500, 3))
    scores = targets + rng.normal(size=(500, 3))
    area = average_precision_score(targets, scores, average="macro")
    assert mean_average_precision(targets, scores) == pytest.approx(area, abs=0.03)
