"""The command ``convert``: image tables to the layouts of other programs, and back, without losing anything."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.interchange.card import set_card
from stablerep.interchange.folders import ImageFolder
from stablerep.interchange.layouts import IMAGE_SUFFIXES, Layout, Options, safe_name
from stablerep.interchange.official import Official
from stablerep.interchange.parquet import Parquet
from stablerep.interchange.tables import (
    CAPTIONS,
    IMAGES,
    FoundCaptions,
    SetAside,
    Tables,
    read_manifest,
    write_tables,
)
from stablerep.interchange.tars import WebDataset
from stablerep.run import whole_folder, write_text
from stablerep.storage import is_remote
from stablerep.store import REAL

LayoutName = Literal["tables", "imagefolder", "official", "webdataset", "parquet"]

_SHOWN = 5

LAYOUTS: dict[str, Layout] = {
    "imagefolder": ImageFolder(),
    "official": Official(),
    "webdataset": WebDataset(),
    "parquet": Parquet(),
}


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Turn image tables into what other programs read, or such a set into tables."""

    source: Positional[Path]
    """Image table or folder with images.lance; or an image folder, CSV with folders, WebDataset, Parquet files."""
    out: Positional[Path]
    """Folder to write; it must not exist. Tables go to images.lance and captions.lance in it."""
    to: LayoutName | None = None
    """imagefolder, official (CSV and N folders), webdataset, parquet; or tables, the default for all but tables."""
    captions: Path | None = None
    """Caption table of the pictures; captions.lance beside the image table where not given."""
    mark: bool = True
    """Mark painted pictures in files and archives as IPTC's "trained algorithmic media"; pixels stay as they are."""
    shard_megabytes: int = 256
    """Size from which a new archive or Parquet file is begun."""
    origin: str | None = None
    """The model that painted the pictures of a foreign set. Unset: they are photographs (origin real), except those in
    folders that are named by a seed, as the official code names folders of painted ones."""

    def __post_init__(self) -> None:
        if self.shard_megabytes < 1:
            raise ValueError(f"shard_megabytes must be at least 1, got {self.shard_megabytes}")
        if self.origin == "":
            raise ValueError("origin must not be empty")


@dataclass(frozen=True, kw_only=True)
class ConvertSummary:
    """What was written."""

    path: Path
    layout: str
    num_images: int
    num_captions: int
    num_marked: int = 0
    num_set_aside: int = 0
    """Records of a foreign set that had no caption or no picture; ``set_aside`` lists the first 1,000."""
    set_aside: tuple[SetAside, ...] = ()


def convert(config: ConvertConfig, *, console: Console = Console(quiet=True)) -> ConvertSummary:  # noqa: B008
    """Write ``config.out``, whole or not at all; pictures stream through, so that memory does not grow with the set.

    Raises ``UserError`` where the source is none of the layouts, is damaged, or names files outside of itself.
    """
    found = layout_of(config.source)
    to = config.to or "tables"
    if "tables" not in (found, to) or found == to:
        raise UserError(
            f"{config.source} holds {found}, and --to is {to}: one side must be tables and the other must not"
            + ("; convert to tables first" if found != to else "; choose one with --to")
        )
    if to == "tables" and config.captions is not None:
        raise UserError(
            f"--captions {config.captions} goes with an image table, and {config.source} holds {found} with its own; "
            "leave it out"
        )
    if config.origin is not None and (to != "tables" or read_manifest(config.source) is not None):
        raise UserError(
            f"--origin {config.origin} is for sets of other programs, and {config.source} itself says who painted its "
            "pictures; leave it out"
        )
    options = Options(mark=config.mark, shard_bytes=config.shard_megabytes * 2**20, origin=config.origin)
    summary = (
        _read(config, found, options, console) if to == "tables" else _write(config, to, options, console)
    )
    console.say(f"{summary.num_images:,} images as {to}: {config.out}")
    return summary


