"""What the tests of training share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_training import World, write_world


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
