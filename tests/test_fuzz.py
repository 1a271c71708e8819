"""Hostile input ends in a sentence or in a value, never in a traceback; and a bomb is refused by its header."""

import random
import shutil
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz_targets import TARGETS, confined, damaged, sound
from stablerep.decoding import MAX_PIXELS, decode_image, image_size

FEW = {"set": 10, "table": 4}  # these write tables, which takes longer


def quick(target: str) -> settings:
    """As many cases as are quick; bench/fuzz.py has more."""
    num = FEW.get(target.partition(".")[0].partition(" ")[0], 25)
    return settings(max_examples=num, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("target", TARGETS)
def test_whatever_bytes(target: str) -> None:
    @quick(target)
    @given(st.binary(max_size=600))
    def run(content: bytes) -> None:
        with confined() as outside:
            TARGETS[target](content)
        assert not outside

    run()


@pytest.mark.parametrize("target", TARGETS)
def test_damaged_input(target: str) -> None:
    originals = sound(target)

    @quick(target)
    @given(st.integers(0, 2**32), st.sampled_from(originals))
    def run(seed: int, original: bytes) -> None:
        with confined() as outside:
            TARGETS[target](damaged(original, random.Random(seed)))
        assert not outside

    run()


def test_what_is_written_outside_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "own"))
    with confined() as outside:
        (tmp_path / "own" / "fine").write_text("x")
        (tmp_path / "own" / "fine").read_text()
        (tmp_path / "escaped").write_text("x")
        (tmp_path / "own" / "fine").rename(tmp_path / "moved")
        (tmp_path / "own" / "folder").mkdir()
        (tmp_path / "own" / "folder" / "file").write_text("x")
        shutil.rmtree(tmp_path / "own" / "folder")
        (tmp_path / "tree").mkdir()
        shutil.rmtree(tmp_path / "tree")
    assert outside == [
        f"{event} {tmp_path / name}"
        for event, name in (
            ("open", "escaped"),
            ("os.rename", "moved"),
            ("os.mkdir", "tree"),
            ("os.rmdir", "tree"),
        )
    ]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize("side", [2**13 + 1, 2**15, 2**31 - 1])
def test_a_picture_that_promises_too_many_pixels_is_refused_by_its_header(side: int) -> None:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )
    for read in (image_size, decode_image):
        with pytest.raises(ValueError, match=r"more than 67,108,864"):
            read(bomb)
    assert MAX_PIXELS == 2**26 < (2**13 + 1) ** 2


def test_only_known_formats_are_decoded() -> None:
    """PIL would hand PostScript to an external program."""
    with pytest.raises(OSError, match="cannot identify"):
        decode_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
