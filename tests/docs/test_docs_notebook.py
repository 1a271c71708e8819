"""The notebook runs from top to bottom, and is stored without what it printed."""

import json
from pathlib import Path

import pytest
from pages import ROOT

NOTEBOOK = ROOT / "docs" / "notebooks" / "first-steps.ipynb"


def test_the_notebook_is_stored_without_output() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 5
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("STABLEREP_NOTEBOOK", str(tmp_path))
    monkeypatch.setenv("STABLEREP_CAPTIONS", "8")
    monkeypatch.setenv("STABLEREP_STEPS", "6")
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")  # six steps do not pay a minute of compiling
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3").execute()
    assert (tmp_path / "run" / "encoder").is_dir()
