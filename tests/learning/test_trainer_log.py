"""What a training says of itself: the log, the curves, the trace, the checkpoints."""

import dataclasses
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from run_files import OF_EVERY_RUN, PRODUCTS, files, killed_at, log, state
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_training import (
    World,
    train_config,
    weights,
)

from stablerep import runtime
from stablerep.learning import trainer
from stablerep.learning.data import DataConfig
from stablerep.learning.methods import train
from stablerep.learning.optim import lr_at
from stablerep.learning.trainer import TrainConfig
from stablerep.run import Run

# Forward products of the tiny encoder, twice that for backward, but for the gradient of the pixels.
_PATCHES, _BLOCK = 4 * 3 * 8 * 8 * 24, 5 * 12 * 24**2 + 2 * 5**2 * 24
FLOPS_PER_IMAGE = 2 * (2 * _PATCHES + 3 * _BLOCK)


# -- the log -----------------------------------------------------------------------------------------


def test_the_log_says_what_was_done(world: World, whole: Any) -> None:
    config = train_config("simclr", world, Path("unused"))
    records = Run.open(whole("simclr")).metrics()
    assert [record["step"] for record in records] == list(range(1, 8))
    assert [record["images_seen"] for record in records] == [8 * step for step in range(1, 8)]
    rates = [lr_at(config.optim, 3e-3, step, 7) for step in range(7)]
    assert [record["learning_rate"] for record in records] == rates
    assert all(record["gradient_norm"] > 0 and record["images_per_second"] > 0 for record in records)
    assert all(-1 <= record["positive_similarity"] <= 1 for record in records)
    rate = runtime.matmul_rate(torch.float32, torch.device("cpu"))
    for record in records:
        flops = record["model_flops_per_second"]
        assert flops == pytest.approx(FLOPS_PER_IMAGE * record["images_per_second"])
        assert flops / record["share_of_matmul_rate"] == pytest.approx(rate), "measured once in a process"


def test_steps_are_traced_into_the_run_folder(world: World, tmp_path: Path) -> None:
    train("simclr", train_config("simclr", world, tmp_path / "run", profile=2))
    trace = json.loads((tmp_path / "run" / "trace.json").read_text())
    steps = {event["name"] for event in trace["traceEvents"] if "ProfilerStep" in event.get("name", "")}
    assert steps == {"ProfilerStep#2", "ProfilerStep#3"}
    assert set(files(tmp_path / "run")) == OF_EVERY_RUN | PRODUCTS["simclr"] | {"trace.json"}


@pytest.mark.slow
def test_every_step_has_its_rate_and_tells_the_method(world: World, whole: Any) -> None:
    run, config = whole("text-to-image"), train_config("text-to-image", world, Path("unused"))
    groups = torch.load(run / "checkpoint.pt", weights_only=True)["optimizer"]["param_groups"]
    assert [group["lr"] for group in groups] == [lr_at(config.optim, 3e-3, 6, 7)] * 2
    saved = weights(run)
    assert int(saved["num_updates"]) == 7
    name = "transformer.proj_out.weight"
    assert not torch.equal(saved[f"average.{name}"], saved[f"student.{name}"])


def test_gradients_are_clipped_to_the_norm(world: World, tmp_path: Path) -> None:
    config = train_config("simclr", world, tmp_path / "run", num_steps=1, optim={"clip_norm": 1e-3})
    train("simclr", config)
    moments = [value for name, value in state(tmp_path / "run").items() if name.endswith("exp_avg")]
    norm = float(torch.cat([moment.flatten() for moment in moments]).norm())
    assert norm == pytest.approx((1 - config.optim.beta1) * 1e-3, rel=1e-3)
    assert log(tmp_path / "run")[0]["gradient_norm"] > 1e-2, "logged is the norm before clipping"


@pytest.mark.slow
def test_checkpoints_are_saved_as_often_as_asked(world: World, tmp_path: Path) -> None:
    for moment, saved in ((2, None), (4, 3), (8, 6)):
        with killed_at(moment):
            train("simclr", train_config("simclr", world, tmp_path / "run", save_every=3, num_steps=9))
        checkpoint = Run.open(tmp_path / "run").load_checkpoint()
        assert (checkpoint and checkpoint["step"]) == saved


def test_only_some_steps_are_logged_and_the_ends_always(world: World, tmp_path: Path) -> None:
    config = train_config("simclr", world, tmp_path / "run", log_every=3, num_steps=8)
    summary = train("simclr", config)
    assert [record["step"] for record in log(summary.run)] == [1, 3, 6, 8]
    assert summary.loss == log(summary.run)[-1]["loss"]
    assert (summary.num_steps, summary.images_seen) == (8, 64)


def test_curves_are_complete_and_without_loops(world: World, whole: Any, tmp_path: Path) -> None:
    """What a killed process drew past its checkpoint is taken back, and the last points are flushed."""
    config = train_config("simclr", world, tmp_path / "run")
    threads = threading.active_count()
    with killed_at(5):
        train("simclr", config)
    train("simclr", config)
    assert threading.active_count() == threads, "a writer was left open"
    for run in (whole("simclr"), tmp_path / "run"):
        curves = EventAccumulator(str(run / "tensorboard")).Reload()
        points = [(point.step, point.value) for point in curves.Scalars("loss")]
        assert points == [(r["images_seen"], pytest.approx(r["loss"])) for r in log(whole("simclr"))]


@pytest.mark.parametrize(("num_epochs", "num_steps"), [(1.5, 5), (2.0, 6), (0.01, 1)])
def test_epochs_are_passes_over_the_captions(
    world: World, tmp_path: Path, num_epochs: float, num_steps: int
) -> None:
    """Three steps are an epoch; a part of a step is one."""
    config = train_config("simclr", world, tmp_path / "run")
    config = dataclasses.replace(config, num_steps=None, num_epochs=num_epochs)
    assert train("simclr", config).num_steps == num_steps
    assert trainer._steps_of_epochs(1.1, 10) == 11


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({}, "say how long to train"),
        ({"num_steps": 1, "num_epochs": 1.0}, "say how long to train"),
        ({"num_steps": 0}, "num_steps must be positive and finite, got 0"),
        ({"num_epochs": -1.0}, "num_epochs must be positive"),
        ({"num_epochs": float("inf")}, "num_epochs must be positive and finite, got inf"),
        ({"num_epochs": float("nan")}, "num_epochs must be positive and finite, got nan"),
        ({"num_steps": 1, "log_every": 0}, "log_every must be positive"),
        ({"num_steps": 1, "save_every": 0}, "save_every must be positive"),
        ({"num_steps": 1, "micro_batch": 0}, "micro_batch must be positive and finite, got 0"),
        ({"num_steps": 1, "profile": -1}, "profile must be positive and finite, got -1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        TrainConfig(out=Path("x"), data=DataConfig(images=(Path("y"),)), **changes)
