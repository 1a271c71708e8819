"""The layout of the official StableRep code: a CSV of captions and N folders, one per painting of all captions.

``{ddim|plms}_{scale}_seed_{seed}/MILLIONS/THOUSANDS/00000.jpg`` (``--split`` of its ``txt2img.py``), the same relative
path in every folder; the CSV has a line (relative path, caption) for each caption that every folder holds.
"""

import collections
import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stablerep.errors import UserError
from stablerep.interchange.folders import ROWS, read_rows, row_file
from stablerep.interchange.layouts import Advance, Options, Written, inside, safe_name
from stablerep.interchange.tables import (
    CAPTION_FILE,
    FoundCaptions,
    Incoming,
    Tables,
    extension,
    picture_columns,
    rows_in_batches,
)
from stablerep.store import IMAGE_SCHEMA, OK, REAL

_SEED = re.compile(r"_seed_(\d+)$")
_CHUNK = 1000


class Official:
    """CSV and folders of seeds."""

    description = (
        "The layout of the official StableRep code: `--csv_path FOLDER/captions.csv --folder_list FOLDER/*_seed_*`. "
        "The CSV lists the captions of which every folder holds a picture. Here a seed is the image index. "
        f"`{ROWS}` holds every column of every picture and its file; `{CAPTION_FILE}` the captions."
    )

    def caption_file(self, folder: Path) -> Path:
        """Beside the rest."""
        return folder / CAPTION_FILE

    def write(self, tables: Tables, folder: Path, options: Options, advance: Advance) -> Written:
        """Write every picture to its place, and a CSV for each origin."""
        if tables.captions is None:
            raise UserError("the official layout lists captions: give the caption table with --captions")
        keys = tables.images.read(["caption_id", "origin", "image_index", "status"])
        ids = np.unique(keys["caption_id"].to_numpy().astype("S32"))
        names = _folder_names(tables.images.origins(), set(keys["origin"].to_pylist()))
        suffix = _suffix(tables)
        with row_file(folder, tables.schema) as rows:
            for batch in tables.batches():
                numbers = np.searchsorted(ids, batch["caption_id"].to_numpy().astype("S32"))
                columns = (batch["origin"].to_pylist(), batch["image_index"].to_pylist(), numbers.tolist())
                places = [
                    f"{names[origin]}_seed_{index}/{relative_path(number, suffix)}"
                    for origin, index, number in zip(*columns, strict=True)
                ]
                rows.add(batch, places, options)
                advance(len(batch))
        listed = {
            origin: _write_csv(tables, folder / _csv_name(names, origin), keys, origin, suffix)
            for origin in names
        }
        note = "\n".join(f"- `{_csv_name(names, origin)}`: {num} captions" for origin, num in listed.items())
        return Written(num_marked=rows.num_marked, note=note)

    def read(self, source: Path, options: Options) -> Incoming:
        """A set of this program's by its ``rows.parquet``; of others the CSV and every folder that holds its files."""
        if (source / ROWS).is_file():
            return read_rows(source)
        if source.is_file():
            raise UserError(
                f"{source} lists pictures and does not hold them; give the folder that it lies in"
            )
        tables = sorted(source.glob("*.csv"))
        if len(tables) != 1:
            raise UserError(
                f"{source} holds {len(tables)} CSV files; exactly one must list paths and captions"
            )
        folders = [(path, options.origin or _origin_of(path)) for path in _seed_folders(source, tables[0])]
        found = FoundCaptions(tables[0])
        rows = _foreign(tables[0], folders, found)
        settings = {
            origin: {"folders": [path.name for path, of in folders if of == origin]}
            for _, origin in folders
            if origin != REAL
        }
        return Incoming(images=rows_in_batches(rows, IMAGE_SCHEMA), found=found, origins=settings)


def relative_path(number: int, suffix: str) -> str:
    """Where the picture of a caption lies in every folder: a thousand to a folder, a thousand of these to a folder."""
    return f"{number // 10**6:06}/{number % 10**6 // 1000:06}/{number % 1000:05}{suffix}"


