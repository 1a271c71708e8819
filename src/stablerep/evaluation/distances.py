"""How far painted pictures are from real ones in the features of a frozen encoder: KID, and whether the two cover
one another.

Both are meant for features that took no part in making the painter: never those of an encoder that aligned it or
filtered its pictures. Shapes: n pictures of each kind, D features.
"""

from dataclasses import dataclass

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
    kid_size: int = 1_000
    """Pictures of each kind in one subset for KID; all where there are fewer."""
    kid_subsets: int = 100
    """Subsets over which KID is averaged."""
    k: int = 3
    """Neighbour that sets the radius for precision and recall (published: 3)."""
    k_coverage: int = 5
    """Neighbour that sets the radius for density and coverage (published: 5)."""

    def __post_init__(self) -> None:
        if min(self.kid_size, self.kid_subsets) < 2 or min(self.num_pictures, self.k, self.k_coverage) < 1:
            raise ValueError("kid_size and kid_subsets must be at least 2, and the other numbers positive")


@dataclass(frozen=True, kw_only=True)
class KernelDistance:
    """KID (Binkowski et al. 2018) with what real pictures reach among themselves.

    The estimate is unbiased, so that equal distributions give values around zero, half of them negative. The floor is
    the same estimate between two disjoint subsets of real pictures, of the same size. A painter is compared with
    ``floor_95``: 95 % of the values between real pictures are smaller in absolute value. "At most three times the
    floor" means ``mean <= 3 * floor_95``.
    """

    mean: float
    """Over the subsets."""
    standard_error: float
    """Of that mean. Subsets share pictures, so it holds for these pictures, not for others by the painter."""
    floor_mean: float
    floor_95: float
    """95 % quantile of the absolute value, over draws of two real subsets."""
    size: int
    """Pictures of each kind in one subset."""
    num_subsets: int


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
    seed: int,
    encoder: str,
    fingerprint: str,
) -> Distances | None:
    """Distances of painted features (M, D) to real ones (N, D); None where fewer than k + 1 of each can be compared."""
    size = min(len(painted), len(real) // 2, config.num_pictures)
    if size <= max(config.k, config.k_coverage):
        return None
    rng = runtime.numpy_generator("distances", seed)
    drawn = torch.from_numpy(painted[rng.permutation(len(painted))[:size]])
    halves = torch.from_numpy(real[rng.permutation(len(real))[: 2 * size]])
    reference, other = halves[:size], halves[size:]
    return Distances(
        encoder=encoder,
        fingerprint=fingerprint,
        num_pictures=size,
        kid=kernel_distance(drawn, halves, config, rng),
        cover=cover(drawn, reference, config.k, config.k_coverage),
        real_cover=cover(other, reference, config.k, config.k_coverage),
    )


def kernel_distance(
    painted: Tensor, real: Tensor, config: DistanceConfig, rng: np.random.Generator
) -> KernelDistance:
    """KID of painted features (n, D) to real ones (N, D), N at least 2 n, with its floor."""
    size = min(config.kid_size, len(painted), len(real) // 2)
    values, floor = [], []
    for _ in range(config.kid_subsets):
        some = painted[rng.permutation(len(painted))[:size]]
        one, other = torch.split(real[rng.permutation(len(real))[: 2 * size]], size)
        values.append(squared_mmd(some, one))
        floor.append(squared_mmd(other, one))
    return KernelDistance(
        mean=float(np.mean(values)),
        standard_error=float(np.std(values, ddof=1) / len(values) ** 0.5),
        floor_mean=float(np.mean(floor)),
        floor_95=float(np.quantile(np.abs(floor), 0.95)),
        size=size,
        num_subsets=config.kid_subsets,
    )


def squared_mmd(x: Tensor, y: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy of features (m, D) and (n, D), with the kernel (x.y / D + 1)^3.

    Binkowski et al. 2018, "Demystifying MMD GANs", equation 4.
    """

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return ((a @ b.T).double() / a.shape[1] + 1) ** 3

    def among_others(a: Tensor) -> Tensor:
        values = kernel(a, a)
        return (values.sum() - values.diagonal().sum()) / (len(a) * (len(a) - 1))

    return float(among_others(x) + among_others(y) - 2 * kernel(x, y).mean())


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
