"""What every layout shares: options, names that are safe in a file system, places that stay inside their folder."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from stablerep.errors import UserError
from stablerep.interchange.mark import mark, unmark
from stablerep.interchange.tables import Incoming, Tables
from stablerep.store import REAL

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_PLAIN = re.compile(r"[\w][\w .,'()+-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a layout may be asked."""

    mark: bool
    """Whether painted pictures are marked where they become files."""
    shard_bytes: int
    """Size from which a new archive or Parquet file is begun."""
    origin: str | None
    """Origin of the pictures of a foreign set; None for what its layout says, which is ``real`` for most."""


class Advance(Protocol):
    """Counts rows as done."""

    def __call__(self, count: int, /) -> None:
        """So many more."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """What an export did beside copying."""

    num_marked: int = 0
    note: str = ""
    """For the card, in Markdown."""


class Layout(Protocol):
    """One way to lay out a set in files."""

    description: str
    """For the card, in Markdown."""

    def caption_file(self, folder: Path) -> Path:
        """Where the whole caption table goes, as Parquet."""

    def write(self, tables: Tables, folder: Path, options: Options, advance: Advance) -> Written:
        """Fill a folder with the pictures and what is known of them."""

    def read(self, source: Path, options: Options) -> Incoming:
        """The rows and captions of a set, its own or a foreign one of this layout."""


def marked(image: bytes, origin: str, options: Options) -> bytes:
    """The picture as it leaves: with the mark where it was painted and marking was asked for."""
    return mark(image) if options.mark and origin != REAL else image


def digest(image: bytes) -> str:
    """What a picture is recognised by on its way back: archives and folders have no checksums of their own."""
    return hashlib.blake2b(image, digest_size=8).hexdigest()


def restored(image: bytes, is_marked: bool, expected: str, place: object) -> bytes:
    """The picture as it was before the export; ``UserError`` where it was changed or damaged since."""
    original = unmark(image) if is_marked else image
    if digest(original) != expected:
        raise UserError(
            f"{place} is not the picture that was exported (damaged or edited); export the set again, or remove "
            "stablerep.json and the .parquet files beside it to take it as a set of unknown origin"
        )
    return original


_KEYS = {"origin", "caption_id", "image_index"}


def refuse_part(place: object, names: Iterable[str], options: Options) -> None:
    """Raise for a part of a set of ours, whose painted pictures would be taken for photographs."""
    if options.origin is None and _KEYS.issubset(names):
        raise UserError(
            f"{place} is part of a set that stablerep wrote; give the whole folder with its stablerep.json, or say "
            f"with --origin who painted the pictures ({REAL} for nobody)"
        )


def safe_name(text: str) -> str:
    """A text as one part of a path: itself where that is harmless, else what is left of it and a hash of it."""
    if _PLAIN.fullmatch(text) and not text.endswith((" ", ".")) and len(text.encode()) <= 100:
        return text
    rest = re.sub(r"[^\w-]+", "-", text).strip("-").encode()[:60].decode(errors="ignore")
    return f"{rest or 'x'}-{hashlib.blake2b(text.encode(errors='replace'), digest_size=6).hexdigest()}"


def inside(folder: Path, name: str, origin: object) -> Path:
    """The file of that name below a folder; ``UserError`` where the name leads out of it."""
    relative = PurePosixPath(name)
    path = folder / name
    leads_out = relative.is_absolute() or ".." in relative.parts or "\\" in name or "\0" in name
    if leads_out or not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"{origin} names the file {name!r}, which lies outside of {folder}; it was not opened"
        )
    return path
