"""Caption files: which columns they have, and their entries one after the other in bounded memory.

A kind of file is one line in ``FILE_KINDS``. Readers raise ``UserError`` for a file that is unreadable as a
whole; an entry that is unreadable alone is yielded with its fault, so that nothing disappears silently.
"""

import csv
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stablerep.captions.archives import tar_columns, tar_entries
from stablerep.captions.entries import (
    MAX_CHARACTERS,
    MAX_LINE_BYTES,
    SAMPLE,
    Columns,
    Entry,
    entry_of,
)
from stablerep.errors import UserError
from stablerep.store import encodable

_BATCH = 10_000


@dataclass(frozen=True, kw_only=True)
class FileKind:
    """How to read one kind of file; ``columns`` (name -> is it text) is None where there are none."""

    columns: Callable[[Path], Mapping[str, bool]] | None
    entries: Callable[[Path, Columns], Iterator[Entry]]
    num_columns: Callable[[Path], int] | None = None
    """Where names of columns stand in a first line, which may be missing: how many columns there are."""


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines with their ends; of a line beyond the limit the beginning, a fault to any reader."""
    with path.open("rb") as file:
        for number in itertools.count(1):
            line = rest = file.readline(MAX_LINE_BYTES)
            if not line:
                return
            while len(rest) == MAX_LINE_BYTES and not rest.endswith(b"\n"):
                rest = file.readline(MAX_LINE_BYTES)
            yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


def _text_entries(path: Path, columns: Columns) -> Iterator[Entry]:  # noqa: ARG001 - text has no columns
    for number, line in _lines(path):
        # Bytes that are not UTF-8 become lone surrogates, at which `fault_of` takes offence.
        yield entry_of(number, line[: 4 * MAX_CHARACTERS + 1].decode(errors="surrogateescape").rstrip("\r\n"))


def _records(path: Path) -> Iterator[tuple[int, list[str], str | None]]:
    """Records of a CSV or TSV file as (first line, fields, fault); in TSV a quotation mark is a sign like any other."""
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
    decoded = (line.decode(errors="surrogateescape") for _, line in _lines(path))
    is_tsv = path.suffix.lower() == ".tsv"
    reader = csv.reader(
        decoded,
        delimiter="\t" if is_tsv else ",",
        quoting=csv.QUOTE_NONE if is_tsv else csv.QUOTE_MINIMAL,
        strict=True,
    )
    while True:
        begin = reader.line_num + 1
        try:
            yield begin, next(reader), None
        except StopIteration:
            return
        except csv.Error as error:
            yield begin, [], f"{error} (lines {begin} to {reader.line_num})"


def _csv_header(path: Path) -> list[str]:
    _, header, fault = next(_records(path), (1, [], "the file is empty"))
    if fault is None and not all(encodable(name) for name in header):
        fault = "not UTF-8"
    if fault is not None or not header:
        reason = fault or "blank"
        raise UserError(
            f"{path}, line 1: no header could be read ({reason}); the first line must name the columns"
        )
    return [name.strip() for name in header]


def _csv_columns(path: Path) -> Mapping[str, bool]:
    header = _csv_header(path)
    records = itertools.islice(_records(path), 1, 1 + SAMPLE)
    sample = [fields for _, fields, _ in records if len(fields) == len(header)]
    return {
        name: any(fields[position].strip() and not _is_number(fields[position]) for fields in sample)
        for position, name in enumerate(header)
    }


def seems_data(name: str) -> bool:
    """Whether what stands in a first line looks like an entry, not like the name of a column."""
    return _is_number(name) or "://" in name or len(name.split()) > 2


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _csv_entries(path: Path, columns: Columns) -> Iterator[Entry]:
    header = _csv_header(path)
    names = header if columns.has_header else [str(number) for number in range(1, 1 + len(header))]
    caption = names.index(str(columns.caption))
    group = None if columns.group is None else names.index(columns.group)
    for line, fields, fault in itertools.islice(_records(path), int(columns.has_header), None):
        if fault is not None or not fields:
            yield Entry(line=line, fault=fault or "blank")
        elif len(fields) != len(header):
            first = "header" if columns.has_header else "first line"
            yield Entry(line=line, fault=f"{len(fields)} fields where the {first} has {len(header)}")
        else:
            yield entry_of(line, fields[caption], None if group is None else fields[group])


def _json_records(path: Path) -> Iterator[tuple[int, dict[str, Any], str | None]]:
    """Records of a JSON Lines file as (line, fields, fault)."""
    for number, line in _lines(path):
        record, fault = None, None
        try:
            record = json.loads(line) if line.strip() else None
        except UnicodeDecodeError as error:
            fault = f"not UTF-8 (byte {error.start})"
        except (ValueError, RecursionError) as error:
            cut = len(line) == MAX_LINE_BYTES
            fault = f"longer than {MAX_LINE_BYTES:,} bytes" if cut else f"not JSON ({error})"
        if fault is None and not isinstance(record, dict):
            fault = "not a JSON object" if line.strip() else "blank"
        yield number, record if isinstance(record, dict) else {}, fault


def _json_columns(path: Path) -> Mapping[str, bool]:
    columns: dict[str, bool] = {}
    readable = (fields for _, fields, fault in _json_records(path) if fault is None)
    for fields in itertools.islice(readable, SAMPLE):
        for name, value in fields.items():
            columns[name] = columns.get(name, False) or isinstance(value, str)
    return columns


def _json_entries(path: Path, columns: Columns) -> Iterator[Entry]:
    for line, fields, fault in _json_records(path):
        if fault is not None:
            yield Entry(line=line, fault=fault)
        elif columns.caption not in fields:
            yield Entry(line=line, fault=f"no field {columns.caption!r}")
        else:
            yield entry_of(
                line, fields[str(columns.caption)], fields.get(columns.group) if columns.group else None
            )


def _parquet_columns(path: Path) -> Mapping[str, bool]:
    try:
        schema = pq.read_schema(path)
    except UnicodeDecodeError as error:  # which pyarrow raises for damaged names alone
        raise pa.ArrowInvalid(f"the name of a column is not UTF-8: {error.object!r}") from error
    return {field.name: _holds_text(field.type) for field in schema}


def _holds_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _parquet_entries(path: Path, columns: Columns) -> Iterator[Entry]:
    names = [name for name in dict.fromkeys((columns.caption, columns.group)) if name is not None]
    line = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_BATCH, columns=names):
            captions = _plain_values(batch.column(columns.caption))
            groups: Iterable[object] = itertools.repeat(None)
            if columns.group is not None:
                groups = _plain_values(batch.column(columns.group))
            for value, group in zip(captions, groups, strict=columns.group is not None):
                line += 1
                yield entry_of(line, value, group)


def _plain_values(column: pa.Array) -> list[object]:
    """Values as Python objects; bytes that Parquet calls text are decoded here, as they may not be."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not _holds_text(column.type):
        return list(column.to_pylist())
    values = column.cast(pa.large_binary()).to_pylist()
    return [None if value is None else value.decode(errors="surrogateescape") for value in values]


_SEPARATED = FileKind(
    columns=_csv_columns, entries=_csv_entries, num_columns=lambda path: len(_csv_header(path))
)

FILE_KINDS: Mapping[str, FileKind] = {
    ".txt": FileKind(columns=None, entries=_text_entries),
    ".csv": _SEPARATED,
    ".tsv": _SEPARATED,
    ".jsonl": FileKind(columns=_json_columns, entries=_json_entries),
    ".ndjson": FileKind(columns=_json_columns, entries=_json_entries),
    ".parquet": FileKind(columns=_parquet_columns, entries=_parquet_entries),
    ".tar": FileKind(columns=tar_columns, entries=tar_entries),
}
