"""The published linear probe: heads for all learning rates trained at once by SGD on frozen features.

Shapes: M examples, N examples of a step, D features, L learning rates, C classes.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stablerep import runtime
from stablerep.probes.base import Labelled, together
from stablerep.probes.metrics import accuracy
from stablerep.probes.settings import ProbeConfig, SgdConfig, device_named

_EPS = 1e-6
_BN_MOMENTUM = 0.1
_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class Heads:
    """All heads after some epochs: ((x - mean) / scale) @ weight + bias."""

    epoch: int
    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def logits(self, features: np.ndarray, head: int) -> Tensor:
        """Logits (M, C) of one head for features (M, D)."""
        normalised = (torch.from_numpy(features) - self.mean) / self.scale
        return normalised @ self.weight[:, head] + self.bias[head]

    def predictions(self, features: np.ndarray) -> np.ndarray:
        """Classes (L, M) that each head names."""
        parts = []
        for block in torch.split((torch.from_numpy(features) - self.mean) / self.scale, _ROWS):
            parts.append((torch.einsum("nd,dlc->lnc", block, self.weight) + self.bias[:, None]).argmax(2))
        named: np.ndarray = torch.cat(parts, 1).numpy()
        return named


@dataclass(frozen=True, kw_only=True)
class SgdProbe:
    """The head and the epoch that validation chose, and all the others."""

    checks: tuple[Heads, ...]
    learning_rates: tuple[float, ...]
    check: int
    head: int
    validation_accuracy: float
    note: str = ""

    @property
    def chosen(self) -> Mapping[str, float]:
        return {"learning_rate": self.learning_rates[self.head], "epoch": self.checks[self.check].epoch}

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Class probabilities (M, C) of features (M, D)."""
        result: np.ndarray = self.checks[self.check].logits(features, self.head).softmax(1).numpy()
        return result

    def official_maximum(self, test: Labelled) -> dict[str, float]:
        """The number that the official code reports: the best top-1 of all heads and epochs *on the test itself*.

        It is chosen by what it measures, so it is never below the honest one; compare it only with numbers made alike.
        """
        found = [
            (accuracy(test.labels, named, "top1"), rate, heads.epoch)
            for heads in self.checks
            for rate, named in zip(self.learning_rates, heads.predictions(test.features), strict=True)
        ]
        top1, rate, epoch = max(found, key=lambda entry: entry[0])
        return {"top1_maximum_on_test": top1, "learning_rate": rate, "epoch": epoch}


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Heads at every check: those that validation chooses among, and those that are measured after the choice."""

    checks: tuple[Heads, ...]
    measured: tuple[Heads, ...]
    """The same, or others that were trained beside them on the validation examples as well."""


def train_heads(
    epoch: Callable[[int], np.ndarray],
    labels: np.ndarray,
    num_classes: int,
    config: SgdConfig,
    *,
    norms: Sequence[bool] = (False,),
    num_train: int | None = None,
) -> dict[bool, Trained]:
    """Train one head per learning rate, without and with batch norm; ``epoch(e)`` gives the features (M, D) of epoch e.

    SGD with momentum and without weight decay, the learning rate falling along a cosine from step to step, weights
    drawn from N(0, 0.01). With batch norm features pass one without parameters first. Where only the first
    ``num_train`` examples are training ones, further heads learn from all M, on the same features; these are measured.
    """
    counts = (num_train or len(labels), len(labels))
    trainings: dict[tuple[bool, int], _Training] = {}
    checks: dict[tuple[bool, int], list[Heads]] = {}
    for number in range(config.num_epochs):
        features = torch.from_numpy(epoch(number))
        for norm, count in dict.fromkeys(itertools.product(norms, counts)):
            if number == 0:
                trainings[norm, count] = _Training(
                    features.shape[1], labels[:count], num_classes, config, norm
                )
                checks[norm, count] = []
            trainings[norm, count].epoch(features, number)
            if (number + 1) % config.check_every == 0 or number + 1 == config.num_epochs:
                checks[norm, count].append(trainings[norm, count].heads(number + 1))
    return {
        norm: Trained(checks=tuple(checks[norm, counts[0]]), measured=tuple(checks[norm, counts[1]]))
        for norm in norms
    }


class _Training:
    """Weights (D, L, C) and their momentum; the statistics of the batch norm; how far it is."""

    def __init__(
        self, dim: int, labels: np.ndarray, num_classes: int, config: SgdConfig, batch_norm: bool
    ) -> None:
        self.config, self.batch_norm = config, batch_norm
        self.device = device_named(config.device)
        self.targets = torch.from_numpy(labels).long().to(self.device)
        self.size = min(config.batch_size, len(labels))
        self.num_steps = config.num_epochs * math.ceil(len(labels) / self.size)
        self.step = 0
        rates = torch.tensor(config.learning_rates)[:, None] * self.size / 256
        self.rates = rates.to(self.device)
        generator = runtime.torch_generator("sgd heads", config.seed)
        shape = (dim, len(config.learning_rates), num_classes)
        self.weight = (torch.randn(shape, generator=generator) * 0.01).to(self.device)
        self.bias = torch.zeros(shape[1:], device=self.device)
        self.velocity, self.bias_velocity = torch.zeros_like(self.weight), torch.zeros_like(self.bias)
        self.mean, self.variance = (
            torch.zeros(dim, device=self.device),
            torch.ones(dim, device=self.device),
        )

    def epoch(self, features: Tensor, number: int) -> None:
        """Every example once, in the order of this epoch; features (M, D) of others may follow."""
        generator = runtime.torch_generator("sgd order", self.config.seed, number)
        for rows in torch.split(torch.randperm(len(self.targets), generator=generator), self.size):
            share = 1 + math.cos(math.pi * self.step / self.num_steps)
            targets = self.targets[rows.to(self.device)]
            self._move(features[rows].to(self.device), targets, self.rates * share / 2)
            self.step += 1

    def _move(self, features: Tensor, targets: Tensor, rates: Tensor) -> None:
        """One step of all heads on features (N, D), at learning rates (L, 1)."""
        if self.batch_norm:
            mean, variance = self.mean, self.variance  # a single example has none of its own
            if len(features) > 1:
                mean, variance = features.mean(0), features.var(0, correction=0)
                self.mean.lerp_(mean, _BN_MOMENTUM)
                self.variance.lerp_(variance * len(targets) / (len(targets) - 1), _BN_MOMENTUM)
            features = (features - mean) / (variance + _EPS).sqrt()
        logits = (features @ self.weight.flatten(1)).view(len(features), *self.bias.shape) + self.bias
        residual = logits.softmax(2)
        residual[torch.arange(len(targets), device=self.device), :, targets] -= 1
        residual /= len(targets)
        gradient = (features.T @ residual.flatten(1)).view_as(self.weight)
        self.velocity.mul_(self.config.momentum).add_(gradient)
        self.bias_velocity.mul_(self.config.momentum).add_(residual.sum(0))
        self.weight -= rates * self.velocity
        self.bias -= rates * self.bias_velocity

    def heads(self, epoch: int) -> Heads:
        """As they are now, on the CPU."""
        scale = (self.variance + _EPS).sqrt() if self.batch_norm else torch.ones_like(self.variance)
        return Heads(
            epoch=epoch,
            mean=self.mean.clone().cpu(),
            scale=scale.cpu(),
            weight=self.weight.clone().cpu(),
            bias=self.bias.clone().cpu(),
        )


def choose_head(trained: Trained, validation: Labelled, config: ProbeConfig) -> SgdProbe:
    """The head and epoch with the best validation accuracy; of equals that with the lowest cross-entropy there."""
    rates = config.sgd.learning_rates
    targets = torch.from_numpy(validation.labels).long()
    probe = SgdProbe(checks=trained.measured, learning_rates=rates, check=0, head=0, validation_accuracy=-1.0)
    lowest = math.inf
    for check, heads in enumerate(trained.checks):
        for head in range(len(rates)):
            logits = heads.logits(validation.features, head)
            reached = accuracy(validation.labels, logits.argmax(1).numpy(), config.metric)
            loss = float(F.cross_entropy(logits, targets))
            if (reached, -loss) > (probe.validation_accuracy, -lowest):
                probe = replace(probe, check=check, head=head, validation_accuracy=reached)
                lowest = loss
    rate = rates[probe.head]
    if len(rates) > 1 and rate in (min(rates), max(rates)):
        return replace(probe, note=f"learning rate {rate:g} is the end of the range")
    return probe


def fit_sgd(train: Labelled, validation: Labelled, num_classes: int, config: ProbeConfig) -> SgdProbe:
    """The published linear probe on fixed features, without batch norm."""
    return _fit(train, validation, num_classes, config, batch_norm=False)


def fit_sgd_bn(train: Labelled, validation: Labelled, num_classes: int, config: ProbeConfig) -> SgdProbe:
    """The published linear probe on fixed features, behind a batch norm without parameters."""
    return _fit(train, validation, num_classes, config, batch_norm=True)


def _fit(
    train: Labelled, validation: Labelled, num_classes: int, config: ProbeConfig, *, batch_norm: bool
) -> SgdProbe:
    known = together(train, validation) if config.sgd.refit else train
    trained = train_heads(
        lambda _: known.features,
        known.labels,
        num_classes,
        config.sgd,
        norms=(batch_norm,),
        num_train=len(train.labels),
    )
    return choose_head(trained[batch_norm], validation, config)
