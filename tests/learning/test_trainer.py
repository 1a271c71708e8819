"""The loop: exact resume after any kill, one step at a time in the log, and what makes a run another one."""

import contextlib
import importlib
import json
import random
import runpy
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from run_files import OF_EVERY_RUN, PRODUCTS, assert_same_run, files, killed_at, log
from tiny_training import (
    World,
    caption_rows,
    image_row,
    train_config,
    weights,
    write_captions,
    write_images,
)

from processes import serve, start
from stablerep import runtime
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.learning import trainer
from stablerep.learning.methods import METHODS, train
from stablerep.store import CaptionTable

KILL_TRAIN = Path(__file__).parents[2] / "bench" / "kill_train.py"


# -- resume ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_was_stopped_anywhere_ends_with_the_same_bits(
    method: str, world: World, whole: Any, tmp_path: Path
) -> None:
    """Before any checkpoint; twice after one in the middle of an epoch; and before the export."""
    config = train_config(method, world, tmp_path / "run")
    for moment in (1, 5, 5, "export") if method == "stablerep" else (5, "export"):
        with killed_at(moment):
            train(method, config)
    summary = train(method, config)
    assert_same_run(tmp_path / "run", whole(method), method)
    assert summary.loss == log(whole(method))[-1]["loss"]


@pytest.mark.slow
def test_a_run_in_micro_batches_that_was_stopped_ends_with_the_same_bits(
    world: World, tmp_path: Path
) -> None:
    """In the middle of an epoch, with stochastic depth, and a last micro-batch that is smaller."""
    runs = tmp_path / "run", tmp_path / "whole"
    for run in runs:
        config = train_config("stablerep", world, run, micro_batch=3)
        if run.name == "run":
            with killed_at(5):
                train("stablerep", config)
        train("stablerep", config)
    assert_same_run(*runs, "stablerep")


def train_here(method: str, world: World, out: Path) -> None:
    """Twelve steps with a checkpoint after every third."""
    train(method, train_config(method, world, out, num_steps=12, save_every=3))


@pytest.mark.slow
def test_a_run_that_was_killed_three_times_ends_with_the_same_bits(world: World, tmp_path: Path) -> None:
    """That of the method that leaves the most files; how each goes on is tested above, without processes."""
    method = "text-to-image"
    train_here(method, world, tmp_path / "whole")
    run = tmp_path / "run"
    draw = random.Random(method)
    kills = [
        (0, draw.random() / 5),
        (draw.randint(2, 6), draw.random() / 20),
        (draw.randint(7, 10), draw.random() / 20),
    ]
    landed = 0
    for step, delay in kills:
        process = start(partial(train_here, method, world, run))
        wait_for(run, step, process.is_alive)
        time.sleep(delay)
        process.kill()
        process.join()
        assert process.exitcode in (-signal.SIGKILL, 0), f"it failed by itself before the kill at {kills}"
        landed += process.exitcode != 0
    assert landed >= 2, f"the training was too fast for {kills}"
    train_here(method, world, run)
    assert_same_run(run, tmp_path / "whole", method)
    assert set(files(run)) == OF_EVERY_RUN | PRODUCTS[method], "a kill left litter"


def wait_for(run: Path, step: int, is_alive: Any) -> None:
    """Until the log has the step, or the process has ended."""
    deadline = time.monotonic() + 300
    while is_alive() and time.monotonic() < deadline:
        lines = (run / "metrics.jsonl").read_text() if (run / "metrics.jsonl").exists() else ""
        if step == 0 or f'{{"step": {step},' in lines:
            return
        time.sleep(0.005)


def test_the_kill_benchmark_sees_a_single_bit(whole: Any, tmp_path: Path) -> None:
    contents = runpy.run_path(str(KILL_TRAIN))["contents"]
    shutil.copytree(whole("simclr"), tmp_path / "run")
    expected = contents(whole("simclr"))
    assert contents(tmp_path / "run") == expected
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    saved["method"]["head.layers.0.weight"].view(torch.int32)[3, 5] ^= 1
    torch.save(saved, tmp_path / "run" / "checkpoint.pt")
    found = contents(tmp_path / "run")
    assert [name for name in expected if found[name] != expected[name]] == [
        "checkpoint..method.head.layers.0.weight"
    ]


