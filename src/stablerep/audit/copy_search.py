"""The nearest descriptors: exactly, block by block.

Shapes: Q queries, V views of each, N references, D width of a descriptor, K neighbours.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_ROWS = 256  # views that are compared at once
_COLUMNS = 1024  # references at once: a block of similarities stays in the cache
_GROUP = 64

Excluded = Callable[[slice], Tensor]
"""For a slice of the queries, which references they must not find: bool (rows, N)."""


@dataclass(frozen=True)
class Neighbours:
    """The K nearest references of Q queries, nearest first."""

    similarity: Tensor
    """Inner product (Q, K) of the best view; -inf where there are fewer references than K."""
    index: Tensor
    """Which reference (Q, K)."""
    view: Tensor
    """Which view was best (Q, K)."""

    def first(self, k: int) -> "Neighbours":
        """The k nearest."""
        return Neighbours(self.similarity[:, :k], self.index[:, :k], self.view[:, :k])

    def spread_over(self, rows: Tensor, num: int) -> "Neighbours":
        """Those of the queries in these rows of ``num``; to the others, all references are equally far, at -inf."""
        if len(rows) == num:
            return self
        k = self.index.shape[1]
        similarity = torch.full((num, k), -torch.inf).index_copy_(0, rows, self.similarity)
        index, view = (
            torch.zeros(num, k, dtype=torch.long).index_copy_(0, rows, part)
            for part in (self.index, self.view)
        )
        return Neighbours(similarity, index, view)


def exact_neighbours(
    queries: Tensor, references: Tensor, k: int, *, excluded: Excluded | None = None
) -> Neighbours:
    """For queries (Q, V, D) the K of the references (N, D) with the largest inner product with any view.

    Never holds more than a block of the Q V N similarities.
    """
    k = min(k, len(references))
    if len(queries) == 0:
        return Neighbours(torch.zeros(0, k), *torch.zeros(2, 0, k, dtype=torch.long))
    rows = max(1, _ROWS // queries.shape[1])
    parts = []
    for start in range(0, len(queries), rows):
        block = queries[start : start + rows]
        best = _best_view(block, references)
        if excluded is not None:
            best = best.masked_fill(excluded(slice(start, start + len(block))), -torch.inf)
        similarity, index = _top(best, k)
        view = torch.einsum("qvd,qkd->qkv", block, references[index]).argmax(2)
        parts.append((similarity, index, view))
    similarities, indices, views = zip(*parts, strict=True)
    return Neighbours(torch.cat(similarities), torch.cat(indices), torch.cat(views))


def _best_view(queries: Tensor, references: Tensor) -> Tensor:
    """The largest inner product (B, N) over the views of queries (B, V, D)."""
    num_queries, num_views, _ = queries.shape
    flat = queries.flatten(0, 1)
    best = torch.empty(num_queries, len(references))
    for start in range(0, len(references), _COLUMNS):
        some = references[start : start + _COLUMNS]
        products = flat @ some.T
        if num_views > 1:
            products = products.view(num_queries, num_views, len(some)).amax(1)
        best[:, start : start + len(some)] = products
    return best


def _top(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest values (B, k) of each row (B, N) and their columns, as ``topk``, which alone is slow.

    They lie in the k groups of columns with the largest maxima.
    """
    whole = values.shape[1] // _GROUP * _GROUP
    if whole < 2 * k * _GROUP:
        top = values.topk(k, dim=1)
        return top.values, top.indices
    groups = values[:, :whole].reshape(len(values), -1, _GROUP)
    best = groups.amax(2).topk(k, dim=1).indices
    inside = groups.gather(1, best[..., None].expand(-1, -1, _GROUP)).flatten(1)
    columns = (best[..., None] * _GROUP + torch.arange(_GROUP)).flatten(1)
    rest = torch.arange(whole, values.shape[1]).expand(len(values), -1)
    top = torch.cat([inside, values[:, whole:]], 1).topk(k, dim=1)
    return top.values, torch.cat([columns, rest], 1).gather(1, top.indices)
