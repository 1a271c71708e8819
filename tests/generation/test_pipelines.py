"""The adapter: the same pictures as the stock call, whatever the family and whatever the companions."""

import inspect
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_pipelines import BUILDERS

from stablerep.errors import UserError
from stablerep.generation import pipelines
from stablerep.generation.pipelines import CONDITIONING, DiffusersTeacher
from stablerep.generation.schedulers import SCHEDULERS
from stablerep.generation.settings import PaintConfig
from stablerep.generation.teacher import load_teacher, origin_name

Builder = Callable[[str], Path]

PROMPTS = ["a red cat", "the small dog", "sun", "a house with the blue boat and the round sun"]
SEEDS = [3, 14, 15, 2**62 + 9]
SIZES = {"flux": 16, "sana": 32}
STOCK_ONLY: dict[str, dict[str, Any]] = {
    name: {"use_resolution_binning": False, "clean_caption": False} for name in ("pixart", "sana")
}
# What has to be said to diffusers beside the folder.
LEFT_OUT = {"stable_diffusion_3_without_t5": {"text_encoder_3": None, "tokenizer_3": None}}


def _teacher(folder: Path, name: str, **options: Any) -> DiffusersTeacher:
    size = SIZES.get(name)
    quick: dict[str, Any] = {"num_inference_steps": 2, "batch_size": 4, "device": "cpu", "dtype": "float32"}
    quick |= {"height": size, "width": size}
    return load_teacher(str(folder), PaintConfig(**{**quick, **options}))


