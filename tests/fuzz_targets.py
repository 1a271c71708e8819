"""What is fed with whatever anybody might write: each target takes bytes and raises only what it promises to raise.

Every target works in a folder of its own, and ``confined`` says what was written outside of it.
"""

import contextlib
import dataclasses
import functools
import io
import itertools
import os
import random
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from stablerep.captions import sources
from stablerep.captions.entries import fault_of
from stablerep.captions.files import FILE_KINDS
from stablerep.captions.sources import ImportConfig
from stablerep.cli import recipe_settings
from stablerep.config import build, to_toml
from stablerep.decoding import decode_image, image_size
from stablerep.doctor.examine import DoctorConfig, doctor
from stablerep.errors import UserError
from stablerep.generation.settings import GenerateConfig
from stablerep.interchange.convert import ConvertConfig, convert
from stablerep.store import OK, REAL, ImageTable, caption_id

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


def picture_set(suffix: str) -> Callable[[bytes], None]:
    """Turn a set of pictures whose one archive, table or list this is into image and caption tables."""

    def read(content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            source, out = Path(folder) / "set", Path(folder) / "out"
            if suffix == ".csv":  # the pictures that it names lie in folders beside it
                (source / "seed_0").mkdir(parents=True)
                (source / "seed_0" / "a.png").write_bytes(_picture("PNG", "RGB"))
            source.mkdir(exist_ok=True)
            (source / f"set{suffix}").write_bytes(content)
            with contextlib.suppress(UserError):
                convert(ConvertConfig(source=source, out=out))
            assert {entry.name for entry in Path(folder).iterdir()} <= {"set", "out"}

    return read


def table_file(part: str) -> Callable[[bytes], None]:
    """Examine a table, one of whose files was replaced."""

    def read(content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder) / "images.lance"
            for name, whole in _table_files().items():
                (table / name).parent.mkdir(parents=True, exist_ok=True)
                (table / name).write_bytes(content if name == _name_of(part) else whole)
            with contextlib.suppress(UserError):
                doctor(DoctorConfig(paths=(table,), decode=True))

    return read


TARGETS: dict[str, Callable[[bytes], None]] = {
    **{f"captions{suffix}": caption_file(suffix) for suffix in FILE_KINDS},
    "recipe": recipe,
    "picture": picture,
    **{f"set{suffix}": picture_set(suffix) for suffix in (".tar", ".parquet", ".csv")},
    **{f"table {part}": table_file(part) for part in ("data", "_versions", "_transactions")},
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
    if target.startswith("table"):
        part = target.removeprefix("table ")
        return [_table_files()[_name_of(part)]]
    if target.startswith("set"):
        return _SETS[target.removeprefix("set")]()
    return [_caption_file(target.removeprefix("captions"))]


def _tars() -> list[bytes]:
    """Archives of pictures: an ordinary one, and such as lead out of themselves."""
    return [
        _tar(("a.png", "a.txt", "b.png", "b.txt")),
        _tar(("../../a.png", "../../a.txt", "/b.png", "/b.txt")),
    ]


def _tar(names: tuple[str, ...]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            content = _picture("PNG", "L") if name.endswith("png") else b"a red apple"
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("c.png")
        link.type, link.linkname = tarfile.SYMTYPE, "../../../c.png"
        archive.addfile(link)
    return buffer.getvalue()


def _parquet_set() -> list[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pictures = [{"bytes": _picture("PNG", "RGB"), "path": path} for path in ("a.png", "../../b.png")]
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": pictures, "text": ["a red apple", "two pears"]}), buffer)
    return [buffer.getvalue()]


_SETS: dict[str, Callable[[], list[bytes]]] = {
    ".tar": _tars,
    ".parquet": _parquet_set,
    ".csv": lambda: [b"a.png,a red apple\n", b'a.png,"two, pears"\n../../a.png,x\n/etc/b.png,y\n'],
}


@functools.cache
def _table_files() -> dict[str, bytes]:
    """Every file of a sound table of two pictures, by its name in the table."""
    with tempfile.TemporaryDirectory() as folder:
        table = ImageTable.open_or_create(Path(folder) / "images.lance")
        table.append(
            {
                "origin": REAL,
                "caption_id": caption_id(text),
                "image_index": 0,
                "image": _picture("PNG", "RGB"),
                "status": OK,
            }
            for text in _TEXTS[:2]
        )
        root = Path(table.path)
        return {
            path.relative_to(root).as_posix(): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }


def _name_of(part: str) -> str:
    """The newest file in a folder of the table; Lance numbers versions downwards."""
    names = [name for name in _table_files() if name.startswith(f"{part}/") and not name.endswith(".json")]
    return min(names) if part == "_versions" else max(names)


def _picture(kind: str, mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((24, 18), 80).convert(
        "RGB" if mode == "P" and kind in ("JPEG", "WEBP") else mode
    ).save(buffer, kind)
    return buffer.getvalue()


def _caption_file(suffix: str) -> bytes:
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


# Where each event of the interpreter that writes has its paths, and where the open folder each path starts from.
_WRITING = {
    "os.mkdir": ((0, 2),),
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((0, 2), (1, 3)),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.chmod": ((0, 2),),
}


@contextlib.contextmanager
def confined() -> Iterator[list[str]]:
    """What this process has written outside of the folder for temporary files meanwhile: (event, path) in words."""
    allowed = os.path.realpath(tempfile.gettempdir())
    found: list[str] = []
    _WATCHERS.append((allowed, found))
    if len(_WATCHERS) == 1 and not _HOOKED:
        sys.addaudithook(_hook)
        _HOOKED.append(True)
    try:
        yield found
    finally:
        _WATCHERS.pop()


_WATCHERS: list[tuple[str, list[str]]] = []
_HOOKED: list[bool] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _WATCHERS:
        return
    paths = list(_written(event, arguments))
    allowed, found = _WATCHERS[-1]
    for path in paths:
        whole = os.path.realpath(path)
        if not whole.startswith((f"{allowed}{os.sep}", "/dev/", "/proc/")) and "__pycache__" not in whole:
            found.append(f"{event} {whole}")


def _written(event: str, arguments: tuple[Any, ...]) -> Iterator[str]:
    """The paths that an event of the interpreter writes to."""
    if event == "open":
        path, mode, flags = arguments
        if isinstance(path, str | bytes) and (
            set(mode or "") & set("wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR)
        ):
            yield os.fsdecode(path)
        return
    for position, start in _WRITING.get(event, ()):
        path, folder = arguments[position], -1 if start is None else arguments[start]
        if isinstance(path, str | bytes):
            # shutil.rmtree removes by names within an open folder; what such a name means, only the system knows.
            yield str(
                (Path(f"/proc/self/fd/{folder}").readlink() if folder >= 0 else Path()) / os.fsdecode(path)
            )
