"""Disks that are full or may not be written: a sentence, nothing half-written, and the table at its last version."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from stablerep.cli import run
from stablerep.errors import UserError
from stablerep.run import write_text
from stablerep.store import OK, REAL, CaptionTable, ImageTable


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be made here ({mounted.stderr.strip()})")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def read_only(disk: Path) -> Iterator[Path]:
    """The same with a table of one picture on it, and nothing may be written any more."""
    ImageTable.open_or_create(disk / "images.lance").append([image("a")])
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    yield disk
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


def image(caption: str, size: int = 10) -> dict[str, Any]:
    content = os.urandom(size)
    return {"origin": REAL, "caption_id": caption, "image_index": 0, "image": content, "status": OK}


def fill(path: Path) -> None:
    """Write until nothing fits any more."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError as error:
            assert error.errno == errno.ENOSPC


def test_a_full_disk_leaves_the_last_version_and_is_gone_on_from(disk: Path) -> None:
    table = ImageTable.open_or_create(disk / "images.lance")
    table.append([image("a")])
    with pytest.raises(UserError, match=r"images\.lance could not be written .*every row committed before"):
        table.append([image("b", 2**21)])
    fill(disk / "ballast")
    with pytest.raises(UserError, match=r"images\.lance could not be written"):
        table.append([image("c")])
    with pytest.raises(UserError, match=r"images\.lance could not be written"):
        table.write_columns([0], {"score": pa.array([1.0])})
    with pytest.raises(UserError, match=r"images\.lance could not be written"):
        table.register_origin("painter-1", {"steps": 2})
    assert table.reload().read(["caption_id"])["caption_id"].to_pylist() == ["a"]
    (disk / "ballast").unlink()
    assert table.append([image("c")]) == 1
    assert sorted(table.reload().read(["caption_id"])["caption_id"].to_pylist()) == ["a", "c"]


def test_a_file_that_does_not_fit_leaves_the_old_one(disk: Path) -> None:
    write_text(disk / "scores.json", "old")
    fill(disk / "ballast")
    with pytest.raises(OSError) as caught:
        write_text(disk / "scores.json", "new" * 10_000)
    assert caught.value.errno == errno.ENOSPC
    assert (disk / "scores.json").read_text() == "old"
    assert sorted(entry.name for entry in disk.iterdir()) == ["ballast", "scores.json"]


def test_commands_on_a_full_disk_end_in_one_sentence(disk: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "captions.txt").write_text("a cat\na dog\n")
    fill(disk / "ballast")
    assert run(["captions", "import", str(tmp_path / "captions.txt"), "--out", str(disk / "c.lance")]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert str(disk / "c.lance") in said and "Traceback" not in said
    (disk / "ballast").unlink()
    assert run(["captions", "import", str(tmp_path / "captions.txt"), "--out", str(disk / "c.lance")]) == 0
    assert len(CaptionTable.open(disk / "c.lance")) == 2


def test_a_read_only_folder_is_read_and_not_written(read_only: Path, tmp_path: Path, capsys: Any) -> None:
    table = ImageTable.open(read_only / "images.lance")
    assert table.read(["caption_id"])["caption_id"].to_pylist() == ["a"]
    with pytest.raises(UserError, match=r"images\.lance could not be written"):
        table.append([image("b")])
    with pytest.raises(UserError, match="cannot create the caption table"):
        CaptionTable.open_or_create(read_only / "captions.lance")
    (tmp_path / "captions.txt").write_text("a cat\n")
    for out in ("captions.lance", "images.lance"):
        assert run(["captions", "import", str(tmp_path / "captions.txt"), "--out", str(read_only / out)]) == 2
    assert run(["convert", str(read_only / "images.lance"), str(read_only / "out"), "--to", "parquet"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and sum(line.startswith("stablerep ") for line in said.splitlines()) == 3
