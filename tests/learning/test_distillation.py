"""Few-step painting: what the student is asked for, and that it then paints as its teacher does."""

import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler
from tiny_training import NUM_CAPTIONS, World, decode_png, text, train_config
from torch import Tensor

from stablerep.errors import UserError
from stablerep.generation.settings import PaintConfig
from stablerep.generation.teacher import load_teacher
from stablerep.learning.distillation import Distillation, DistillationConfig
from stablerep.learning.method import Batch
from stablerep.learning.methods import METHODS

N, V = 4, 2
TEXTS = [text(number) for number in range(NUM_CAPTIONS)]


def student(world: World, **changes: Any) -> Distillation:
    config = train_config("distillation", world, Path("unused"), method=changes)
    learner = METHODS["distillation"].build(config)
    assert isinstance(learner, Distillation)
    return learner.train()


def batch(learner: Distillation, texts: Sequence[str] = TEXTS[:N]) -> Batch:
    pictures = [decode_png(100 * number + view) for number in range(N) for view in range(V)]
    return {
        "image": torch.stack(pictures).unflatten(0, (N, V)),
        "valid": torch.ones(N, V, dtype=torch.bool),
        "seed": torch.tensor([21, 22, 23, 24]),
        "tokens": learner.tokenize(texts),
    }


def test_one_step_for_one_without_guidance_is_nothing_to_learn(world: World) -> None:
    learner = student(world, substeps=1, guidance_scale=1.0)
    learner.told.copy_(learner.levels[:-1])  # as if the sampler did not cut them
    data = batch(learner)
    assert float(learner.loss(learner.encode(data), data).loss.detach()) < 1e-10
    guided = student(world, substeps=1, guidance_scale=3.0)
    assert float(guided.loss(guided.encode(data), data).loss.detach()) > 1e-6