def _stock(
    folder: Path, name: str, prompts: Sequence[str], seeds: Sequence[int], **options: Any
) -> torch.Tensor:
    """What a user of diffusers alone would get."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, **LEFT_OUT.get(name, {}))
    pipeline.set_progress_bar_config(disable=True)
    size = {"height": SIZES[name], "width": SIZES[name]} if name in SIZES else {}
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    call = {"num_inference_steps": 2, "guidance_scale": 2.0, **size, **STOCK_ONLY.get(name, {}), **options}
    images = pipeline(prompt=list(prompts), generator=generators, output_type="pt", **call).images
    return (images * 255).round().to(torch.uint8)


def _paint(teacher: DiffusersTeacher, prompts: Sequence[str], seeds: Sequence[int]) -> torch.Tensor:
    painted = teacher.paint(teacher.encode(prompts), seeds)
    assert painted.reasons == [None] * len(seeds)
    return painted.pictures


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "pixart" else pytest.mark.slow) for name in BUILDERS]
)
def test_pictures_equal_the_stock_call(name: str, pipeline_folder: Builder) -> None:
    folder = pipeline_folder(name)
    expected = _stock(folder, name, PROMPTS, SEEDS)
    assert expected.float().std() > 1 and not torch.equal(expected[0], expected[1])
    assert torch.equal(_paint(_teacher(folder, name), PROMPTS, SEEDS), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stable_diffusion", "pixart"])
def test_negative_prompt_equals_the_stock_call(name: str, pipeline_folder: Builder) -> None:
    folder = pipeline_folder(name)
    expected = _stock(folder, name, PROMPTS, SEEDS, negative_prompt=["blue boat"] * 4)
    teacher = _teacher(folder, name, negative_prompt="blue boat")
    assert torch.equal(_paint(teacher, PROMPTS, SEEDS), expected)
    assert torch.equal(
        _paint(teacher, PROMPTS, SEEDS), expected
    )  # from the negative prompt kept by the first call
    assert not torch.equal(_paint(_teacher(folder, name), PROMPTS, SEEDS), expected)


def test_pipeline_without_listed_conditioning_is_given_text(
    pipeline_folder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pipeline_folder("stable_diffusion")
    assert _teacher(folder, "stable_diffusion", batch_size=None).batch_size == 8
    monkeypatch.delitem(pipelines.CONDITIONING, "StableDiffusionPipeline")
    assert _teacher(folder, "stable_diffusion", batch_size=None).batch_size == 1, "no companions"
    teacher = _teacher(folder, "stable_diffusion", negative_prompt="dog")
    assert teacher.encode(["sun"]) == [{"prompt": "sun"}]
    expected = _stock(folder, "stable_diffusion", PROMPTS, SEEDS, negative_prompt=["dog"] * 4)
    assert torch.equal(_paint(teacher, PROMPTS, SEEDS), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "float32") for name in BUILDERS), ("pixart", "bfloat16")]
)
def test_picture_depends_on_the_batch_size_alone(name: str, dtype: Any, pipeline_folder: Builder) -> None:
    """Neither companions, nor the place in the batch, nor padding, nor whom it was encoded with, move one bit."""
    teacher = _teacher(pipeline_folder(name), name, dtype=dtype)
    together = _paint(teacher, PROMPTS, SEEDS)
    backwards = _paint(teacher, PROMPTS[::-1], SEEDS[::-1])
    assert torch.equal(backwards.flip(0), together)
    alone = torch.cat(
        [_paint(teacher, [prompt], [seed]) for prompt, seed in zip(PROMPTS, SEEDS, strict=True)]
    )
    assert torch.equal(alone, together)
    crowd = teacher.encode(["boat", "boat", *PROMPTS])
    assert torch.equal(teacher.paint(crowd[3:6], SEEDS[1:4]).pictures, together[1:4])


@pytest.mark.parametrize("name", ["stable_diffusion", "pixart"])
def test_prompt_is_encoded_once(name: str, pipeline_folder: Builder) -> None:
    teacher = _teacher(pipeline_folder(name), name)
    encoder = teacher._pipe.text_encoder
    sizes: list[int] = []
    encoder.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(len((*args, *kwargs.values())[0])), with_kwargs=True
    )
    conditionings = teacher.encode([*PROMPTS, "boat"])
    for seed in range(3):
        teacher.paint(conditionings[:4], [seed] * 4)
    assert sizes == [
        4,
        4,
        4,
    ]  # four prompts, their negative prompt, and the fifth one padded; painting adds nothing


def test_listed_conditionings_are_what_diffusers_takes() -> None:
    for name, tensors in CONDITIONING.items():
        kind = getattr(diffusers, name)
        assert not hasattr(kind, "_backends"), f"{name} is a stand-in: diffusers misses a package for it"
        parameters = inspect.signature(kind.__call__).parameters
        assert [tensor for tensor in tensors if tensor not in parameters] == (
            ["text_ids"] if "Flux" in name else []
        )
        returned = inspect.getsource(kind.encode_prompt).rstrip().splitlines()[-1].strip()
        assert returned == f"return {', '.join(tensors)}"


@pytest.mark.parametrize(
    "scheduler",
    [
        pytest.param(name, marks=() if name == "ddim" else pytest.mark.slow)
        for name in SCHEDULERS
        if name != "teacher"
    ],
)
def test_every_sampler_paints(scheduler: Any, pipeline_folder: Builder) -> None:
    teacher = _teacher(pipeline_folder("stable_diffusion"), "stable_diffusion", scheduler=scheduler)
    assert teacher.settings["scheduler"]["class"] == SCHEDULERS[scheduler]
    assert _paint(teacher, PROMPTS, SEEDS).float().std() > 1


@pytest.mark.slow
def test_published_sampler_is_the_default_only_where_it_fits(
    pipeline_folder: Builder, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(pipeline_folder("stable_diffusion"), tmp_path / "euler"))
    own = diffusers.EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, scheduler=own)
    pipeline.save_pretrained(folder)
    taken = _teacher(folder, "stable_diffusion").settings["scheduler"]
    assert taken["class"] == "DDIMScheduler" and taken["beta_end"] == 0.012
    assert taken["clip_sample"] is False  # latents reach beyond [-1, 1]
    kept = _teacher(folder, "stable_diffusion", scheduler="teacher").settings["scheduler"]
    assert kept["class"] == "EulerDiscreteScheduler"
    flow = _teacher(pipeline_folder("stable_diffusion_3"), "stable_diffusion_3").settings["scheduler"]
    assert flow["class"] == "FlowMatchEulerDiscreteScheduler"
    with pytest.raises(UserError, match=r"'ddim' does not fit .* fitting: euler, teacher"):
        _teacher(pipeline_folder("stable_diffusion_3"), "stable_diffusion_3", scheduler="ddim")


def test_published_settings_are_the_defaults(pipeline_folder: Builder) -> None:
    settings = load_teacher(str(pipeline_folder("stable_diffusion")), PaintConfig(device="cpu")).settings
    assert (settings["num_inference_steps"], settings["guidance_scale"]) == (50, 2.0)
    assert settings["scheduler"]["class"] == "DDIMScheduler"


def test_folder_states_its_own_defaults(pipeline_folder: Builder, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pipeline_folder("pixart"), tmp_path / "own"))
    (folder / "stablerep.json").write_text(
        '{"num_inference_steps": 3, "guidance_scale": 1.5, "batch_size": 2, "max_sequence_length": 12, '
        '"scheduler": "dpmsolver++", "dtype": "bfloat16", "height": 32, "width": 16}'
    )
    teacher = load_teacher(str(folder), PaintConfig(device="cpu", guidance_scale=4.0))
    found = {
        name: teacher.settings[name]
        for name in ("num_inference_steps", "guidance_scale", "batch_size", "dtype")
    }
    assert found == {"num_inference_steps": 3, "guidance_scale": 4.0, "batch_size": 2, "dtype": "bfloat16"}
    assert teacher.settings["attention"] == "plain"
    conditioning = teacher.encode(["sun"])[0]
    assert conditioning["prompt_embeds"].shape[1] == 12  # type: ignore[union-attr]
    assert teacher.paint([conditioning], [1]).pictures.shape == (1, 3, 32, 16)


@pytest.mark.slow
def test_plain_attention_is_the_same_mathematics(pipeline_folder: Builder) -> None:
    fused = _paint(_teacher(pipeline_folder("pixart"), "pixart"), PROMPTS, SEEDS)
    plain = _paint(_teacher(pipeline_folder("pixart"), "pixart", attention="plain"), PROMPTS, SEEDS)
    assert (fused.int() - plain.int()).abs().max() <= 1


def test_blank_pictures_are_failures(pipeline_folder: Builder, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pipeline_folder("pixart"), tmp_path / "blank"))
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({name: value * 0 for name, value in load_file(weights).items()}, weights)
    painted = _teacher(folder, "pixart")
    result = painted.paint(painted.encode(PROMPTS[:2]), SEEDS[:2])
    assert all(reason is not None and "blank" in reason for reason in result.reasons)


@pytest.mark.slow
def test_settings_name_what_moves_pixels(pipeline_folder: Builder) -> None:
    base = _teacher(pipeline_folder("pixart"), "pixart")
    assert base.settings == _teacher(pipeline_folder("pixart"), "pixart").settings
    options: list[dict[str, Any]] = [
        {"num_inference_steps": 3},
        {"guidance_scale": 3.0},
        {"negative_prompt": "dog"},
        {"scheduler": "unipc"},
        {"height": 32},
        {"dtype": "bfloat16"},
        {"attention": "plain"},
        {"batch_size": 2},
    ]
    names = {
        origin_name("t", _teacher(pipeline_folder("pixart"), "pixart", **option).settings)
        for option in options
    }
    assert len(names | {origin_name("t", base.settings)}) == len(options) + 1
    assert base.settings["threads"] == torch.get_num_threads() and base.settings["device"] == "cpu"


def test_unused_settings_are_refused_or_left_out(pipeline_folder: Builder) -> None:
    with pytest.raises(UserError, match="does not take a negative prompt"):
        _teacher(pipeline_folder("flux"), "flux", negative_prompt="dog")


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        ("stable_diffusion", {"height": 20}, r"height 20 and width 16, .* painted 16 x 16; give both"),
        ("stable_diffusion", {"height": 10, "width": 10}, "divisible by 8 but are 10 and 10"),
        ("stable_diffusion", {"num_inference_steps": 1001}, "1001 cannot be larger"),
        pytest.param("flux", {"height": 18}, "height 18 .* painted 16 x 16", marks=pytest.mark.slow),
    ],
)
def test_pictures_are_of_the_size_asked_or_refused(
    name: str, wrong: dict[str, Any], says: str, pipeline_folder: Builder
) -> None:
    """Stock calls raise, or paint another size in silence, under a fingerprint that would say the one asked."""
    teacher = _teacher(pipeline_folder(name), name, **wrong)
    with pytest.raises(UserError, match=says):
        teacher.paint(teacher.encode(PROMPTS), SEEDS)
    with pytest.raises(ValueError, match="guidance_scale must be finite, got nan"):
        PaintConfig(guidance_scale=float("nan"))


def test_switches_of_the_pipeline_are_in_the_fingerprint(pipeline_folder: Builder, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pipeline_folder("stable_diffusion_xl"), tmp_path / "switched"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "force_zeros_for_empty_prompt": False}))
    stock = _teacher(pipeline_folder("stable_diffusion_xl"), "stable_diffusion_xl")
    switched = _teacher(folder, "stable_diffusion_xl")
    assert not torch.equal(_paint(stock, PROMPTS, SEEDS), _paint(switched, PROMPTS, SEEDS))
    assert "switches" not in stock.settings
    assert switched.settings == {**stock.settings, "switches": {"force_zeros_for_empty_prompt": False}}


@pytest.mark.slow
def test_cut_prompts_are_counted_not_printed(
    pipeline_folder: Builder, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, num_cut in (("stable_diffusion", 2), ("pixart", 0)):
        teacher = _teacher(pipeline_folder(name), name)
        teacher.encode(["sun", "a red cat", "the small brown dog", "a house with the blue boat"])
        assert teacher.num_truncated == num_cut
        assert teacher.truncated_example == ("the small brown dog" if num_cut else None)
    assert "truncated" not in capfd.readouterr().err


def test_image_to_image_pipeline_is_refused(pipeline_folder: Builder, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pipeline_folder("stable_diffusion"), tmp_path / "unconditional"))
    index = (folder / "model_index.json").read_text().replace('"StableDiffusionPipeline"', '"DDPMPipeline"')
    (folder / "model_index.json").write_text(index)
    with pytest.raises(UserError):
        _teacher(folder, "stable_diffusion")


def test_damaged_folder_is_an_error_of_one_sentence(pipeline_folder: Builder, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pipeline_folder("pixart"), tmp_path / "damaged"))
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot be loaded"):
        _teacher(folder, "pixart")


@pytest.mark.parametrize("part", ["transformer/diffusion_pytorch_model", "text_encoder/model"])
def test_weights_of_which_a_part_was_copied_are_an_error_of_one_sentence(
    part: str, pipeline_folder: Builder, tmp_path: Path
) -> None:
    """Diffusers reads the painter, and transformers, which complains in its own way, the text encoder."""
    folder = Path(shutil.copytree(pipeline_folder("pixart"), tmp_path / "torn"))
    weights = folder / f"{part}.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"teacher .*torn cannot be loaded: "):
        _teacher(folder, "pixart")
