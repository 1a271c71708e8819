"""Fine-tuning: the encoder goes on learning with labels, its layers the slower the nearer they are to the picture.

A loop of its own: ``evaluation`` and ``learning`` never import one another, and what is published for fine-tuning
(layer decay, RandAugment, mixup, averaged weights) is none of what a method needs. All of that is timm's.
Shapes: M pictures, N of a step, C classes.
"""

import contextlib
import copy
import dataclasses
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from stablerep import config as config_module
from stablerep import runtime
from stablerep.errors import UserError
from stablerep.evaluation.benchmarks import BENCHMARKS, Benchmark, Split
from stablerep.evaluation.contract import Classified, NotMeasurableError, Subject, Tools
from stablerep.evaluation.pictures import readable, square
from stablerep.models.encoder import Encoder, EncoderConfig
from stablerep.probes.metrics import accuracy


@dataclass(frozen=True, kw_only=True)
class FineTuneConfig:
    """Settings of the protocol `fine-tune`; the defaults are those published for ViT-B (SynCLR, table 14)."""

    num_epochs: int = 100
    """Published: 100 for ViT-B, 50 for ViT-L."""
    warmup_epochs: float = 20
    """Published: 20 for ViT-B, 5 for ViT-L; at most a fifth of the epochs."""
    batch_size: int = 1024
    """Pictures per step; all of them where there are fewer."""
    base_lr: float = 5e-5
    """Learning rate for a batch of 256."""
    layer_decay: float = 0.65
    """Each layer learns slower than the next one by this factor (published: 0.65 for ViT-B, 0.8 for ViT-L)."""
    weight_decay: float = 0.05
    """Weight decay of AdamW, not on biases and norms."""
    drop_path: float = 0.1
    """Published: 0.1 for ViT-B, 0.3 for ViT-L."""
    rand_augment: str = "rand-m9-mstd0.5-inc1"
    """Augmentation as timm writes it; none where empty."""
    smoothing: float = 0.1
    """Label smoothing."""
    erase: float = 0.25
    """Probability of erasing a rectangle."""
    mixup: float = 0.8
    """Alpha of mixup, which blends two pictures; none at 0."""
    cutmix: float = 1.0
    """Alpha of cutmix, which pastes a part of one picture into another; none at 0. One of the two is drawn per step."""
    average_decay: float = 0.9999
    """Decay of the averaged weights, which are measured as well; validation chooses between them and the last."""
    seed: int = 0
    """Seed of the head, of the order, of the augmentation and of what the network draws."""

    def __post_init__(self) -> None:
        if min(self.num_epochs, self.batch_size) < 1 or self.base_lr <= 0:
            raise ValueError("num_epochs, batch_size and base_lr must be positive")
        if not 0 < self.layer_decay <= 1 or not 0 <= self.average_decay < 1:
            raise ValueError("layer_decay must be in (0, 1] and average_decay in [0, 1)")
        if self.batch_size < 2 and max(self.mixup, self.cutmix) > 0:
            raise ValueError("batch_size must be at least 2 where mixup or cutmix blends pictures of a batch")


class Classifier(nn.Module):
    """An encoder with a linear layer on its features."""

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.dim, num_classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(images))
        return logits


@dataclass(frozen=True)
class FineTune:
    """The whole encoder trained on the training split; the test is named by last or averaged weights."""

    config: FineTuneConfig

    benchmarks = BENCHMARKS
    trains_baselines = True

    @property
    def settings(self) -> Mapping[str, Any]:
        """How it is trained."""
        return config_module.to_dict(self.config)

    def measure(self, subject: Subject, data: Benchmark, tools: Tools) -> Classified:
        """Train a copy of the encoder, and name every test picture."""
        if data.several:
            raise NotMeasurableError(f"{data.name}: pictures have several classes, fine-tuning needs one")
        if not isinstance(subject.encoder, Encoder):
            raise NotMeasurableError(f"{subject.name} has no weights to train")
        model = _copied(subject.encoder, len(data.classes), self.config)
        averaged = _Training(model, self.config, tools).run(data.train)
        metric = data.metric if data.metric != "map11" else None
        reached = [
            accuracy(data.validation.labels, named(one, data.validation.images, tools), metric)
            for one in (model, averaged)
        ]
        chosen = int(reached[1] > reached[0])
        best = (model, averaged)[chosen]
        return Classified(
            predicted={name: named(best, split.images, tools) for name, split in data.tests.items()},
            chosen={"averaged_weights": chosen, "epoch": self.config.num_epochs},
            chosen_on="validation",
            validation_accuracy=reached[chosen],
        )


