"""Random crops of training pictures through a frozen encoder, and the heads that learn from them, as published.

Shapes: M images, D features, H and W pixels.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from stablerep import runtime
from stablerep.evaluation.benchmarks import Benchmark
from stablerep.evaluation.contract import Subject, Tools
from stablerep.evaluation.pictures import joined, readable
from stablerep.features import FrozenEncoder, decoders, device_of, encode_pictures
from stablerep.models.encoder import seen_size
from stablerep.probes import SgdConfig
from stablerep.probes.sgd import Trained, train_heads

_ASPECT = (3 / 4, 4 / 3)
_TRIES = 10
NORMS: Mapping[str, bool] = {"sgd": False, "sgd-bn": True}
"""The probes that learn from crops, by their protocol: whether behind a batch norm."""


def heads_on_crops(
    protocol: str, subject: Subject, data: Benchmark, config: SgdConfig, tools: Tools
) -> Trained:
    """The heads of one of ``NORMS``, trained on a new crop of every training picture in every epoch.

    Where both are measured, both are trained on the same crops, and the other one waits in ``tools`` to be asked for.
    """
    if _place(subject, data, protocol) not in tools.trained:
        images, labels = data.train.images, data.train.labels
        if config.refit:
            images = joined(images, data.validation.images)
            labels = np.concatenate([labels, data.validation.labels])
        names = [name for name in NORMS if name == protocol or name in tools.protocols]
        found = train_heads(
            lambda epoch: crop_features(subject.encoder, images, epoch, config, tools),
            labels,
            len(data.classes),
            config,
            norms=[NORMS[name] for name in names],
            num_train=len(data.train),
        )
        tools.trained.update({_place(subject, data, name): found[NORMS[name]] for name in names})
    trained: Trained = tools.trained.pop(_place(subject, data, protocol))
    return trained


def _place(subject: Subject, data: Benchmark, protocol: str) -> tuple[str, ...]:
    return data.name, protocol, subject.fingerprint


@torch.inference_mode()
def crop_features(
    encoder: FrozenEncoder, images: Sequence[bytes], epoch: int, config: SgdConfig, tools: Tools
) -> np.ndarray:
    """Features (M, D) of one random crop of each image, mirrored half of the time; never cached.

    The crop is a function of the seed, the epoch and the place of the image alone.
    """
    size = seen_size(encoder)
    dtype = runtime.pick_precision(tools.precision, device_of(encoder))

    def crop(image: bytes, place: int) -> Tensor:
        return _crop(readable(image, f"training picture {place}"), size, config, (epoch, place))

    # Filled in place: of a million pictures the parts beside the whole would take the memory twice.
    features: np.ndarray | None = None
    with decoders() as pool:
        for start in range(0, len(images), tools.batch_size):
            batch = images[start : start + tools.batch_size]
            crops = list(pool.map(crop, batch, itertools.count(start)))
            part = encode_pictures(encoder, crops, dtype)
            if features is None:
                features = np.empty((len(images), part.shape[1]), part.dtype)
            features[start : start + len(part)] = part
    assert features is not None, "a benchmark without training pictures is refused"
    return features


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
