"""KID, precision, recall, density and coverage against slow float64 versions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from stablerep.evaluation import distances
from stablerep.evaluation.distances import DistanceConfig, cover, measure_distances, squared_mmd


def cloud(count: int, seed: int, dimension: int = 6, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(count, dimension))
    return (shift + scale * drawn).astype(np.float32)


def slow_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Binkowski et al. 2018, equation 4, term by term."""

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((np.dot(a.astype(np.float64), b.astype(np.float64)) / len(a) + 1) ** 3)

    def among(points: np.ndarray) -> float:
        pairs = [(i, j) for i in range(len(points)) for j in range(len(points)) if i != j]
        return sum(kernel(points[i], points[j]) for i, j in pairs) / len(pairs)

    return among(x) + among(y) - 2 * float(np.mean([[kernel(a, b) for b in y] for a in x]))


def slow_cover(compared: np.ndarray, real: np.ndarray, k: int, k_coverage: int) -> list[float]:
    """The four definitions as they stand in the two papers."""
    compared, real = compared.astype(np.float64), real.astype(np.float64)

    def radius(points: np.ndarray, row: int, neighbour: int) -> float:
        others = np.delete(points, row, axis=0)
        return float(np.sort(np.linalg.norm(others - points[row], axis=1))[neighbour - 1])

    def inside(points: np.ndarray, balls: np.ndarray, neighbour: int) -> np.ndarray:
        radii = np.array([radius(balls, row, neighbour) for row in range(len(balls))])
        return np.linalg.norm(points[:, None] - balls[None], axis=2) <= radii

    among_real = inside(compared, real, k_coverage)
    return [
        inside(compared, real, k).any(1).mean(),
        inside(real, compared, k).any(1).mean(),
        among_real.sum() / (k_coverage * len(compared)),
        among_real.any(0).mean(),
    ]


def test_mmd_is_the_unbiased_estimate() -> None:
    x, y = cloud(9, 1), cloud(7, 2, shift=0.5)
    assert squared_mmd(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(slow_mmd(x, y), rel=1e-4)


def test_pairs_of_one_caption_are_left_out() -> None:
    x, y = cloud(9, 1), cloud(7, 2, shift=0.5)
    of_x, of_y = torch.arange(9) // 3, torch.arange(7) // 2
    kernel = (
        torch.from_numpy(np.vstack([x, y])).double() @ np.vstack([x, y]).T.astype(np.float64) / 6 + 1
    ) ** 3
    groups = torch.cat([of_x, of_y])
    differ = groups[:, None] != groups
    parts = [(slice(9), slice(9)), (slice(9, 16), slice(9, 16)), (slice(9), slice(9, 16))]
    first, second, across = (float(kernel[part][differ[part]].mean()) for part in parts)
    found = squared_mmd(torch.from_numpy(x), torch.from_numpy(y), (of_x, of_y))
    assert found == pytest.approx(first + second - 2 * across, rel=1e-4)


@pytest.mark.parametrize("offset", [0.0, 1000.0], ids=["centred", "far from the origin"])
def test_cover_is_that_of_the_papers(offset: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "_BLOCK", 7)  # several blocks, the last one partial
    real, compared = cloud(40, 3, shift=offset), cloud(33, 4, shift=offset + 0.7, scale=0.8)
    found = cover(torch.from_numpy(compared), torch.from_numpy(real), 3, 5)
    expected = slow_cover(compared, real, 3, 5)
    assert [found.precision, found.recall, found.density, found.coverage] == pytest.approx(expected)
    assert 0 < found.precision < 1 and 0 < found.coverage < 1


CONFIG = DistanceConfig(kid_splits=40)


def distances_of(
    painted: np.ndarray,
    real: np.ndarray,
    config: DistanceConfig = CONFIG,
    captions: np.ndarray | None = None,
    seed: int = 0,
) -> distances.Distances | None:
    return measure_distances(painted, real, config, captions=captions, seed=seed, encoder=("cloud", "1"))


def test_what_is_distributed_alike_stays_at_the_floor() -> None:
    found = distances_of(cloud(150, 5), cloud(400, 6))
    assert found is not None and found.num_pictures == 150
    assert abs(found.kid.mean) < 2 * found.kid.floor_95
    assert abs(found.kid.floor_mean) < found.kid.floor_95
    assert found.cover.precision == pytest.approx(found.real_cover.precision, abs=0.1)
    assert found.kid.size == 150 and found.kid.num_splits == 40


def test_a_perfect_painter_of_the_same_captions_reaches_zero_and_the_floor() -> None:
    """30 captions of four pictures, which lie together: whole captions in common are no sign of likeness."""
    captions = np.repeat(np.arange(30), 4)
    values, floors, plain = [], [], []
    for seed in range(60):
        own = cloud(30, 3 * seed)[captions]
        painted, real = (own + cloud(120, 3 * seed + side, scale=0.5) for side in (1, 2))
        found = distances_of(painted, real, captions=captions, seed=seed)
        assert found is not None
        values.append(found.kid.mean)
        floors.append(found.kid.floor_95)
        plain.append(squared_mmd(torch.from_numpy(painted), torch.from_numpy(real)))
    error = np.std(values) / len(values) ** 0.5
    assert abs(np.mean(values)) < 3 * error
    assert np.mean(plain) < -5 * np.std(plain) / len(plain) ** 0.5
    assert np.mean(np.abs(values) > floors) < 0.15  # expected: 0.05


def test_the_standard_error_is_that_of_other_captions_and_pictures() -> None:
    found = [distances_of(cloud(100, 2 * seed, shift=0.8), cloud(200, 2 * seed + 1)) for seed in range(60)]
    kids = [one.kid for one in found if one is not None]
    spread = np.std([kid.mean for kid in kids])
    assert np.mean([kid.standard_error for kid in kids]) == pytest.approx(spread, rel=0.3)


def test_what_is_shifted_or_narrow_does_not() -> None:
    shifted, narrow = (
        distances_of(cloud(150, 5, shift=1.0), cloud(400, 6)),
        distances_of(cloud(150, 5, scale=0.2), cloud(400, 6)),
    )
    assert shifted is not None and narrow is not None
    assert shifted.kid.mean > 3 * shifted.kid.floor_95
    assert shifted.kid.standard_error < shifted.kid.mean / 5
    assert narrow.cover.precision > 0.95 > 0.3 > narrow.cover.recall


def test_equal_numbers_and_few_pictures() -> None:
    few = distances_of(cloud(150, 5), cloud(40, 6))
    assert few is not None and few.num_pictures == few.kid.size == 20
    assert distances_of(cloud(5, 5), cloud(400, 6)) is None
    assert distances_of(cloud(40, 5), cloud(40, 6), captions=np.repeat([0, 1], 20)) is None
    capped = distances_of(cloud(150, 5), cloud(400, 6), replace(CONFIG, num_pictures=30))
    assert capped is not None and capped.num_pictures == 30
