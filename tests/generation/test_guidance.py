"""Guidance in an interval: the same pictures as guiding by hand, and half the work outside."""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from generation import tiny_pipelines
from stablerep.errors import UserError
from stablerep.generation.guidance import NOISE_TIMES, guide_within
from stablerep.generation.pipelines import CONDITIONING
from stablerep.generation.settings import PaintConfig
from stablerep.generation.teacher import load_teacher


def aura_flow(folder: Path) -> None:
    """The pipeline that counts time from 0 to 1."""
    torch.manual_seed(7)
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=16, pos_embed_max_size=64,
    )  # fmt: skip
    tokenizer = tiny_pipelines.t5_tokenizer()
    diffusers.AuraFlowPipeline(
        transformer=transformer, vae=tiny_pipelines.autoencoder(), tokenizer=tokenizer,
        text_encoder=tiny_pipelines.t5_text(len(tokenizer)), scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    ).save_pretrained(folder)  # fmt: skip


KINDS = ("stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3", "pixart", "sana", "aura_flow")
SIDES = {"sana": 32, "aura_flow": 16}  # their stock calls paint 1024 pixels, whatever the size of the model
PROMPTS, SEEDS = ["a red apple", "two dogs", "the sea"], [1, 2, 3]

Guided = Callable[[str], tuple[Tensor, list[int]]]


@pytest.fixture(scope="module")
def folders(
    pipeline_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    flow = tmp_path_factory.mktemp("teachers") / "aura_flow"
    aura_flow(flow)
    return {name: flow if name == flow.name else pipeline_folder(name) for name in KINDS}


def painted(folder: Path, **changes: Any) -> tuple[Tensor, list[int]]:
    """Pictures, and how many rows the model was given at each step."""
    asked = {"num_inference_steps": 6, "guidance_scale": 5.0, "dtype": "float32", "batch_size": 3}
    if folder.name in SIDES:
        asked |= {"height": SIDES[folder.name], "width": SIDES[folder.name]}
    teacher = load_teacher(str(folder), PaintConfig(**(asked | changes)))
    pipe = teacher._pipe
    model = getattr(pipe, "transformer", None) or pipe.unet
    rows: list[int] = []
    convolutions = (module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    first = next(convolutions, None) or model.pos_embed  # AuraFlow's patches go through a matrix
    first.register_forward_pre_hook(lambda _module, args: rows.append(len(args[0])))
    return teacher.paint(teacher.encode(PROMPTS), SEEDS).pictures, rows


@pytest.fixture(scope="module")
def guided(folders: dict[str, Path]) -> Guided:
    """What each kind paints that guides at every step, painted once."""
    return functools.cache(lambda kind: painted(folders[kind]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_ends_of_the_interval_are_full_guidance_and_none(
    folders: dict[str, Path], guided: Guided, kind: str
) -> None:
    pictures, rows = guided(kind)
    everywhere, _ = painted(folders[kind], guidance_interval=(0.0, 1.0))
    assert torch.equal(everywhere, pictures)
    assert set(rows) == {6}
    nowhere, rows = painted(folders[kind], guidance_interval=(2.0, 3.0))
    assert set(rows) == {3}
    plain, _ = painted(folders[kind], guidance_scale=1.0)
    difference = (nowhere.float() - plain.float()).abs()
    assert float(difference.max()) <= 1, "without guidance, but for the rounding of one level"
    assert not torch.equal(nowhere, pictures)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_inside_the_interval_the_model_sees_both_and_outside_one(
    folders: dict[str, Path], guided: Guided, kind: str
) -> None:
    middle, rows = painted(folders[kind], guidance_interval=(0.3, 0.7))
    assert set(rows) == {3, 6}
    assert rows[0] == rows[-1] == 3
    assert not torch.equal(middle, guided(kind)[0])


def test_the_fingerprint_tells_intervals_apart_and_leaves_old_tables_alone(folders: dict[str, Path]) -> None:
    plain = load_teacher(str(folders["pixart"]), PaintConfig()).settings
    assert "guidance_interval" not in plain
    limited = load_teacher(str(folders["pixart"]), PaintConfig(guidance_interval=(0.2, 0.9))).settings
    assert limited == plain | {"guidance_interval": [0.2, 0.9]}


def test_a_teacher_may_have_an_interval_of_its_own(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "teacher"
    shutil.copytree(folders["pixart"], folder)
    (folder / "stablerep.json").write_text('{"guidance_interval": [0.1, 0.8]}')
    assert load_teacher(str(folder), PaintConfig()).settings["guidance_interval"] == [0.1, 0.8]


def test_what_makes_no_sense_is_refused() -> None:
    for wrong in ((0.9, 0.2), (-0.1, 0.5), (0.5, 0.5)):
        with pytest.raises(ValueError, match="guidance_interval must be two times in order"):
            PaintConfig(guidance_interval=wrong)


def test_pipelines_that_guide_in_another_way_are_refused(tmp_path: Path) -> None:
    """An option that does nothing must not tell tables apart."""
    tiny_pipelines.flux(tmp_path)
    with pytest.raises(UserError, match=r"how FluxPipeline guides is not known.*leave it out.*PixArtAlpha"):
        load_teacher(str(tmp_path), PaintConfig(guidance_interval=(0.2, 0.9)))
    assert set(CONDITIONING) - set(NOISE_TIMES) == {"FluxPipeline"}
    assert all(hasattr(diffusers, name) for name in NOISE_TIMES)


def test_samplers_with_times_of_their_own_are_refused(folders: dict[str, Path]) -> None:
    pipeline = diffusers.StableDiffusionXLPipeline.from_pretrained(folders["stable_diffusion_xl"])
    pipeline.scheduler = diffusers.EDMEulerScheduler()
    with pytest.raises(UserError, match=r"EDMEulerScheduler does not count time from 0.*another sampler"):
        guide_within(pipeline, (0.1, 0.9), 4)


def test_what_a_stock_pipeline_cannot_do_is_said(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="does not paint in one step with DPMSolverMultistepScheduler; give"):
        painted(folders["pixart"], num_inference_steps=1, scheduler="dpmsolver++")
    assert len(painted(folders["pixart"], num_inference_steps=1, scheduler="ddim")[0]) == 3
