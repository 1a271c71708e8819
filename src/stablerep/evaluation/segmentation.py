"""What frozen patch features know of where things are: a linear head per patch, scored by mean intersection over union.

Shapes: M pictures, D features, h and w patches, H and W pixels, L learning rates, C classes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stablerep import config as config_module
from stablerep import runtime
from stablerep.evaluation.contract import Subject, Tools, described
from stablerep.evaluation.intervals import Interval
from stablerep.evaluation.pictures import square
from stablerep.evaluation.scenes import IGNORED, SCENES, Scenes, Segmented
from stablerep.evaluation.scores import Measurement
from stablerep.features import RawPixels, device_of
from stablerep.models.encoder import Encoder

_COLOUR_GRID = 48


@dataclass(frozen=True, kw_only=True)
class SegmentationConfig:
    """Settings of the protocol `segmentation`."""

    learning_rates: tuple[float, ...] = (1e-3, 1e-2, 1e-1)
    """Each has a head of its own, trained at once; validation chooses."""
    num_epochs: int = 20
    """Passes over the training pictures, the learning rate falling to zero along a cosine."""
    batch_size: int = 32
    """Pictures per step."""
    weight_decay: float = 1e-4
    """Weight decay of AdamW, on the weights and not on the biases."""
    num_train: int = 2000
    """At most so many training pictures, whose features are held in memory."""
    finer: int = 4
    """Training compares at so many times the resolution of the patches; tests compare every pixel."""
    seed: int = 0
    """Seed of the heads and of the order."""

    def __post_init__(self) -> None:
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise ValueError(f"learning_rates must be positive, got {self.learning_rates}")
        if min(self.num_epochs, self.batch_size, self.num_train, self.finer) < 1:
            raise ValueError("num_epochs, batch_size, num_train and finer must be positive")


class ColourOnly:
    """The baseline that knows no shapes: each pixel's colour, its squares and its products, on a grid of 48."""

    fingerprint = "colour-only"

    def patch_features(self, images: Tensor) -> Tensor:
        """Features (N, 9, h, w) of images (N, 3, H, W) in [0, 1]."""
        grid = F.interpolate(images, size=(_COLOUR_GRID, _COLOUR_GRID), mode="bilinear", antialias=True)
        red, green, blue = grid.unbind(1)
        products = [red * red, green * green, blue * blue, red * green, green * blue, blue * red]
        return torch.cat([grid, torch.stack(products, 1)], 1)


@dataclass(frozen=True)
class Segmentation:
    """A 1 x 1 convolution on frozen, standardised patch features, enlarged bilinearly; beside it colour alone."""

    config: SegmentationConfig

    benchmarks = SCENES
    trains_baselines = True

    @property
    def settings(self) -> Mapping[str, Any]:
        """How the heads are trained; scenes are always seen whole, as their masks are."""
        return {"resize": "squash", **config_module.to_dict(self.config)}

    def measure(self, subject: Subject, data: Segmented, tools: Tools) -> list[Measurement]:
        """mIoU and pixel accuracy, with intervals over pictures; raw pixels stand for colour alone."""
        encoder = ColourOnly() if isinstance(subject.encoder, RawPixels) else subject.encoder
        assert isinstance(encoder, Encoder | ColourOnly)
        reader = _Reader(encoder, tools)
        num = min(len(data.train), self.config.num_train)
        heads = _Heads(reader.features(data.train, num), len(data.classes), self.config)
        heads.train([data.train.mask(place) for place in range(num)])
        chosen, reached = self._choose(heads, reader, data)
        found = []
        for name, scenes in data.tests.items():
            counts = heads.counts(reader.features(scenes, len(scenes)), scenes, chosen)
            seed = runtime.seed_for(tools.seed, "segmentation", data.name, name)
            metrics, constant = metrics_of(counts, tools.num_bootstrap, seed)
            about = described(subject, data.name, name, "segmentation")
            if isinstance(encoder, ColourOnly):
                about |= {"encoder": "colour only", "fingerprint": encoder.fingerprint}
            found.append(
                Measurement(
                    **about,
                    metrics=metrics,
                    chance={"miou": constant},
                    settings=self.settings,
                    chosen={"learning_rate": self.config.learning_rates[chosen], "validation_miou": reached},
                    chosen_on="validation",
                    sizes={"num_pictures": len(scenes), "num_classes": len(data.classes), "num_train": num},
                    note="chance: the most frequent class everywhere",
                )
            )
        return found

    def _choose(self, heads: "_Heads", reader: "_Reader", data: Segmented) -> tuple[int, float]:
        num = min(len(data.validation), self.config.num_train)
        scenes = Scenes(data.validation.images[:num], data.validation.mask)
        features = reader.features(scenes, num)
        reached = [
            miou(heads.counts(features, scenes, head).sum(0))
            for head in range(len(self.config.learning_rates))
        ]
        best = int(np.argmax(reached))
        return best, reached[best]


