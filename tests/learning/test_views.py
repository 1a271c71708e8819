"""Views against torchvision's and PIL's transforms with the same parameters, rates, and independence of the batch."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms import functional as torchvision

from stablerep.learning.views import (
    ViewConfig,
    ViewParameters,
    apply_parameters,
    draw_parameters,
    in_unit_range,
    make_views,
)

SIZE = 48
PLAIN = ViewConfig(image_size=SIZE, augmentation="none")


def picture(height: int = 90, width: int = 120, seed: int = 0) -> Tensor:
    """Smooth colours with a sharp disc and a little noise: uint8 (3, H, W)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = [np.sin(9 * rng.random() * x + 7 * rng.random() * y + 6 * rng.random()) for _ in range(3)]
    colours = 128 + 90 * np.stack(waves) + rng.normal(0, 6, (3, height, width))
    disc = (x - 0.4) ** 2 + (y - 0.4) ** 2 < 0.04
    colours[:, disc] = rng.integers(0, 256, (3, 1))
    return torch.from_numpy(colours.clip(0, 255).astype(np.uint8))


def parameters(height: int, width: int, **changes: Any) -> ViewParameters:
    """One view of the whole image without any change, but for the ones given (each without its leading axis)."""
    nothing: dict[str, Any] = {
        "coarse": 0,
        "box": [0, 0, height, width],
        "flip": False,
        "order": [-1, -1, -1, -1],
        "factors": [1.0, 1.0, 1.0, 0.0],
        "gray": False,
        "sigma": 0.0,
    }
    dtypes = {"flip": np.bool_, "gray": np.bool_, "factors": np.float32, "sigma": np.float64}
    return ViewParameters(
        **{
            name: np.array([value], dtype=dtypes.get(name, np.int64))
            for name, value in {**nothing, **changes}.items()
        }
    )


def view_of(image: Tensor, **changes: Any) -> Tensor:
    drawn = parameters(*image.shape[-2:], **changes)
    return in_unit_range(apply_parameters([image], drawn, PLAIN)[0])


def resized(image: Tensor) -> Tensor:
    """The whole image as a view without augmentation, (3, S, S) in [0, 1]; tested against torchvision below."""
    return in_unit_range(make_views([image], [0], PLAIN)[0])


def assert_near(view: Tensor, expected: Tensor, levels: float = 2.0) -> None:
    """Mean absolute difference in levels of 255."""
    view, expected = (in_unit_range(side) if side.dtype is torch.uint8 else side for side in (view, expected))
    assert view.shape == expected.shape
    assert float((view - expected).abs().mean()) * 255 <= levels


# -- each transform against torchvision -------------------------------------------------------------


@pytest.mark.parametrize("box", [(0, 0, 90, 120), (13, 40, 61, 70), (5, 7, 20, 16), (30, 30, 1, 2)])
def test_crop_equals_torchvision_and_pil(box: tuple[int, int, int, int]) -> None:
    image = picture()
    view = view_of(image, box=box)
    expected = torchvision.resized_crop(image.float() / 255, *box, size=[SIZE, SIZE], antialias=True)
    assert_near(view, expected, 0.5)
    top, left, height, width = box
    pil = Image.fromarray(image.permute(1, 2, 0).numpy()).crop((left, top, left + width, top + height))
    pil = pil.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    assert_near(view, torch.from_numpy(np.array(pil)).permute(2, 0, 1), 0.01)


def test_large_images_are_antialiased() -> None:
    stripes = torch.zeros(3, 480, 480, dtype=torch.uint8)
    stripes[:, :, ::2] = 255
    assert float(view_of(stripes).std()) < 0.02


def test_flip_equals_torchvision() -> None:
    image = picture()
    assert_near(view_of(image, flip=True), torchvision.hflip(resized(image)), 0.01)


NAMES = ("brightness", "contrast", "saturation", "hue")
ADJUSTMENTS = [getattr(torchvision, f"adjust_{name}") for name in NAMES]


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("strength", [-1.0, -0.3, 0.0, 0.7, 1.0])
def test_each_adjustment_equals_torchvision(number: int, strength: float) -> None:
    image = picture(seed=number)
    factors = [1.0, 1.0, 1.0, 0.0]
    factors[number] += strength * (0.1 if number == 3 else 0.4)
    expected = ADJUSTMENTS[number](
        resized(image), factors[number]
    )  # in floats, hence nearer than its own 8 bits
    rounding = 0.8 if number == 3 else 0.3
    assert_near(view_of(image, order=[-1, -1, number, -1], factors=factors), expected, rounding)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)])
