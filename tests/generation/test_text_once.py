"""Layers that see nothing but text compute it once a batch; the pictures stay the same to the bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from stablerep.generation.denoiser import denoiser_of
from stablerep.generation.settings import PaintConfig
from stablerep.generation.teacher import load_teacher
from stablerep.generation.text_once import read_text_once, text_layers

# Joint attention changes the text from block to block.
HAS_CROSS_ATTENTION = {
    "stable_diffusion": True,
    "pixart": True,
    "sana": True,
    "stable_diffusion_3": False,
    "flux": False,
}
STEPS = 3


def calls_of(denoiser: Any) -> list[Tensor]:
    """What its text layers compute from now on."""
    computed: list[Tensor] = []
    for layer in text_layers(denoiser):
        weight = next(layer.parameters())

        def counted(
            text: Tensor, forward: Callable[[Tensor], Tensor] = layer.forward, of: Tensor = weight
        ) -> Tensor:
            computed.append(of)
            return forward(text)

        layer.forward = counted
    return computed


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "pixart" else pytest.mark.slow) for name in HAS_CROSS_ATTENTION],
)
def test_text_is_read_once_a_batch_and_pictures_stay_the_same(
    name: str, pipeline_folder: Callable[[str], Path]
) -> None:
    folder = pipeline_folder(name)
    size = {"flux": 16, "sana": 32}.get(name)
    options = {"num_inference_steps": STEPS, "output_type": "pt", "height": size, "width": size}
    stock = {"use_resolution_binning": False, "clean_caption": False} if name in ("pixart", "sana") else {}

    def painted(pipeline: Any, prompts: list[str]) -> Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
        pictures: Tensor = pipeline(
            prompts, generator=generators, guidance_scale=3.0, **options, **stock
        ).images
        return pictures

    def opened() -> Any:
        pipeline = DiffusionPipeline.from_pretrained(folder)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    plain, once = opened(), opened()
    computed = calls_of(denoiser_of(once))
    num_layers = len(list(text_layers(denoiser_of(once))))
    assert (num_layers > 0) == HAS_CROSS_ATTENTION[name]
    read_text_once(once)
    # The third batch asks for what the first did, after another: nothing of the second may be left.
    batches = [["a red cat", "the sun"], ["two dogs", "a blue boat"], ["a red cat", "the sun"]]
    for number, prompts in enumerate(batches, start=1):
        assert torch.equal(painted(once, prompts), painted(plain, prompts))
        assert len(computed) == number * num_layers
        assert len({id(layer) for layer in computed}) == num_layers


def test_a_teacher_reads_text_once_where_it_is_not_compiled(pipeline_folder: Callable[[str], Path]) -> None:
    asked = {"num_inference_steps": STEPS, "guidance_scale": 3.0, "batch_size": 2, "dtype": "float32"}
    teacher = load_teacher(str(pipeline_folder("pixart")), PaintConfig(**asked, guidance_interval=(0.4, 1.0)))
    model = denoiser_of(teacher.pipeline)  # type: ignore[attr-defined]  # a diffusers pipeline
    seen: list[int] = []
    model.caption_projection.linear_1.register_forward_pre_hook(
        lambda _module, args: seen.append(len(args[0]))
    )
    teacher.paint(teacher.encode(["a red cat", "the sun"]), [1, 2])
    assert seen == [4, 2], "once with guidance, once for the steps without it"
