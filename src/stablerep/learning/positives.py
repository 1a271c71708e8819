"""Which samples attract which, and how similar each is to the mean of those that attract it.

Neither the means nor anything else of their size is ever held as a whole: rows are taken a few at a time, which stay
in a processor's cache.

Shapes: M queries (rows), P keys (columns), D features, G groups of samples with the same label.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_ROWS = 1024
"""Rows taken at a time: a megabyte of 256 float32 features."""


@dataclass(frozen=True, kw_only=True)
class Positives:
    """The keys that attract a query: those of its group but its own sample, each by its weight."""

    num_groups: int
    query_group: Tensor
    """(M,)"""
    key_group: Tensor
    """(P,)"""
    weight: Tensor
    """(P,) of the keys; its precision is that of sums over positives."""
    own: Tensor | None
    """(M,) the key that is the query's own sample; None where queries and keys are different things."""
    mass: Tensor
    """(M,) the weight of all positives of a query; 1 where it has none."""
    present: Tensor
    """(M,) whether it has any."""


def find_positives(
    queries: Tensor, keys: Tensor, *, weight: Tensor | None, own: Tensor | None, precision: torch.dtype
) -> Positives:
    """The positives by the labels of queries (M,) and keys (P,).

    Sums over positives are sums over a group minus the own sample: of ``precision`` where all weigh the same, and with
    weights in float64, so that the difference is exact to float32 even where the own weight is a million times the
    others'.
    """
    names, groups = torch.unique(torch.cat([queries, keys]), return_inverse=True)
    query_group, key_group = groups.split([len(queries), len(keys)])
    is_plain = weight is None or groups.device.type == "mps"  # Apple GPUs have no float64
    precise = precision if is_plain else torch.float64
    weight = torch.ones_like(key_group, dtype=precise) if weight is None else weight.to(precise)
    counts = (weight > 0).long()
    mass = weight.new_zeros(len(names)).index_add(0, key_group, weight)[query_group]
    number = counts.new_zeros(len(names)).index_add(0, key_group, counts)[query_group]
    if own is not None:
        mass, number = mass - weight[own], number - counts[own]
    present = number > 0
    return Positives(
        num_groups=len(names),
        query_group=query_group,
        key_group=key_group,
        weight=weight,
        own=own,
        mass=torch.where(present, mass, 1.0),
        present=present,
    )


def mean_similarity(queries: Tensor, keys: Tensor, positives: Positives) -> Tensor:
    """The inner products (M,) of queries (M, D) and the weighted mean of their positives among keys (P, D).

    It means nothing, and has no gradient, where a query has no positives.
    """
    similarity: Tensor = _MeanSimilarity.apply(queries, keys, positives)
    return similarity


class _MeanSimilarity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, positives: Positives) -> Tensor:
        similarity = q.new_empty(len(q))
        sums = _group_sums(k, positives.weight, positives.key_group, positives.num_groups)
        for rows in _slices(len(q)):
            similarity[rows] = (q[rows] * _means(k, sums, positives, rows).to(q.dtype)).sum(1)
        ctx.save_for_backward(q, k, sums)
        ctx.positives = positives
        return similarity

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, sums = ctx.saved_tensors
        positives: Positives = ctx.positives
        flow = torch.where(positives.present, grads[0], 0)
        grad_q = grad_k = None
        if ctx.needs_input_grad[0]:
            grad_q = torch.empty_like(q)
            for rows in _slices(len(q)):
                torch.mul(_means(k, sums, positives, rows), flow[rows, None], out=grad_q[rows])
        if ctx.needs_input_grad[1]:
            grad_k = _key_gradient(q, k, flow, positives)
        return grad_q, grad_k, None


def _means(k: Tensor, sums: Tensor, positives: Positives, rows: slice) -> Tensor:
    """The mean positives of some queries, from the sums of all weighted keys of a group."""
    total = sums[positives.query_group[rows]]
    if positives.own is not None:
        own = positives.own[rows]
        total -= positives.weight[own, None] * k[own]
    return total.div_(positives.mass[rows, None])


def _key_gradient(q: Tensor, k: Tensor, flow: Tensor, positives: Positives) -> Tensor:
    """What all queries pull at a key is the sum over its group but its own sample, times the key's weight."""
    pull = flow / positives.mass
    sums = _group_sums(q, pull, positives.query_group, positives.num_groups)
    gradient = torch.empty_like(k)
    if positives.own is not None:  # turned round: the query that is a key's own sample, if it is here
        query = torch.zeros_like(positives.key_group)
        query[positives.own] = torch.arange(len(q), device=q.device)
        pull_of_own = torch.zeros_like(positives.weight)
        pull_of_own[positives.own] = pull
    for rows in _slices(len(k)):
        total = sums[positives.key_group[rows]]
        if positives.own is not None:
            total -= pull_of_own[rows, None] * q[query[rows]]
        torch.mul(total, positives.weight[rows, None], out=gradient[rows])
    return gradient


def _group_sums(values: Tensor, weight: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """Weighted sums (G, D) of values in the precision of the weights."""
    sums = weight.new_zeros(num_groups, values.shape[1])
    for rows in _slices(len(values)):
        sums.index_add_(0, group[rows], weight[rows, None] * values[rows])
    return sums


def _slices(count: int) -> Iterator[slice]:
    for start in range(0, count, _ROWS):
        yield slice(start, start + _ROWS)
