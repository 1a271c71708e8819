"""What the tests of evaluation share."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_icons import TINY, real_rows, write_tables

from stablerep.features import untrained_encoder
from stablerep.models.encoder import save_encoder


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tables(tmp_path_factory.mktemp("tiny") / "world", real_rows())


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Path]:
    """A run folder of this name with a random encoder of this seed."""

    def make(name: str, seed: int) -> Path:
        run = tmp_path_factory.mktemp("runs") / name
        save_encoder(untrained_encoder(TINY, seed), run / "encoder")
        return run

    return make
