"""Logistic regression for a whole path of L2 constants, warm-started on a CPU and solved together on a GPU.

Shapes: M examples, D features, R principal axes and the intercept, B constants solved together, C classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from stablerep.probes.base import standardisation
from stablerep.probes.settings import PathConfig

_BLOCK = {
    "cpu": 2**18,
    "cuda": 2**26,
}  # logits computed at a time: what a cache holds, what a GPU is busy with
_MEMORY = 20
_ARMIJO = 1e-4
_ROUNDING = 1e-6
_HALVINGS = 25
Link = Literal["softmax", "sigmoid"]


@dataclass(frozen=True, kw_only=True)
class Solution:
    """The classifier of one constant: link((x - mean) / scale @ weight + bias), on the CPU."""

    l2: float
    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    link: Link
    iterations: int
    solved: bool
    """Whether the tolerance was reached."""

    def logits(self, features: np.ndarray) -> Tensor:
        """Logits (M, C) of features (M, D)."""
        return (torch.from_numpy(features) - self.mean) / self.scale @ self.weight + self.bias

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Class probabilities (M, C) of features (M, D); with a sigmoid, of each class by itself."""
        logits = self.logits(features)
        result: np.ndarray = (logits.softmax(1) if self.link == "softmax" else logits.sigmoid()).numpy()
        return result


def solve_path(
    features: np.ndarray,
    targets: np.ndarray,
    constants: Sequence[float],
    config: PathConfig,
    *,
    num_classes: int,
    device: torch.device | str = "cpu",
) -> Iterator[Solution]:
    """Minimise, for each L2 constant, the sum of cross-entropies + l2 / 2 * |weight|^2, in the order given.

    ``targets`` are class numbers (M,), or 0 and 1 (M, C) for classes of which a picture may have several; below 0,
    which says that a class is hard to see, counts as 0. Strong constants come first: every solution starts from the one
    before it and inherits its curvature pairs, which a change of the constant alters by a known amount. The problem is
    solved in the principal axes of the standardised features, with the root curvature of each axis at an even
    prediction (Böhning 1992) as preconditioner.
    """
    place = torch.device(device)
    place = torch.device("cpu") if place.type == "mps" else place  # which has no float64 to add up losses
    problem = _Problem(features, targets, num_classes, place)
    size = config.together or (1 if problem.device.type == "cpu" else len(constants))
    start: _State | None = None
    for begin in range(0, len(constants), size):
        l2 = torch.tensor(constants[begin : begin + size], device=problem.device)
        state = _State.at(problem, l2) if start is None else start.moved_to(problem, l2)
        _minimise(problem, state, config)
        yield from problem.solutions(state)
        start = state


