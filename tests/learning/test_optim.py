"""The published learning rate, its course, and which weights decay."""

import itertools
import math

import pytest
import torch
from torch import nn

from stablerep.errors import UserError
from stablerep.learning.optim import OptimConfig, build_optimizer, lr_at, peak_lr


def test_the_scaling_rule_gives_the_published_rate() -> None:
    rate = peak_lr(OptimConfig(base_lr=2e-4), captions=1376, images_per_caption=6, crops_per_image=1)
    assert rate == pytest.approx(3.225e-3, rel=1e-12)
    twice = peak_lr(OptimConfig(base_lr=2e-4), captions=1376, images_per_caption=6, crops_per_image=2)
    assert twice == pytest.approx(6.45e-3, rel=1e-12)


def test_a_given_rate_is_taken_as_it_is() -> None:
    assert peak_lr(OptimConfig(lr=0.5), captions=7, images_per_caption=3, crops_per_image=2) == 0.5


def test_the_defaults_are_the_published_ones() -> None:
    config = OptimConfig()
    assert (config.base_lr, config.beta1, config.beta2, config.weight_decay) == (2e-4, 0.9, 0.98, 0.1)
    assert config.schedule == "cosine"
    assert config.clip_norm is None
    assert config.warmup_fraction == pytest.approx(0.5 / 15, abs=4e-4)


def test_the_rate_rises_linearly_then_falls_as_a_cosine() -> None:
    config = OptimConfig(warmup_fraction=0.1)
    rates = [lr_at(config, 2.0, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(2 / 11)
    assert rates[9] == pytest.approx(20 / 11)
    assert rates[10] == 2.0
    steps_up = [after - before for before, after in itertools.pairwise(rates[:11])]
    assert steps_up == pytest.approx([2 / 11] * 10)
    assert rates[55] == pytest.approx(1.0), "half of the way down after half of the rest"
    assert rates[99] == pytest.approx(1 + math.cos(math.pi * 89 / 90))
    assert 0 < rates[99] < 2e-3
    assert all(before > after for before, after in itertools.pairwise(rates[10:]))


def test_a_constant_rate_stays_at_its_peak() -> None:
    config = OptimConfig(schedule="constant", warmup_fraction=0.1)
    assert [lr_at(config, 2.0, step, 100) for step in (10, 55, 99)] == [2.0, 2.0, 2.0]
    assert lr_at(config, 2.0, 0, 100) < 0.2


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    assert lr_at(OptimConfig(warmup_fraction=0.0), 2.0, 0, 10) == 2.0
    assert lr_at(OptimConfig(), 2.0, 0, 1) > 0, "a single step must not be lost to the warm-up"


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.LayerNorm(2)
        self.position = nn.Parameter(torch.ones(1, 4, 2))
        self.scale = nn.Parameter(torch.ones(()))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def test_matrices_decay_and_vectors_do_not() -> None:
    module = Mixed()
    optimizer = build_optimizer(OptimConfig(weight_decay=0.3, beta2=0.95), module, 0.01)
    names = {parameter: name for name, parameter in module.named_parameters()}
    decayed, plain = ({names[parameter] for parameter in group["params"]} for group in optimizer.param_groups)
    assert decayed == {"linear.weight", "position"}
    assert plain == {"linear.bias", "norm.weight", "norm.bias", "scale"}
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    assert all(group["betas"] == (0.9, 0.95) and group["lr"] == 0.01 for group in optimizer.param_groups)


def test_decay_alone_moves_matrices_alone() -> None:
    module = Mixed()
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    optimizer = build_optimizer(OptimConfig(weight_decay=0.5), module, 0.1)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in module.named_parameters():
        factor = 0.95 if name in ("linear.weight", "position") else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor, msg=name)


def test_a_module_that_cannot_learn_is_refused() -> None:
    with pytest.raises(UserError, match="no trainable parameter"):
        build_optimizer(OptimConfig(), nn.Linear(2, 2).requires_grad_(False), 0.1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("warmup_fraction", 1.0),
        ("warmup_fraction", -0.1),
        ("beta1", 1.0),
        ("beta2", -0.1),
        ("lr", 0.0),
        ("base_lr", -1.0),
        ("clip_norm", 0.0),
        ("weight_decay", -0.1),
    ],
)
def test_values_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}.*must"):
        OptimConfig(**{name: value})  # type: ignore[arg-type]
