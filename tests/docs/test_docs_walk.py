"""The marked blocks of every page, commands and Python, as a reader would run them one after the other, only smaller.

The command lines and the Python are those of the pages; what they would take long over (steps, sizes, the painter) is
made small behind them, once the configuration is built.
"""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pages import PAGES, ROOT, Line, is_stablerep, logical_lines, walked_blocks
from PIL import Image

from generation import tiny_pipelines
from stablerep import api, cli
from stablerep.captions.worlds import WorldConfig
from stablerep.commands import COMMANDS
from stablerep.evaluation.protocols import EvaluateConfig
from stablerep.generation.settings import GenerateConfig
from stablerep.learning.trainer import TrainConfig
from stablerep.store import ImageTable

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
ICONS = ROOT / "src" / "stablerep" / "data" / "icons.parquet"
WALKED = [page for page in PAGES if walked_blocks(page)]
START = ROOT / "docs" / "index.md"


def smaller(config: Any, material: Path) -> Any:
    """The same configuration with fewer drawings, captions, steps and weights."""
    if isinstance(config, WorldConfig):
        return dataclasses.replace(config, source=material / "few.parquet")
    if isinstance(config, GenerateConfig):
        sizes = {"limit": 4, "num_images": 2, "num_inference_steps": 2, "teacher": str(material / "teacher")}
        return dataclasses.replace(config, **sizes)
    if isinstance(config, TrainConfig):
        few = {"captions_per_batch": min(config.data.captions_per_batch, 4), "images_per_caption": 2}
        view = dataclasses.replace(config.data.view, image_size=16)
        method: Any = config.method  # type: ignore[attr-defined]
        encoder = dataclasses.replace(
            method.encoder, image_size=16, patch_size=8, width=24, depth=1, num_heads=3
        )
        return dataclasses.replace(
            config,
            num_steps=2,
            compile=False,
            precision="float32",
            data=dataclasses.replace(config.data, view=view, **few),
            method=dataclasses.replace(method, encoder=encoder, head_hidden=16, head_out=8),  # type: ignore[call-arg]
        )
    if isinstance(config, EvaluateConfig):
        return dataclasses.replace(config, benchmarks=("icons",), num_bootstrap=20, precision="float32")
    return config


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawings of two labels and a painter with random weights."""
    folder = tmp_path_factory.mktemp("material")
    few = pq.read_table(ICONS, filters=[("label", "in", ["food-fruit", "heart"])])
    pq.write_table(few, folder / "few.parquet")
    tiny_pipelines.pixart(folder / "teacher")
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, material: Path) -> None:
    """Every command and function of the interface does less, with what it was asked for in other respects."""
    for words, command in list(COMMANDS.items()):
        monkeypatch.setitem(
            COMMANDS, words, dataclasses.replace(command, load=_smaller_load(command, material))
        )
    build = api._build
    monkeypatch.setattr(api, "_build", lambda *asked: smaller(build(*asked), material))


def _smaller_load(command: Any, material: Path) -> Any:
    def load() -> Any:
        config_class, function = command.load()
        return config_class, lambda config, console: function(smaller(config, material), console=console)

    return load


def walk(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the marked blocks of a page in a folder; what Python blocks define, later ones know."""
    monkeypatch.chdir(folder)
    known: dict[str, Any] = {"stablerep": __import__("stablerep")}
    for language, block in walked_blocks(page):
        if language == "python":
            exec(compile(block, str(page.relative_to(ROOT)), "exec"), known)
            continue
        for line in logical_lines(block):
            assert is_stablerep(line), f"only commands of stablerep are walked: {line}"
            assert cli.run([*Line(page, line).arguments, "--quiet"]) == 0, line


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory, material: Path) -> Path:
    """What the start page leaves, and what a reader of the guides has at hand besides."""
    folder = tmp_path_factory.mktemp("walked")
    with pytest.MonkeyPatch.context() as patch:
        small.__wrapped__(patch, material)  # type: ignore[attr-defined]
        walk(START, folder, patch)
    shutil.copytree(folder / "icons" / "captions.lance", folder / "captions.lance")
    (folder / "pictures").mkdir()
    for number, name in enumerate(("pictures/a.png", "pictures/b.png", "a.png", "b.png", "photo.jpg")):
        Image.new("RGB", (40, 30), (40 * number, 90, 120)).save(folder / name)
    table = ImageTable.open(folder / "images.lance")
    marks = ["keep" if row % 2 else None for row in range(len(table))]
    table.write_columns(np.arange(len(table)), {"gallery_mark": pa.array(marks, pa.string())})
    return folder


def test_the_start_page_leads_to_scores_and_a_report(walked: Path) -> None:
    scores = json.loads((walked / "runs" / "stablerep" / "scores.json").read_text(encoding="utf-8"))
    assert {record["benchmark"] for record in scores["records"]} == {"icons"}
    page = (walked / "report" / "index.html").read_text(encoding="utf-8")
    assert "train stablerep" in page[page.index("What it cost") :]


@pytest.mark.parametrize("page", [page for page in WALKED if page != START], ids=lambda page: page.name)
def test_the_blocks_of_a_page_run(
    page: Path, walked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "reader"
    shutil.copytree(walked, folder)
    if page.name == "README.md":
        for made in ("images.lance", "runs", "icons"):
            shutil.rmtree(folder / made)
    walk(page, folder, monkeypatch)
