"""The SGD probe: each of its heads is what it would be alone, and torch says the same."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stablerep import runtime
from stablerep.probes import Labelled, ProbeConfig, SgdConfig, SgdProbe, fit_sgd, fit_sgd_bn
from stablerep.probes.base import together
from stablerep.probes.settings import device_named
from stablerep.probes.sgd import Heads, train_heads

SETTINGS = SgdConfig(learning_rates=(0.05, 0.5), num_epochs=4, batch_size=32, check_every=2)


def data(seed: int, num: int = 96) -> Labelled:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, num)
    return Labelled((2 * np.eye(3, 5)[labels] + rng.normal(size=(num, 5))).astype(np.float32), labels)


def test_the_published_learning_rates() -> None:
    assert SgdConfig().learning_rates == (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
    assert (SgdConfig().num_epochs, SgdConfig().batch_size) == (90, 1024)


@pytest.mark.parametrize("num", [96, 97])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_heads_equal_torch(batch_norm: bool, num: int) -> None:
    """The same heads, order and schedule through torch's own optimiser and batch norm.

    Of 97 examples one is left over, which has no statistics of its own: torch's running ones take their place.
    """
    train = data(0, num)
    orders: list[torch.Tensor] = []

    def epoch(number: int) -> np.ndarray:
        orders.append(torch.tensor([number]))
        return train.features

    checks = train_heads(epoch, train.labels, 3, SETTINGS, norms=(batch_norm,))[batch_norm].checks
    assert [heads.epoch for heads in checks] == [2, 4]
    assert len(orders) == 4
    still = dataclasses.replace(SETTINGS, learning_rates=(1e-12, 1e-12))
    start = train_heads(epoch, train.labels, 3, still)[False].checks[0]
    for head, rate in enumerate(SETTINGS.learning_rates):
        norm = torch.nn.BatchNorm1d(5, eps=1e-6, affine=False) if batch_norm else torch.nn.Identity()
        linear = torch.nn.Linear(5, 3)
        with torch.no_grad():
            linear.weight.copy_(start.weight[:, head].T)
            linear.bias.zero_()
        optimizer = torch.optim.SGD(linear.parameters(), lr=rate * 32 / 256, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4 * math.ceil(num / 32))
        for number in range(4):
            order = torch.randperm(num, generator=runtime.torch_generator("sgd order", 0, number))
            for rows in order.split(32):
                norm.train(len(rows) > 1)
                optimizer.zero_grad()
                logits = linear(norm(torch.from_numpy(train.features)[rows]))
                F.cross_entropy(logits, torch.from_numpy(train.labels)[rows]).backward()
                optimizer.step()
                schedule.step()
        norm.eval()
        expected = linear(norm(torch.from_numpy(train.features)))
        torch.testing.assert_close(checks[-1].logits(train.features, head), expected, atol=2e-3, rtol=1e-2)


def test_the_official_number_is_never_below_the_honest_one() -> None:
    rng = np.random.default_rng(0)
    train, validation = data(0), data(1, 40)
    test = Labelled(rng.normal(size=(60, 5)).astype(np.float32), rng.integers(0, 3, 60))
    probe = fit_sgd(train, validation, 3, ProbeConfig(sgd=SETTINGS))
    honest = float((probe.probabilities(test.features).argmax(1) == test.labels).mean())
    official = probe.official_maximum(test)
    assert official["top1_maximum_on_test"] >= honest
    assert official["learning_rate"] in SETTINGS.learning_rates
    assert official["epoch"] in (2, 4)


def assert_equal(some: Sequence[Heads], others: Sequence[Heads]) -> None:
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        for name in ("mean", "scale", "weight", "bias"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_trainings_that_share_epochs_are_what_each_is_alone() -> None:
    """With and without batch norm, of the training examples and of all: the same bits, from one pass."""
    every, num_train = data(0, 120), 90
    passes: list[int] = []

    def epoch(number: int) -> np.ndarray:
        passes.append(number)
        return every.features + np.float32(number)

    shared = train_heads(epoch, every.labels, 3, SETTINGS, norms=(False, True), num_train=num_train)
    assert passes == [0, 1, 2, 3]
    for norm, trained in shared.items():
        for heads, num in ((trained.checks, num_train), (trained.measured, 120)):
            alone = train_heads(
                lambda number, num=num: epoch(number)[:num], every.labels[:num], 3, SETTINGS, norms=(norm,)
            )
            assert_equal(heads, alone[norm].checks)


@pytest.mark.parametrize("fit", [fit_sgd, fit_sgd_bn])
def test_after_a_refit_the_same_choice_is_measured_on_heads_that_saw_all(
    fit: Callable[..., SgdProbe],
) -> None:
    train, validation = data(0), data(1, 40)
    plain, refitted = (
        fit(train, validation, 3, ProbeConfig(sgd=dataclasses.replace(SETTINGS, refit=refit)))
        for refit in (False, True)
    )
    assert refitted.chosen == plain.chosen
    assert refitted.validation_accuracy == plain.validation_accuracy
    all_train = fit(together(train, validation), validation, 3, ProbeConfig(sgd=SETTINGS))
    assert_equal(refitted.checks, all_train.checks)
    assert not torch.equal(refitted.checks[0].weight, plain.checks[0].weight)


def test_auto_is_the_device_of_the_encoders_where_there_is_one() -> None:
    asked = ProbeConfig(sgd=SgdConfig(device="cuda:1"))
    settled = asked.on("meta")
    assert (settled.linear.device, settled.logistic.device, settled.sgd.device) == ("meta", "meta", "cuda:1")
    assert device_named(asked.linear.device) == torch.device("cpu")


def test_wrong_settings_are_refused() -> None:
    for wrong in ({"learning_rates": ()}, {"num_epochs": 0}, {"crop_scale": (0.5, 0.1)}):
        with pytest.raises(ValueError):
            SgdConfig(**wrong)
