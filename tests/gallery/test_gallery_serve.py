"""The command from its start to Ctrl-C, in a process of its own."""

import dataclasses
import json
import os
import re
import signal
import time
import urllib.request
from functools import partial
from pathlib import Path

import pytest
from small_gallery import write_tables

from processes import start
from stablerep.cli import main
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.gallery import serve
from stablerep.gallery.serve import GalleryConfig, open_gallery
from stablerep.store import ImageTable


def on_a_terminal(words: list[str], out: Path, err: Path) -> None:
    """The command line with what it says in files."""
    for number, path in enumerate((out, err), 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    main(words)


@pytest.mark.slow
def test_the_command_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed; pip install '.[gallery]'")
    images, _ = write_tables(tmp_path)
    out, err = tmp_path / "out", tmp_path / "err"
    words = ["gallery", str(images), "--port", "0", "--json"]
    process = start(partial(on_a_terminal, words, out, err))
    said = ""
    while "in a browser" not in said:
        assert process.is_alive(), f"the gallery ended before it listened: {said}"
        time.sleep(0.05)
        said = err.read_text() if err.exists() else ""
    address = re.search(r"http://127\.0\.0\.1:\d+", said)
    assert address is not None, said
    with urllib.request.urlopen(f"{address[0]}/gallery/details/0/0", timeout=60) as answer:
        assert json.load(answer)["caption"] == "a red square"
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join(120)
    assert process.exitcode == 0
    summary = json.loads(out.read_text())
    assert (summary["pictures"], summary["captions"], summary["marked"]) == (20, 4, {})


def test_captions_beside_the_table_are_found(tmp_path: Path) -> None:
    images, _ = write_tables(tmp_path)
    gallery = open_gallery(GalleryConfig(images=images), console=Console(quiet=True))
    assert gallery.main.text(0) == "a red square"
    assert gallery.looker.name == "raw pixels" and not gallery.looker.reads


def test_models_that_are_only_named_are_fetched_where_that_is_asked_for(
    tmp_path: Path, fetched: list[bool]
) -> None:
    images, _ = write_tables(tmp_path)
    seeing = GalleryConfig(images=images, run=Path("timm:vit_tiny_patch16_224.augreg_in21k"))
    painting = GalleryConfig(images=images, teacher="owner/name")
    for download, remedy in ((False, "add --download"), (True, "check the")):
        with pytest.raises(UserError, match=remedy):
            open_gallery(dataclasses.replace(seeing, download=download), console=Console(quiet=True))
        gallery = open_gallery(dataclasses.replace(painting, download=download), console=Console(quiet=True))
        assert gallery.painter is not None
        with pytest.raises(UserError, match=remedy):
            gallery.painter.paint("a red square", 1, 0)
    assert fetched == [False, False, True, True]


def test_an_address_that_is_not_this_machines_is_named() -> None:
    with pytest.raises(UserError, match=r"192\.0\.2\.1 port 0 cannot be listened at .* --port or --host"):
        serve._bound(GalleryConfig(images=Path("images.lance"), host="192.0.2.1", port=0))


def test_tables_and_runs_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no image table could be opened"):
        open_gallery(GalleryConfig(images=tmp_path / "absent.lance"), console=Console(quiet=True))
    ImageTable.open_or_create(tmp_path / "empty.lance")
    with pytest.raises(UserError, match="holds no picture"):
        open_gallery(GalleryConfig(images=tmp_path / "empty.lance"), console=Console(quiet=True))
    images, _ = write_tables(tmp_path)
    with pytest.raises(UserError, match="nowhere"):
        open_gallery(GalleryConfig(images=images, run=tmp_path / "nowhere"), console=Console(quiet=True))