def test_jitter_in_any_order_equals_torchvision(order: tuple[int, ...]) -> None:
    image = picture()
    factors = [1.35, 0.7, 1.3, -0.08]
    expected = resized(image)
    for number in order:
        expected = ADJUSTMENTS[number](expected, factors[number])
    assert_near(view_of(image, order=order, factors=factors), expected, 1.3)


def test_the_order_of_the_jitter_matters() -> None:
    """Otherwise the test above would not see a wrong order."""
    image, factors = picture(), [1.35, 0.7, 1.3, -0.08]
    views = [view_of(image, order=order, factors=factors) for order in ((0, 1, 2, 3), (3, 2, 1, 0))]
    assert float((views[0] - views[1]).abs().mean()) * 255 > 2


def test_grayscale_equals_torchvision() -> None:
    image = picture()
    view = view_of(image, gray=True)
    assert torch.equal(view[0], view[1])
    assert_near(view, torchvision.rgb_to_grayscale(resized(image), num_output_channels=3), 0.3)


@pytest.mark.parametrize("sigma", [0.1, 0.6, 1.3, 2.0])
def test_blur_equals_torchvision_and_nearly_pil(sigma: float) -> None:
    image = picture()
    view = view_of(image, sigma=sigma)
    expected = torchvision.gaussian_blur(resized(image), [13, 13], [sigma, sigma])
    inside = slice(7, -7)  # at the border torchvision mirrors, PIL and this module repeat
    assert_near(view[:, inside, inside], expected[:, inside, inside], 0.3)
    assert_near(view, expected)
    pil = Image.fromarray((resized(image) * 255).byte().permute(1, 2, 0).numpy())
    pil = pil.filter(ImageFilter.GaussianBlur(sigma))
    assert_near(view, torch.from_numpy(np.array(pil)).permute(2, 0, 1))


@pytest.mark.parametrize(("size", "sigma"), [(150, 2.0), (128, 0.7), (3, 2.0), (1, 1.0)])
def test_blur_of_any_size_equals_torchvision_on_a_repeated_border(size: int, sigma: float) -> None:
    config = dataclasses.replace(PLAIN, image_size=size)
    image = picture(size, size)
    blurred = apply_parameters([image], parameters(size, size, sigma=sigma), config)[0]
    wide = F.pad(image[None].float() / 255, (13, 13, 13, 13), mode="replicate")[0]
    expected = torchvision.gaussian_blur(wide, [13, 13], [sigma, sigma])[:, 13:-13, 13:-13]
    assert_near(blurred, expected, 0.5)


@pytest.mark.parametrize("shorter", [16, 33])
def test_downsampling_equals_torchvision(shorter: int) -> None:
    image = picture(91, 133)
    coarse = torchvision.resize(image.float() / 255, shorter, antialias=True)
    enlarged = torchvision.resize(coarse, 80, antialias=True)
    expected = torchvision.resize(enlarged, [SIZE, SIZE], antialias=True)
    config = dataclasses.replace(
        PLAIN,
        augmentation="weak",
        downsample_probability=1.0,
        downsample_sizes=(shorter,),
        upsample_size=80,
        crop_scale=(1.0, 1.0),
        crop_ratio=(0.01, 0.01),  # never fits, so that the crop is the central one and known
    )
    sizes = np.array([image.shape[-2:]])
    drawn = draw_parameters([4], sizes, config)
    assert drawn.coarse.tolist() == [shorter]
    whole = dataclasses.replace(drawn, box=np.array([[0, 0, *enlarged.shape[-2:]]]))
    assert_near(apply_parameters([image], whole, config)[0], expected, 1.0)


def test_all_together_stays_near_torchvision() -> None:
    config = ViewConfig(image_size=SIZE)
    images = [picture(seed=seed) for seed in range(24)]
    drawn = draw_parameters(range(24), np.array([image.shape[-2:] for image in images]), config)
    views = apply_parameters(images, drawn, config)
    for row, image in enumerate(images):
        box = drawn.box[row].tolist()
        expected = torchvision.resized_crop(image.float() / 255, *box, size=[SIZE, SIZE], antialias=True)
        for number in drawn.order[row]:
            if number >= 0:
                expected = ADJUSTMENTS[number](expected, float(drawn.factors[row, number]))
        if drawn.gray[row]:
            expected = torchvision.rgb_to_grayscale(expected, num_output_channels=3)
        if drawn.sigma[row]:
            expected = torchvision.gaussian_blur(expected, [13, 13], [drawn.sigma[row]] * 2)
        if drawn.flip[row]:
            expected = torchvision.hflip(expected)
        assert_near(views[row], expected)


