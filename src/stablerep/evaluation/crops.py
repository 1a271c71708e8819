"""Random crops of training pictures through a frozen encoder, as published for linear probes.

Shapes: M images, D features, H and W pixels.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from stablerep import runtime
from stablerep.evaluation.contract import Tools
from stablerep.evaluation.pictures import readable
from stablerep.features import FrozenEncoder, device_of, encode_pictures
from stablerep.models.encoder import Encoder
from stablerep.probes import SgdConfig

_ASPECT = (3 / 4, 4 / 3)
_TRIES = 10
_SIZE_OF_OTHERS = 64


@torch.inference_mode()
def crop_features(
    encoder: FrozenEncoder, images: Sequence[bytes], epoch: int, config: SgdConfig, tools: Tools
) -> np.ndarray:
    """Features (M, D) of one random crop of each image, mirrored half of the time; never cached.

    The crop is a function of the seed, the epoch and the place of the image alone.
    """
    size = encoder.config.image_size if isinstance(encoder, Encoder) else _SIZE_OF_OTHERS
    dtype = runtime.pick_precision(tools.precision, device_of(encoder))
    parts = []
    for start in range(0, len(images), tools.batch_size):
        batch = images[start : start + tools.batch_size]
        crops = [
            _crop(readable(image, f"training picture {start + row}"), size, config, (epoch, start + row))
            for row, image in enumerate(batch)
        ]
        parts.append(encode_pictures(encoder, crops, dtype))
    return np.concatenate(parts)


def _crop(image: Tensor, size: int, config: SgdConfig, identity: tuple[int, int]) -> Tensor:
    """A rectangle of the image (3, H, W) as a square (3, size, size)."""
    rng = runtime.numpy_generator("probe crop", config.seed, *identity)
    top, left, height, width = rectangle(image.shape[1], image.shape[2], config.crop_scale, rng)
    square: Tensor = transforms.resized_crop(image, top, left, height, width, [size, size], antialias=True)
    return square.flip(2) if rng.random() < 0.5 else square


def rectangle(
    height: int, width: int, scale: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random rectangle: its area a share of the picture's, its sides 3:4 to 4:3."""
    for _ in range(_TRIES):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(_ASPECT[0]), math.log(_ASPECT[1])))
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side
