"""Tiny pipelines, built once per session, and tables of captions to paint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines
from some_captions import TEXTS, add_captions

from stablerep.generation.settings import GenerateConfig


@pytest.fixture(scope="module", autouse=True)
def always_one_thread(one_thread: None) -> None:
    """Every module of this folder computes on one thread."""


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny pipeline by name, built at its first use. Tests copy it before they change it."""
    root = tmp_path_factory.mktemp("pipelines")

    def build(name: str) -> Path:
        folder = root / name
        if not folder.exists():
            tiny_pipelines.BUILDERS[name](folder)
        return folder

    return build


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    """A caption table of seven captions, the last one of the test split."""
    path = tmp_path / "captions.lance"
    add_captions(path, TEXTS)
    return path


@pytest.fixture
def config(
    captions: Path, tmp_path: Path, pipeline_folder: Callable[[str], Path]
) -> Callable[..., GenerateConfig]:
    """A config that paints 2 pictures per caption with the tiny PixArt pipeline; options change it."""

    def make(**options: Any) -> GenerateConfig:
        quick = {"num_inference_steps": 2, "batch_size": 4, "num_images": 2, "format": "png"}
        exact = {"device": "cpu", "dtype": "float32"}
        teacher = str(pipeline_folder("pixart"))
        paths = {"captions": captions, "out": tmp_path / "images.lance"}
        return GenerateConfig(**{"teacher": teacher, **paths, **quick, **exact, **options})

    return make
