"""What the tests of training share."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import World, train_config, write_world

from stablerep.learning import data
from stablerep.learning.methods import train
from stablerep.learning.pictures import Pictures


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Tables that no test changes."""
    folder: Path = tmp_path_factory.mktemp("world")
    return write_world(folder)


@pytest.fixture(scope="module", autouse=True)
def always_one_thread(one_thread: None) -> None:
    """Every module of this folder computes on one thread."""


@pytest.fixture
def blank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches whose pictures are neither read nor cropped, for tests that draw hundreds and count what they hold."""
    monkeypatch.setattr(
        data.ViewSource,
        "_load",
        lambda _, refs: Pictures([torch.zeros(3, 2, 2, dtype=torch.uint8)] * len(refs)),
    )
    monkeypatch.setattr(data, "draw_parameters", lambda seeds, *_: seeds)
    monkeypatch.setattr(data, "apply_parameters", lambda _, seeds, __: torch.zeros(len(seeds), 3, 1, 1))


@pytest.fixture(scope="module")
def whole(world: World, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of each method (called with its name) a run that was never interrupted."""

    @functools.cache
    def run(method: str) -> Path:
        out = tmp_path_factory.mktemp(method) / "run"
        return train(method, train_config(method, world, out)).run

    return run
