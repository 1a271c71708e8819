"""The closed-form edit of a linear layer that reads text: new values for some vectors, old values for others.

Unified Concept Editing (Gandikota et al. 2024, "Unified Concept Editing in Diffusion Models", equation 7): of all
matrices W the one that minimises

    sum_e |W c_e - v_e|^2  +  sum_p |W c_p - W_0 c_p|^2  +  l |W - W_0|^2

over edited vectors c_e with their wanted values v_e and preserved vectors c_p. It is computed as a change of W_0,

    W = W_0 + (sum_e (v_e - W_0 c_e) c_e^T) (sum_e c_e c_e^T + sum_p c_p c_p^T + l I)^-1,

which is the published formula rearranged: what nobody asks to change is never computed anew.

All edits of concepts say where a text vector should go: v_e = W_0 t_e. Then W = W_0 M with one matrix M of the text
space, the same for every layer that reads these vectors.

Shapes: N edited vectors, P preserved ones, D width of the text vectors, O outputs of a layer.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from stablerep.errors import UserError


def edited_weight(
    weight: Tensor, concepts: Tensor, values: Tensor, preserved: Tensor, ridge: float
) -> Tensor:
    """The matrix (O, D) in float64 that gives concepts (N, D) the values (N, O), near ``weight`` (O, D) otherwise.

    ``preserved`` (D, D) is the sum of c c^T over the preserved vectors, ``ridge`` is l. Raises ``ValueError`` where
    the ridge is not positive, without which the solution need not be unique, and ``UserError`` where it is too small.
    """
    if ridge <= 0:
        raise ValueError(f"ridge must be positive, got {ridge}")
    weight, concepts, values, preserved = (
        part.to("cpu", torch.float64) for part in (weight, concepts, values, preserved)
    )
    moment = concepts.T @ concepts + preserved
    moment.diagonal().add_(ridge)
    missing = values - concepts @ weight.T
    # Moment is symmetric and positive definite: its Cholesky factor solves without an inverse.
    factor, failed = torch.linalg.cholesky_ex(moment)
    if failed:
        raise UserError(
            f"a ridge of {ridge:g} is lost in the rounding of the text vectors; give a larger one"
        )
    return weight + torch.cholesky_solve(concepts.T @ missing, factor).T


def text_map(concepts: Tensor, targets: Tensor, preserved: Tensor, ridge: float) -> Tensor:
    """The matrix M (D, D) such that ``W_0 M`` solves the edit c_e -> W_0 t_e for every layer W_0 at once.

    ``concepts`` and ``targets`` are (N, D), the rest as for ``edited_weight``.
    """
    identity = torch.eye(concepts.shape[1], dtype=torch.float64)
    return edited_weight(identity, concepts, targets, preserved, ridge)


def mapped(weight: Tensor, change: Tensor) -> Tensor:
    """``weight`` (O, D + more) with its first D columns read through ``change`` (D, D); dtype and place stay."""
    exact = weight.to("cpu", torch.float64)
    width = len(change)
    edited = torch.cat([exact[:, :width] @ change, exact[:, width:]], dim=1)
    return edited.to(weight.device, weight.dtype)


@dataclass(frozen=True)
class Moves:
    """Text vectors (N, D) and where they go (N, D), each with the weight (N,) with which it counts."""

    sources: Tensor
    targets: Tensor
    weights: Tensor

    def scaled(self) -> tuple[Tensor, Tensor]:
        """Sources and targets times the root of their weight: the plain sums over them are the weighted ones."""
        root = self.weights.double().sqrt()[:, None]
        return self.sources.double() * root, self.targets.double() * root

    def stretched(self, by: float) -> "Moves":
        """The same with targets ``by`` times as far from their sources."""
        return Moves(self.sources, torch.lerp(self.sources, self.targets, by), self.weights)

    @classmethod
    def joined(cls, parts: "list[Moves]") -> "Moves":
        """Several edits as one: the sums do not depend on their order."""
        return cls(
            torch.cat([part.sources for part in parts]),
            torch.cat([part.targets for part in parts]),
            torch.cat([part.weights for part in parts]),
        )


def moment(vectors: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum (D, D) of c c^T over vectors (P, D), in float64 on the CPU."""
    exact = vectors.to("cpu", torch.float64)
    return (exact * weights.to("cpu", torch.float64)[:, None]).T @ exact
