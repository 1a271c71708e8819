"""The nearest descriptors approximately: an inverted file, whose lists are searched where a query lies near.

References are split by k-means into lists; a query looks only into those whose centres are nearest (Jegou et al.
2011, section IV, without quantisation: descriptors are short). A list has about sqrt(N) / 2 members.

Shapes: Q queries, V views of each, N references, D width, L lists, P lists that are looked into, K neighbours.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stablerep import runtime
from stablerep.audit.copy_search import Neighbours

_ROUNDS = 8
_PER_LIST = 40  # references that place a centre
_ROWS = 1024
_LEAST = 12
_SHARE = 0.06


@dataclass(frozen=True)
class CopyIndex:
    """References in lists by their nearest centre."""

    references: Tensor
    """(N, D)."""
    centres: Tensor
    """Unit vectors (L, D)."""
    members: tuple[Tensor, ...]
    """Which references are in each list."""

    @classmethod
    def build(cls, references: Tensor, seed: int = 0) -> "CopyIndex":
        """Spherical k-means on a sample, then every reference goes to its nearest centre."""
        num_lists = min(len(references), round(2 * math.sqrt(len(references))))
        order = torch.randperm(len(references), generator=runtime.torch_generator("copy index", seed))
        sample = references[order[: _PER_LIST * num_lists]]
        centres = sample[:num_lists].clone()
        for _ in range(_ROUNDS):
            nearest = _nearest(sample, centres)
            sums = torch.zeros_like(centres).index_add_(0, nearest, sample)
            empty = sums.norm(dim=1) < 1e-6
            centres = torch.where(empty[:, None], centres, F.normalize(sums, dim=1))
        own = _nearest(references, centres)
        counts = torch.bincount(own, minlength=num_lists)
        return cls(references, centres, torch.split(own.argsort(stable=True), counts.tolist()))

    @property
    def num_probes(self) -> int:
        """Lists that a query looks into."""
        return min(len(self.centres), _LEAST + math.ceil(_SHARE * len(self.centres)))

    def neighbours(self, queries: Tensor, k: int) -> Neighbours:
        """As ``exact_neighbours`` for queries (Q, V, D), of the lists that each view looks into."""
        k = min(k, len(self.references))
        step = max(1, _ROWS // queries.shape[1])
        parts = [self._block(block, k) for block in torch.split(queries, step)]
        return Neighbours(
            torch.cat([part.similarity for part in parts]),
            torch.cat([part.index for part in parts]),
            torch.cat([part.view for part in parts]),
        )

    def _block(self, queries: Tensor, k: int) -> Neighbours:
        num_queries, num_views, _ = queries.shape
        flat = queries.flatten(0, 1)
        probes = (flat @ self.centres.T).topk(self.num_probes, dim=1).indices  # (Q V, P)
        similarity = torch.full((*probes.shape, k), -torch.inf)
        index = torch.zeros((*probes.shape, k), dtype=torch.long)
        order = probes.flatten().argsort(stable=True)
        counts = torch.bincount(probes.flatten(), minlength=len(self.centres)).tolist()
        for members, places in zip(self.members, torch.split(order, counts), strict=True):
            if len(places) == 0 or len(members) == 0:
                continue
            rows, columns = places // probes.shape[1], places % probes.shape[1]
            best = (flat[rows] @ self.references[members].T).topk(min(k, len(members)), dim=1)
            similarity[rows, columns, : best.values.shape[1]] = best.values
            index[rows, columns, : best.values.shape[1]] = members[best.indices]
        return _best(similarity.view(num_queries, -1), index.view(num_queries, -1), k, num_views)


def _nearest(vectors: Tensor, centres: Tensor) -> Tensor:
    return torch.cat([(block @ centres.T).argmax(1) for block in torch.split(vectors, 4 * _ROWS)])


def _best(similarity: Tensor, index: Tensor, k: int, num_views: int) -> Neighbours:
    """The k best of candidates (Q, V P K), each reference once, by its best view."""
    order = similarity.argsort(dim=1, descending=True, stable=True)
    similarity, index = similarity.gather(1, order), index.gather(1, order)
    by_reference = index.argsort(dim=1, stable=True)
    same = index.gather(1, by_reference)
    again = F.pad(same[:, 1:] == same[:, :-1], (1, 0))
    again = torch.zeros_like(again).scatter_(1, by_reference, again)
    top = similarity.masked_fill(again, -torch.inf).topk(k, dim=1)
    per_view = similarity.shape[1] // num_views
    return Neighbours(top.values, index.gather(1, top.indices), order.gather(1, top.indices) // per_view)
