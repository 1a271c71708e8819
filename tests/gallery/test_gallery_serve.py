"""The command from its start to Ctrl-C, in a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from small_gallery import write_tables

from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.gallery.serve import GalleryConfig, open_gallery
from stablerep.store import ImageTable


@pytest.mark.slow
def test_the_command_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed; pip install '.[gallery]'")
    images, _ = write_tables(tmp_path)
    code = "from stablerep.cli import main; main()"
    command = [sys.executable, "-c", code, "gallery", str(images), "--port", "0", "--json"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    said = ""
    while "open http" not in said:
        line = process.stderr.readline()
        assert line, f"the gallery ended before it listened: {said}"
        said += line
    address = re.search(r"http://127\.0\.0\.1:\d+", said)
    assert address is not None, said
    with urllib.request.urlopen(f"{address[0]}/gallery/details/0/0", timeout=60) as answer:
        assert json.load(answer)["caption"] == "a red square"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    summary = json.loads(out)
    assert (summary["pictures"], summary["captions"], summary["marked"]) == (20, 4, {})


def test_captions_beside_the_table_are_found(tmp_path: Path) -> None:
    images, _ = write_tables(tmp_path)
    gallery = open_gallery(GalleryConfig(images=images), console=Console(quiet=True))
    assert gallery.main.text(0) == "a red square"
    assert gallery.looker.name == "raw pixels" and not gallery.looker.reads


def test_tables_and_runs_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no image table could be opened"):
        open_gallery(GalleryConfig(images=tmp_path / "absent.lance"), console=Console(quiet=True))
    ImageTable.open_or_create(tmp_path / "empty.lance")
    with pytest.raises(UserError, match="holds no picture"):
        open_gallery(GalleryConfig(images=tmp_path / "empty.lance"), console=Console(quiet=True))
    images, _ = write_tables(tmp_path)
    with pytest.raises(UserError, match="nowhere"):
        open_gallery(GalleryConfig(images=images, run=tmp_path / "nowhere"), console=Console(quiet=True))