def _folder_names(settings: Mapping[str, Mapping[str, Any]], origins: set[str]) -> dict[str, str]:
    """Origin -> name of its folders without the seed, as the official script names them where that is enough."""
    names = {}
    for origin in sorted(origins):
        known = settings.get(origin, {})
        scheduler = known.get("scheduler")
        is_pndm = isinstance(scheduler, Mapping) and scheduler.get("class") == "PNDMScheduler"
        sampler = "plms" if is_pndm else "ddim"
        scale = known.get("guidance_scale")
        names[origin] = f"{sampler}_{float(scale)}" if scale is not None else safe_name(origin)
    repeated = [name for name, count in collections.Counter(names.values()).items() if count > 1]
    return {o: f"{safe_name(o)}_{name}" if name in repeated else name for o, name in names.items()}


def _suffix(tables: Tables) -> str:
    """One suffix for all, as the CSV names a file once for all folders; the official code reads no other kinds."""
    for batch in tables.batches():
        for image in batch["image"].to_pylist():
            if image is not None:
                return ".jpg" if extension(image) == "jpg" else ".png"
    return ".jpg"


def _csv_name(names: Mapping[str, str], origin: str) -> str:
    return "captions.csv" if len(names) == 1 else f"captions-{names[origin]}.csv"


def _write_csv(tables: Tables, file: Path, keys: pa.Table, origin: str, suffix: str) -> int:
    """List the captions of which every folder of an origin holds a picture; how many these are."""
    ids = np.unique(keys["caption_id"].to_numpy().astype("S32"))
    is_there = np.array(keys["status"].to_pylist()) == OK
    is_there &= np.array(keys["origin"].to_pylist()) == origin
    own = keys.filter(pa.array(is_there))
    if not len(own):
        return 0
    num_folders = int(own["image_index"].to_numpy().max()) + 1
    there, counts = np.unique(own["caption_id"].to_numpy().astype("S32"), return_counts=True)
    complete = there[counts == num_folders]
    num_listed = 0
    with file.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines)
        for start in range(0, len(complete), _CHUNK):
            chunk = [identity.decode() for identity in complete[start : start + _CHUNK]]
            captions = tables.caption_rows(chunk)
            for identity in chunk:
                if identity in captions:
                    number = int(np.searchsorted(ids, identity.encode()))
                    writer.writerow([relative_path(number, suffix), captions[identity]["text"]])
                    num_listed += 1
    return num_listed


def _origin_of(folder: Path) -> str:
    """Whose pictures a folder holds: one that is named by a seed was painted, any other holds photographs."""
    sampler = _SEED.sub("", folder.name)
    return REAL if sampler in (folder.name, REAL) else f"official-{sampler}"


def _seed_folders(source: Path, table: Path) -> list[Path]:
    """The folders that hold the first picture of the CSV, its own among them, in the order of their seeds."""
    first = next(iter(_lines(table)), None)
    if first is None:
        raise UserError(
            f"{table} lists no picture (its first column must be a path that ends in .png, .jpg or .jpeg)"
        )
    folders = [source, *(path for path in source.iterdir() if path.is_dir())]
    holding = [path for path in folders if inside(path, first[1], table).is_file()]
    if not holding:
        raise UserError(
            f"neither {source} nor a folder in it holds {first[1]!r}, which {table.name} names first; paths in the CSV "
            "are relative to one of these"
        )
    return sorted(holding, key=lambda path: (_SEED.sub("", path.name), _seed(path), path.name))


def _seed(path: Path) -> int:
    match = _SEED.search(path.name)
    return int(match[1]) if match else 0


def _lines(table: Path) -> Iterator[tuple[int, str, str]]:
    """Number, path and caption (maybe blank) of the lines that name a picture, as the official code reads them."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            for number, line in enumerate(csv.reader(file), start=1):
                if line and line[0].endswith((".png", ".jpg", ".jpeg")):
                    yield number, line[0], line[1] if len(line) > 1 else ""
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table} cannot be read as CSV in UTF-8 ({error})") from error


def _foreign(table: Path, folders: list[tuple[Path, str]], found: FoundCaptions) -> Iterator[dict[str, Any]]:
    for number, relative, caption in _lines(table):
        if not caption.strip():
            found.set_aside(table, f"line {number}", f"{relative} has no caption in the second column")
            continue
        for folder, origin in folders:
            path = inside(folder, relative, f"{table}, line {number},")
            identity = found.add(caption, origin)
            if path.is_file():
                yield identity | picture_columns(path.read_bytes())
            else:
                reason = f"{folder.name}/{relative} is not there"
                yield identity | {"image": None, "status": "failed", "reason": reason}