@dataclass(frozen=True)
class _Reader:
    """Patch features of scenes."""

    encoder: Encoder | ColourOnly
    tools: Tools

    @torch.inference_mode()
    def features(self, scenes: Scenes, num: int) -> Tensor:
        """Patch features (num, D, h, w) on the CPU, in float32."""
        device = device_of(self.encoder)
        dtype = runtime.pick_precision(self.tools.precision, device)
        size = self.encoder.config.image_size if isinstance(self.encoder, Encoder) else _COLOUR_GRID
        parts = []
        for start in range(0, num, self.tools.batch_size):
            encoded = scenes.images[start : min(start + self.tools.batch_size, num)]
            pictures = [square(image, size, f"scene {start + row}") for row, image in enumerate(encoded)]
            pixels = torch.stack(pictures).to(device)
            with runtime.autocast(dtype, device):
                parts.append(self.encoder.patch_features(pixels).float().cpu())
        return torch.cat(parts)


class _Heads:
    """Linear heads (D, L, C) on the patch features of training scenes."""

    def __init__(self, features: Tensor, num_classes: int, config: SegmentationConfig) -> None:
        self.config, self.num_classes = config, num_classes
        self.mean = features.mean((0, 2, 3), keepdim=True)
        self.scale = features.std((0, 2, 3), keepdim=True).clamp(min=1e-6)
        self.features = (features - self.mean) / self.scale
        num_heads = len(config.learning_rates)
        shape = (num_heads * num_classes, features.shape[1], 1, 1)
        generator = runtime.torch_generator("segmentation heads", config.seed)
        one = torch.randn((num_classes, *shape[1:]), generator=generator) * 0.01
        self.weight = one.repeat(num_heads, 1, 1, 1).requires_grad_()
        self.bias = torch.zeros(shape[0], requires_grad=True)

    def train(self, masks: list[np.ndarray]) -> None:
        """AdamW for all heads at once, each with its own learning rate, along a cosine."""
        config, num = self.config, len(masks)
        side = self.features.shape[-1] * config.finer
        targets = torch.stack([_smaller(mask, side) for mask in masks])
        rates = torch.tensor(config.learning_rates).repeat_interleave(self.num_classes)
        moments = [_Adam(self.weight, rates[:, None, None, None]), _Adam(self.bias, rates)]
        steps = config.num_epochs * math.ceil(num / config.batch_size)
        step = 0
        for epoch in range(config.num_epochs):
            order = torch.randperm(num, generator=runtime.torch_generator("scene order", config.seed, epoch))
            for rows in torch.split(order, config.batch_size):
                logits = self._logits(self.features[rows], targets.shape[-2:])
                loss = torch.stack(
                    [F.cross_entropy(head, targets[rows], ignore_index=IGNORED) for head in logits.unbind(1)]
                ).sum()
                gradients = torch.autograd.grad(loss, [self.weight, self.bias])
                share = (1 + math.cos(math.pi * step / steps)) / 2
                step += 1
                for moment, gradient in zip(moments, gradients, strict=True):
                    moment.step(gradient, share, config.weight_decay if moment is moments[0] else 0.0, step)

    def _logits(self, features: Tensor, size: torch.Size | tuple[int, ...]) -> Tensor:
        """Logits (N, L, C, H, W) of standardised features (N, D, h, w)."""
        logits = F.conv2d(features, self.weight, self.bias)
        logits = F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)
        return logits.view(len(features), -1, self.num_classes, *size)

    @torch.no_grad()
    def counts(self, features: Tensor, scenes: Scenes, head: int) -> np.ndarray:
        """Confusion counts (M, C, C) of every pixel of every scene: row is the true class, column the named one."""
        rows = slice(head * self.num_classes, (head + 1) * self.num_classes)
        found = np.zeros((len(features), self.num_classes, self.num_classes), dtype=np.int64)
        for place, patch in enumerate((features - self.mean) / self.scale):
            mask = scenes.mask(place)
            logits = F.conv2d(patch[None], self.weight[rows], self.bias[rows])
            named = F.interpolate(logits, size=mask.shape, mode="bilinear", align_corners=False)[0].argmax(0)
            found[place] = confusion(mask, named.numpy(), self.num_classes)
        return found