class _Problem:
    """One training set in its principal axes, with a column of ones for the intercept."""

    def __init__(
        self, features: np.ndarray, targets: np.ndarray, num_classes: int, device: torch.device
    ) -> None:
        self.device, self.num_classes = device, num_classes
        self.link: Link = "softmax" if targets.ndim == 1 else "sigmoid"
        self.mean, self.scale = standardisation(features)
        standardised = ((torch.from_numpy(features) - self.mean) / self.scale).to(device)
        eigenvalues, axes = _principal_axes(standardised)
        self.axes = axes.float().to(device)
        curvature = eigenvalues.clamp(min=0).float().to(device)
        self.num_examples = len(features)
        ones = torch.ones(self.num_examples, 1, device=device)
        self.inputs = torch.cat([standardised @ self.axes, ones], 1)
        self.curvature = torch.cat([curvature, curvature.new_tensor([float(self.num_examples)])])
        self.curvature *= 1 / num_classes if self.link == "softmax" else 0.25
        self.targets = torch.from_numpy(targets).to(device)
        self.targets = self.targets.long() if self.link == "softmax" else self.targets.clamp(min=0).float()

    def start(self) -> Tensor:
        """Weights (R, C): nothing but the logarithm of how frequent each class is."""
        weight = torch.zeros(len(self.curvature), self.num_classes, device=self.device)
        if self.link == "softmax":
            counts = torch.bincount(self.targets, minlength=self.num_classes).float()
            weight[-1] = ((counts + 1) / (counts + 1).sum()).log()
        else:
            weight[-1] = ((self.targets.sum(0) + 1) / (self.num_examples + 2)).logit()
        return weight

    def penalty(self, l2: Tensor) -> Tensor:
        """The constant of each row of weights (R, B, 1); none on the intercept."""
        penalty = l2.expand(len(self.curvature), -1).clone()
        penalty[-1] = 0
        return penalty[:, :, None]

    def evaluate(self, weight: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (B,) in float64 and gradients (R, B, C) at weights (R, B, C)."""
        num_axes, num_constants, num_classes = weight.shape
        flat = weight.reshape(num_axes, -1)
        gradient = torch.zeros_like(flat)
        losses = torch.zeros(num_constants, dtype=torch.float64, device=self.device)
        step = max(1, _BLOCK.get(self.device.type, 2**22) // flat.shape[1])
        for begin in range(0, self.num_examples, step):
            inputs = self.inputs[begin : begin + step]
            logits = (inputs @ flat).view(len(inputs), num_constants, num_classes)
            losses += self._residual(logits, self.targets[begin : begin + step])
            gradient.addmm_(inputs.T, logits.view(len(inputs), -1))
        losses += 0.5 * (penalty * weight.square()).sum((0, 2), dtype=torch.float64)
        return losses, gradient.view_as(weight).add_(penalty * weight)

    def _residual(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Turn logits (N, B, C) into their gradient, in place; the loss of each constant (B,)."""
        if self.link == "sigmoid":
            loss = torch.nn.functional.softplus(logits) - targets[:, None] * logits
            logits.sigmoid_().sub_(targets[:, None])
            return loss.sum((0, 2), dtype=torch.float64)
        logits.sub_(logits.amax(2, keepdim=True))
        rows = torch.arange(len(logits), device=self.device)
        named = logits[rows, :, targets]
        total = logits.exp_().sum(2, keepdim=True)
        logits.div_(total)
        logits[rows, :, targets] -= 1
        return (total[:, :, 0].log() - named).sum(0, dtype=torch.float64)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The largest component (B,) of gradients (R, B, C), for the weights of the features themselves."""
        num_axes, num_constants, _ = gradient.shape
        turned = self.axes @ gradient[:-1].reshape(num_axes - 1, -1)
        of_weights = turned.abs().view(turned.shape[0], num_constants, -1).amax((0, 2))
        return torch.maximum(of_weights, gradient[-1].abs().amax(1))

    def solutions(self, state: "_State") -> Iterator[Solution]:
        weight = (self.axes @ state.weight[:-1].flatten(1)).view(-1, *state.weight.shape[1:]).cpu()
        bias = state.weight[-1].cpu()
        for place, l2 in enumerate(state.l2.tolist()):
            yield Solution(
                l2=l2,
                mean=self.mean,
                scale=self.scale,
                weight=weight[:, place].contiguous(),
                bias=bias[place],
                link=self.link,
                iterations=int(state.iterations[place]),
                solved=bool(state.solved[place]),
            )


@dataclass
class _State:
    """Where the search for B constants stands: weights (R, B, C), and pairs of steps and gradient differences."""

    l2: Tensor
    penalty: Tensor
    weight: Tensor
    loss: Tensor
    gradient: Tensor
    pairs: list[tuple[Tensor, Tensor]]
    iterations: Tensor
    solved: Tensor
    before: Tensor | None = None
    """Where the search before this one ended (R, C)."""

    @classmethod
    def at(cls, problem: _Problem, l2: Tensor, weight: Tensor | None = None) -> "_State":
        """A search that begins at weights (R, C), or knowing no more than how frequent each class is."""
        begin = problem.start() if weight is None else weight
        weights = begin[:, None].expand(-1, len(l2), -1).contiguous()
        penalty = problem.penalty(l2)
        loss, gradient = problem.evaluate(weights, penalty)
        none = torch.zeros(len(l2), dtype=torch.long, device=problem.device)
        return cls(l2, penalty, weights, loss, gradient, [], none, none.bool())

    def moved_to(self, problem: _Problem, l2: Tensor) -> "_State":
        """The search for further constants, from where this one ended for its last constant.

        Solutions lie on a smooth curve: where going on as far as the last step went is lower, it begins there.
        """
        state = _State.at(problem, l2, self.weight[:, -1])
        if self.before is not None:
            further = _State.at(problem, l2, 2 * self.weight[:, -1] - self.before)
            if bool((further.loss < state.loss).all()):
                state = further
        state.before = self.weight[:, -1]
        change = state.penalty - self.penalty[:, -1:]
        state.pairs = [(step[:, -1:], turn[:, -1:] + change * step[:, -1:]) for step, turn in self.pairs]
        return state


def _principal_axes(features: Tensor) -> tuple[Tensor, Tensor]:
    """The axes (D, R) along which features (M, D) are not zero, and their eigenvalues (R,), in float64 on the CPU.

    Of fewer examples than features they follow from the products of the examples, which have the same eigenvalues.
    """
    is_wide = len(features) < features.shape[1]
    features = features.cpu().double() if is_wide else features
    products = features @ features.T if is_wide else features.T @ features
    eigenvalues, axes = torch.linalg.eigh(products.double().cpu())
    kept = eigenvalues > 1e-9 * eigenvalues[-1]  # along the others the best weight is zero
    kept[-1] = True
    eigenvalues, axes = eigenvalues[kept], axes[:, kept]
    if is_wide:
        axes = features.T @ axes * eigenvalues.clamp(min=1e-30).rsqrt()
    return eigenvalues, axes


def _minimise(problem: _Problem, state: _State, config: PathConfig) -> None:
    """L-BFGS for all constants at once; those that are solved, or can go no lower, stand still."""
    tolerance = config.tolerance * problem.num_examples
    scale = (problem.curvature[:, None, None] + state.penalty).reciprocal()
    state.solved = problem.steepest(state.gradient) <= tolerance
    stuck = torch.zeros_like(state.solved)
    for _ in range(config.max_iterations):
        moving = ~(state.solved | stuck)
        if not moving.any():
            return
        direction = _direction(state, scale) * moving[:, None]
        slope = _dot(direction, state.gradient)
        uphill = moving & (slope >= 0)  # rounding spoiled the pairs: begin again with the steepest descent
        if uphill.any():
            state.pairs.clear()
            direction = -scale * state.gradient * moving[:, None]
            slope = _dot(direction, state.gradient)
        stuck |= moving & ~_step(problem, state, direction, slope)
        state.iterations += moving
        state.solved = problem.steepest(state.gradient) <= tolerance


def _step(problem: _Problem, state: _State, direction: Tensor, slope: Tensor) -> Tensor:
    """Move along the directions, each as far as its loss falls enough; which constants moved (B,)."""
    length = torch.ones_like(state.loss)
    allowed = _ROUNDING * state.loss.abs()
    for _ in range(_HALVINGS):
        step = direction * length[:, None].float()
        loss, gradient = problem.evaluate(state.weight + step, state.penalty)
        low = loss <= state.loss + _ARMIJO * length * slope + allowed
        if low.all():
            break
        length = torch.where(low, length, length / 2)
    step = step * low[:, None]
    turn = (gradient - state.gradient) * low[:, None]
    state.pairs = [*state.pairs, (step, turn)][-_MEMORY:]
    state.weight = state.weight + step
    state.loss = torch.where(low, loss, state.loss)
    state.gradient = state.gradient + turn
    return low


def _direction(state: _State, scale: Tensor) -> Tensor:
    """The two loops of L-BFGS over the pairs with positive curvature, for each constant by itself."""
    direction = -state.gradient
    shares = []
    for step, turn in reversed(state.pairs):
        bend = _dot(step, turn)
        inverse = torch.where(bend > 0, 1 / bend.clamp(min=1e-30), torch.zeros_like(bend))
        share = inverse * _dot(step, direction)
        direction = direction - share[:, None].float() * turn
        shares.append((share, inverse))
    if state.pairs:
        step, turn = state.pairs[-1]
        bend, stretch = _dot(step, turn), _dot(turn, scale * turn)
        known = (bend > 0) & (stretch > 0)
        size = torch.where(known, bend / stretch.clamp(min=1e-30), torch.ones_like(bend))
        direction = direction * size[:, None].float()
    direction = direction * scale
    for (step, turn), (share, inverse) in zip(state.pairs, reversed(shares), strict=True):
        direction = direction + (share - inverse * _dot(turn, direction))[:, None].float() * step
    return direction


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Inner products (B,) in float64 of (R, B, C) with (R, B, C)."""
    return (one * other).sum((0, 2), dtype=torch.float64)
