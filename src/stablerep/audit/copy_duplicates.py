"""Pictures that are the same but for compression or size, whatever their groups: these groups become one.

A stock picture that stands in the reference under three captions would otherwise be its own runner-up, which takes half
of every score away, and a copy among the genuine pictures that set the thresholds, which lifts them above all copies.

Shapes: N pictures, D width of a descriptor, G points along a side.
"""

import numpy as np
import torch
from torch import Tensor

from stablerep.audit.copy_alignment import grid_difference
from stablerep.audit.copy_index import CopyIndex
from stablerep.audit.copy_search import exact_neighbours

_NUM_NEAR = 16
_ALIKE = 0.95  # cosine of descriptors; of 200 icons saved as JPEG of quality 30 all have 0.98 with themselves
_SAME = 0.08
# Difference below which two pictures are one. Of 200 icons 98 % are below it after JPEG of quality 60, 85 % after
# quality 30. Of 1,500 icons none has one of another group below 0.55; of 6,000 of Fashion-MNIST 0.4 % have one.
_BLOCK = 4096


def joined(
    groups: np.ndarray, descriptors: Tensor, grids: Tensor, index: CopyIndex | None = None
) -> np.ndarray:
    """Groups (N,) as integers, one where they hold the same picture; of unit vectors (N, D), uint8 (N, 3, G, G)."""
    codes: np.ndarray = np.unique(groups, return_inverse=True)[1]
    views = descriptors[:, None]
    near = (
        exact_neighbours(views, descriptors, _NUM_NEAR)
        if index is None
        else index.neighbours(views, _NUM_NEAR)
    )
    left, column = torch.nonzero(near.similarity > _ALIKE, as_tuple=True)
    right = near.index[left, column]
    across = torch.from_numpy(codes[left.numpy()] != codes[right.numpy()])
    pairs = torch.stack([left[across], right[across]], dim=1)
    links = [
        codes[some[grid_difference(grids[some[:, 0]], grids[some[:, 1]]) < _SAME].numpy()]
        for some in torch.split(pairs, _BLOCK)
        if len(some)
    ]
    return _components(np.concatenate(links), codes.max() + 1)[codes] if links else codes


def _components(links: np.ndarray, num: int) -> np.ndarray:
    """Of ``num`` things with links (L, 2), for each the least that it hangs together with."""
    least = np.arange(num)
    while True:
        before = least.copy()
        for one, other in (links.T, links.T[::-1]):
            np.minimum.at(least, one, before[other])
        least = least[least]
        if np.array_equal(least, before):
            return least
