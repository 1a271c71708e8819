"""A world and an encoder of it, made once."""

from pathlib import Path

import pytest
from tiny_world import train_clip, write_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("discs"))


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each question to the hub, of which there is none here, whether something was to be fetched."""
    asked: list[bool] = []

    def fetch(*_: object, local_files_only: bool) -> str:
        asked.append(not local_files_only)
        raise FileNotFoundError

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    return asked


@pytest.fixture(scope="session")
def clip(world: Path) -> Path:
    """The run of an image-text model that was trained on the world's real pictures."""
    return train_clip(world, world / "run")
