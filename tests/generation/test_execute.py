"""`generate` with real, tiny pipelines: complete, restartable, refusing what does not belong together."""

import dataclasses
import io
import math
import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from some_captions import TEXTS, add_captions

import processes
from stablerep.errors import UserError
from stablerep.generation import execute
from stablerep.generation.execute import GenerateConfig, generate
from stablerep.generation.shared_table import Tally
from stablerep.generation.teacher import load_teacher
from stablerep.generation.work import Outcome
from stablerep.runtime import seed_for
from stablerep.store import OK, REAL, ImageTable, caption_id

Make = Callable[..., GenerateConfig]
Builder = Callable[[str], Path]


def _rows(path: Path) -> pa.Table:
    table = ImageTable.open(path)
    keys = ("origin", "caption_id", "image_index")
    return table.read(table.schema.names).sort_by([(key, "ascending") for key in keys])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stable_diffusion", "pixart"])
def test_stored_pictures_equal_the_stock_call(name: str, config: Make, pipeline_folder: Builder) -> None:
    """From the caption table to the decoded bytes; every family paints as its stock call does in test_pipelines.py."""
    paint = config(teacher=str(pipeline_folder(name)), num_images=1, limit=4, seed=9)
    summary = generate(paint)
    assert (summary.painted, summary.failed, summary.already_there) == (4, 0, 0)

    prompts = sorted(TEXTS, key=caption_id)[:4]
    seeds = [seed_for(9, caption_id(prompt), 0) for prompt in prompts]
    pipeline = diffusers.DiffusionPipeline.from_pretrained(paint.teacher)
    pipeline.set_progress_bar_config(disable=True)
    exact = {"use_resolution_binning": False, "clean_caption": False} if name == "pixart" else {}
    images = pipeline(
        prompt=prompts,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        **{"num_inference_steps": 2, "guidance_scale": 2.0, **exact},
        output_type="np",
    ).images
    stored = {row["caption_id"]: row for row in _rows(paint.out).to_pylist()}
    for prompt, seed, image in zip(prompts, seeds, images, strict=True):
        row = stored[caption_id(prompt)]
        assert row["seed"] == seed
        assert np.array_equal(
            np.asarray(Image.open(io.BytesIO(row["image"]))), (image * 255).round().astype(np.uint8)
        )


def test_rows_say_where_they_come_from(config: Make) -> None:
    summary = generate(config())
    rows = _rows(config().out).to_pylist()
    assert len(rows) == summary.painted == 2 * len(TEXTS) and summary.num_captions == len(TEXTS)
    text_of = {caption_id(text): text for text in TEXTS}
    assert {(row["caption_id"], row["image_index"]) for row in rows} == {
        (i, k) for i in text_of for k in (0, 1)
    }
    for row in rows:
        text = text_of[row["caption_id"]]
        assert row["origin"] == summary.origin and row["origin"].startswith("pixart-")
        assert row["seed"] == seed_for(0, row["caption_id"], row["image_index"])
        assert (row["status"], row["reason"], row["width"], row["height"]) == (OK, None, 16, 16)
        assert (row["style"], row["licence"]) == (None, None)
        assert (row["group"], row["label"]) == (f"group of {text}", text.split()[-1])
        assert row["split"] == ("test" if text == TEXTS[-1] else "train")
    assert len({row["image"] for row in rows}) == len(rows)


@pytest.mark.slow
def test_styles_are_asked_for_in_turn_and_named_in_the_rows(config: Make) -> None:
    """The third picture is that of the first style again, and equals what its whole prompt gives on its own."""
    styled = config(styles=("in ink", "in oil"), num_images=3)
    generate(styled)
    rows = _rows(styled.out).to_pylist()
    turn = ("in ink", "in oil", "in ink")
    assert all(row["style"] == turn[row["image_index"]] for row in rows)
    teacher = load_teacher(styled.teacher, styled)
    by_key = {(row["caption_id"], row["image_index"]): row for row in rows}
    for index, style in enumerate(turn):
        row = by_key[caption_id(TEXTS[0]), index]
        painted = teacher.paint(teacher.encode([f"{TEXTS[0]}, {style}"]), [row["seed"]])
        stored = np.asarray(Image.open(io.BytesIO(row["image"]))).transpose(2, 0, 1)
        assert np.array_equal(stored, painted.pictures[0])
    with pytest.raises(UserError, match=r"styles: .* there, .* asked"):
        generate(config(num_images=3))


def test_second_run_paints_nothing(config: Make) -> None:
    generate(config())
    before = ImageTable.open(config().out)
    summary = generate(config())
    assert (summary.painted, summary.already_there) == (0, 2 * len(TEXTS))
    assert ImageTable.open(config().out).version == before.version


@pytest.mark.slow
def test_more_images_and_captions_paint_what_is_missing(config: Make, tmp_path: Path) -> None:
    generate(config(where="split = 'train'", num_images=1))
    add_captions(config().captions, ("a round leaf",))
    grown = generate(config(num_images=3))
    assert grown.already_there == len(TEXTS) - 1
    assert grown.painted == 3 * (len(TEXTS) + 1) - grown.already_there
    at_once = config(num_images=3, out=tmp_path / "at once.lance")
    generate(at_once)
    assert _rows(config().out).equals(_rows(at_once.out))


