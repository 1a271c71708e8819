"""How an image becomes a view: the published SimCLR augmentation, drawn from one seed per view.

Drawing is a pure function of (seed, image size, config); applying has no randomness. Neither looks at the
other views of the batch: a view is the same to the bit alone, in a batch, or in another order.

As in the published pipeline, everything is rounded to 8 bits after each step. One thing differs: the blur is a true
Gaussian cut at three standard deviations with the border repeated, where PIL's is three box filters of the same
deviation.

Shapes: M views, S pixels of a view's side, H and W pixels of an image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stablerep import runtime

Range = tuple[float, float]
Pixels = cv2.typing.MatLike

_CROP_ATTEMPTS = 10
_IDENTITY = np.eye(3)
_GRAY = np.tile([0.299, 0.587, 0.114], (3, 1))

cv2.setNumThreads(1)  # views are made by several threads already, each of which computes alone


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """Size and augmentation of a view; the defaults are SimCLR's as StableRep publishes them."""

    image_size: int = 224
    """Side of a view in pixels."""
    augmentation: Literal["simclr", "weak", "flip", "none"] = "simclr"
    """All transforms below, a mild random crop alone, the whole image resized and maybe mirrored, or only resized."""
    crop_scale: Range | None = None
    """Share of the image's area in a crop; where not given, (0.08, 1) for simclr and (0.5, 1) for weak."""
    crop_ratio: Range = (3 / 4, 4 / 3)
    """Width by height of a crop."""
    jitter_probability: float = 0.8
    """Share of the views whose colours are changed, in brightness, contrast, saturation and hue in random order."""
    brightness: float = 0.4
    """Factors are drawn from 1 - this to 1 + this."""
    contrast: float = 0.4
    """As brightness."""
    saturation: float = 0.4
    """As brightness."""
    hue: float = 0.1
    """The hue turns by up to this share of the colour circle, either way."""
    grayscale_probability: float = 0.2
    """Share of the views that lose their colours."""
    blur_probability: float = 0.5
    """Share of the views that are blurred."""
    blur_sigma: Range = (0.1, 2.0)
    """Standard deviation of the blur in pixels of the view."""
    flip_probability: float = 0.5
    """Share of the views that are mirrored left to right."""
    downsample_probability: float = 0.0
    """Share of the images first made coarse, so that sharp painted ones resemble coarse real ones (published: 0.05)."""
    downsample_sizes: tuple[int, ...] = (64, 128)
    """Shorter sides of the coarse image in pixels, equally likely."""
    upsample_size: int = 256
    """Shorter side in pixels to which a coarse image returns before the crop."""

    def __post_init__(self) -> None:
        for name in ("jitter", "grayscale", "blur", "flip", "downsample"):
            probability = getattr(self, f"{name}_probability")
            if not 0 <= probability <= 1:
                raise ValueError(f"{name}_probability must be in [0, 1], got {probability}")
        for name in ("crop_scale", "crop_ratio", "blur_sigma"):
            bounds = getattr(self, name)
            if bounds is not None and not 0 < bounds[0] <= bounds[1]:
                raise ValueError(f"{name} must be positive and in order, got {bounds}")
        if not 0 <= max(self.brightness, self.contrast, self.saturation) <= 1 or not 0 <= self.hue <= 0.5:
            raise ValueError("brightness, contrast and saturation must be in [0, 1], hue in [0, 0.5]")
        if self.image_size < 1:
            raise ValueError(f"image_size must be positive, got {self.image_size}")
        if not self.downsample_sizes or min(*self.downsample_sizes, self.upsample_size) < 1:
            raise ValueError(
                f"downsample_sizes and upsample_size must be positive, got {self.downsample_sizes} and "
                f"{self.upsample_size}"
            )


@dataclass(frozen=True, kw_only=True)
class ViewParameters:
    """What was drawn for M views."""

    coarse: NDArray[np.int64]
    """(M,) shorter side of the coarse image on the way to the crop, 0 where there is none."""
    box: NDArray[np.int64]
    """(M, 4) top, left, height and width of the crop of the image (of the coarse one, enlarged again)."""
    flip: NDArray[np.bool_]
    """(M,) mirrored left to right."""
    order: NDArray[np.int64]
    """(M, 4) which of brightness 0, contrast 1, saturation 2, hue 3 comes when; all -1 without jitter."""
    factors: NDArray[np.float32]
    """(M, 4) of brightness, contrast, saturation, and the turn of the hue."""
    gray: NDArray[np.bool_]
    """(M,) without colours."""
    sigma: NDArray[np.float64]
    """(M,) of the blur in pixels, 0 without."""


