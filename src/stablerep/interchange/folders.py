"""Pictures as loose files, by split and label as torchvision's ``ImageFolder`` reads them.

``rows.parquet`` beside them holds all columns and the file of each row, so that nothing is lost on the way back.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stablerep.errors import UserError
from stablerep.interchange.layouts import (
    IMAGE_SUFFIXES,
    Advance,
    Options,
    Written,
    digest,
    inside,
    marked,
    restored,
    safe_name,
)
from stablerep.interchange.tables import (
    CAPTION_FILE,
    FoundCaptions,
    Incoming,
    Tables,
    extension,
    parquet_batches,
    picture_columns,
    read_manifest,
    rows_in_batches,
)
from stablerep.store import IMAGE_SCHEMA, REAL, encodable

ROWS = "rows.parquet"
_FILE, _MARKED, _DIGEST = "file_name", "is_marked", "digest"
_SPLITS = ("train", "training", "val", "valid", "validation", "dev", "test")


class ImageFolder:
    """``SPLIT/LABEL/ORIGIN-CAPTION-INDEX.jpg``."""

    description = (
        "One folder per split (`all` where none is known), in it one per label: "
        '`torchvision.datasets.ImageFolder("FOLDER/train")` and '
        '`datasets.load_dataset("imagefolder", data_dir="FOLDER")` '
        f"read it. `{ROWS}` holds every column of every picture and its file; `{CAPTION_FILE}` the captions."
    )

    def caption_file(self, folder: Path) -> Path:
        """Beside the rest."""
        return folder / CAPTION_FILE

    def write(self, tables: Tables, folder: Path, options: Options, advance: Advance) -> Written:
        """Write every picture to its place."""
        with row_file(folder, tables.schema) as rows:
            for batch in tables.batches():
                rows.add(batch, [_place(row) for row in _without_image(batch)], options)
                advance(len(batch))
        return Written(num_marked=rows.num_marked)

    def read(self, source: Path, options: Options) -> Incoming:
        """A set of this program's by its ``rows.parquet``; of others each picture with its folder's name as label."""
        if (source / ROWS).is_file():
            return read_rows(source)
        found = FoundCaptions(source)
        rows = _foreign(source, options.origin or REAL, found)
        return Incoming(images=rows_in_batches(rows, IMAGE_SCHEMA), found=found)


class RowFile:
    """Writes pictures to files and all else that is known of them to ``rows.parquet``."""

    def __init__(self, folder: Path, schema: pa.Schema, writer: pq.ParquetWriter) -> None:
        self._folder = folder
        self._schema = schema
        self._writer = writer
        self.num_marked = 0

    def add(self, batch: pa.Table, places: Sequence[str], options: Options) -> None:
        """Write a batch of rows; ``places`` are relative, and get the suffix of the picture where they have none."""
        names: list[str | None] = []
        marks: list[bool] = []
        digests: list[str | None] = []
        columns = (batch["image"].to_pylist(), batch["origin"].to_pylist(), places)
        for image, origin, place in zip(*columns, strict=True):
            if image is None:
                names.append(None)
                marks.append(False)
                digests.append(None)
                continue
            leaving = marked(image, origin, options)
            name = place if place.endswith((".jpg", ".png")) else f"{place}.{extension(image)}"
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(leaving)
            names.append(name)
            marks.append(leaving is not image)
            digests.append(digest(image))
        self.num_marked += sum(marks)
        extended = batch.drop_columns(["image"]).append_column(_FILE, pa.array(names, pa.string()))
        extended = extended.append_column(_MARKED, pa.array(marks, pa.bool_()))
        extended = extended.append_column(_DIGEST, pa.array(digests, pa.string()))
        self._writer.write_table(extended.cast(self._schema))


@contextlib.contextmanager
def row_file(folder: Path, schema: pa.Schema) -> Iterator[RowFile]:
    """``rows.parquet`` of a folder, for writing; closed at the end."""
    fields = [field.remove_metadata() for field in schema if field.name != "image"]
    extended = pa.schema(
        [*fields, pa.field(_FILE, pa.string()), pa.field(_MARKED, pa.bool_()), pa.field(_DIGEST, pa.string())]
    )
    with pq.ParquetWriter(folder / ROWS, extended) as writer:
        yield RowFile(folder, extended, writer)


def read_rows(folder: Path) -> Incoming:
    """A set by its ``rows.parquet``; what ``RowFile`` marked comes back unmarked."""
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder} has a {ROWS} but no stablerep.json beside it; copy the whole folder")
    schema: pa.Schema = manifest["image_schema"]

    def images() -> Iterator[pa.RecordBatch]:
        for batch in parquet_batches(folder / ROWS, 64):
            pictures = [
                _read_picture(folder, *facts)
                for facts in zip(
                    *(batch.column(name).to_pylist() for name in (_FILE, _MARKED, _DIGEST)), strict=True
                )
            ]
            columns = [
                pa.array(pictures, pa.binary()) if name == "image" else batch.column(name)
                for name in schema.names
            ]
            yield pa.RecordBatch.from_arrays(columns, names=schema.names)

    return Incoming(
        schema=schema, images=images(), caption_file=folder / CAPTION_FILE, origins=manifest["origins"]
    )


def _read_picture(folder: Path, name: str | None, is_marked: bool, expected: str) -> bytes | None:
    if name is None:
        return None
    path = inside(folder, name, folder / ROWS)
    try:
        image = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(
            f"{folder / ROWS} names the file {name!r}, which is not there; copy the whole folder"
        ) from error
    return restored(image, is_marked, expected, path)


def _without_image(batch: pa.Table) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = batch.drop_columns(["image"]).to_pylist()
    return rows


def _place(row: dict[str, Any]) -> str:
    split = safe_name(row.get("split") or "all")
    label = safe_name(row.get("label") or "unlabelled")
    name = f"{safe_name(row['origin'])}-{safe_name(row['caption_id'])}-{row['image_index']}"
    return f"{split}/{label}/{name}"


def _foreign(source: Path, origin: str, found: FoundCaptions) -> Iterator[dict[str, Any]]:
    """Pictures of folders of labels, below folders of splits where the first level is named so."""
    for path in _picture_files(source):
        relative = path.relative_to(source)
        parts = relative.parts[:-1]
        if not parts:
            found.set_aside(source, str(relative), "it lies in no folder that would name its label")
            continue
        if not encodable("".join(parts)):
            found.set_aside(source, str(relative), "the name of its folder is not valid UTF-8")
            continue
        split = parts[0] if len(parts) > 1 and parts[0].lower() in _SPLITS else None
        label = parts[-1]
        identity = found.add(label.replace("_", " "), origin, split, label)
        yield identity | {"split": split, "label": label} | picture_columns(path.read_bytes())


def _picture_files(source: Path) -> Iterator[Path]:
    """All pictures in and below a folder, sorted; links that lead out of it are refused."""
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    for path in files:
        if path.is_file():
            yield inside(source, path.relative_to(source).as_posix(), source)
