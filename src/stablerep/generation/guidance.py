"""Guidance in a part of the steps only: elsewhere the model sees the prompt alone, which halves what those steps cost.

Kynkäänniemi et al. 2024, "Applying guidance in a limited interval improves sample and distribution quality in diffusion
models". Pipelines guide by a batch that holds every picture twice, without its prompt and with it; outside the interval
the model computes the second half alone and gives it out twice, so that guidance has no effect.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from stablerep.errors import UserError
from stablerep.generation.denoiser import denoiser_of


def _scheduler_times(pipeline: Any) -> float:
    return float(pipeline.scheduler.config.num_train_timesteps)


# Pipelines that call their model once a step with a doubled batch, the half with the prompt second, and the time that
# each gives it for pure noise; read off the sources of diffusers 0.42. Others call it twice (Lumina 2, Qwen-Image,
# CogView 4), put the prompt first (Lumina) or never double the batch (FLUX): there nothing would be limited.
NOISE_TIMES: dict[str, Callable[[Any], float]] = {
    "StableDiffusionPipeline": _scheduler_times,
    "StableDiffusionXLPipeline": _scheduler_times,
    "StableDiffusion3Pipeline": _scheduler_times,
    "KolorsPipeline": _scheduler_times,
    "IFPipeline": _scheduler_times,
    "PixArtAlphaPipeline": _scheduler_times,
    "PixArtSigmaPipeline": _scheduler_times,
    "SanaPipeline": lambda pipeline: _scheduler_times(pipeline) * pipeline.transformer.config.timestep_scale,
    "AuraFlowPipeline": lambda pipeline: _scheduler_times(pipeline) / 1000,
}

# Samplers that count time in logarithms of the noise or in angles.
_OTHER_TIMES = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler", "SCMScheduler")


def guide_within(pipeline: Any, interval: tuple[float, float], batch_size: int) -> None:
    """Let ``pipeline`` guide only at times in ``interval``, where 0 is the finished picture and 1 pure noise.

    ``batch_size`` is the number of pictures in every batch. Raises ``UserError`` for a pipeline or a sampler of which
    it is not known that it guides as this module expects.
    """
    name = type(pipeline).__name__
    if name not in NOISE_TIMES:
        raise UserError(
            f"guidance_interval: how {name} guides is not known, so it cannot be limited to an interval; leave it out. "
            f"Known: {', '.join(NOISE_TIMES)}"
        )
    if (sampler := type(pipeline.scheduler).__name__) in _OTHER_TIMES:
        raise UserError(
            f"guidance_interval: {sampler} does not count time from 0 to num_train_timesteps; leave it out, or choose "
            "another sampler by --scheduler"
        )
    model = denoiser_of(pipeline)
    model.forward = _limited(model.forward, interval, 2 * batch_size, NOISE_TIMES[name](pipeline))


def _limited(
    forward: Callable[..., Any], interval: tuple[float, float], doubled: int, noise_time: float
) -> Callable[..., Any]:
    low, high = interval
    signature = inspect.signature(forward)

    def limited(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        sample = next(iter(given.values()))
        time = float(torch.as_tensor(given["timestep"]).flatten()[0]) / noise_time
        if len(sample) != doubled or low <= time <= high:
            return forward(*args, **kwargs)
        return _twice(forward(*_second_half(args, doubled), **_second_half(kwargs, doubled)))

    return limited


def _second_half(value: Any, doubled: int) -> Any:
    """The same arguments with the second half of every tensor that has a row for each picture and prompt."""
    if isinstance(value, Tensor):
        return value[doubled // 2 :] if value.ndim and len(value) == doubled else value
    if isinstance(value, Mapping):
        return {name: _second_half(inner, doubled) for name, inner in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_second_half(inner, doubled) for inner in value)
    return value


def _twice(output: Any) -> Any:
    """The model's output with every tensor repeated: as if both halves had come to the same."""
    if isinstance(output, tuple):
        return tuple(torch.cat([part, part]) if isinstance(part, Tensor) else part for part in output)
    return type(output)(sample=torch.cat([output.sample, output.sample]))
