"""What the tests of training share."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import ENCODER, World, train_config, write_world

from stablerep.config import build
from stablerep.learning.methods import train
from stablerep.models.encoder import Encoder, EncoderConfig, save_encoder


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Tables that no test changes."""
    folder: Path = tmp_path_factory.mktemp("world")
    return write_world(folder)


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained encoder to align to."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("encoder")
    save_encoder(Encoder(build(EncoderConfig, ENCODER, origin="test")), folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def always_one_thread(one_thread: None) -> None:
    """Every module of this folder computes on one thread."""


@pytest.fixture(scope="session")
def whole(world: World, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of each method (called with its name) a run that was never interrupted. Tests copy it before they change it."""

    @functools.cache
    def run(method: str) -> Path:
        out = tmp_path_factory.mktemp(method) / "run"
        return train(method, train_config(method, world, out)).run

    return run
