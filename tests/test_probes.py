"""Probes on cases with known answers, and against scikit-learn."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from stablerep.probes import (
    PROBES,
    Labelled,
    PathConfig,
    ProbeConfig,
    SgdConfig,
    fit_knn,
    fit_linear,
    mean_per_class_accuracy,
)


def blobs(seed: int, *, num: int = 60, spread: float = 0.3, dim: int = 5, classes: int = 3) -> Labelled:
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % classes
    centres = 4 * np.eye(classes, dim)
    return Labelled((centres[labels] + spread * rng.normal(size=(num, dim))).astype(np.float32), labels)


@pytest.mark.parametrize("name", PROBES)
def test_separable_blobs_are_named_without_error(name: str) -> None:
    probe = PROBES[name](blobs(0), blobs(1), 3, ProbeConfig())
    test = blobs(2, num=300)
    probabilities = probe.probabilities(test.features)
    assert probabilities.shape == (300, 3)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    assert (probabilities.argmax(1) == test.labels).all()
    assert probe.validation_accuracy == 1


def test_mean_per_class_weighs_classes_equally() -> None:
    labels = np.array([0, 0, 0, 0, 0, 0, 2, 2])
    predicted = np.array([0, 0, 0, 1, 0, 0, 2, 0])
    assert mean_per_class_accuracy(labels, predicted) == pytest.approx((5 / 6 + 1 / 2) / 2)


def test_knn_votes_as_calculated_by_hand() -> None:
    angles = np.deg2rad([0.0, 10.0, 30.0])
    train = Labelled(
        np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32) * [[1], [7], [0.5]],
        np.array([0, 1, 1]),
    )
    train = dataclasses.replace(train, features=train.features.astype(np.float32))
    query = np.array([[3.0, 0.0]], dtype=np.float32)
    config = ProbeConfig(neighbours=(3,), temperature=0.5, centre=False)
    probe = fit_knn(train, Labelled(query, np.array([0])), 2, config)
    weights = np.exp(np.cos(angles) / 0.5)
    share = weights[0] / weights.sum()
    np.testing.assert_allclose(probe.probabilities(query), [[share, 1 - share]], rtol=1e-5)
    nearest = fit_knn(train, Labelled(query, np.array([0])), 2, dataclasses.replace(config, neighbours=(1,)))
    np.testing.assert_allclose(nearest.probabilities(query), [[1, 0]])


@pytest.mark.parametrize("centre", [True, False])
def test_knn_equals_a_plain_loop(centre: bool) -> None:
    rng = np.random.default_rng(4)
    train = Labelled((rng.normal(size=(80, 6)) + 1).astype(np.float32), rng.integers(0, 4, 80))
    queries = (rng.normal(size=(30, 6)) + 1).astype(np.float32)
    config = ProbeConfig(neighbours=(7,), centre=centre)
    votes = fit_knn(train, train, 4, config).probabilities(queries)
    shift = train.features.mean(0) if centre else 0
    for query, vote in zip(queries - shift, votes, strict=True):
        bank = train.features - shift
        cosine = bank @ query / np.linalg.norm(bank, axis=1) / np.linalg.norm(query)
        expected = np.zeros(4)
        for row in np.argsort(-cosine)[:7]:
            expected[train.labels[row]] += np.exp(cosine[row] / 0.07)
        np.testing.assert_allclose(vote, expected / expected.sum(), rtol=1e-3, atol=1e-5)


def test_k_is_chosen_on_validation() -> None:
    rng = np.random.default_rng(0)
    train, clean = blobs(0, num=90), blobs(1)
    wrong = rng.permutation(90)[:25]
    noisy = Labelled(
        train.features, np.where(np.isin(np.arange(90), wrong), (train.labels + 1) % 3, train.labels)
    )
    probe = fit_knn(noisy, clean, 3, ProbeConfig())
    assert probe.k >= 10
    one = fit_knn(noisy, clean, 3, ProbeConfig(neighbours=(1,)))
    assert one.validation_accuracy < probe.validation_accuracy == 1


def test_more_neighbours_than_examples() -> None:
    probe = fit_knn(blobs(0, num=9), blobs(1, num=9), 3, ProbeConfig(neighbours=(50,)))
    assert probe.chosen == {"k": 9}


def overlapping(seed: int, num: int) -> Labelled:
    """Correlated features of unequal scale, so that the problem is badly conditioned as real features are."""
    rng = np.random.default_rng(99)
    mix = rng.normal(size=(12, 12)) * np.geomspace(1, 0.03, 12)[:, None]
    centres = rng.normal(size=(5, 12))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, num)
    return Labelled(
        ((centres[labels] + 1.5 * rng.normal(size=(num, 12))) @ mix + 3).astype(np.float32), labels
    )


def test_linear_coefficients_equal_scikit_learn() -> None:
    train, validation = overlapping(0, 600), overlapping(1, 300)
    probe = fit_linear(train, validation, 5, one_constant(2.0))
    standardised = (train.features.astype(np.float64) - train.features.mean(0)) / train.features.std(0)
    reference = LogisticRegression(C=1 / 2.0, tol=1e-8, max_iter=5000).fit(standardised, train.labels)
    np.testing.assert_allclose(probe.solution.weight.numpy().T, reference.coef_, atol=2e-3)
    bias = probe.solution.bias.numpy()
    np.testing.assert_allclose(
        bias - bias.mean(), reference.intercept_ - reference.intercept_.mean(), atol=2e-3
    )
    assert probe.note == ""


@pytest.mark.slow
def test_linear_path_reaches_the_accuracies_of_scikit_learn() -> None:
    train, validation = overlapping(0, 600), overlapping(1, 2000)
    mean, std = (statistic(train.features, axis=0, dtype=np.float64) for statistic in (np.mean, np.std))
    theirs = []
    for l2 in ProbeConfig().linear.constants():
        ours = fit_linear(train, validation, 5, one_constant(l2))
        reference = LogisticRegression(C=1 / l2, tol=1e-7, max_iter=2000)
        reference.fit((train.features - mean) / std, train.labels)
        predicted = reference.predict((validation.features - mean) / std)
        theirs.append(mean_per_class_accuracy(validation.labels, predicted))
        assert ours.validation_accuracy == pytest.approx(theirs[-1], abs=1e-3)
    whole = fit_linear(train, validation, 5, ProbeConfig())
    assert whole.validation_accuracy == pytest.approx(max(theirs), abs=1e-3)


@pytest.mark.slow
def test_constant_and_duplicated_features_give_no_nan() -> None:
    train, validation = blobs(0), blobs(1)

    def padded(data: Labelled, constant: float) -> Labelled:
        column = np.full((len(data.labels), 1), constant, dtype=np.float32)
        return Labelled(np.hstack([data.features, column, data.features[:, :1]]), data.labels)

    for name, fit in PROBES.items():
        probe = fit(padded(train, 0.3), padded(validation, 0.3), 3, ProbeConfig())
        test = padded(blobs(2), 0.31)  # a feature that was constant in training moves a little in the test
        probabilities = probe.probabilities(test.features)
        assert np.isfinite(probabilities).all(), name
        assert (probabilities.argmax(1) == test.labels).all(), name


def test_all_features_constant_is_chance_not_nan() -> None:
    data = Labelled(np.ones((12, 4), dtype=np.float32), np.arange(12) % 3)
    for name, fit in PROBES.items():
        assert np.isfinite(fit(data, data, 3, ProbeConfig()).probabilities(data.features)).all(), name


def one_constant(l2: float) -> ProbeConfig:
    return ProbeConfig(linear=PathConfig(strongest_l2=l2, weakest_l2=l2, num_l2=1, refit=False))


def test_more_features_than_examples() -> None:
    rng = np.random.default_rng(0)
    data = Labelled(rng.normal(size=(30, 200)).astype(np.float32), np.arange(30) % 3)
    test = rng.normal(size=(50, 200)).astype(np.float32)
    mean, std = (statistic(data.features, axis=0, dtype=np.float64) for statistic in (np.mean, np.std))
    reference = LogisticRegression(C=1 / 3.0, tol=1e-8).fit((data.features - mean) / std, data.labels)
    np.testing.assert_allclose(
        fit_linear(data, data, 3, one_constant(3.0)).probabilities(test),
        reference.predict_proba((test - mean) / std),
        atol=2e-3,
    )


def test_linear_probe_ignores_the_scale_of_features() -> None:
    train, validation, test = overlapping(0, 300), overlapping(1, 100), overlapping(2, 100)

    def scaled(data: Labelled) -> Labelled:
        return Labelled((data.features * np.geomspace(1e-3, 1e3, 12)).astype(np.float32), data.labels)

    plain = fit_linear(train, validation, 5, one_constant(1.0))
    other = fit_linear(scaled(train), scaled(validation), 5, one_constant(1.0))
    np.testing.assert_allclose(
        other.probabilities(scaled(test).features), plain.probabilities(test.features), atol=5e-3
    )


def test_notes_say_what_went_wrong() -> None:
    train, validation = overlapping(0, 300), overlapping(1, 100)
    short = ProbeConfig(linear=PathConfig(num_l2=3, max_iterations=1))
    assert "3 of 3 constants not solved" in fit_linear(train, validation, 5, short).note
    strong = ProbeConfig(linear=PathConfig(strongest_l2=1e6, weakest_l2=1e4, num_l2=3))
    assert "end of the range" in fit_linear(train, validation, 5, strong).note


def test_refit_trains_on_both_splits() -> None:
    train, validation = blobs(0, num=30), blobs(1, num=30)
    knn = fit_knn(train, validation, 3, ProbeConfig(refit=True))
    assert len(knn.bank) == 60
    both = Labelled(
        np.concatenate([train.features, validation.features]),
        np.concatenate([train.labels, validation.labels]),
    )
    refitted = fit_linear(train, validation, 3, ProbeConfig(linear=PathConfig(num_l2=3))).solution
    expected = fit_linear(both, validation, 3, one_constant(refitted.l2)).solution
    torch.testing.assert_close(refitted.weight, expected.weight, atol=1e-3, rtol=1e-2)
    assert not torch.equal(refitted.mean, fit_linear(train, validation, 3, ProbeConfig()).solution.mean)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBES)
def test_probes_are_deterministic(name: str) -> None:
    path = PathConfig(strongest_l2=10, weakest_l2=0.1, num_l2=3)
    config = ProbeConfig(
        linear=path,
        logistic=path,
        sgd=SgdConfig(num_epochs=8, check_every=2, batch_size=32),
    )
    first, second = (PROBES[name](overlapping(0, 100), overlapping(1, 50), 5, config) for _ in range(2))
    test = overlapping(2, 50).features
    np.testing.assert_array_equal(first.probabilities(test), second.probabilities(test))


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (ProbeConfig, {"neighbours": ()}),
        (ProbeConfig, {"neighbours": (0,)}),
        (ProbeConfig, {"temperature": 0.0}),
        (PathConfig, {"weakest_l2": 1e9}),
        (PathConfig, {"num_l2": 0}),
    ],
)
def test_wrong_settings_are_refused(kind: type, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        kind(**wrong)
