"""What may differ when a run goes on: where and how it is computed, not what; and what it leaves on the way."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from run_files import assert_same_run, files, killed_at
from tiny_training import World, train_config

from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.learning import opening, trainer
from stablerep.learning.data import ViewSource
from stablerep.learning.methods import METHODS, train
from stablerep.learning.replay import Taken, save_replay, take_again
from stablerep.learning.step import Encoding, compute_gradients
from stablerep.locks import BusyError


@pytest.mark.slow
def test_a_run_goes_on_with_other_threads_paths_and_intervals(
    world: World, whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with killed_at(5):
        train("simclr", train_config("simclr", world, tmp_path / "run", data={"num_threads": 1}))
    monkeypatch.chdir(tmp_path)
    images = Path(os.path.relpath(world.images, tmp_path))
    data = {"num_threads": 3, "cache_megabytes": 0, "images": [images]}
    other = train_config("simclr", world, Path("run"), save_every=1, micro_batch=4, data=data)
    train("simclr", other)
    assert_same_run(tmp_path / "run", whole("simclr"), "simclr")
    described = json.loads((tmp_path / "run" / "run.json").read_text())["config"]
    assert described["save_every"] == 1 and described["data"]["num_threads"] == 3
    assert 'images = [\n    "' in (tmp_path / "run" / "config.toml").read_text()


@pytest.mark.slow
def test_a_kill_between_export_and_checkpoint_loses_no_export(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The export of a step is there before its checkpoint, and what a kill left of it is replaced."""

    class Killed(BaseException):
        pass

    config = train_config("simclr", world, tmp_path / "run", export_every=2)

    def killed(loop: Any, step: int) -> None:
        if step == 4:
            raise Killed
        save(loop, step)

    save = trainer._Loop.save
    monkeypatch.setattr(trainer._Loop, "save", killed)
    with pytest.raises(Killed):
        train("simclr", config)
    monkeypatch.undo()
    torn = tmp_path / "run" / "exports" / "step-4"
    assert (torn / "encoder" / "encoder.json").exists()
    (torn / "encoder" / "encoder.json").write_text("{")
    train("simclr", config)
    whole_config = train_config("simclr", world, tmp_path / "whole", export_every=2)
    train("simclr", whole_config)
    assert sorted(path.name for path in (tmp_path / "run" / "exports").iterdir()) == [
        "step-2",
        "step-4",
        "step-6",
    ]
    assert files(tmp_path / "run" / "exports") == files(tmp_path / "whole" / "exports")


def test_a_machine_that_does_not_see_the_folder_says_so(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a second machine whose disk is its own: the first process made the folder elsewhere."""
    config = train_config("simclr", world, tmp_path / "run")
    method = METHODS["simclr"].build(config)
    source = ViewSource(config.data, seed=0)
    monkeypatch.setattr(opening.runtime, "rank", lambda: 1)
    monkeypatch.setattr(opening.runtime, "gather", lambda _: torch.tensor([1, 0]))
    with (
        pytest.raises(
            UserError, match="not to be seen from this machine; give --out on a disk that all machines"
        ),
        opening.open_run(config, "simclr", source, method),
    ):
        pass
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["run.json", "resolved.json"])
def test_what_a_run_says_of_itself_is_named_where_it_is_damaged(
    world: World, tmp_path: Path, name: str
) -> None:
    config = train_config("simclr", world, tmp_path / "run", num_steps=1)
    train("simclr", config)
    (tmp_path / "run" / name).write_text('{"kind": "sim', encoding="utf-8")
    with pytest.raises(UserError, match=rf"run/{name} cannot be read as JSON .* restore or remove it"):
        train("simclr", config)


@pytest.mark.parametrize("has_pixels", [True, False])
def test_a_step_that_was_saved_can_be_taken_again(
    has_pixels: bool, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another method of the same settings, whose weights are others: those of the step are in the file."""
    config = train_config("stablerep", world, tmp_path)
    source = ViewSource(config.data, seed=0)
    encoding = Encoding(seed=3, dtype=torch.float32, micro_batch=3)
    torch.manual_seed(1)
    method = METHODS["stablerep"].build(config).train()
    batch = source.batch(2)
    if not has_pixels:
        monkeypatch.setattr("stablerep.learning.replay._MOST_PIXELS", 0)
    save_replay(tmp_path / "replay.pt", Taken(2, batch, encoding), method, source.caption_ids)
    expected = compute_gradients(method, batch, encoding, 2).loss
    torch.manual_seed(2)
    other = METHODS["stablerep"].build(config).train()
    if not has_pixels:
        with pytest.raises(UserError, match=r"replay.pt holds no images.*give the source of the run's data"):
            take_again(tmp_path / "replay.pt", other)
    again = take_again(tmp_path / "replay.pt", other, None if has_pixels else source)
    assert torch.equal(again.loss, expected)
    for ours, theirs in zip(other.parameters(), method.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        assert ours.grad is None or torch.equal(ours.grad, theirs.grad)


def test_the_console_says_how_many_views_count(world: World, tmp_path: Path) -> None:
    said: list[str] = []

    class Listening(Console):
        def say(self, text: str) -> None:
            said.append(text)

    data = {"images_per_caption": 4}
    config = train_config("stablerep", world, tmp_path / "run", num_steps=1, data=data)
    summary = trainer.run_training(
        config, "stablerep", lambda: METHODS["stablerep"].build(config), console=Listening()
    )
    assert any("75 % of the views count" in line for line in said)
    assert summary.images_seen == 12


def test_a_run_in_which_another_process_trains_is_left_alone(world: World, tmp_path: Path) -> None:
    config = train_config("simclr", world, tmp_path / "run", num_steps=1)
    method = METHODS["simclr"].build(config)
    with (
        opening.open_run(config, "simclr", ViewSource(config.data, seed=0), method),
        pytest.raises(
            BusyError, match=r"run: another process trains there; wait until it has ended, or give"
        ),
    ):
        train("simclr", config)
    assert train("simclr", config).num_steps == 1