def stock_step(
    pipeline: Any, latents: Tensor, prompt: str, levels: Sequence[float], guidance: float
) -> Tensor:
    """Euler steps between levels as a stock pipeline would take them, with its own text and its own guidance."""
    embeds, mask, negative, negative_mask = pipeline.encode_prompt(prompt, max_sequence_length=8)
    for here, there in itertools.pairwise(levels):
        both = pipeline.transformer(
            torch.cat([latents, latents]),
            encoder_hidden_states=torch.cat([negative, embeds]),
            encoder_attention_mask=torch.cat([negative_mask, mask]),
            timestep=torch.full((2,), 1000 * here),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample
        plain, asked = both.chunk(2)
        latents = latents + (there - here) * (plain + guidance * (asked - plain))
    return latents


@pytest.mark.slow
def test_the_student_is_asked_to_arrive_where_the_guided_teacher_does(world: World) -> None:
    """Against the stock transformer, driven step by step in the plain way."""
    learner = student(world, num_inference_steps=2, substeps=3, guidance_scale=2.5)
    pipeline = DiffusionPipeline.from_pretrained(world.painter)
    calls: list[Tensor] = []
    learner.student["transformer"].register_forward_pre_hook(
        lambda _module, args, kwargs: calls.extend([args[0], kwargs["timestep"]]), with_kwargs=True
    )
    data = batch(learner)
    velocity = learner.encode(data)["velocity"]
    noisy, timestep = calls
    grid = [float(level) for level in learner.levels]
    assert grid == [pytest.approx(0.999), pytest.approx(0.4995), 0.0]
    starts = set()
    for row in range(N * V):
        number = [999, 499].index(round(float(timestep[row]), 2))
        starts.add(number)
        begin, end = grid[number : number + 2]
        levels = [begin + (end - begin) * part / 3 for part in range(4)]
        with torch.no_grad():
            arrived = stock_step(pipeline, noisy[row : row + 1], TEXTS[row // V], levels, 2.5)
        expected = (arrived - noisy[row : row + 1]) / (end - begin)
        torch.testing.assert_close(velocity[row : row + 1], expected, atol=1e-4, rtol=1e-4)
    assert starts == {0, 1}, "every step of the student is drawn"


@pytest.mark.parametrize("num_steps", [2, *(pytest.param(num, marks=pytest.mark.slow) for num in (3, 4, 8))])
def test_the_student_is_told_the_times_that_it_paints_at(
    num_steps: int, world: World, tmp_path: Path
) -> None:
    """Those of the stock sampler, which cuts them to whole numbers; the teacher is asked at the exact levels."""
    learner = student(world, num_inference_steps=num_steps, substeps=1)
    asked: dict[str, set[float]] = {"student": set(), "teacher": set()}
    for name, seen in asked.items():
        getattr(learner, name)["transformer"].register_forward_pre_hook(
            lambda _module, _, given, seen=seen: seen.update(given["timestep"].tolist()), with_kwargs=True
        )
    data = batch(learner)
    with torch.no_grad():
        for number in range(8):
            learner.encode(data | {"seed": data["seed"] + 100 * number})
    scheduler = DPMSolverMultistepScheduler.from_pretrained(learner.export(tmp_path), subfolder="scheduler")
    scheduler.set_timesteps(num_steps)
    for name, times in (("student", scheduler.timesteps), ("teacher", 1000 * scheduler.sigmas[:-1])):
        found = torch.tensor(sorted(asked[name], reverse=True))
        torch.testing.assert_close(found, times.float(), rtol=0, atol=1e-3)


def test_the_shipped_guidance_is_the_default_and_the_student_needs_none(world: World, tmp_path: Path) -> None:
    learner = student(world)
    assert learner.guidance_scale == 4.0  # what the painter's folder says
    teacher = load_teacher(str(learner.export(tmp_path)), PaintConfig(dtype="float32"))
    assert teacher.settings["guidance_scale"] == 1.0
    assert teacher.settings["num_inference_steps"] == 2
    assert teacher.settings["scheduler"]["solver_order"] == 1
    assert teacher.styles == ("ink", "brush")


def test_guidance_is_taken_over_where_the_teacher_guides(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.painter, tmp_path / "teacher")
    said = json.loads((world.painter / "stablerep.json").read_text()) | {"guidance_interval": [0.2, 0.6]}
    (tmp_path / "teacher" / "stablerep.json").write_text(json.dumps(said))
    always = student(world, guidance_scale=3.0)
    limited = student(world, guidance_scale=3.0, teacher=str(tmp_path / "teacher"))
    tokens, level = always.tokenize(TEXTS[:3]), torch.tensor([0.1, 0.4, 0.9])
    noisy = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        asked = always.velocity(always.teacher, noisy, level, tokens)
        guided, found = (learner._guided(noisy, level, tokens) for learner in (always, limited))
    torch.testing.assert_close(found, torch.stack([asked[0], guided[1], asked[2]]))
    assert not torch.allclose(asked, guided, atol=1e-4)


def test_the_exported_sampler_takes_the_steps_that_were_learned(world: World, tmp_path: Path) -> None:
    """Its levels are those of training, and between them it takes plain Euler steps."""
    learner = student(world, num_inference_steps=3)
    scheduler = DiffusionPipeline.from_pretrained(learner.export(tmp_path)).scheduler
    scheduler.set_timesteps(3)
    torch.testing.assert_close(scheduler.sigmas, learner.levels)
    torch.manual_seed(0)
    sample = torch.randn(1, 4, 8, 8)
    for number, step in enumerate(scheduler.timesteps):
        velocity = torch.randn(1, 4, 8, 8)
        euler = sample + (learner.levels[number + 1] - learner.levels[number]) * velocity
        sample = scheduler.step(velocity, step, sample).prev_sample
        torch.testing.assert_close(sample, euler, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_only_the_student_learns_and_it_does(world: World) -> None:
    learner = student(world, guidance_scale=4.0)
    data = batch(learner)
    before = {name: value.clone() for name, value in learner.teacher.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in learner.parameters() if p.requires_grad], lr=4e-3)
    losses = []
    for step in range(35):
        drawn = data | {"seed": data["seed"] + 100 * (step % 5)}
        loss = learner.loss(learner.encode(drawn), drawn).loss
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10]), losses
    assert all(torch.equal(value, before[name]) for name, value in learner.teacher.state_dict().items())
    assert all(name.startswith("student.") for name, one in learner.named_parameters() if one.requires_grad)


def test_what_is_no_painter_of_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown teacher"):
        Distillation(DistillationConfig(teacher=str(tmp_path / "none")))
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="other was not exported by `train text-to-image`, and only such"):
        Distillation(DistillationConfig(teacher=str(tmp_path / "other")))
    with pytest.raises(ValueError, match="num_inference_steps must be at least 2"):
        DistillationConfig(teacher="icons", num_inference_steps=1)
    with pytest.raises(ValueError, match="guidance_scale must be at least 1"):
        DistillationConfig(teacher="icons", guidance_scale=0.5)
