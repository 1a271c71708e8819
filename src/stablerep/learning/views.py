"""How an image becomes a view: the published SimCLR augmentation, drawn from one seed per view.

Drawing is a pure function of (seed, image size, config); applying has no randomness. Neither looks at the
other views of the batch: a view is the same to the bit alone, in a batch, or in another order.

Differences from the published pipeline: colours are floats between the steps instead of being rounded to 8
bits each time (the crop is still resampled in 8 bits), and the blur is a true Gaussian cut at three
standard deviations with the border repeated, where PIL's is three box filters of the same deviation.

Shapes: M views, S pixels of a view's side, H and W pixels of an image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stablerep import runtime

Range = tuple[float, float]

_CROP_ATTEMPTS = 10
_GRAY = (0.2989, 0.587, 0.114)


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
    """Views whose colours are changed, in brightness, contrast, saturation and hue in random order."""
    brightness: float = 0.4
    """Factors are drawn from 1 - this to 1 + this."""
    contrast: float = 0.4
    """As brightness."""
    saturation: float = 0.4
    """As brightness."""
    hue: float = 0.1
    """The hue turns by up to this share of the colour circle, either way."""
    grayscale_probability: float = 0.2
    """Views that lose their colours."""
    blur_probability: float = 0.5
    """Views that are blurred."""
    blur_sigma: Range = (0.1, 2.0)
    """Standard deviation of the blur in pixels of the view."""
    flip_probability: float = 0.5
    """Views that are mirrored left to right."""
    downsample_probability: float = 0.0
    """Images first made coarse, so that sharp painted ones resemble coarse real ones (published: 0.05)."""
    downsample_sizes: tuple[int, ...] = (64, 128)
    """Shorter sides of the coarse image, equally likely."""
    upsample_size: int = 256
    """Shorter side to which a coarse image returns before the crop."""

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
    """One view per image and seed: uint8 images (3, H, W) of any sizes -> (M, 3, S, S) float32 in [0, 1]."""
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
    """Views (M, 3, S, S) float32 in [0, 1] of uint8 images (3, H, W), as the parameters say."""
    S = config.image_size
    crops = torch.empty(len(images), 3, S, S, dtype=torch.uint8)
    for row, image in enumerate(images):
        crop = _resize(_crop(image, parameters, row, config), (S, S))
        crops[row] = crop.flip(-1) if parameters.flip[row] else crop
    views = crops.float() / 255
    factors = torch.from_numpy(parameters.factors)
    for place in range(4):
        for number, adjust in enumerate(_ADJUSTMENTS):
            rows = torch.from_numpy(np.flatnonzero(parameters.order[:, place] == number))
            if len(rows):
                views[rows] = adjust(views[rows], factors[rows, number].view(-1, 1, 1, 1))
    rows = torch.from_numpy(np.flatnonzero(parameters.gray))
    views[rows] = _gray(views[rows]).expand(-1, 3, -1, -1)
    for view, sigma in zip(views, parameters.sigma.tolist(), strict=True):
        if sigma:
            view.copy_(_blurred(view, sigma))
    return views


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
    """Antialiased bilinear resampling in 8 bits, as PIL does it."""
    return F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]


# Everything below works on colours in [0, 1]. Batched operations are single roundings (products, sums,
# comparisons) and sums of integers, whose results do not depend on how a batch is laid out over vector
# registers and threads.


def _brightness(views: Tensor, factor: Tensor) -> Tensor:
    return (views * factor).clamp_(0, 1)


def _contrast(views: Tensor, factor: Tensor) -> Tensor:
    levels = (_gray(views) * 65535).round_().long()
    mean = levels.sum(dim=(2, 3), keepdim=True) / (65535 * levels[0].numel())
    return _blend(views, mean, factor)


def _saturation(views: Tensor, factor: Tensor) -> Tensor:
    return _blend(views, _gray(views), factor)


def _hue(views: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue in HSV space: value and chroma stay, each channel is read off the colour hexagon."""
    r, g, b = views.unbind(1)
    value = views.amax(1)
    chroma = value - views.amin(1)
    divisor = torch.where(chroma == 0, 1, chroma)
    hue = torch.where(value == g, (b - r) / divisor + 2, (r - g) / divisor + 4)
    hue = torch.where(value == r, (g - b) / divisor, hue) + 6 * turn[:, 0]
    channels = []
    for offset in (5, 3, 1):
        angle = hue + offset
        angle = angle - 6 * (angle / 6).floor()
        channels.append(value - chroma * torch.minimum(angle, 4 - angle).clamp_(0, 1))
    return torch.stack(channels, dim=1)


_ADJUSTMENTS = (_brightness, _contrast, _saturation, _hue)


def _blend(views: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (views * factor).add_(other * (1 - factor)).clamp_(0, 1)


def _gray(views: Tensor) -> Tensor:
    r, g, b = views.unbind(1)
    return (r * _GRAY[0] + g * _GRAY[1] + b * _GRAY[2])[:, None]


def _blurred(view: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of one view (3, S, S), along columns and then along rows."""
    radius = math.ceil(3 * sigma)
    weights = [math.exp(-0.5 * (step / sigma) ** 2) for step in range(-radius, radius + 1)]
    taps = [weight / sum(weights) for weight in weights]
    columns = _weighted_sum(F.pad(view, (0, 0, radius, radius), mode="replicate"), taps, dim=1)
    return _weighted_sum(F.pad(columns, (radius, radius), mode="replicate"), taps, dim=2)


def _weighted_sum(padded: Tensor, taps: list[float], dim: int) -> Tensor:
    length = padded.shape[dim] - len(taps) + 1
    result = padded.narrow(dim, 0, length) * taps[0]
    for start, tap in enumerate(taps[1:], 1):
        result.add_(padded.narrow(dim, start, length), alpha=tap)
    return result