@pytest.mark.slow
def test_the_kill_benchmark_passes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # the script itself kills longer runs, more often, and other methods
    serve()
    monkeypatch.syspath_prepend(str(KILL_TRAIN.parent))
    monkeypatch.setattr(sys, "argv", [KILL_TRAIN.name, "stablerep", "--num-kills", "1"])
    script = importlib.import_module(KILL_TRAIN.stem)
    monkeypatch.setattr(script, "NUM_STEPS", 20)
    code = script.main()
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert printed.startswith("PASSED: stablerep, 1 kills")


@pytest.mark.slow
def test_a_finished_run_trains_no_further_and_exports_the_same(
    world: World, whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*_: Any) -> None:
        raise AssertionError("a finished run took another step")

    finished = {
        method: whole(method) for method in METHODS
    }  # trained here, where no test before this one did
    monkeypatch.setattr(trainer._Loop, "step", step)
    for method, run in finished.items():
        before, curves = files(run), list((run / "tensorboard").iterdir())
        summary = train(method, train_config(method, world, run))
        assert files(run) == before
        assert list((run / "tensorboard").iterdir()) == curves
        assert summary.loss == log(run)[-1]["loss"]
        assert summary.product.parent == run


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=() if name == "simclr" else pytest.mark.slow) for name in METHODS]
)
def test_a_run_folder_holds_exactly_these_files(method: str, whole: Any) -> None:
    run = whole(method)
    assert set(files(run)) == OF_EVERY_RUN | PRODUCTS[method]
    assert [path.name.split(".")[1] for path in (run / "tensorboard").iterdir()] == ["out"]


def test_stochastic_depth_is_part_of_what_repeats(world: World, whole: Any, tmp_path: Path) -> None:
    """It draws from torch's own generator: without it, the tests above could not see a wrong seed of a step."""
    calm = train_config(
        "stablerep", world, tmp_path / "run", method={"encoder": {"depth": 2, "drop_path": 0.0}}
    )
    train("stablerep", calm)
    name = "backbone.backbone.cls_token"
    assert not torch.equal(weights(tmp_path / "run")[name], weights(whole("stablerep"))[name])


