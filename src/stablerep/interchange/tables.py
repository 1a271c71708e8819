"""Image and caption tables as streams: read in bounded memory with captions at hand, and written whole.

What is held in memory of a table are identities (some 30 bytes a row), never pictures.
"""

import base64
import functools
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stablerep.decoding import image_size, open_image
from stablerep.errors import UserError
from stablerep.storage import first_line, is_table, location
from stablerep.store import (
    CAPTION_SCHEMA,
    IMAGE_SCHEMA,
    OK,
    CaptionTable,
    ImageTable,
    caption_id,
    normalise_text,
)

IMAGES, CAPTIONS = "images.lance", "captions.lance"
MANIFEST = "stablerep.json"
CAPTION_FILE = "captions.parquet"
FAILED = "failed"
_BATCH = 64
_AHEAD = 2**24
"""Bytes that Lance may read ahead of what is written, 2 GiB where nothing is said: whole tables would lie in memory."""
_MANIFEST_VERSION = 1
_LISTED = 1_000
_EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}


class Tables:
    """An image table with the captions of its pictures, for reading."""

    def __init__(self, images: ImageTable, captions: CaptionTable | None) -> None:
        self.images = images
        self.captions = captions
        self._caption_order = np.empty(0, dtype="S32")
        self._caption_places = np.empty(0, dtype=np.int64)
        if captions is not None:
            ids = captions.read(["id"])["id"].to_numpy().astype("S32")
            self._caption_places = ids.argsort()
            self._caption_order = ids[self._caption_places]

    @classmethod
    def find(cls, source: Path, captions: Path | None) -> "Tables":
        """The table at ``source``, or ``images.lance`` in that folder, with the captions given or beside it.

        Raises ``UserError`` where these are the captions of other pictures.
        """
        path = source if is_table(source) else source / IMAGES
        images = ImageTable.open(path)
        beside = path.parent / CAPTIONS
        if captions is None and CaptionTable.exists(beside):
            captions = beside
        if captions is None:
            return cls(images, None)
        tables = cls(images, CaptionTable.open(captions))
        named, unknown = tables.caption_counts
        if named and unknown == named:
            raise UserError(
                f"{location(captions)} holds none of the {named:,} captions that the pictures of {location(path)} "
                "have; give the table that they were painted from (--captions)"
            )
        return tables

    @property
    def schema(self) -> pa.Schema:
        """All columns of the image table."""
        return self.images.dataset.schema

    def batches(self) -> Iterator[pa.Table]:
        """All rows with all columns, in the order of the table."""
        for batch in self.images.scan(
            batch_size=_BATCH, batch_readahead=2, fragment_readahead=1, io_buffer_size=_AHEAD
        ):
            yield pa.Table.from_batches([batch])

    def by_caption(self) -> Iterator[tuple[pa.Table, dict[str, Any] | None]]:
        """The rows of one caption after the other, in the order of their ids, each with its caption where it is known.

        Within a caption rows are ordered by origin and image index. Several captions are read at once.
        """
        keys = self.images.read(["caption_id", "origin", "image_index"])
        ids = keys["caption_id"].to_numpy().astype("S32")
        origins = np.unique(keys["origin"].to_numpy().astype(str), return_inverse=True)[1]
        order = np.lexsort([keys["image_index"].to_numpy(), origins, ids])
        ends = (np.flatnonzero(ids[order][1:] != ids[order][:-1]) + 1).tolist() if len(order) else []
        bounds = [0, *ends, len(order)]
        first = 0
        while first < len(bounds) - 1 and len(order):
            last = first + 1
            while last < len(bounds) - 1 and bounds[last + 1] - bounds[first] <= _BATCH:
                last += 1
            rows = self.images.take(order[bounds[first] : bounds[last]])
            captions = self.caption_rows(rows["caption_id"].to_pylist())
            for start, end in itertools.pairwise(bounds[first : last + 1]):
                own = rows.slice(start - bounds[first], end - start)
                yield own, captions.get(own["caption_id"][0].as_py())
            first = last

    def caption_rows(self, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The captions with these ids that are there, by id, with all columns."""
        if self.captions is None:
            return {}
        wanted = np.unique(np.array(list(ids), dtype="S32"))
        places = np.searchsorted(self._caption_order, wanted).clip(max=len(self._caption_order) - 1)
        found = (
            self._caption_places[places[self._caption_order[places] == wanted]]
            if len(self._caption_order)
            else []
        )
        if not len(found):
            return {}
        rows = self.captions.take(found).to_pylist()
        return {row["id"]: row for row in rows}

    @functools.cached_property
    def caption_counts(self) -> tuple[int, int]:
        """How many captions the pictures have, and how many of these are not in the caption table."""
        named = np.unique(self.images.read(["caption_id"])["caption_id"].to_numpy().astype("S32"))
        return len(named), int((~np.isin(named, self._caption_order)).sum())

    def write_captions(self, path: Path) -> int:
        """The whole caption table as one Parquet file; how many there are."""
        if self.captions is None:
            return 0
        with pq.ParquetWriter(path, self.captions.dataset.schema) as writer:
            for batch in self.captions.scan(batch_size=8192):
                writer.write_batch(batch)
        return len(self.captions)

    def write_manifest(self, folder: Path, layout: str) -> None:
        """What the files of a set do not say: which layout it is, types of columns, settings of origins."""
        manifest = {
            "format": "stablerep-set",
            "version": _MANIFEST_VERSION,
            "layout": layout,
            "num_images": len(self.images),
            "num_captions": 0 if self.captions is None else len(self.captions),
            "image_schema": base64.b64encode(self.schema.serialize().to_pybytes()).decode(),
            "origins": self.images.origins(),
        }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a set that this program wrote, with ``image_schema`` as a schema; None where there is none."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != "stablerep-set" or manifest["version"] != _MANIFEST_VERSION:
            raise UserError(
                f"{path} is of version {manifest['version']}, this program reads {_MANIFEST_VERSION}"
            )
        manifest["image_schema"] = pa.ipc.read_schema(
            pa.py_buffer(base64.b64decode(manifest["image_schema"]))
        )
    except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {error}); export the set again"
        ) from error
    result: dict[str, Any] = manifest
    return result


# -- writing ----------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Incoming:
    """A set on its way into tables: batches of image rows, and captions that were in a file or are found on the way."""

    schema: pa.Schema = IMAGE_SCHEMA
    images: Iterator[pa.RecordBatch]
    caption_file: Path | None = None
    found: "FoundCaptions | None" = None
    origins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SetAside:
    """A record of a foreign set that was left out: in which file, where in it (a sample, a row, a line), and why."""

    file: str
    record: str
    reason: str


class FoundCaptions:
    """Captions that come with foreign pictures: each distinct text once, and its next free image index by origin."""

    def __init__(self, source: Path) -> None:
        self.num_set_aside = 0
        self.listed: list[SetAside] = []
        """The first of what was set aside; a huge bad set must not fill the memory."""
        # The name of `.` too; and one need not be UTF-8, a column must.
        self.source = source.absolute().name.encode(errors="replace").decode()
        self._known: set[bytes] = set()
        self._next: Counter[tuple[str, bytes]] = Counter()
        self._fresh: list[dict[str, Any]] = []

    def add(
        self, text: str, origin: str, split: str | None = None, label: str | None = None
    ) -> dict[str, Any]:
        """The identity of the next picture of this text: origin, caption id and image index."""
        identity = caption_id(text)
        key = bytes.fromhex(identity)
        if key not in self._known:
            self._known.add(key)
            row = {"id": identity, "text": normalise_text(text), "source": self.source, "group": identity}
            self._fresh.append(row | {"split": split, "label": label})
        index = self._next[origin, key]
        self._next[origin, key] += 1
        return {"origin": origin, "caption_id": identity, "image_index": index}

    def set_aside(self, file: Path | str, record: str, reason: str) -> None:
        """Count a record without which the set comes in."""
        self.num_set_aside += 1
        if len(self.listed) < _LISTED:
            self.listed.append(SetAside(file=str(file), record=record, reason=reason))

    def take(self) -> list[dict[str, Any]]:
        """The captions that are new since the last call."""
        fresh, self._fresh = self._fresh, []
        return fresh


def write_tables(incoming: Incoming, folder: Path, advance: Callable[[int], None]) -> tuple[int, int]:
    """Write ``images.lance`` and ``captions.lance`` into a folder; how many images and captions there are.

    Raises ``UserError`` for rows that have the same identity.
    """
    schema = _with_keys(incoming.schema, IMAGE_SCHEMA)
    captions: list[pa.Table] = []

    def stream() -> Iterator[pa.RecordBatch]:
        for batch in incoming.images:
            advance(batch.num_rows)
            if incoming.found is not None:
                captions.append(pa.Table.from_pylist(incoming.found.take(), schema=CAPTION_SCHEMA))
            yield batch.select(schema.names).cast(schema)

    _write_dataset(folder / IMAGES, schema, stream())
    table = ImageTable.open(folder / IMAGES)
    _refuse_equal(table)
    for origin, settings in incoming.origins.items():
        table.register_origin(origin, settings)
    num_captions = _write_captions(incoming, captions, folder)
    return len(table), num_captions


def _write_captions(incoming: Incoming, found: list[pa.Table], folder: Path) -> int:
    if incoming.caption_file is not None and incoming.caption_file.is_file():
        schema = _with_keys(parquet_schema(incoming.caption_file), CAPTION_SCHEMA)
        batches: Iterator[pa.RecordBatch] = (
            batch.select(schema.names).cast(schema) for batch in parquet_batches(incoming.caption_file, 8192)
        )
    elif found:
        schema = CAPTION_SCHEMA
        batches = (batch for table in found for batch in table.to_batches())
    else:
        return 0
    _write_dataset(folder / CAPTIONS, schema, batches)
    return len(CaptionTable.open(folder / CAPTIONS))


def _write_dataset(path: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
    """Write batches as one data set in one commit; what the batches raise is raised as it is, not as Lance's."""
    failures: list[Exception] = []

    def watched() -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except Exception as error:
            failures.append(error)
            raise

    reader = pa.RecordBatchReader.from_batches(schema, watched())
    try:
        lance.write_dataset(reader, str(path), mode="create", max_bytes_per_file=2**30)
    except Exception as error:
        if failures:
            raise failures[0] from None
        if not isinstance(error, OSError):
            raise
        raise UserError(
            f"{path.name} could not be written ({first_line(error)}); mend the cause, then give the same command again"
        ) from error


def parquet_schema(file: Path) -> pa.Schema:
    """The columns of a Parquet file; ``UserError`` where it is damaged."""
    try:
        return pq.read_schema(file)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last for names of columns
        raise _damaged(file, error) from error


def parquet_batches(file: Path, size: int) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file; ``UserError`` where it is damaged."""
    try:
        yield from pq.ParquetFile(file, page_checksum_verification=True).iter_batches(size)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last for names of columns
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> UserError:
    reason = str(error).strip().splitlines()[0]
    return UserError(f"{file} is damaged or no Parquet file ({reason}); copy it again")


def _with_keys(schema: pa.Schema, own: pa.Schema) -> pa.Schema:
    """The schema of a table: what every table has as it must be, then the further columns."""
    missing = [field.name for field in own if not field.nullable and field.name not in schema.names]
    if missing:
        raise UserError(f"the set has no column {', '.join(missing)}")
    known = [field for field in own if field.name in schema.names]  # older tables lack some that may be null
    return pa.schema([*known, *(schema.field(name) for name in schema.names if name not in own.names)])


def _refuse_equal(table: ImageTable) -> None:
    keys = table.read(["origin", "caption_id", "image_index"])
    origins = np.unique(keys["origin"].to_numpy().astype(str), return_inverse=True)[1]
    ids, index = keys["caption_id"].to_numpy().astype("S32"), keys["image_index"].to_numpy()
    order = np.lexsort([index, origins, ids])
    same = (ids[order][1:] == ids[order][:-1]) & (index[order][1:] == index[order][:-1])
    same &= origins[order][1:] == origins[order][:-1]
    if same.any():
        row = int(order[np.flatnonzero(same)[0]])
        raise UserError(
            f"the set holds two pictures with one identity (caption {ids[row].decode()}, image index {index[row]}); "
            "an identity is there once"
        )


# -- pictures ---------------------------------------------------------------------------------------


def picture_columns(image: bytes) -> dict[str, Any]:
    """Columns of a picture that came as bytes: its size, or that it is a failure and why."""
    try:
        height, width = image_size(image)
    except (OSError, ValueError, SyntaxError) as error:
        said = str(error).partition(" <")[0][:100]  # PIL names the object in memory, each time another one
        return {"image": None, "status": FAILED, "reason": f"the picture cannot be read ({said})"}
    return {"image": image, "width": width, "height": height, "status": OK}


def extension(image: bytes) -> str:
    """The usual suffix of the picture's kind, without the dot."""
    if image.startswith(b"\xff\xd8"):
        return "jpg"
    if image.startswith(b"\x89PNG"):
        return "png"
    try:
        with open_image(image) as opened:
            return _EXTENSIONS.get(opened.format or "", "bin")
    except (OSError, ValueError, SyntaxError):
        return "bin"


def rows_in_batches(rows: Iterator[dict[str, Any]], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Rows, some without every column, as record batches of bounded size."""
    batch: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += len(row.get("image") or b"")
        if len(batch) == _BATCH or size > 2**25:
            yield pa.RecordBatch.from_pylist(batch, schema=schema)
            batch, size = [], 0
    if batch:
        yield pa.RecordBatch.from_pylist(batch, schema=schema)