def layout_of(source: Path) -> str:
    """Which layout a file or folder has; ``UserError`` where it is none."""
    if is_remote(source):
        return "tables"
    if not source.exists():
        raise UserError(f"{source} is not there; give an image table, or a file or folder of pictures")
    manifest = read_manifest(source)
    if manifest is not None and manifest.get("layout") in LAYOUTS:
        return str(manifest["layout"])
    if (source / "_versions").is_dir() or (source / IMAGES).is_dir():
        return "tables"
    names = [source] if source.is_file() else [path for path in source.rglob("*") if path.is_file()]
    suffixes = {path.suffix.lower() for path in names}
    for suffix, layout in ((".tar", "webdataset"), (".parquet", "parquet"), (".csv", "official")):
        if suffix in suffixes:
            return layout
    if source.is_dir() and suffixes & set(IMAGE_SUFFIXES):
        return "imagefolder"
    raise UserError(
        f"{source} is neither an image table nor a set of pictures: it holds no {IMAGES}, .tar, .parquet, .csv, "
        "nor folders of pictures"
    )


def _write(config: ConvertConfig, to: str, options: Options, console: Console) -> ConvertSummary:
    tables = Tables.find(config.source, config.captions)
    if tables.captions is None:
        console.say(
            f"no captions: there is no {CAPTIONS} beside the image table, and --captions was not given"
        )
    elif tables.caption_counts[1]:
        named, unknown = tables.caption_counts
        console.say(f"{unknown:,} of the {named:,} captions of the pictures are not in the caption table")
    layout = LAYOUTS[to]
    with (
        whole_folder(config.out) as folder,
        console.progress(f"to {to}", len(tables.images), "images") as progress,
    ):
        written = layout.write(tables, folder, options, progress.advance)
        num_captions = tables.write_captions(layout.caption_file(folder))
        tables.write_manifest(folder, to)
        write_text(
            folder / "README.md", set_card(safe_name(config.out.resolve().name), to, tables, layout, written)
        )
    return ConvertSummary(
        path=config.out,
        layout=to,
        num_images=len(tables.images),
        num_captions=num_captions,
        num_marked=written.num_marked,
    )


def _require_all(source: Path, manifest: Mapping[str, Any], **found: int) -> None:
    """Refuse a set of ours of which something was left behind."""
    for name, num in found.items():
        said = int(manifest.get(name, num))
        if num != said:
            what = name.removeprefix("num_")
            raise UserError(
                f"{source} holds {num:,} {what}, its stablerep.json says {said:,}; copy the whole folder"
            )


def _read(config: ConvertConfig, found: str, options: Options, console: Console) -> ConvertSummary:
    manifest = read_manifest(config.source)
    total = None if manifest is None else int(manifest.get("num_images", 0))
    with (
        whole_folder(config.out) as folder,
        console.progress(f"from {found}", total, "images") as progress,
    ):
        incoming = LAYOUTS[found].read(config.source, options)
        if incoming.found and config.origin and config.origin != REAL:  # all that is known of who painted it
            incoming.origins = incoming.origins or {config.origin: {"folders": [incoming.found.source]}}
        num_images, num_captions = write_tables(incoming, folder, progress.advance)
        if manifest is not None:
            _require_all(config.source, manifest, num_images=num_images, num_captions=num_captions)
        found_captions = incoming.found or FoundCaptions(config.source)
        if num_images == 0 and manifest is None:
            raise UserError(_nothing_in(config.source, found_captions))
    _report(found_captions, console)
    return ConvertSummary(
        path=config.out,
        layout="tables",
        num_images=num_images,
        num_captions=num_captions,
        num_set_aside=found_captions.num_set_aside,
        set_aside=tuple(found_captions.listed),
    )


def _nothing_in(source: Path, found: FoundCaptions) -> str:
    said = f"{source} holds no picture with a caption or label"
    if not found.listed:
        return said
    first = found.listed[0]
    return (
        f"{said}; {found.num_set_aside:,} set aside; the first, {first.file}, {first.record}: {first.reason}"
    )


def _report(found: FoundCaptions, console: Console) -> None:
    for entry in found.listed[:_SHOWN]:
        console.say(f"set aside: {entry.file}, {entry.record}: {entry.reason}")
    if found.num_set_aside > _SHOWN:
        console.say(f"... and {found.num_set_aside - _SHOWN:,} more set aside")
