"""What the tests of training share."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import World, train_config, write_world

from stablerep.learning.methods import train


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Tables that no test changes."""
    folder: Path = tmp_path_factory.mktemp("world")
    return write_world(folder)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing from more, and bit-equality is promised for equal numbers of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(world: World, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of each method (called with its name) a run that was never interrupted."""

    @functools.cache
    def run(method: str) -> Path:
        out = tmp_path_factory.mktemp(method) / "run"
        return train(method, train_config(method, world, out)).run

    return run
