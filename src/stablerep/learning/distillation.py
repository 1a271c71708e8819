"""Few-step painting: a student learns to take in one step what its teacher takes in several, guidance included.

Progressive distillation (Salimans and Ho 2022, algorithm 2) of a guided teacher (Meng et al. 2023, section 3.2) on the
straight line from noise to latent: from a point of the line the teacher takes ``substeps`` Euler steps, and the student
learns the one velocity that leads to the same place. It needs no guidance, which halves what a step costs.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stablerep import config as config_module
from stablerep.errors import UserError
from stablerep.generation.folders import find_teacher, read_defaults
from stablerep.generation.settings import TeacherDefaults
from stablerep.learning.method import Batch, generators, noise_like
from stablerep.learning.text_to_image import TextToImage, TextToImageConfig, check_painting
from stablerep.models.painter import sampler
from stablerep.run import read_json


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """The teacher, and how many of its steps become one."""

    teacher: str
    """A painter that `train text-to-image` exported: its folder, a shipped teacher by name, or a hub id."""
    download: bool = field(default=False, metadata=config_module.FREE)
    """Fetch a painter given by its hub id if it is not in the local cache yet."""
    num_inference_steps: int = 4
    """Steps in which the student paints, at least 2: the stock pipeline does not paint in one."""
    substeps: int = 3
    """Steps of the teacher that one step of the student replaces."""
    guidance_scale: float | None = None
    """Guidance of the teacher, which the student takes over; the teacher's own default where not given. Where the
    teacher's folder limits guidance to an interval, so is this."""
    ema_decay: float = 0.995
    """Decay of the moving average of the weights, which is what is exported."""
    batch_size: int = 32
    """Pictures that the exported painter paints together, by default."""

    def __post_init__(self) -> None:
        check_painting(self.num_inference_steps, self.guidance_scale, self.batch_size)
        if self.substeps < 1:
            raise ValueError(f"substeps must be positive, got {self.substeps}")


class Distillation(TextToImage):
    """A painter that starts as a copy of its teacher and learns to arrive in fewer steps."""

    def __init__(self, config: DistillationConfig) -> None:
        folder = find_teacher(config.teacher, download=config.download)
        said = read_defaults(folder)
        super().__init__(_painter_of(folder, said, config), [])
        asked = said.guidance_scale if config.guidance_scale is None else config.guidance_scale
        self.guidance_scale = 1.0 if asked is None else asked
        self.guidance_interval = said.guidance_interval or (0.0, 1.0)
        self.teacher = copy.deepcopy(self.average)
        self.substeps = config.substeps
        scheduler = sampler(solver_order=1)
        scheduler.set_timesteps(config.num_inference_steps)
        self.register_buffer("levels", scheduler.sigmas.clone().float(), persistent=False)
        told = scheduler.timesteps / scheduler.config.num_train_timesteps
        self.register_buffer("told", told, persistent=False)

    def train(self, mode: bool = True) -> "Distillation":
        """Only the student trains."""
        super().train(mode)
        self.teacher.eval()
        return self

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """Predicted velocity ``(N*V, c, h, w)`` at one of the student's levels, and the one that leads where the
        teacher arrives.

        The teacher learned on any level; the student is only ever told the times of the stock sampler, whole numbers.
        """
        tokens = batch["tokens"]
        with torch.no_grad():
            latents = self.latents(self.pictures(batch))
            noise, step = self._draw_start(batch["seed"], latents)
            begin, end = self.levels[step], self.levels[step + 1]
            noisy = torch.lerp(latents, noise, _as_column(begin))
            velocity = (self._follow(noisy, begin, end, tokens) - noisy) / _as_column(end - begin)
        predicted = self.velocity(self.student, noisy, self.told[step], tokens)
        return {"predicted": predicted, "velocity": velocity}

    def hot_modules(self) -> Sequence[nn.Module]:
        """Transformer and text encoder, of student and teacher."""
        return [*super().hot_modules(), *self.teacher.values()]

    def _follow(self, noisy: Tensor, begin: Tensor, end: Tensor, tokens: Tensor) -> Tensor:
        """Where the guided teacher arrives from one level at another, in Euler steps of equal size."""
        step = (end - begin) / self.substeps
        for number in range(self.substeps):
            noisy = noisy + _as_column(step) * self._guided(noisy, begin + number * step, tokens)
        return noisy

    def _guided(self, noisy: Tensor, level: Tensor, tokens: Tensor) -> Tensor:
        """The teacher's velocity under classifier-free guidance (Ho and Salimans 2022, equation 6), in its interval."""
        asked = self.velocity(self.teacher, noisy, level, tokens)
        if self.guidance_scale == 1:
            return asked
        unasked = self.velocity(self.teacher, noisy, level, self.empty_like(tokens))
        low, high = self.guidance_interval
        scale = torch.where((low <= level) & (level <= high), self.guidance_scale, 1.0)
        return torch.lerp(unasked, asked, _as_column(scale).to(asked))

    def _draw_start(self, seeds: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Noise like the latents, and the step of the student ``(N*V,)`` at which each view begins."""
        shape, drawn_by = (len(latents) // len(seeds),), generators(seeds)
        noise = noise_like(latents, drawn_by)
        steps = torch.cat([torch.randint(len(self.levels) - 1, shape, generator=one) for one in drawn_by])
        return noise, steps.to(latents.device)

    def _defaults(self) -> dict[str, Any]:
        return super()._defaults() | {"solver_order": 1}

    levels: Tensor
    told: Tensor


def _painter_of(folder: Path, said: TeacherDefaults, config: DistillationConfig) -> TextToImageConfig:
    """The settings of the teacher, read from its folder; ``UserError`` where it is no painter of ours."""
    path = folder / "transformer" / "config.json"
    if said.max_sequence_length is None or not path.is_file():
        raise UserError(
            f"{folder} was not exported by `train text-to-image`, and only such painters are distilled; give the "
            "folder teacher/ of such a run"
        )
    transformer = read_json(path)
    try:
        settings = {
            "autoencoder": folder / "vae",
            "start_from": folder,
            "num_heads": transformer["num_attention_heads"],
            "width": transformer["num_attention_heads"] * transformer["attention_head_dim"],
            "depth": transformer["num_layers"],
            "patch_size": transformer["patch_size"],
            "num_tokens": said.max_sequence_length,
            "styles": said.styles,
            "margin": said.margin,
        }
    except KeyError as error:
        raise UserError(
            f"{folder} was not exported by `train text-to-image` (nothing is said of {error})"
        ) from error
    own = {
        "caption_dropout": 0.0,
        "guidance_scale": 1.0,
        "num_inference_steps": config.num_inference_steps,
        "ema_decay": config.ema_decay,
        "batch_size": config.batch_size,
    }
    return config_module.build(TextToImageConfig, settings, own, origin=str(folder))


def _as_column(values: Tensor) -> Tensor:
    """``(B,)`` as ``(B, 1, 1, 1)``."""
    return values[:, None, None, None]
