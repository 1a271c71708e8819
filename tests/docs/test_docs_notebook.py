"""The notebook runs from top to bottom, smaller, and is stored without what it printed."""

import json
from pathlib import Path
from typing import Any

import belongings
import pytest
from pages import ROOT
from reader import reading
from smaller import AT_MOST

from stablerep.generation.settings import GenerateConfig

NOTEBOOK = ROOT / "docs" / "notebooks" / "first-steps.ipynb"


def code_cells() -> list[dict[str, Any]]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_the_notebook_is_stored_without_output() -> None:
    assert len(code_cells()) > 5
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code_cells())


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells are plain Python, so that what a kernel adds, showing the last value of each, is not needed."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("STABLEREP_NOTEBOOK", str(tmp_path))
    monkeypatch.setenv("STABLEREP_CAPTIONS", "8")
    monkeypatch.setitem(AT_MOST, GenerateConfig, AT_MOST[GenerateConfig] | {"num_images": 4})
    (tmp_path / "material").mkdir()
    material = belongings.prepare(tmp_path / "material")
    names: dict[str, Any] = {}
    with reading(tmp_path, material):
        for number, cell in enumerate(code_cells()):
            exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, code cell {number + 1}", "exec"), names)
    assert (tmp_path / "run" / "encoder").is_dir()
    assert {record.test for record in names["scores"].records} == {"test"}
