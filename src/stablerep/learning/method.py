"""What a method is: a module that encodes a batch, computes its loss, and can export what it learned."""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from stablerep import runtime
from stablerep.errors import UserError
from stablerep.models.encoder import Encoder
from stablerep.models.weights import quiet_libraries

Batch = dict[str, Tensor]
"""Named tensors: image (N, V, 3, H, W), uint8, which ``encode`` is given as float32 in [0, 1]; caption_id (N,) and
image_id (N, V), identities; valid (N, V); label (N, V), identities of what the images show, an image without a label
being the only one of its kind; seed (N,), for every random draw of the method; where the method reads text, tokens
(N, T) and thing_id (N,), the identity of what the text is for (texts.py); where images are weighted, weight (N, V),
from 0."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """The loss of one step, a scalar with gradient, and named detached scalars to log.

    In a process group the loss is this rank's part: the sum over the ranks is the loss of the global batch.
    """

    loss: Tensor
    logs: dict[str, Tensor]


def generators(seeds: Tensor) -> list[torch.Generator]:
    """A generator for every caption of a batch."""
    return [torch.Generator().manual_seed(int(seed)) for seed in seeds]


def noise_like(x: Tensor, drawn_by: Sequence[torch.Generator]) -> Tensor:
    """Standard normal noise shaped like ``x (N*V, ...)``, that of a caption's views from its own generator."""
    shape = (len(x) // len(drawn_by), *x.shape[1:])
    return torch.cat([torch.randn(shape, generator=generator) for generator in drawn_by]).to(x)


class Method(nn.Module, abc.ABC):
    """One page of code that the only training loop drives. It never logs, moves devices or knows the optimiser."""

    @abc.abstractmethod
    def encode(self, batch: Batch) -> Any:
        """The expensive part, under mixed precision: per sample, without looking at the rest of the batch.

        Returns a tensor or a nested dict of tensors, each ``(N, ...)`` or ``(N*V, ...)`` in the order of the captions.
        It may run twice for one sample (``learning/step.py``), so it changes no state.
        """

    @abc.abstractmethod
    def loss(self, features: Any, batch: Batch) -> StepResult:
        """The part that sees the whole batch: heads and loss."""

    def after_step(self) -> None:
        """Called after each update of the weights: moving averages, clamping."""

    def encoder(self) -> Encoder | None:
        """The learned encoder, where the method learns one."""
        return None

    @abc.abstractmethod
    def export(self, folder: Path) -> Path:
        """Save what was learned as an ordinary folder below ``folder`` and return its path."""

    def hot_modules(self) -> Sequence[nn.Module]:
        """The modules worth compiling: called at every step with fixed shapes."""
        encoder = self.encoder()
        return [] if encoder is None else [encoder]

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids ``(N, T)`` of captions, for methods that read text."""
        raise NotImplementedError(f"{type(self).__name__} reads no text")

    @property
    def reads_text(self) -> bool:
        """Whether batches must carry tokens."""
        return type(self).tokenize is not Method.tokenize


def with_margin(images: Tensor, margin: int) -> Tensor:
    """Pictures ``(..., H, W)`` with so many black pixels on every side, none of their own changed."""
    return F.pad(images, (margin,) * 4)


def mean_over_valid(values: Tensor, batch: Batch) -> Tensor:
    """This rank's part of the weighted mean of a value per view, ``(N*V,)``, over the valid views of the global batch.

    ``sum(weight * value) / sum(weight)``; without weights all valid views count alike. The other views repeat an image
    of a caption that has too few; they must not count twice. Where no view counts, the mean is 0, and so is its
    gradient: a batch may by chance hold nothing but images of weight 0.
    """
    weight = batch["valid"].flatten().to(values)
    if "weight" in batch:
        weight = weight * batch["weight"].flatten().to(values)
    total = runtime.all_reduce_sum(weight.sum())
    counts = weight > 0
    return (weight[counts] * values[counts]).sum() / torch.where(total > 0, total, 1)


def global_mean(values: Tensor, batch: Batch) -> Tensor:
    """The whole of that mean, detached and equal on every rank, as logs need it; every rank must take part."""
    return runtime.all_reduce_sum(mean_over_valid(values.detach(), batch))


def read_model(kind: Any, folder: Path) -> Any:
    """The diffusers or transformers model of class ``kind`` that ``save_pretrained`` wrote into a folder.

    Raises ``UserError`` where the folder holds no such model, or a damaged one.
    """
    try:
        with quiet_libraries():
            return kind.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder} holds no {kind.__name__} that can be read: {error}") from error


@torch.no_grad()
def load_weights(module: nn.Module, folder: Path) -> None:
    """Fill a diffusers or transformers model with the weights of a folder that ``save_pretrained`` wrote.

    Raises ``UserError`` where the folder holds no such model, or one of another architecture.
    """
    stored = read_model(type(module), folder).state_dict()
    target = module.state_dict()
    wrong = sorted(
        name for name in stored.keys() | target.keys() if _shape_of(stored, name) != _shape_of(target, name)
    )
    if wrong:
        raise UserError(
            f"{folder} cannot be trained further with these settings: {wrong[0]} has shape "
            f"{_shape_of(stored, wrong[0])} there and {_shape_of(target, wrong[0])} here ({len(wrong)} such); "
            "give the settings that it was made with"
        )
    for name, tensor in target.items():
        tensor.copy_(stored[name])


def _shape_of(state: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(state[name].shape) if name in state else None
