"""What the tests of training share."""

import functools
from pathlib import Path
from typing import Any

import pytest
from tiny_training import World, train_config, write_world

from stablerep.learning.methods import train


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Tables that no test changes."""
    folder: Path = tmp_path_factory.mktemp("world")
    return write_world(folder)


@pytest.fixture(scope="module", autouse=True)
def always_one_thread(one_thread: None) -> None:
    """Every module of this folder computes on one thread."""


@pytest.fixture(scope="module")
def whole(world: World, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of each method (called with its name) a run that was never interrupted."""

    @functools.cache
    def run(method: str) -> Path:
        out = tmp_path_factory.mktemp(method) / "run"
        return train(method, train_config(method, world, out)).run

    return run
