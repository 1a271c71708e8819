"""What frozen features know: weighted k-NN and multinomial logistic regression, chosen on validation only.

Shapes: M examples, D features, C classes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_QUERIES_PER_BLOCK = 1024


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Settings of the probes; what the data decides is chosen on the validation split."""

    neighbours: tuple[int, ...] = (1, 5, 10, 20, 50)
    """Candidates for k, the neighbours that vote."""
    temperature: float = 0.07
    """A neighbour votes with weight exp(cosine / temperature), as in DINO."""
    centre: bool = True
    """Subtract the training mean before the cosine, so that what all pictures share (white paper) does not
    count; DINO does not."""
    strongest_l2: float = 1e3
    """Strongest L2 constant beside the sum of cross-entropies of standardised features."""
    weakest_l2: float = 1e-3
    """Weakest L2 constant."""
    num_l2: int = 13
    """Log-spaced L2 constants from the strongest to the weakest (published: 45)."""
    max_iterations: int = 1000
    """L-BFGS iterations per constant."""
    tolerance: float = 1e-4
    """Converged when no gradient component exceeds this times the root of the number of examples."""
    refit: bool = False
    """After the choice, train again on training and validation examples together, as published for SynCLR."""

    def __post_init__(self) -> None:
        if not self.neighbours or min(self.neighbours) < 1:
            raise ValueError(f"neighbours must be positive, got {self.neighbours}")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")
        if not 0 < self.weakest_l2 <= self.strongest_l2:
            raise ValueError(
                f"weakest_l2 {self.weakest_l2} must be positive and at most strongest_l2 {self.strongest_l2}"
            )
        if min(self.num_l2, self.max_iterations) < 1:
            raise ValueError("num_l2 and max_iterations must be positive")

    def l2_path(self) -> list[float]:
        """The constants, strongest first."""
        return [float(value) for value in np.geomspace(self.strongest_l2, self.weakest_l2, self.num_l2)]


@dataclass(frozen=True)
class Labelled:
    """Features (M, D) with their classes (M,), integers from 0."""

    features: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or len(self.features) != len(self.labels) or len(self.labels) == 0:
            raise ValueError(
                f"features {self.features.shape} and labels {self.labels.shape} do not fit together"
            )


class Probe(Protocol):
    """A fitted probe."""

    @property
    def chosen(self) -> Mapping[str, float]:
        """The hyper-parameters that the validation split chose."""

    @property
    def validation_accuracy(self) -> float:
        """Mean per-class accuracy on the validation split of the choice, before any refit."""

    @property
    def note(self) -> str:
        """What a reader should know about the fit; empty where all is well."""

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Class probabilities (M, C) of features (M, D)."""


def mean_per_class_accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Mean over the classes present in ``labels (M,)`` of the share predicted rightly."""
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return float((np.bincount(index, weights=labels == predicted) / counts).mean())


@dataclass(frozen=True, kw_only=True)
class KnnProbe:
    """Weighted k-nearest-neighbour vote by cosine (Wu et al. 2018, section 3.4; temperature as in DINO)."""

    bank: Tensor
    labels: Tensor
    num_classes: int
    centre: Tensor
    temperature: float
    k: int
    validation_accuracy: float = math.nan
    note: str = ""

    @property
    def chosen(self) -> Mapping[str, float]:
        return {"k": self.k}

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Class probabilities (M, C) of features (M, D): shares of the vote."""
        return self.votes(features, [self.k])[0]

    def votes(self, features: np.ndarray, ks: Sequence[int]) -> list[np.ndarray]:
        """Class probabilities (M, C) for each k, from one search."""
        votes: list[list[Tensor]] = [[] for _ in ks]
        for block in torch.split(torch.from_numpy(features), _QUERIES_PER_BLOCK):
            cosines, rows = (F.normalize(block - self.centre, dim=1) @ self.bank.T).topk(max(ks))
            weights = ((cosines - cosines[:, :1]) / self.temperature).exp()  # the shift cancels in the share
            for k, parts in zip(ks, votes, strict=True):
                empty = torch.zeros(len(block), self.num_classes)
                parts.append(empty.scatter_add_(1, self.labels[rows[:, :k]], weights[:, :k]))
        return [F.normalize(torch.cat(parts), p=1, dim=1).numpy() for parts in votes]


def fit_knn(train: Labelled, validation: Labelled, num_classes: int, config: ProbeConfig) -> KnnProbe:
    """A k-NN probe on the training examples, its k (of equals the smallest) chosen on the validation ones."""
    ks = sorted({min(k, len(train.labels)) for k in config.neighbours})
    probe = _bank(train, num_classes, config, ks[-1])
    accuracies = [
        mean_per_class_accuracy(validation.labels, votes.argmax(1))
        for votes in probe.votes(validation.features, ks)
    ]
    best = int(np.argmax(accuracies))
    if config.refit:
        probe = _bank(_together(train, validation), num_classes, config, ks[best])
    return replace(probe, k=ks[best], validation_accuracy=accuracies[best])


def _bank(train: Labelled, num_classes: int, config: ProbeConfig, k: int) -> KnnProbe:
    features = torch.from_numpy(train.features)
    centre = features.mean(0) if config.centre else torch.zeros(features.shape[1])
    return KnnProbe(
        bank=F.normalize(features - centre, dim=1),
        labels=torch.from_numpy(train.labels).long(),
        num_classes=num_classes,
        centre=centre,
        temperature=config.temperature,
        k=k,
    )


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
        accuracy = mean_per_class_accuracy(validation.labels, predicted)
        if best is None or accuracy > best.validation_accuracy:
            best = replace(probe, validation_accuracy=accuracy)
    assert best is not None
    if config.refit:
        refitted = _Regression(_together(train, validation), num_classes, config).solve(best.l2)
        best = replace(refitted, validation_accuracy=best.validation_accuracy)
    at_end = len(path) > 1 and best.l2 in (path[0], path[-1])
    notes = [best.note, f"l2 = {best.l2:g} is the end of the range" if at_end else ""]
    return replace(best, note="; ".join(note for note in notes if note))


class _Regression:
    """The problem of one training set; each solution starts from the one before it."""

    def __init__(self, train: Labelled, num_classes: int, config: ProbeConfig) -> None:
        self.config = config
        self.mean, self.scale = _standardisation(train.features)
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


def _standardisation(features: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and scale (D,) of features (M, D); the scale of a feature that does not vary is 1, never 0."""
    mean = features.mean(0, dtype=np.float64)
    std = features.std(0, dtype=np.float64)
    scale = np.where(std > 1e-6 * np.abs(mean), std, 1.0)  # below, it is the rounding of float32 that varies
    return torch.from_numpy(mean).float(), torch.from_numpy(scale).float()


def _together(train: Labelled, validation: Labelled) -> Labelled:
    return Labelled(
        np.concatenate([train.features, validation.features]),
        np.concatenate([train.labels, validation.labels]),
    )


PROBES: Mapping[str, Callable[[Labelled, Labelled, int, ProbeConfig], Probe]] = {
    "knn": fit_knn,
    "linear": fit_linear,
}
"""Every probe: (train, validation, number of classes, settings) -> the fitted probe."""
