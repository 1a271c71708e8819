"""How far painted pictures are from real ones in the features of a frozen encoder: KID, and whether the two cover
one another.

Both are meant for features that took no part in making the painter: never those of an encoder that aligned it or
filtered its pictures. Shapes: n pictures of each kind, D features.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from stablerep import runtime

_BLOCK = 1024


@dataclass(frozen=True, kw_only=True)
class DistanceConfig:
    """How many pictures are compared, and how."""

    num_pictures: int = 10_000
    """At most so many painted and so many real pictures, drawn at random; always as many of each."""
    kid_splits: int = 200
    """Splits of the real pictures into halves, whose distances are the floor of KID."""
    k: int = 3
    """Neighbour that sets the radius for precision and recall (published: 3)."""
    k_coverage: int = 5
    """Neighbour that sets the radius for density and coverage (published: 5)."""

    def __post_init__(self) -> None:
        if min(self.num_pictures, self.kid_splits, self.k, self.k_coverage) < 1:
            raise ValueError("num_pictures, kid_splits, k and k_coverage must be positive")


@dataclass(frozen=True, kw_only=True)
class KernelDistance:
    """KID (Binkowski et al. 2018) with what real pictures reach among themselves.

    One estimate over all pictures, which has the expectation of the published mean over subsets and less noise. It is
    unbiased, so that equal distributions give values around zero, half of them negative: pairs of pictures of one
    caption are left out everywhere, as painted and real pictures show the same captions, and such pairs would be more
    frequent between the two kinds than within one. The floor is the same estimate between halves of the real pictures,
    as large, split at random again and again. A painter is compared with ``floor_95``: 95 % of the values between real
    pictures are smaller in absolute value, as for a perfect painter. "At most three times the floor" means ``mean <= 3
    * floor_95``.
    """

    mean: float
    """The estimate, a mean over pairs of pictures."""
    standard_error: float
    """Of the estimate, over captions (jackknife): for other captions, and other pictures by the painter. Near
    zero it is too large, by about a half."""
    floor_mean: float
    floor_95: float
    """95 % quantile of the absolute value, over the splits."""
    size: int
    """Pictures of each kind."""
    num_splits: int


@dataclass(frozen=True, kw_only=True)
class Cover:
    """Whether one set of pictures lies among another, by balls that reach to the k-th neighbour in the own set.

    Precision and recall: Kynkaanniemi et al. 2019, equations 1 and 2. Density and coverage: Naeem et al. 2020,
    equations 3 and 4. A point on a sphere counts as inside.
    """

    precision: float
    """Share of the compared pictures that lie in the ball of a real one."""
    recall: float
    """Share of the real pictures that lie in the ball of a compared one."""
    density: float
    """In how many balls of real pictures a compared one lies, over k; may exceed one."""
    coverage: float
    """Share of the real pictures whose ball holds a compared one."""


@dataclass(frozen=True, kw_only=True)
class Distances:
    """Painted against real pictures, and real against real, in the features of one encoder."""

    encoder: str
    fingerprint: str
    num_pictures: int
    """Pictures of each kind: at most half of the real ones, so that real against real is as large."""
    kid: KernelDistance
    cover: Cover
    real_cover: Cover
    """The same between two disjoint sets of real pictures: what a perfect painter reaches."""


def measure_distances(
    painted: np.ndarray,
    real: np.ndarray,
    config: DistanceConfig,
    *,
    captions: np.ndarray | None = None,
    seed: int,
    encoder: tuple[str, str],
) -> Distances | None:
    """Distances of painted features (M, D) to real ones (N, D) by an encoder, given by its name and fingerprint; None
    where there are too few, or too many of one caption, to leave out a caption and find k neighbours.

    With ``captions`` (M,) painted and real picture i are of caption i, and half of the real pictures are compared with
    the paintings of the other half: as a perfect painter's are those real pictures, ``real_cover`` and the floor of KID
    are what it reaches. Without, every picture counts as one of a caption of its own.
    """
    size = min(len(painted), len(real) // 2, config.num_pictures)
    rng = runtime.numpy_generator("distances", seed)
    rows = rng.permutation(len(real))[: 2 * size]
    mine = rng.permutation(len(painted))[:size] if captions is None else rows[size:]
    names, groups = np.unique(rows if captions is None else captions[rows], return_inverse=True)
    most = np.bincount(groups, minlength=len(names)).max(initial=1)
    # Three captions on any side, so that one can be left out.
    if size - 2 * most < max(config.k, config.k_coverage):
        return None
    drawn, halves = torch.from_numpy(painted[mine]), torch.from_numpy(real[rows])
    reference, other = halves[:size], halves[size:]
    return Distances(
        encoder=encoder[0],
        fingerprint=encoder[1],
        num_pictures=size,
        kid=kernel_distance(drawn, halves, torch.from_numpy(groups), config.kid_splits, rng),
        cover=cover(drawn, reference, config.k, config.k_coverage),
        real_cover=cover(other, reference, config.k, config.k_coverage),
    )


def kernel_distance(
    painted: Tensor, real: Tensor, groups: Tensor, num_splits: int, rng: np.random.Generator
) -> KernelDistance:
    """KID of painted features (n, D) to the first half of real ones (2 n, D), with its floor.

    ``groups`` (2 n,) are the captions of the real pictures, numbered from 0; those of the second half are also the
    captions of the painted.
    """
    size = len(painted)
    halves = torch.arange(2 * size)[:, None] < size
    value, without = _Pairs.of(torch.cat([real[:size], painted]), groups, halves).jackknife(groups)
    splits = torch.stack([torch.from_numpy(rng.permutation(2 * size) < size) for _ in range(num_splits)], 1)
    floor = _Pairs.of(real, groups, splits).discrepancies().numpy()
    return KernelDistance(
        mean=float(value),
        standard_error=float(((len(without) - 1) * without.var(correction=0)).sqrt()),
        floor_mean=float(floor.mean()),
        floor_95=float(np.quantile(np.abs(floor), 0.95)),
        size=size,
        num_splits=num_splits,
    )


def squared_mmd(x: Tensor, y: Tensor, groups: tuple[Tensor, Tensor] | None = None) -> float:
    """Unbiased squared maximum mean discrepancy of features (m, D) and (n, D), with the kernel (x.y / D + 1)^3.

    Binkowski et al. 2018, "Demystifying MMD GANs", equation 4. With groups (m,) and (n,), numbered from 0, pairs of one
    group are left out of all three sums, so that it is unbiased where both sides show the same groups as well.
    """
    count = len(x) + len(y)
    together = torch.arange(count) if groups is None else torch.cat(groups)
    is_first = torch.arange(count)[:, None] < len(x)
    return float(_Pairs.of(torch.cat([x, y]), together, is_first).discrepancies())


@dataclass(frozen=True)
class _Pairs:
    """Pairs of points of different groups, for R ways to split M points into two sides.

    Sums and numbers are (3, M, R): point by point of the pairs within the first side, within the second, and across,
    where half of a pair counts for each of its points.
    """

    kernel: Tensor
    number: Tensor

    @classmethod
    def of(cls, points: Tensor, groups: Tensor, is_first: Tensor) -> Self:
        """Of points (M, D) of groups (M,), those of the first side (M, R) marked; block by block."""
        sides = torch.stack([is_first, ~is_first]).double()
        to_first, to_all = [], []
        for start, block in _blocks(points):
            kernel = ((block @ points.T).double() / points.shape[1] + 1) ** 3
            kernel *= groups[start : start + len(block), None] != groups
            to_first.append(kernel @ sides[0])
            to_all.append(kernel.sum(1, keepdim=True))
        first = torch.cat(to_first)
        in_group = torch.zeros_like(sides).index_add_(1, groups, sides)
        numbers = sides.sum(1, keepdim=True) - in_group[:, groups]
        return cls(_by_kind(sides, torch.stack([first, torch.cat(to_all) - first])), _by_kind(sides, numbers))

    def discrepancies(self) -> Tensor:
        """Squared maximum mean discrepancy (R,) of the two sides."""
        return _discrepancy(self.kernel.sum(1), self.number.sum(1))

    def jackknife(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        """That of the first split, and what it is without each of the groups (G,)."""
        without = []
        for of_points in (self.kernel[..., 0], self.number[..., 0]):
            by_group = of_points.new_zeros(3, int(groups.max()) + 1).index_add_(1, groups, of_points)
            without.append(of_points.sum(1, keepdim=True) - 2 * by_group)  # a pair counts for both groups
        return self.discrepancies()[0], _discrepancy(*without)


def _by_kind(sides: Tensor, to: Tensor) -> Tensor:
    """From what each point has with either side (2, M, R), what it has within its own and across (3, M, R)."""
    return torch.stack([sides[0] * to[0], sides[1] * to[1], (sides[0] * to[1] + sides[1] * to[0]) / 2])


def _discrepancy(kernel: Tensor, number: Tensor) -> Tensor:
    """Mean within the first side, plus that within the second, less twice that across."""
    first, second, across = (kernel / number).unbind()
    return first + second - 2 * across


def cover(compared: Tensor, real: Tensor, k: int, k_coverage: int) -> Cover:
    """Precision, recall, density and coverage of features (M, D) against real ones (N, D), block by block.

    Distances are float32; the mean of the real features is subtracted first, so that squares of a common offset do
    not swallow them.
    """
    centre = real.double().mean(0)
    compared, real = ((points.double() - centre).float() for points in (compared, real))
    radius, radius_coverage = _radii(real, (k, k_coverage))
    [own_radius] = _radii(compared, (k,))
    is_inside = torch.zeros(len(compared), dtype=torch.bool)
    num_recalled = num_covered = num_pairs = 0
    for start, block in _blocks(real):
        squared = _squared_distances(block, compared)
        rows = slice(start, start + len(block))
        is_inside |= (squared <= radius[rows, None]).any(0)
        near = squared <= radius_coverage[rows, None]
        num_pairs += int(near.sum())
        num_covered += int(near.any(1).sum())
        num_recalled += int((squared <= own_radius).any(1).sum())
    return Cover(
        precision=float(is_inside.double().mean()),
        recall=num_recalled / len(real),
        density=num_pairs / (k_coverage * len(compared)),
        coverage=num_covered / len(real),
    )


def _radii(points: Tensor, ks: tuple[int, ...]) -> list[Tensor]:
    """Squared distance (M,) of each point to its k-th neighbour, itself not counted, for each k."""
    nearest = []
    for start, block in _blocks(points):
        squared = _squared_distances(block, points)
        rows = torch.arange(len(block))
        squared[rows, start + rows] = torch.inf
        nearest.append(squared.topk(max(ks), dim=1, largest=False).values)
    found = torch.cat(nearest)
    return [found[:, k - 1] for k in ks]


def _blocks(points: Tensor) -> list[tuple[int, Tensor]]:
    return [(start, points[start : start + _BLOCK]) for start in range(0, len(points), _BLOCK)]


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances (M, N) of (M, D) and (N, D)."""
    squared = a.square().sum(1)[:, None] + b.square().sum(1)
    return squared.addmm_(a, b.T, alpha=-2).clamp_(min=0)