@pytest.mark.slow
def test_other_settings_are_refused_by_name(config: Make) -> None:
    generate(config())
    changes: dict[str, Any] = {"seed": 1, "guidance_scale": 3.0, "format": "webp", "batch_size": 3, "size": 8}
    for name, value in changes.items():
        with pytest.raises(UserError, match=rf"\b{name}: .* there, {value!r} asked"):
            generate(config(**{name: value}))
    with pytest.raises(UserError, match="num_inference_steps: 2 there, 3 asked"):
        generate(config(num_inference_steps=3, dry_run=True))
    assert len(ImageTable.open(config().out)) == 2 * len(TEXTS)


def test_real_pictures_in_the_table_do_not_count(config: Make) -> None:
    real = {"origin": REAL, "caption_id": caption_id(TEXTS[0]), "image_index": 0, "image": b"x", "status": OK}
    ImageTable.open_or_create(config().out).append([real])
    assert generate(config()).painted == 2 * len(TEXTS)


def test_same_teacher_under_another_path_goes_on(config: Make, tmp_path: Path) -> None:
    first = generate(config(num_images=1))
    moved = shutil.copytree(config().teacher, tmp_path / "moved")
    second = generate(config(teacher=str(moved)))
    assert second.origin == first.origin and second.already_there == len(TEXTS)


@pytest.mark.slow
def test_dry_run_counts_and_writes_nothing(config: Make) -> None:
    foreseen = generate(config(dry_run=True))
    assert not config().out.exists()
    assert (foreseen.missing, foreseen.painted, foreseen.already_there) == (2 * len(TEXTS), 0, 0)
    assert foreseen.estimated_bytes is not None and foreseen.estimated_seconds is not None
    assert foreseen.estimated_seconds > 0

    done = generate(config(num_images=1))
    assert done.origin == foreseen.origin
    size = sum(map(len, _rows(config().out)["image"].to_pylist()))
    assert 0.8 < foreseen.estimated_bytes / (2 * size) < 1.25
    before = sorted(config().out.rglob("*"))
    assert generate(config(dry_run=True)).missing == len(TEXTS)
    nothing_left = generate(config(dry_run=True, num_images=1))
    assert (nothing_left.missing, nothing_left.estimated_seconds, nothing_left.estimated_bytes) == (0, 0, 0)
    assert sorted(config().out.rglob("*")) == before


@pytest.mark.slow
def test_failures_are_rows_and_are_not_tried_again(
    config: Make, pipeline_folder: Builder, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(pipeline_folder("pixart"), tmp_path / "blank"))
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({name: value * 0 for name, value in load_file(weights).items()}, weights)
    summary = generate(config(teacher=str(folder), num_images=1))
    assert (summary.painted, summary.failed) == (0, len(TEXTS))
    assert list(summary.failures) == ["the picture is blank: every pixel is #808080"]
    for row in _rows(config().out).to_pylist():
        assert (row["status"], row["image"], row["width"]) == ("failed", None, None)
        assert row["reason"] == next(iter(summary.failures)) and row["seed"] is not None
    again = generate(config(teacher=str(folder), num_images=1))
    assert (again.failed, again.already_there) == (0, len(TEXTS))


def test_where_and_limit_choose_captions(config: Make) -> None:
    assert generate(config(where="split = 'test'", num_images=1)).painted == 1
    assert generate(config(limit=3, num_images=1)).painted == 3
    with pytest.raises(UserError, match="the filter 'splt = 1' is not valid"):
        generate(config(where="splt = 1"))
    with pytest.raises(UserError, match="nothing to paint"):
        generate(config(where="split = 'validation'"))


def test_missing_captions_are_an_error_of_one_sentence(config: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no caption table"):
        generate(config(captions=tmp_path / "nowhere.lance"))


@pytest.mark.parametrize(
    "options", [{"num_images": 0}, {"quality": 101}, {"size": 0}, {"batch_size": 0}, {"limit": 0}]
)
def test_impossible_values_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        GenerateConfig(**options)


def test_work_of_no_time_has_a_speed(config: Make) -> None:
    """The clock of some systems moves in steps of 16 ms."""
    outcome = Outcome("pixart-1", 1, 0, Tally(painted=2), 0.0, 0, None)
    summary = execute._summary(config(), [outcome])
    assert (summary.painted, summary.seconds) == (2, 0.0) and math.isfinite(summary.images_per_second)


@pytest.mark.slow
def test_one_process_per_device(config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes come from a server that has imported what spawned ones would, and is no fork of this one either."""
    processes.serve()
    monkeypatch.setattr(multiprocessing, "get_context", {"spawn": processes.CONTEXT}.__getitem__)
    outcomes = execute.paint_on(["cpu", "cpu"], config())
    assert sum(outcome.tally.painted for outcome in outcomes) == 2 * len(TEXTS)
    assert all(outcome.tally.painted >= 2 * (len(TEXTS) // 2) for outcome in outcomes)
    alone = dataclasses.replace(config(), out=tmp_path / "alone.lance")
    generate(alone)
    assert _rows(config().out).equals(_rows(alone.out))