def make_views(images: Sequence[Tensor], seeds: Sequence[int], config: ViewConfig) -> Tensor:
    """One view per image and seed: uint8 images (3, H, W) of any sizes -> uint8 (M, 3, S, S)."""
    sizes = np.array([image.shape[-2:] for image in images], dtype=np.int64).reshape(-1, 2)
    return apply_parameters(images, draw_parameters(seeds, sizes, config), config)


def draw_parameters(seeds: Sequence[int], sizes: NDArray[np.int64], config: ViewConfig) -> ViewParameters:
    """Draw what makes a view out of an image of ``sizes (M, 2)`` (height, width), from its seed alone."""
    drawn = np.array([runtime.numpy_generator("view", seed).random(_NUM_DRAWS) for seed in seeds])
    u = drawn.reshape(-1, _NUM_DRAWS)
    simclr, augmented = config.augmentation == "simclr", config.augmentation in ("simclr", "weak")
    mirrored = config.augmentation in ("simclr", "flip")
    coarse = _draw_coarse(u, config) * augmented
    enlarged = _resized(_resized(sizes, np.maximum(coarse, 1)), config.upsample_size)
    size = np.where(coarse[:, None] > 0, enlarged, sizes)
    whole = np.concatenate([np.zeros_like(size), size], axis=1)
    scale = config.crop_scale or ((0.08, 1.0) if simclr else (0.5, 1.0))
    jitter = (u[:, _JITTER] < config.jitter_probability) & simclr
    strength = np.array([config.brightness, config.contrast, config.saturation, config.hue])
    centre = np.array([1.0, 1.0, 1.0, 0.0])
    blur = (u[:, _BLUR] < config.blur_probability) & simclr
    return ViewParameters(
        coarse=coarse,
        box=_draw_boxes(u, size, scale, config.crop_ratio) if augmented else whole,
        flip=(u[:, _FLIP] < config.flip_probability) & mirrored,
        order=np.where(jitter[:, None], u[:, _ORDER].argsort(axis=1), -1),
        factors=(centre + strength * (2 * u[:, _FACTORS] - 1)).astype(np.float32),
        gray=(u[:, _GRAYSCALE] < config.grayscale_probability) & simclr,
        sigma=np.where(blur, _between(u[:, _SIGMA], config.blur_sigma), 0.0),
    )


def apply_parameters(images: Sequence[Tensor], parameters: ViewParameters, config: ViewConfig) -> Tensor:
    """Views, uint8 (M, 3, S, S), of uint8 images (3, H, W), as the parameters say.

    The images are asked for one by one, in their order, so that a lazy sequence never holds more than one.
    """
    S = config.image_size
    views = np.empty((len(images), 3, S, S), dtype=np.uint8)  # numpy asks for large pages of memory
    for row, image in enumerate(images):
        resized = _resize(_crop(image, parameters, row, config), (S, S)).permute(1, 2, 0)
        pixels = np.ascontiguousarray(resized.numpy())
        cv2.split(_recolour(pixels, parameters, row), list(views[row]))
    return torch.from_numpy(views)


def in_unit_range(views: Tensor) -> Tensor:
    """Views as models read them: uint8 of any shape -> float32 in [0, 1].

    A batch stays in 8 bits until a model reads it, a micro-batch at a time: a quarter of the memory and of what is
    sent to a GPU.
    """
    if views.dtype is not torch.uint8:
        raise TypeError(f"views are uint8, got {views.dtype}")
    if views.device.type != "cpu":
        return views.float().div_(255)
    # By numpy, which asks for large pages of memory: torch spends twice as long on page faults as on dividing.
    return torch.from_numpy(np.divide(views.numpy(), 255, dtype=np.float32))


# Places of the draws of one view. A new transform appends its own, so that old seeds keep their views.
_COARSE, _COARSE_SIZE, _FLIP, _JITTER, _GRAYSCALE, _BLUR, _SIGMA = range(7)
_ORDER = slice(7, 11)
_FACTORS = slice(11, 15)
_CROPS = slice(15, 15 + 4 * _CROP_ATTEMPTS)
_NUM_DRAWS = _CROPS.stop


def _draw_coarse(u: NDArray[np.float64], config: ViewConfig) -> NDArray[np.int64]:
    sizes = np.array(config.downsample_sizes, dtype=np.int64)
    chosen = sizes[(u[:, _COARSE_SIZE] * len(sizes)).astype(np.int64)]
    return np.where(u[:, _COARSE] < config.downsample_probability, chosen, 0)


