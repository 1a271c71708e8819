"""Euler's method for teachers that learned a flow, which the class of that name does not know."""

from typing import Any

import diffusers
import pytest
import torch

from stablerep.errors import UserError
from stablerep.generation.folders import find_teacher
from stablerep.generation.schedulers import choose_scheduler


class _Pipeline:
    """All that the choice looks at."""

    vae = None

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler


def _shipped() -> Any:
    folder = find_teacher("fashion", download=False)
    return diffusers.DPMSolverMultistepScheduler.from_pretrained(folder, subfolder="scheduler")


def _paint(scheduler: Any, weight: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """What a sampler makes of noise with a model that answers alike whenever it is asked."""
    scheduler.set_timesteps(12)
    picture = noise
    for timestep in scheduler.timesteps:
        picture = scheduler.step(torch.tanh(picture @ weight), timestep, picture).prev_sample
    return picture


def test_euler_of_a_flow_follows_the_tangent() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, noise = (torch.randn(4, 4, dtype=torch.float64, generator=generator) for _ in range(2))
    noise = noise.view(1, 1, 4, 4)
    euler = choose_scheduler(_Pipeline(_shipped()), "euler")
    picture = noise
    euler.set_timesteps(12)
    for sigma, after in zip(euler.sigmas, euler.sigmas[1:], strict=False):
        picture = picture + (after - sigma).double() * torch.tanh(picture @ weight)
    assert torch.allclose(_paint(euler, weight, noise), picture, atol=1e-5)
    assert not torch.allclose(_paint(_shipped(), weight, noise), picture, atol=1e-3)  # the second order


def test_a_flow_that_euler_samples_already_keeps_its_sampler() -> None:
    own = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert choose_scheduler(_Pipeline(own), "euler") is own
    assert choose_scheduler(_Pipeline(own), None) is own


def test_euler_of_diffusion_stays_the_class_of_that_name() -> None:
    own = diffusers.DPMSolverMultistepScheduler()
    assert isinstance(choose_scheduler(_Pipeline(own), "euler"), diffusers.EulerDiscreteScheduler)


def test_what_fits_a_flow_is_listed() -> None:
    with pytest.raises(
        UserError, match=r"'ddim' does not fit .* fitting: dpmsolver\+\+, euler, unipc, teacher"
    ):
        choose_scheduler(_Pipeline(_shipped()), "ddim")
    heun = diffusers.FlowMatchHeunDiscreteScheduler()
    with pytest.raises(UserError, match=r"'euler' does not fit .* fitting: teacher"):
        choose_scheduler(_Pipeline(heun), "euler")
