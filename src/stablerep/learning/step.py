"""Loss and gradients of one step, with the batch encoded whole or in micro-batches: the same numbers either way.

Gradient caching (Gao et al. 2021, Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup), cut
between ``encode`` and ``loss``. Encoding is per sample, so that it can be done in parts; the loss, and with it the
batch norm of a head, sees the whole batch. Every micro-batch but the last is encoded twice: without gradient to
have its features for the loss, and again once the gradient of the loss with respect to these features is known.

With micro-batches, what torch draws inside ``encode`` (stochastic depth) is drawn per micro-batch: another draw than
for the whole batch, as good as it. Without such draws, loss and gradients are those of the whole batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stablerep import runtime
from stablerep.learning.method import Batch, Method, StepResult
from stablerep.learning.views import in_unit_range


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How a batch is encoded."""

    seed: int
    """Of the run."""
    dtype: torch.dtype
    """Of the products in ``encode``."""
    micro_batch: int | None = None
    """Captions per forward pass; all of the batch where not given."""

    def parts(self, batch: Batch) -> list[Batch]:
        """The micro-batches of a batch, in order; the last may be smaller."""
        num_captions = len(batch["valid"])
        size = min(self.micro_batch or num_captions, num_captions)
        split = {name: torch.split(tensor, size) for name, tensor in batch.items()}
        return [
            {name: tensors[index] for name, tensors in split.items()} for index in range(len(split["valid"]))
        ]

    def draw_seed(self, step: int, index: int) -> int:
        """The seed of what torch draws for a micro-batch: equal in both passes, whatever was drawn before."""
        return runtime.seed_for(self.seed, "step", step, runtime.rank(), index)

    def encode(self, method: Method, part: Batch, step: int, index: int) -> Any:
        """The features of micro-batch ``index``."""
        torch.manual_seed(self.draw_seed(step, index))
        with runtime.autocast(self.dtype, part["image"].device):
            return method.encode({**part, "image": in_unit_range(part["image"])})


def compute_gradients(method: Method, batch: Batch, encoding: Encoding, step: int) -> StepResult:
    """This rank's part of the loss; its gradient, summed over the ranks, is added to ``grad`` of every parameter.

    The last micro-batch keeps the graph of its only pass, which also tells which features need a gradient at all:
    those of frozen parts do not. A batch in one part is therefore the plain way, at its cost.
    """
    parts = encoding.parts(batch)
    last = len(parts) - 1
    with torch.no_grad():
        features = [encoding.encode(method, parts[index], step, index) for index in range(last)]
    attached = encoding.encode(method, parts[last], step, last)
    features.append(attached)
    sizes = [[len(leaf) for leaf in leaves(part)] for part in features]
    joined = _map(_join, *features)
    del features
    result = method.loss(joined, batch)
    result.loss.backward()  # type: ignore[no-untyped-call]
    gradients = [leaf.grad for leaf in leaves(joined)]
    if any(gradient is not None for gradient in gradients):
        cached = _split(gradients, sizes)
        _propagate(attached, cached[last])
        del attached  # its graph is the largest thing here
        for index in range(last):
            _propagate(encoding.encode(method, parts[index], step, index), cached[index])
    runtime.sum_gradients(method.parameters())
    return result


def _join(*parts: Tensor) -> Tensor:
    """The features of the whole batch, a leaf; only the last part can have a graph."""
    return torch.cat([part.detach() for part in parts]).requires_grad_(parts[-1].requires_grad)


def _split(gradients: Sequence[Tensor | None], sizes: list[list[int]]) -> list[list[Tensor | None]]:
    """Per micro-batch the gradient of each feature; ``sizes`` are rows by micro-batch and feature."""
    columns = zip(*sizes, strict=True)
    split = [
        [None] * len(sizes) if gradient is None else torch.split(gradient, list(rows))
        for gradient, rows in zip(gradients, columns, strict=True)
    ]
    return [list(row) for row in zip(*split, strict=True)]


def _propagate(features: Any, gradients: list[Tensor | None]) -> None:
    pairs = [
        (leaf, gradient)
        for leaf, gradient in zip(leaves(features), gradients, strict=True)
        if gradient is not None
    ]
    torch.autograd.backward([leaf for leaf, _ in pairs], [gradient for _, gradient in pairs])


def leaves(tree: Any) -> list[Tensor]:
    """The tensors of features: one, or a nested dict of them; the rows of each are samples in order."""
    return [tree] if isinstance(tree, Tensor) else [leaf for inner in tree.values() for leaf in leaves(inner)]


def _map(function: Callable[..., Tensor], *trees: Any) -> Any:
    """The tree of what the function makes of the tensors in the same place of all trees."""
    if isinstance(trees[0], Tensor):
        return function(*trees)
    return {name: _map(function, *(tree[name] for tree in trees)) for name in trees[0]}