def test_what_a_kill_left_half_written_is_removed(world: World, tmp_path: Path) -> None:
    config = train_config("simclr", world, tmp_path / "run")
    with killed_at(3):
        train("simclr", config)
    for name in (".checkpoint.pt.0123456789abcdef", "encoder/.encoder.json.0123456789abcdef"):
        (tmp_path / "run" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_bytes(b"half")
    train("simclr", config)
    assert set(files(tmp_path / "run")) == OF_EVERY_RUN | PRODUCTS["simclr"]


# -- what makes it another run -----------------------------------------------------------------------


def test_other_settings_are_refused_by_name(world: World, whole: Any) -> None:
    run = whole("simclr")
    before = files(run)
    other = train_config("simclr", world, run, seed=1, optim={"lr": 0.5}, method={"temperature": 0.2})
    with pytest.raises(UserError) as caught:
        train("simclr", other)
    for part in (
        "config.seed: 0 there, 1 asked",
        "config.optim.lr: 0.003 there, 0.5 asked",
        "config.method.temperature: 0.1 there, 0.2 asked",
    ):
        assert part in str(caught.value)
    with pytest.raises(UserError, match="kind: 'simclr' there, 'autoencoder' asked"):
        train("autoencoder", train_config("autoencoder", world, run))
    assert files(run) == before


def test_a_table_that_changed_is_refused(world: World, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images.lance", [image_row(number, 0) for number in range(6)])
    config = train_config("simclr", world, tmp_path / "run", data={"images": [images]})
    with killed_at(3):
        train("simclr", config)
    write_images(images, [image_row(0, 1), image_row(6, 0)])
    with pytest.raises(UserError, match="then 6 captions with 6 images, now 7 with 8"):
        train("simclr", config)


def test_rows_that_no_batch_can_hold_change_nothing(world: World, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images.lance", [image_row(number, 0) for number in range(6)])
    config = train_config(
        "simclr", world, tmp_path / "run", data={"images": [images], "where": "split = 'train'"}
    )
    with killed_at(3):
        train("simclr", config)
    write_images(images, [image_row(0, 1, split="test"), image_row(7, 0, status="failed", image=None)])
    assert train("simclr", config).num_steps == 7


@pytest.mark.slow
def test_new_captions_that_change_the_vocabulary_are_refused(world: World, tmp_path: Path) -> None:
    """The words that tokens stand for are part of what the weights mean."""
    captions = write_captions(tmp_path / "captions.lance", caption_rows())
    config = train_config("text-to-image", world, tmp_path / "run", data={"captions": captions})
    with killed_at(3):
        train("text-to-image", config)
    rows = CaptionTable.open(world.captions).read(["id", "text", "source", "group"]).to_pylist()[:1]
    words = {"id": "0" * 32, "text": "thing thing thing drawing of of of drawing", "group": "x"}
    write_captions(
        captions, [rows[0] | words | {"id": f"{n:032}", "text": f"{words['text']} {n}"} for n in range(99)]
    )
    with pytest.raises(UserError, match="the images or captions changed since this run began"):
        train("text-to-image", config)


@pytest.fixture
def any_rate() -> Iterator[None]:
    """No product is timed, which takes long in bfloat16 on processors that have no instructions for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "matmul_rate", lambda *_: 1e9)
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("any_rate")
def test_a_timing_chooses_the_precision_once(
    world: World, whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resume on a busy machine may measure otherwise; it must go on as the run began."""
    config = train_config("simclr", world, tmp_path / "auto", precision="auto")
    for measured, stopped in ((torch.bfloat16, True), (torch.float32, False)):
        monkeypatch.setattr(runtime, "pick_precision", lambda *_, measured=measured: measured)
        with killed_at(3) if stopped else contextlib.nullcontext():
            train("simclr", config)
    monkeypatch.undo()
    train("simclr", train_config("simclr", world, tmp_path / "given", precision="bfloat16"))
    assert_same_run(tmp_path / "auto", tmp_path / "given", "simclr")
    assert log(tmp_path / "auto") != log(whole("simclr")), "float32 would give the same"


def test_a_timing_chooses_the_attention_once(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = train_config("simclr", world, tmp_path / "run", attention="auto")
    for pays, stopped in ((True, True), (False, False)):
        monkeypatch.setattr(runtime, "fused_attention_pays", lambda *_, pays=pays: pays)
        method = METHODS["simclr"].build(config)
        with killed_at(3) if stopped else contextlib.nullcontext():
            trainer.run_training(config, "simclr", lambda method=method: method, console=Console(quiet=True))
        assert [module.fused_attn for module in method.encoder()._attentions()] == [True]
    resolved = json.loads((tmp_path / "run" / "resolved.json").read_text())
    assert resolved["attention"] == "fused"


@pytest.mark.slow
def test_checkpointing_changes_memory_and_nothing_else(world: World, whole: Any, tmp_path: Path) -> None:
    """Stochastic depth is drawn the same when a block is computed again."""
    config = train_config("stablerep", world, tmp_path / "run", gradient_checkpointing=True)
    method = METHODS["stablerep"].build(config)
    train("stablerep", config)
    assert_same_run(tmp_path / "run", whole("stablerep"), "stablerep")
    encoder, sizes = method.encoder().train(), []
    for enabled in (False, True):
        encoder.set_checkpointing(enabled)
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, saved=saved: saved.append(tensor.numel()) or tensor, lambda tensor: tensor
        ):
            encoder(torch.rand(64, 3, 16, 16))
        sizes.append(sum(saved))
    assert sizes[1] < 0.5 * sizes[0]


def test_checkpointing_needs_an_encoder(world: World, tmp_path: Path) -> None:
    config = train_config("autoencoder", world, tmp_path / "run", gradient_checkpointing=True)
    with pytest.raises(UserError, match="gradient_checkpointing: autoencoder learns no encoder"):
        train("autoencoder", config)
