"""Parquet files that Hugging Face ``datasets`` shows as pictures: a struct of bytes and path, and its own metadata."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stablerep.errors import UserError
from stablerep.interchange.layouts import Advance, Options, Written, refuse_part, safe_name
from stablerep.interchange.tables import (
    CAPTION_FILE,
    FoundCaptions,
    Incoming,
    Tables,
    extension,
    parquet_batches,
    parquet_schema,
    picture_columns,
    read_manifest,
    rows_in_batches,
)
from stablerep.store import IMAGE_SCHEMA, REAL

DATA, CAPTIONS = "data", "captions"
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_BATCH = 64
_TEXTS = ("text", "caption", "prompt", "captions", "texts")


class Parquet:
    """``data/images-00000.parquet``, ..., and ``captions/captions.parquet``."""

    description = (
        'Parquet that Hugging Face reads: `datasets.load_dataset("FOLDER")` gives pictures with columns and `text`, '
        '`datasets.load_dataset("FOLDER", "captions")` the captions.'
    )

    def caption_file(self, folder: Path) -> Path:
        """In a folder of its own, so that it is no part of the pictures."""
        (folder / CAPTIONS).mkdir(exist_ok=True)
        return folder / CAPTIONS / CAPTION_FILE

    def write(self, tables: Tables, folder: Path, options: Options, advance: Advance) -> Written:
        """Write the pictures in the order of the table; Parquet files are left unmarked."""
        if "text" in tables.schema.names:
            raise UserError("the image table has a column 'text', where the caption goes; rename it")
        schema = _schema(tables.schema)
        files = _Files(folder / DATA, schema, options.shard_bytes)
        try:
            for batch in tables.batches():
                files.add(_with_text(batch, tables, schema))
                advance(len(batch))
            files.finish()
        finally:
            files.close()
        return Written()

    def read(self, source: Path, options: Options) -> Incoming:
        """A set of this program's, or one of others with a column of pictures and one of texts or labels."""
        manifest = read_manifest(source)
        if manifest is None:
            found = FoundCaptions(source)
            files = [source] if source.is_file() else sorted(source.rglob("*.parquet"))
            rows = (row for file in files for row in _foreign(file, options, found))
            return Incoming(images=rows_in_batches(rows, IMAGE_SCHEMA), found=found)
        return Incoming(
            schema=manifest["image_schema"],
            images=_own(source, manifest["image_schema"]),
            caption_file=source / CAPTIONS / CAPTION_FILE,
            origins=manifest["origins"],
        )


class _Files:
    """Parquet files one after the other, each begun where the last one is full."""

    def __init__(self, folder: Path, schema: pa.Schema, max_bytes: int) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._schema = schema
        self._max_bytes = max_bytes
        self._count = self._bytes = 0
        self._writer: pq.ParquetWriter | None = None

    def add(self, rows: pa.Table) -> None:
        """Append rows as one row group, so that a viewer reads few pictures at a time."""
        if self._writer is None:
            path = self._folder / f"images-{self._count:05}.parquet"
            # Encoded pictures do not shrink, and a dictionary of them would hold them in memory.
            self._writer = pq.ParquetWriter(
                path, self._schema, compression="none", use_dictionary=False, write_page_checksum=True
            )
            self._count += 1
        self._writer.write_table(rows)
        self._bytes += rows.nbytes
        if self._bytes > self._max_bytes:
            self.close()

    def finish(self) -> None:
        """Leave a file even where there is no row."""
        if self._count == 0:
            self.add(self._schema.empty_table())

    def close(self) -> None:
        """Finish the file that is open."""
        if self._writer is not None:
            self._writer.close()
            self._writer, self._bytes = None, 0


def _schema(images: pa.Schema) -> pa.Schema:
    fields = [
        pa.field("image", _IMAGE) if field.name == "image" else pa.field(field.name, field.type)
        for field in images
    ]
    schema = pa.schema([*fields, pa.field("text", pa.string())])
    features = {field.name: _feature(field.name, field.type) for field in schema}
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _feature(name: str, kind: pa.DataType) -> dict[str, Any]:
    """A column as ``datasets`` describes it."""
    if kind == _IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        length = kind.list_size if pa.types.is_fixed_size_list(kind) else -1
        return {"_type": "Sequence", "feature": _feature(name, kind.value_type), "length": length}
    names = {"float": "float32", "double": "float64", "halffloat": "float16"}
    return {"_type": "Value", "dtype": names.get(str(kind), str(kind))}


def _with_text(batch: pa.Table, tables: Tables, schema: pa.Schema) -> pa.Table:
    ids = batch["caption_id"].to_pylist()
    captions = tables.caption_rows(ids)
    texts = [captions[identity]["text"] if identity in captions else None for identity in ids]
    names = zip(batch["image"].to_pylist(), ids, batch["image_index"].to_pylist(), strict=True)
    pictures = [
        None
        if image is None
        else {"bytes": image, "path": f"{safe_name(identity)}-{index}.{extension(image)}"}
        for image, identity, index in names
    ]
    columns = {name: batch[name] for name in batch.column_names} | {
        "image": pa.array(pictures, _IMAGE),
        "text": pa.array(texts, pa.string()),
    }
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _own(source: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for file in sorted((source / DATA).glob("*.parquet")):
        for batch in parquet_batches(file, _BATCH):
            columns = [
                batch.column(name).field("bytes") if name == "image" else batch.column(name)
                for name in schema.names
            ]
            yield pa.RecordBatch.from_arrays(columns, names=schema.names)


def _foreign(file: Path, options: Options, found: FoundCaptions) -> Iterator[dict[str, Any]]:
    number = 0
    refuse_part(file, parquet_schema(file).names, options)
    for batch in parquet_batches(file, _BATCH):
        image, text, label = _columns(file, batch.schema)
        try:
            rows = batch.select([name for name in (image, text, label) if name]).to_pylist()
        except UnicodeDecodeError as error:
            raise UserError(
                f"{file}: a text or label behind row {number:,} is not valid UTF-8; write the file anew"
            ) from error
        for row in rows:
            number += 1
            given = row[image]
            encoded = given.get("bytes") if isinstance(given, dict) else given
            name = None if label is None or row[label] is None else str(row[label])
            said = row[text] if text else None
            said = (said[0] if said else None) if isinstance(said, list) else said
            caption = str(said or "").strip() or (name or "").strip()
            if not (caption and encoded):
                reason = "the picture has neither a text nor a label" if encoded else "it has no picture"
                found.set_aside(file, f"row {number}", reason)
                continue
            identity = found.add(caption, options.origin or REAL, label=name)
            yield identity | {"label": name} | picture_columns(encoded)


def _columns(file: Path, schema: pa.Schema) -> tuple[str, str | None, str | None]:
    """The columns of pictures, texts and labels."""
    pictures = [
        field.name
        for field in schema
        if pa.types.is_binary(field.type)
        or pa.types.is_large_binary(field.type)
        or (pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
    ]
    text = next((name for name in _TEXTS if name in schema.names), None)
    label = "label" if "label" in schema.names else None
    if not pictures or not (text or label):
        raise UserError(
            f"{file} has no column of pictures or none of texts ({', '.join(_TEXTS)}) or labels (label); "
            f"its columns are {', '.join(schema.names)}"
        )
    return ("image" if "image" in pictures else pictures[0]), text, label