def _draw_boxes(
    u: NDArray[np.float64], size: NDArray[np.int64], scale: Range, ratio: Range
) -> NDArray[np.int64]:
    """The first of ten random boxes that fits into the image, else the largest central one, as in torchvision."""
    area_draw, ratio_draw, top_draw, left_draw = u[:, _CROPS].reshape(-1, 4, _CROP_ATTEMPTS).swapaxes(0, 1)
    height, width = size[:, :1], size[:, 1:]
    area = height * width * _between(area_draw, scale)
    aspect = np.exp(_between(ratio_draw, (math.log(ratio[0]), math.log(ratio[1]))))
    w = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    h = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    top = (top_draw * (height - h + 1)).astype(np.int64)
    left = (left_draw * (width - w + 1)).astype(np.int64)
    first = fits.argmax(axis=1)
    boxes: NDArray[np.int64] = np.stack([top, left, h, w], axis=2)[np.arange(len(u)), first]
    found = fits[np.arange(len(u)), first]
    return np.where(found[:, None], boxes, _central_boxes(size, ratio))


def _central_boxes(size: NDArray[np.int64], ratio: Range) -> NDArray[np.int64]:
    height, width = size[:, 0], size[:, 1]
    h = np.minimum(height, np.rint(width / ratio[0])).astype(np.int64)
    w = np.minimum(width, np.rint(height * ratio[1])).astype(np.int64)
    return np.stack([(height - h) // 2, (width - w) // 2, h, w], axis=1)


def _between(u: NDArray[np.float64], bounds: Range) -> NDArray[np.float64]:
    return bounds[0] + u * (bounds[1] - bounds[0])


def _resized(sizes: NDArray[np.int64], shorter: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """Sizes (M, 2) scaled so that the shorter side is as given and the aspect is kept."""
    result: NDArray[np.int64] = sizes * np.reshape(shorter, (-1, 1)) // sizes.min(axis=1, keepdims=True)
    return result


def _crop(image: Tensor, parameters: ViewParameters, row: int, config: ViewConfig) -> Tensor:
    if parameters.coarse[row]:
        for shorter in (int(parameters.coarse[row]), config.upsample_size):
            height, width = _resized(np.array([image.shape[-2:]]), shorter)[0].tolist()
            image = _resize(image, (height, width))
    top, left, height, width = parameters.box[row].tolist()
    return image[:, top : top + height, left : left + width]


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Antialiased bilinear resampling in 8 bits, as PIL does it.

    An image whose channels lie together, as decoders leave them, comes back so: torch goes by the strides of the batch.
    """
    batch = image.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
    return F.interpolate(batch, size=size, mode="bilinear", antialias=True)[0]


# Colours: pixels (S, S, 3) uint8, rounded after every step as the published pipeline rounds them. OpenCV does the
# steps in a quarter of the time that passes over floats take, and lets other threads go on meanwhile.


def _recolour(pixels: Pixels, parameters: ViewParameters, row: int) -> Pixels:
    """Mirroring, colour changes, grey and blur of one view."""
    if parameters.flip[row]:
        pixels = cv2.flip(pixels, 1)
    for number in parameters.order[row].tolist():
        if number >= 0:
            pixels = _ADJUSTMENTS[number](pixels, float(parameters.factors[row, number]))
    if parameters.gray[row]:
        pixels = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if parameters.sigma[row]:
        pixels = _blur(pixels, float(parameters.sigma[row]))
    return pixels


def _brightness(pixels: Pixels, factor: float) -> Pixels:
    return _transform(pixels, factor * _IDENTITY)


def _contrast(pixels: Pixels, factor: float) -> Pixels:
    mean = cv2.mean(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))[0]
    return _transform(pixels, factor * _IDENTITY, (1 - factor) * mean)


def _saturation(pixels: Pixels, factor: float) -> Pixels:
    return _transform(pixels, factor * _IDENTITY + (1 - factor) * _GRAY)


def _hue(pixels: Pixels, turn: float) -> Pixels:
    """Turn the hue in HSV space by a share of the circle, which 256 steps divide as in PIL."""
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(turn * 256) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


_ADJUSTMENTS = (_brightness, _contrast, _saturation, _hue)


def _transform(pixels: Pixels, matrix: NDArray[np.float64], offset: float = 0.0) -> Pixels:
    """Every colour times the matrix (3, 3), and the offset added to each channel; cut at black and white."""
    return cv2.transform(pixels, np.hstack([matrix, np.full((3, 1), offset)]))


def _blur(pixels: Pixels, sigma: float) -> Pixels:
    side = 2 * math.ceil(3 * sigma) + 1
    return cv2.GaussianBlur(pixels, (side, side), sigma, borderType=cv2.BORDER_REPLICATE)
