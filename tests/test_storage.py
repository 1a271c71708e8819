"""Where tables lie, and a disk that is full: clear mistakes, and the table as it was."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stablerep.captions.sources import ImportConfig, import_captions
from stablerep.config import to_dict
from stablerep.errors import UserError
from stablerep.run import write_text
from stablerep.storage import is_remote, location, refuse_credentials
from stablerep.store import CaptionTable, ImageTable


def test_the_slash_that_pathlib_takes_is_given_back() -> None:
    for path in ("s3://bucket/a.lance", Path("s3://bucket/a.lance"), Path("s3://bucket") / "a.lance"):
        assert location(path) == "s3://bucket/a.lance" and is_remote(path)
    for path in ("a.lance", "/x/s3:/b", "C:/x", "memory.lance", "./s3:"):
        assert location(path) == path and not is_remote(path)
    assert to_dict(ImportConfig(out=Path("gs://b/c.lance")))["out"] == "gs://b/c.lance"


def test_a_password_in_a_path_is_refused_and_not_repeated() -> None:
    refuse_credentials("s3://bucket/at@home.lance")
    for attempt in (ImageTable.open, ImageTable.open_or_create, ImageTable.exists):
        with pytest.raises(UserError, match="credentials do not belong") as caught:
            attempt("s3://me:hunter2@bucket/a.lance")
        assert "hunter2" not in str(caught.value)


def test_only_tables_lie_in_object_stores() -> None:
    with pytest.raises(UserError, match=r"s3://bucket/scores\.json: only tables"):
        write_text(Path("s3://bucket/scores.json"), "{}")


FULL_DISK = """
import resource, sys
from stablerep.cli import main
from stablerep.store import CaptionTable
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
main(["captions", "import", sys.argv[1], "--out", sys.argv[2]])
"""


@pytest.mark.slow
def test_a_disk_that_is_full_in_the_middle_of_a_commit_is_a_mistake(tmp_path: Path) -> None:
    few, many, out = tmp_path / "few.txt", tmp_path / "many.txt", tmp_path / "out.lance"
    few.write_text("a cat\n")
    many.write_bytes(
        b"".join(b"caption %d %s\n" % (index, os.urandom(16).hex().encode()) for index in range(3000))
    )
    import_captions(ImportConfig(files=(few,), out=out))
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(many), str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"{out} could not be written" in done.stderr and len(done.stderr.splitlines()) == 1
    assert CaptionTable.open(out).read(["text"])["text"].to_pylist() == ["a cat"]
    assert import_captions(ImportConfig(files=(many,), out=out)).new == 3000
