"""Hostile input ends in a sentence or in a value, never in a traceback; and a bomb is refused by its header."""

import random
import struct
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz_targets import TARGETS, damaged, sound
from stablerep import features
from stablerep.features import decode_image, image_size

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("target", TARGETS)
def test_whatever_bytes(target: str) -> None:
    @QUICK
    @given(st.binary(max_size=600))
    def run(content: bytes) -> None:
        TARGETS[target](content)

    run()


@pytest.mark.parametrize("target", TARGETS)
def test_damaged_input(target: str) -> None:
    originals = sound(target)

    @QUICK
    @given(st.integers(0, 2**32), st.sampled_from(originals))
    def run(seed: int, original: bytes) -> None:
        TARGETS[target](damaged(original, random.Random(seed)))

    run()


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
    assert features.MAX_PIXELS == 2**26 < (2**13 + 1) ** 2


def test_only_known_formats_are_decoded() -> None:
    """PIL would hand PostScript to an external program."""
    with pytest.raises(OSError, match="cannot identify"):
        decode_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