def test_none_is_a_plain_resize_and_weak_a_crop() -> None:
    images = [picture(seed=1), picture(50, 60, seed=2)]
    views = make_views(images, [1, 2], dataclasses.replace(PLAIN, downsample_probability=1.0))
    for view, image in zip(views, images, strict=True):
        expected = F.interpolate(image[None], size=(SIZE, SIZE), mode="bilinear", antialias=True)[0]
        assert torch.equal(view, expected)
        assert torch.equal(in_unit_range(view), expected.float() / 255)
    weak = dataclasses.replace(PLAIN, augmentation="weak")
    sizes = np.array([[90, 120]] * 200)
    drawn = draw_parameters(range(200), sizes, weak)
    assert not drawn.flip.any() and not drawn.gray.any() and not drawn.sigma.any()
    assert (drawn.order == -1).all()
    share = drawn.box[:, 2] * drawn.box[:, 3] / (90 * 120)
    assert share.min() > 0.49 and share.max() <= 1.0


# -- a view is a function of its seed ---------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 37])
def test_a_view_is_the_same_alone_in_a_batch_and_in_another_order(size: int) -> None:
    config = ViewConfig(image_size=size, downsample_probability=0.3, downsample_sizes=(20,), upsample_size=60)
    images = [picture(40 + 3 * seed, 70 - seed, seed) for seed in range(23)]
    seeds = [seed * 7919 + 2**62 for seed in range(23)]
    together = make_views(images, seeds, config)
    backwards = make_views(images[::-1], seeds[::-1], config)
    assert torch.equal(backwards.flip(0), together)
    for row in range(23):
        assert torch.equal(make_views([images[row]], [seeds[row]], config)[0], together[row])


def test_a_large_view_does_not_depend_on_how_threads_share_the_batch() -> None:
    torch.set_num_threads(2)  # set back by the fixture
    config = ViewConfig(image_size=200, jitter_probability=1.0)
    images = [picture(20, 20, seed) for seed in range(24)]
    together = make_views(images, range(24), config)
    for row in range(24):
        assert torch.equal(make_views([images[row]], [row], config)[0], together[row])


def test_a_lazy_sequence_of_images_is_asked_for_each_once_and_in_order() -> None:
    images, asked = [picture(seed=seed) for seed in range(5)], []

    class Lazy(Sequence[Tensor]):
        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: Any) -> Any:
            image = images[index]
            asked.append(index)
            return image

    config = ViewConfig(image_size=SIZE)
    drawn = draw_parameters(range(5), np.array([[90, 120]] * 5), config)
    assert torch.equal(apply_parameters(Lazy(), drawn, config), make_views(images, range(5), config))
    assert asked == list(range(5))


def test_another_seed_is_another_view() -> None:
    config = ViewConfig(image_size=SIZE)
    image = picture()
    views = make_views([image] * 3, [1, 2, 1], config)
    assert not torch.equal(views[0], views[1])
    assert torch.equal(views[0], views[2])


def test_views_do_not_depend_on_the_strides_of_the_images() -> None:
    config = ViewConfig(image_size=SIZE, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.5)
    planar = [picture(seed=seed) for seed in range(20)]
    interleaved = [image.permute(1, 2, 0).contiguous().permute(2, 0, 1) for image in planar]
    views = make_views(interleaved, range(20), config)
    assert views.dtype is torch.uint8 and views.shape == (20, 3, SIZE, SIZE)
    assert torch.equal(
        in_unit_range(torch.tensor([0, 51, 255], dtype=torch.uint8)), torch.tensor([0, 0.2, 1])
    )
    with pytest.raises(TypeError, match=r"uint8, got torch.float32"):
        in_unit_range(in_unit_range(views))
    assert_near(views, make_views(planar, range(20), config), 0.5)


def test_images_are_not_changed_and_no_image_is_no_view() -> None:
    image = picture()
    before = image.clone()
    make_views([image] * 8, range(8), ViewConfig(image_size=SIZE))
    assert torch.equal(image, before)
    assert make_views([], [], ViewConfig(image_size=SIZE)).shape == (0, 3, SIZE, SIZE)


@pytest.mark.parametrize(
    "change",
    [
        {"flip_probability": 1.5},
        {"blur_sigma": (0.0, 2.0)},
        {"crop_scale": (1.0, 0.5)},
        {"hue": 0.6},
        {"image_size": 0},
        {"downsample_sizes": ()},
        {"downsample_sizes": (64, 0)},
        {"upsample_size": 0},
    ],
)
def test_values_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        dataclasses.replace(PLAIN, **change)
