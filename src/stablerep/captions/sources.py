"""Captions in: text, CSV, TSV, JSON Lines and Parquet files become rows of the caption table."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from tyro.conf import Positional

from stablerep.captions.files import FILE_KINDS, Columns, Entry, FileKind
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.store import CaptionTable, caption_id, normalise_text

_BATCH = 10_000
_LISTED = 1_000
_USUAL_NAMES = ("caption", "text", "prompt", "title")


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Import captions from files; equal captions become one, and importing a file again adds nothing."""

    files: Positional[tuple[Path, ...]] = ()
    """Files with captions: .txt (one a line), .csv, .tsv, .jsonl, .ndjson or .parquet."""
    out: Path = Path("captions.lance")
    """Caption table, which is created or continued."""
    column: str | None = None
    """Column with the captions; unset: caption, text, prompt or title, or the only one with text."""
    group_column: str | None = None
    """Column that names what must not be split between train and test; unset: each caption stands alone."""


@dataclass(frozen=True, kw_only=True)
class SetAside:
    """An entry that was not imported: where it stands and why. In Parquet files ``line`` is the row."""

    file: str
    line: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class ImportSummary:
    """What an import did: ``read == new + duplicates + num_set_aside``, all in entries of the files.

    ``set_aside`` lists the first 1,000 entries set aside, so that a huge bad file cannot fill the memory.
    """

    path: Path
    read: int
    new: int
    duplicates: int
    num_set_aside: int
    set_aside: tuple[SetAside, ...]


@dataclass(frozen=True, kw_only=True)
class _Source:
    path: Path
    kind: FileKind
    columns: Columns

    def entries(self) -> Iterator[Entry]:
        return self.kind.entries(self.path, self.columns)


def import_captions(config: ImportConfig, *, console: Console = Console(quiet=True)) -> ImportSummary:  # noqa: B008
    """Read all files into the caption table ``config.out``.

    Every file is checked before the table is touched. Blank, unreadable and over-long entries are set aside
    and counted. Of equal captions the first stays, with its source and group. Raises ``UserError`` for files
    that are missing, empty, not text, of unknown kind or without the column.
    """
    sources = _check(config)
    table = CaptionTable.open_or_create(config.out)
    read = new = num_set_aside = 0
    listed: list[SetAside] = []
    for source in sources:
        entries = source.entries()
        while batch := list(itertools.islice(entries, _BATCH)):
            faulty = [entry for entry in batch if entry.fault is not None]
            new += table.append([_row(entry, source.path) for entry in batch if entry.fault is None])
            read += len(batch)
            num_set_aside += len(faulty)
            for entry in faulty[: _LISTED - len(listed)]:
                listed.append(SetAside(file=str(source.path), line=entry.line, reason=str(entry.fault)))
    summary = ImportSummary(
        path=config.out,
        read=read,
        new=new,
        duplicates=read - new - num_set_aside,
        num_set_aside=num_set_aside,
        set_aside=tuple(listed),
    )
    _report(summary, sources, console)
    return summary


def _row(entry: Entry, path: Path) -> dict[str, str]:
    identity = caption_id(entry.text)
    text = normalise_text(entry.text)
    return {"id": identity, "text": text, "source": path.name, "group": entry.group or identity}


def _report(summary: ImportSummary, sources: list[_Source], console: Console) -> None:
    for source in sources:
        if source.columns.caption is not None:
            console.say(f"{source.path}: captions from column {source.columns.caption!r}")
    for entry in summary.set_aside[:5]:
        console.say(f"set aside: {entry.file}, line {entry.line}: {entry.reason}")
    if summary.num_set_aside > 5:
        console.say(f"... and {summary.num_set_aside - 5:,} more set aside")
    console.say(
        f"{summary.read:,} captions read: {summary.new:,} new, {summary.duplicates:,} already known, "
        f"{summary.num_set_aside:,} set aside; the table is {summary.path}"
    )


def _check(config: ImportConfig) -> list[_Source]:
    """Look at every file before anything is written; all that is wrong stands in one message."""
    if not config.files:
        raise UserError("no caption files given; name at least one " + ", ".join(FILE_KINDS) + " file")
    sources: list[_Source] = []
    problems: list[str] = []
    for path in config.files:
        try:
            sources.append(_source(path, config))
        except UserError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{path} cannot be read: {error.strerror or str(error).splitlines()[0]}")
    if problems:
        raise UserError("; ".join(problems))
    asked = config.column or config.group_column
    if asked is not None and all(source.kind.columns is None for source in sources):
        raise UserError(f"column {asked!r} was asked for, but text files have no columns; leave it out")
    return sources


def _source(path: Path, config: ImportConfig) -> _Source:
    if path.is_dir():
        raise UserError(f"{path} is a folder; name the files in it")
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty")
    kind = FILE_KINDS.get(path.suffix.lower())
    if kind is None:
        raise UserError(f"{path}: unknown kind of file; known: {', '.join(FILE_KINDS)}")
    if path.suffix.lower() != ".parquet":
        _refuse_binary(path)
    try:
        source = _Source(path=path, kind=kind, columns=_choose_columns(path, kind, config))
        _refuse_unreadable(source)
    except pa.ArrowException as error:
        raise UserError(f"{path}: not readable as Parquet ({str(error).splitlines()[0]})") from error
    return source


def _refuse_binary(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(2**16)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path} is UTF-16 text; convert it to UTF-8 first (iconv -f UTF-16 -t UTF-8)")
    if b"\0" in head:
        raise UserError(f"{path} is not text (NUL byte at {head.index(0)}); give UTF-8 text")


def _choose_columns(path: Path, kind: FileKind, config: ImportConfig) -> Columns:
    if kind.columns is None:
        return Columns(caption=None)
    columns = kind.columns(path)
    offered = (
        f"its columns are {', '.join(map(repr, columns))}" if columns else "no columns could be read from it"
    )
    for name in (config.column, config.group_column):
        if name is not None and name not in columns:
            raise UserError(f"{path} has no column {name!r}; {offered}")
    if config.column is not None:
        return Columns(caption=config.column, group=config.group_column)
    usual = [name for wanted in _USUAL_NAMES for name in columns if name.lower() == wanted]
    texts = [name for name, holds_text in columns.items() if holds_text]
    if not usual and len(texts) != 1:
        raise UserError(
            f"{path}: which column holds the captions is not clear; {offered}; choose one with --column"
        )
    return Columns(caption=(usual or texts)[0], group=config.group_column)


def _refuse_unreadable(source: _Source) -> None:
    """Raise unless the file has a caption; a Parquet file is read to its end, as any page may be damaged."""
    count, first = 0, None
    found = False
    for entry in source.entries():
        found = found or entry.fault is None
        if found and source.path.suffix.lower() != ".parquet":
            return
        count += 1
        first = first or entry
    if not found:
        reason = (
            f"{count:,} set aside; the first, line {first.line}: {first.fault}" if first else "it has no rows"
        )
        raise UserError(f"{source.path} holds no readable caption ({reason})")