def _copied(encoder: Encoder, num_classes: int, config: FineTuneConfig) -> Classifier:
    """The encoder's weights in a model with stochastic depth, and a new head."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(runtime.seed_for("fine-tune head", config.seed))
        copied = Encoder(dataclasses.replace(encoder.config, drop_path=config.drop_path))
        copied.load_state_dict(encoder.state_dict())
        model = Classifier(copied, num_classes)
    return model.to(next(encoder.parameters()).device)


@torch.inference_mode()
def named(model: Classifier, images: Sequence[bytes], tools: Tools) -> np.ndarray:
    """The class (M,) that the model names for each picture."""
    model.eval()
    device = model.head.weight.device
    found = []
    for start in range(0, len(images), tools.batch_size):
        size = model.encoder.config.image_size
        batch = images[start : start + tools.batch_size]
        pixels = [
            square(image, size, f"picture {start + row}", tools.resize) for row, image in enumerate(batch)
        ]
        found.append(model(torch.stack(pixels).to(device)).argmax(1).cpu().numpy())
    return np.concatenate(found)


def layer_groups(model: Classifier, config: FineTuneConfig) -> list[dict[str, Any]]:
    """Parameter groups with ``lr_scale``: 1 for the head, ``layer_decay`` less for every block towards the picture."""
    from timm.optim import param_groups_layer_decay

    backbone = model.encoder.backbone
    groups: list[dict[str, Any]] = param_groups_layer_decay(
        backbone,
        weight_decay=config.weight_decay,
        no_weight_decay_list=backbone.no_weight_decay(),
        layer_decay=config.layer_decay,
    )
    last = set(map(id, backbone.norm.parameters()))
    # timm counts from the last block, which is one step below the head; the last norm is not.
    for group in groups:
        group["lr_scale"] *= config.layer_decay
        group["params"] = [weight for weight in group["params"] if id(weight) not in last]
    groups.append({"params": list(backbone.norm.parameters()), "weight_decay": 0.0, "lr_scale": 1.0})
    groups.append({"params": [model.head.weight], "weight_decay": config.weight_decay, "lr_scale": 1.0})
    groups.append({"params": [model.head.bias], "weight_decay": 0.0, "lr_scale": 1.0})
    return groups


def _augmentation(encoder: EncoderConfig, config: FineTuneConfig) -> Callable[[Image.Image], Tensor]:
    """From a picture to an augmented and normalised tensor (3, H, W); ``UserError`` where timm cannot read its name."""
    from timm.data import create_transform

    try:
        transform: Callable[[Image.Image], Tensor] = create_transform(
            encoder.image_size,
            is_training=True,
            auto_augment=config.rand_augment or None,
            color_jitter=None,
            re_prob=config.erase,
            interpolation="bicubic",
            mean=encoder.mean,
            std=encoder.std,
        )
    except (AssertionError, ValueError) as error:
        raise UserError(
            f"timm knows no augmentation {config.rand_augment!r} ({error}); give one such as "
            "rand-m9-mstd0.5-inc1 (--fine-tune.rand-augment)"
        ) from error
    return transform


class _Training:
    """The loop: every draw is a function of seed, epoch and picture, or of seed and step."""

    def __init__(self, model: Classifier, config: FineTuneConfig, tools: Tools) -> None:
        self.model, self.config, self.tools = model, config, tools
        self.device = model.head.weight.device
        self.optimizer = torch.optim.AdamW(layer_groups(model, config), betas=(0.9, 0.999))
        self.transform = _augmentation(model.encoder.config, config)

    def run(self, train: Split) -> Classifier:
        """Train, and return the averaged weights as a model of their own."""
        from timm.utils import ModelEmaV3

        config, num = self.config, len(train)
        size = min(config.batch_size, num)
        steps = config.num_epochs * (num // size)
        average = ModelEmaV3(self.model, decay=config.average_decay)
        step = 0
        with self.tools.console.progress("fine-tune", steps, "steps") as progress:
            for epoch in range(config.num_epochs):
                order = np.random.default_rng(
                    runtime.seed_for("fine-tune order", config.seed, epoch)
                ).permutation(num)
                for rows in order[: num // size * size].reshape(-1, size):
                    self._rate(step, steps, size)
                    self._step(self._views(train, rows, epoch), train.labels[rows], step)
                    average.update(self.model)
                    step += 1
                    progress.advance(1)
        self.model.eval()
        averaged = copy.deepcopy(self.model)
        averaged.load_state_dict(average.module.state_dict())
        return averaged

    def _rate(self, step: int, steps: int, size: int) -> None:
        """Linear warm-up, then a cosine to zero, times the scale of each layer."""
        config = self.config
        warmup = steps * min(config.warmup_epochs / config.num_epochs, 0.2)
        cosine = (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1))) / 2
        share = (step + 1) / warmup if step + 1 < warmup else cosine
        for group in self.optimizer.param_groups:
            group["lr"] = config.base_lr * size / 256 * share * group["lr_scale"]

    def _views(self, train: Split, rows: np.ndarray, epoch: int) -> Tensor:
        """Augmented and normalised pictures (N, 3, H, W)."""
        views = []
        with _own_randomness():
            for row in rows.tolist():
                _seed(runtime.seed_for("fine-tune view", self.config.seed, epoch, row))
                pixels = readable(train.images[row], f"training picture {row}")
                picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
                views.append(self.transform(picture))
        return torch.stack(views)

    def _step(self, views: Tensor, labels: np.ndarray, step: int) -> None:
        config = self.config
        self.model.train()
        dtype = runtime.pick_precision(self.tools.precision, self.device)
        with _own_randomness():
            _seed(runtime.seed_for("fine-tune step", config.seed, step))
            views, targets = self._mixed(views.to(self.device), torch.from_numpy(labels).to(self.device))
            with runtime.autocast(dtype, self.device):
                logits = self.model.head(self.model.encoder.backbone(views))
            loss = -(targets * logits.float().log_softmax(1)).sum(1).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def _mixed(self, views: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Views and smoothed targets (N, C), mixed by mixup or cutmix where asked for."""
        config, num_classes = self.config, self.model.head.out_features
        if config.mixup <= 0 and config.cutmix <= 0:
            off = config.smoothing / num_classes
            return views, F.one_hot(labels, num_classes).float() * (1 - config.smoothing) + off
        from timm.data.mixup import Mixup

        mix = Mixup(
            mixup_alpha=config.mixup,
            cutmix_alpha=config.cutmix,
            label_smoothing=config.smoothing,
            num_classes=num_classes,
        )
        even = len(views) // 2 * 2  # timm mixes pairs
        mixed: tuple[Tensor, Tensor] = mix(views[:even], labels[:even])
        return mixed


def _seed(seed: int) -> None:
    """timm draws from three generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextlib.contextmanager
def _own_randomness() -> Iterator[None]:
    """Global generators are left as they were found."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
