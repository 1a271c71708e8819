"""Multinomial logistic regression, its L2 constant chosen on validation. Shapes: M examples, D features, C classes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from stablerep.probes.base import Labelled, standardisation, together
from stablerep.probes.metrics import accuracy
from stablerep.probes.settings import ProbeConfig


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """Multinomial logistic regression, standardised: softmax((x - mean) / scale @ weight + bias)."""

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    l2: float
    validation_accuracy: float = math.nan
    note: str = ""

    @property
    def chosen(self) -> Mapping[str, float]:
        return {"l2": self.l2}

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Class probabilities (M, C) of features (M, D)."""
        logits = (torch.from_numpy(features) - self.mean) / self.scale @ self.weight + self.bias
        result: np.ndarray = logits.softmax(1).numpy()
        return result


def fit_linear(train: Labelled, validation: Labelled, num_classes: int, config: ProbeConfig) -> LinearProbe:
    """A linear probe, its L2 constant chosen on the validation examples along a warm-started path.

    Minimises, for each constant, the sum of cross-entropies + l2 / 2 * |weight|^2 by L-BFGS, in the principal
    axes of the features, each scaled by the root of its curvature (e / C + l2 for eigenvalue e at a uniform
    prediction): the same optimum in several times fewer steps. Of equally good constants the strongest wins.
    """
    regression = _Regression(train, num_classes, config)
    best: LinearProbe | None = None
    path = config.l2_path()
    for (
        l2
    ) in path:  # to its end: the accuracy has more than one peak, and untrained features want weak constants
        probe = regression.solve(l2)
        predicted = probe.probabilities(validation.features).argmax(1)
        reached = accuracy(validation.labels, predicted, config.metric)
        if best is None or reached > best.validation_accuracy:
            best = replace(probe, validation_accuracy=reached)
    assert best is not None
    if config.refit:
        refitted = _Regression(together(train, validation), num_classes, config).solve(best.l2)
        best = replace(refitted, validation_accuracy=best.validation_accuracy)
    at_end = len(path) > 1 and best.l2 in (path[0], path[-1])
    notes = [best.note, f"l2 = {best.l2:g} is the end of the range" if at_end else ""]
    return replace(best, note="; ".join(note for note in notes if note))


class _Regression:
    """The problem of one training set; each solution starts from the one before it."""

    def __init__(self, train: Labelled, num_classes: int, config: ProbeConfig) -> None:
        self.config = config
        self.mean, self.scale = standardisation(train.features)
        self.labels = torch.from_numpy(train.labels).long()
        standardised = (torch.from_numpy(train.features) - self.mean) / self.scale
        eigenvalues, axes = torch.linalg.eigh((standardised.T @ standardised).double())
        kept = eigenvalues > 1e-9 * eigenvalues[-1]  # along the others the best weight is zero
        kept[-1] = True
        self.eigenvalues, self.axes = eigenvalues[kept].clamp(min=0).float(), axes[:, kept].float()
        self.inputs = standardised @ self.axes
        counts = torch.bincount(self.labels, minlength=num_classes).float()
        self.weight = torch.zeros(len(self.eigenvalues), num_classes)
        self.bias = ((counts + 1) / (counts + 1).sum()).log()

    def solve(self, l2: float) -> LinearProbe:
        num_examples, num_classes = len(self.labels), len(self.bias)
        weight_scale = (self.eigenvalues / num_classes + l2).rsqrt()[:, None]
        bias_scale = math.sqrt(num_classes / num_examples)
        u = (self.weight / weight_scale).requires_grad_()
        v = (self.bias / bias_scale).requires_grad_()
        tolerance = self.config.tolerance * math.sqrt(num_examples)
        optimizer = torch.optim.LBFGS(
            [u, v],
            max_iter=self.config.max_iterations,
            max_eval=2 * self.config.max_iterations,
            tolerance_grad=tolerance,
            tolerance_change=1e-9,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        @torch.no_grad()
        def objective() -> float:
            weight = u * weight_scale
            loss, residual = _cross_entropy(self.inputs @ weight + v * bias_scale, self.labels)
            u.grad = (self.inputs.T @ residual + l2 * weight) * weight_scale
            v.grad = residual.sum(0) * bias_scale
            return loss + l2 / 2 * float(weight.square().sum())

        optimizer.step(objective)  # type: ignore[no-untyped-call]
        objective()  # the line search may have ended on a trial point; the gradient must be the solution's
        assert u.grad is not None and v.grad is not None
        steepest = max(float(u.grad.abs().max()), float(v.grad.abs().max()))
        self.weight, self.bias = u.detach() * weight_scale, v.detach() * bias_scale
        return LinearProbe(
            mean=self.mean,
            scale=self.scale,
            weight=self.axes @ self.weight,
            bias=self.bias,
            l2=l2,
            note="" if steepest <= tolerance else f"not converged at l2 = {l2:g}",
        )


def _cross_entropy(logits: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    """The sum of the cross-entropies, added up in float64, and its gradient for the logits (M, C)."""
    log_shares = logits.log_softmax(1)
    rows = torch.arange(len(labels))
    loss = -float(log_shares[rows, labels].double().sum())
    residual = log_shares.exp_()
    residual[rows, labels] -= 1
    return loss, residual
