"""AdamW with the published parameter groups, and the learning rate as a pure function of the step."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from stablerep.errors import UserError


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimiser and schedule; the defaults are StableRep's."""

    base_lr: float = 2e-4
    """The rate used is base_lr * (captions * images per caption) / 256 * crops per image / 2, the scaling rule of the
    published code: base_lr itself at 256 images of two crops, as a SimCLR batch has them."""
    lr: float | None = None
    """Peak learning rate, instead of the scaling rule."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """After the warm-up: cosine to zero, or constant."""
    warmup_fraction: float = 0.033
    """Share of the steps during which the rate rises linearly (published: 0.5 of 15 epochs)."""
    beta1: float = 0.9
    """AdamW's decay of the mean gradient."""
    beta2: float = 0.98
    """AdamW's decay of the mean squared gradient; published: 0.98."""
    weight_decay: float = 0.1
    """Not applied to vectors (biases, norms), as published."""
    clip_norm: float | None = None
    """Largest gradient norm; not clipped where not given, as published."""

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_fraction < 1:
            raise ValueError(f"warmup_fraction must be in [0, 1), got {self.warmup_fraction}")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ValueError(f"beta1 and beta2 must be in [0, 1), got {self.beta1} and {self.beta2}")
        for name in ("base_lr", "lr", "clip_norm"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")


def peak_lr(config: OptimConfig, *, captions: int, images_per_caption: int, crops_per_image: int) -> float:
    """The peak learning rate: given, or from the published scaling rule (StableRep code, ``main_stablerep.py``)."""
    if config.lr is not None:
        return config.lr
    return config.base_lr * captions * images_per_caption / 256 * crops_per_image / 2


def lr_at(config: OptimConfig, peak: float, step: int, num_steps: int) -> float:
    """The learning rate of step 0 .. num_steps - 1."""
    warmup = config.warmup_fraction * num_steps
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return peak
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (num_steps - warmup)))


def build_optimizer(config: OptimConfig, module: nn.Module, peak: float) -> torch.optim.AdamW:
    """AdamW over the trainable parameters in two groups: matrices with weight decay, vectors without."""
    trainable = [
        (name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad
    ]
    if not trainable:
        raise UserError("the method has no trainable parameter")
    decayed = [parameter for name, parameter in trainable if _is_decayed(name, parameter)]
    plain = [parameter for name, parameter in trainable if not _is_decayed(name, parameter)]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=peak, betas=(config.beta1, config.beta2), fused=True)


def _is_decayed(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim >= 2 and not name.endswith("bias")
