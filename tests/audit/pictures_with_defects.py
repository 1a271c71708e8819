"""Pictures that are sharp and clean, and the same with one known defect."""

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

SIDE = 64


def scene(seed: int, side: int = SIDE) -> Image.Image:
    """Shapes of any colour on grey, drawn at four times the size and shrunk: detail up to the last pixel."""
    rng = np.random.default_rng(seed)
    large = Image.new("RGB", (4 * side, 4 * side), tuple(int(v) for v in rng.integers(90, 170, 3)))
    draw = ImageDraw.Draw(large)
    for number in range(14):
        x, y = (int(v) for v in rng.integers(-side // 2, 4 * side, 2))
        width, height = (int(v) for v in rng.integers(side // 4, 2 * side, 2))
        colour = tuple(int(v) for v in rng.integers(20, 236, 3))
        shape = draw.ellipse if number % 2 else draw.rectangle
        shape((x, y, x + width, y + height), fill=colour)
    return large.resize((side, side), Image.Resampling.BOX)


def blurred(sigma: float) -> Callable[[Image.Image], Image.Image]:
    return lambda picture: picture.filter(ImageFilter.GaussianBlur(sigma))


def enlarged(side: int) -> Callable[[Image.Image], Image.Image]:
    """What is left of a picture that was stored at this side."""
    bicubic = Image.Resampling.BICUBIC
    return lambda picture: picture.resize((side, side), bicubic).resize(picture.size, bicubic)


def compressed(quality: int) -> Callable[[Image.Image], Image.Image]:
    def compress(picture: Image.Image) -> Image.Image:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        return Image.open(io.BytesIO(file.getvalue())).convert("RGB")

    return compress


def noisy(sigma: float) -> Callable[[Image.Image], Image.Image]:
    """Noise in the brightness, equal in all channels."""

    def add(picture: Image.Image) -> Image.Image:
        pixels = np.asarray(picture, dtype=np.float64)
        noise = np.random.default_rng(7).normal(0, sigma, pixels.shape[:2])[..., None]
        return Image.fromarray(np.clip(pixels + noise, 0, 255).round().astype(np.uint8))

    return add


def tensor(pictures: list[Image.Image]) -> Tensor:
    """float32 (N, 3, H, W) in levels."""
    arrays = [np.asarray(picture.convert("RGB")).copy() for picture in pictures]
    return torch.stack([torch.from_numpy(array).permute(2, 0, 1) for array in arrays]).float()


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
