"""The SGD probe: each of its heads is what it would be alone, and torch says the same."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stablerep import runtime
from stablerep.probes import Labelled, ProbeConfig, SgdConfig, fit_sgd
from stablerep.probes.sgd import train_heads

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

    checks = train_heads(epoch, train.labels, 3, SETTINGS, batch_norm=batch_norm)
    assert [heads.epoch for heads in checks] == [2, 4]
    assert len(orders) == 4
    start = train_heads(
        epoch, train.labels, 3, dataclasses.replace(SETTINGS, learning_rates=(1e-12, 1e-12)), batch_norm=False
    )[0]
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


def test_wrong_settings_are_refused() -> None:
    for wrong in ({"learning_rates": ()}, {"num_epochs": 0}, {"crop_scale": (0.5, 0.1)}):
        with pytest.raises(ValueError):
            SgdConfig(**wrong)