class _Adam:
    """AdamW of one tensor whose rows have learning rates of their own, which torch's groups cannot say."""

    def __init__(self, parameter: Tensor, rates: Tensor) -> None:
        self.parameter, self.rates = parameter, rates
        self.first, self.second = torch.zeros_like(parameter), torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, gradient: Tensor, share: float, decay: float, number: int) -> None:
        self.first.lerp_(gradient, 0.1)
        self.second.lerp_(gradient.square(), 0.001)
        first, second = self.first / (1 - 0.9**number), self.second / (1 - 0.999**number)
        move = first / (second.sqrt() + 1e-8) + decay * self.parameter
        self.parameter -= share * self.rates * move


def _smaller(mask: np.ndarray, side: int) -> Tensor:
    """Classes (side, side) of a mask (H, W), by the nearest pixel."""
    rows, columns = (((np.arange(side) + 0.5) * length / side).astype(int) for length in mask.shape)
    return torch.from_numpy(mask[rows][:, columns]).long()


def confusion(mask: np.ndarray, named: np.ndarray, num_classes: int) -> np.ndarray:
    """Pixels (C, C) by true class and named class; those that are not counted are left out."""
    counted = mask != IGNORED
    cell = mask[counted].astype(np.int64) * num_classes + named[counted]
    return np.bincount(cell, minlength=num_classes**2).reshape(num_classes, num_classes)


def miou(counts: np.ndarray) -> float:
    """Mean intersection over union of confusion counts (C, C), over the classes that the pictures show."""
    shown = counts.sum(1) > 0
    both = np.diag(counts)
    union = counts.sum(0) + counts.sum(1) - both
    return float((both[shown] / union[shown]).mean())


def metrics_of(counts: np.ndarray, num: int, seed: int) -> tuple[dict[str, Interval], float]:
    """mIoU and pixel accuracy of counts (M, C, C), with intervals over pictures; mIoU of the most frequent class."""
    total = counts.sum(0)
    values = []
    rng = runtime.numpy_generator("bootstrap of scenes", seed)
    for _ in range(num):
        drawn = np.bincount(rng.integers(len(counts), size=len(counts)), minlength=len(counts))
        mixed = np.tensordot(drawn, counts, 1)
        values.append((miou(mixed), np.trace(mixed) / mixed.sum()))
    replicates = np.array(values)
    constant = np.zeros_like(total)
    constant[:, total.sum(1).argmax()] = total.sum(1)
    whole = {"miou": miou(total), "pixel accuracy": float(np.trace(total) / total.sum())}
    metrics = {
        name: Interval.of_share(value, replicates[:, column], len(counts))
        for column, (name, value) in enumerate(whole.items())
    }
    return metrics, miou(constant)
