"""What is fed with whatever anybody might write: each target takes bytes and raises only what it promises to raise."""

import dataclasses
import io
import itertools
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from stablerep.captions import sources
from stablerep.captions.entries import fault_of
from stablerep.captions.files import FILE_KINDS
from stablerep.captions.sources import ImportConfig
from stablerep.cli import recipe_settings
from stablerep.config import build, to_toml
from stablerep.errors import UserError
from stablerep.features import decode_image, image_size
from stablerep.generation.settings import GenerateConfig

_TEXTS = ("a red apple", "two “pears”", "", "näive \x1b[31m", "x" * 300, '"quoted, text"', "12")


def caption_file(suffix: str) -> Callable[[bytes], None]:
    """Read a caption file of this kind to its end."""

    def read(content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"captions{suffix}"
            path.write_bytes(content)
            try:
                for source in sources._check(ImportConfig(files=(path,))):
                    for entry in source.entries():
                        assert entry.fault or fault_of(entry.text) is None
            except UserError as error:
                assert str(path) in str(error)

    return read


def recipe(content: bytes) -> None:
    """Read a recipe and build the configuration of a command from it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.toml"
        path.write_bytes(content)
        try:
            config = build(GenerateConfig, recipe_settings(("generate",), str(path)), origin="recipe")
        except UserError:
            return
        assert dataclasses.is_dataclass(config) and to_toml(config)


def picture(content: bytes) -> None:
    """Read the size of a picture, and decode it."""
    for read in (image_size, decode_image):
        try:
            read(content)
        except (OSError, SyntaxError, ValueError):
            continue


TARGETS: dict[str, Callable[[bytes], None]] = {
    **{f"captions{suffix}": caption_file(suffix) for suffix in FILE_KINDS},
    "recipe": recipe,
    "picture": picture,
}


def sound(target: str) -> list[bytes]:
    """A few sound inputs, from which damaged ones are made."""
    if target == "recipe":
        return [
            b'extends = "icons"\n[generate]\nnum_images = 3\nwhere = "x"\nstyles = ["a"]\n',
            b"[generate]\nseed = 1\n",
        ]
    if target == "picture":
        return [
            _picture(kind, mode)
            for kind, mode in itertools.product(
                ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"), ("RGB", "L", "P")
            )
        ]
    return [_caption_file(target.removeprefix("captions"))]


def _picture(kind: str, mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((24, 18), 80).convert(
        "RGB" if mode == "P" and kind in ("JPEG", "WEBP") else mode
    ).save(buffer, kind)
    return buffer.getvalue()


def _caption_file(suffix: str) -> bytes:
    import sys

    sys.path.insert(0, str(Path(__file__).parent / "captions"))
    try:
        from test_sources import write
    finally:
        sys.path.pop(0)
    with tempfile.TemporaryDirectory() as folder:
        return write(Path(folder) / f"captions{suffix}", list(_TEXTS)).read_bytes()


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Sound input with some bytes changed, cut out, repeated or put in."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 6)):
        place = draw.randrange(len(data) + 1)
        length = draw.choice((1, 1, 2, 4, 16, 64))
        kind = draw.randrange(5)
        if kind == 0:
            data[place : place + length] = draw.randbytes(length)
        elif kind == 1:
            del data[place : place + length]
        elif kind == 2:
            data[place:place] = data[place : place + length]
        elif kind == 3:
            data[place:place] = draw.choice(
                (b"\0", b"\xff\xff\xff\xff", b"\n", b'"', b"\x1b[2J", "\u202e".encode())
            )
        else:
            del data[place:]
    return bytes(data)
