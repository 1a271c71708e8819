"""Each measure on pictures with a known defect: it says how strong that defect is, and nothing else moves it much."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from pictures_with_defects import SIDE, blurred, compressed, enlarged, noisy, scene, tensor
from PIL import Image
from torch import Tensor

from stablerep.audit import measures
from stablerep.audit.measured import MEASURES

CLEAN = [scene(seed) for seed in range(24)]
Change = Callable[[Image.Image], Image.Image]


def of(measure: Callable[[Tensor], Tensor], change: Change = lambda picture: picture) -> np.ndarray:
    values: np.ndarray = measure(tensor([change(picture) for picture in CLEAN])).numpy()
    return values


@pytest.mark.parametrize("sigma", [1.0, 1.5, 2.0, 3.0])
def test_the_width_of_a_known_blur_is_found(sigma: float) -> None:
    own = np.median(of(measures.blur))
    assert own < 0.85, "the scenes are sharp"
    expected = np.hypot(sigma, own / 2)  # half of it is the width of a pixel, which the blur does not lose
    assert np.median(of(measures.blur, blurred(sigma))) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("sigma", [2.0, 5.0, 10.0, 20.0])
def test_noise_of_a_known_strength_is_found(sigma: float) -> None:
    own = np.median(of(measures.noise))
    assert np.median(of(measures.noise, noisy(sigma))) == pytest.approx(np.hypot(sigma, own), rel=0.12)


@pytest.mark.parametrize("side", [SIDE // 2, SIDE // 4])
def test_an_enlarged_picture_has_the_resolution_it_came_from(side: int) -> None:
    assert np.median(of(measures.resolution)) > 0.85 * SIDE
    assert np.median(of(measures.resolution, enlarged(side))) == pytest.approx(side, rel=0.4)
    assert np.quantile(of(measures.resolution, enlarged(side)), 0.9) < np.quantile(
        of(measures.resolution), 0.05
    )


def test_blocks_of_strong_compression_stand_out() -> None:
    clean, strong = of(measures.blockiness), of(measures.blockiness, compressed(10))
    assert np.median(clean) == pytest.approx(1.0, abs=0.35)
    assert np.mean(strong > np.quantile(clean, 0.95)) >= 0.9
    shifted = of(measures.blockiness, lambda picture: compressed(10)(picture).crop((3, 3, SIDE, SIDE)))
    assert np.median(shifted) < np.median(strong) / 2, "blocks are looked for where a JPEG has them"


def test_clipped_counts_burnt_and_black_pixels_only() -> None:
    picture = np.full((8, 8, 3), 128, dtype=np.uint8)
    picture[:2] = 255
    picture[2:3] = 0
    picture[3, :, 0] = 255  # one full channel is a colour, not a clipped pixel
    assert measures.clipped(tensor([Image.fromarray(picture)])).tolist() == [3 / 8]


def test_a_blank_picture_is_no_picture_by_every_measure() -> None:
    blank = torch.full((2, 3, 32, 32), 255.0)
    assert measures.spread(blank).tolist() == [0, 0]
    assert measures.resolution(blank).tolist() == [0, 0]
    assert measures.noise(blank).tolist() == [0, 0]
    assert measures.blur(blank).tolist() == [8, 8]
    assert measures.clipped(blank).tolist() == [1, 1]
    assert measures.blockiness(blank).tolist() == [1, 1]


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (40, 2), (3, 3), (5, 5), (7, 12), (33, 64), (64, 33)])
def test_any_size_gives_finite_numbers_that_do_not_depend_on_the_batch(
    name: str, size: tuple[int, int]
) -> None:
    batch = torch.randint(0, 256, (3, 3, *size), generator=torch.Generator().manual_seed(1)).float()
    together = MEASURES[name].compute(batch)
    assert together.shape == (3,) and together.isfinite().all()
    alone = torch.cat([MEASURES[name].compute(one[None]) for one in batch])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_pictures_without_a_pixel_inside_have_no_noise() -> None:
    batch = torch.randint(0, 256, (2, 3, 3, 3), generator=torch.Generator().manual_seed(1)).float()
    for narrow in (batch[..., :2], batch[..., :2, :], batch[..., :1, :1]):
        assert measures.noise(narrow).tolist() == [0, 0]
    assert (measures.noise(batch) > 0).all()


def test_defects_of_one_kind_are_not_taken_for_another() -> None:
    assert np.median(of(measures.blur, noisy(3))) < 1.0
    assert np.median(of(measures.noise, blurred(2))) < 1.0
    assert np.median(of(measures.blockiness, blurred(1))) < 1.4
    assert np.median(of(measures.blockiness, noisy(10))) < 1.4
    assert np.median(of(measures.resolution, compressed(90))) > 0.8 * SIDE


def test_differences_are_in_levels() -> None:
    pictures = torch.stack([torch.full((3, 32, 32), level) for level in (10.0, 13.0, 10.0)])
    apart = measures.differences(measures.thumbnails(pictures))
    torch.testing.assert_close(apart, torch.tensor([[0.0, 3, 0], [3, 0, 3], [0, 3, 0]]), atol=1e-3, rtol=0)


def test_large_pictures_are_shrunk_and_small_ones_left_alone() -> None:
    pictures = tensor([scene(0, 64)])
    assert measures.shrunk(pictures, 32).shape == (1, 3, 32, 32)
    assert measures.shrunk(torch.zeros(1, 3, 40, 80), 20).shape == (1, 3, 20, 40)
    assert measures.shrunk(pictures, 64) is pictures and measures.shrunk(pictures, None) is pictures


def test_weighted_neighbourhoods_are_those_of_a_convolution() -> None:
    values = torch.rand(2, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    line = torch.exp(-torch.arange(-4, 5).float().square() / 2)
    kernel = torch.outer(line, line) / line.sum().square()
    padded = torch.nn.functional.pad(values, (4, 4, 4, 4), mode="replicate")
    expected = torch.nn.functional.conv2d(padded, kernel[None, None])
    torch.testing.assert_close(measures._gaussian(values, 1.0), expected)
    sobel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
    both = torch.nn.functional.conv2d(padded[..., 3:-3, 3:-3], torch.stack([sobel, sobel.T])[:, None] / 8)
    torch.testing.assert_close(measures._gradient(values), both.norm(dim=1, keepdim=True))
