"""Captions in: text, CSV, TSV, JSON Lines, Parquet and WebDataset files become rows of the caption table.

Texts are normalised to Unicode NFC with white space collapsed (``store.normalise_text``); whatever is equal then is one
caption, from whichever file it comes. Memory does not grow with the number of captions.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from tyro.conf import Positional

from stablerep.captions.entries import Columns, Entry
from stablerep.captions.files import FILE_KINDS, FileKind, seems_data
from stablerep.captions.partition import Partitions
from stablerep.captions.statistics import Lengths, Statistics
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.store import CaptionTable, caption_id, normalise_text

_BATCH = 10_000
_LISTED = 1_000
_BINARY = (".parquet", ".tar")
_SHOWN = 60
_USUAL_NAMES = ("caption", "text", "prompt", "title", "txt")


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Import captions from files; equal captions become one, and importing a file again adds nothing."""

    files: Positional[tuple[Path, ...]] = ()
    """Files with captions, or folders of them: .txt (one a line), .csv, .tsv, .jsonl, .ndjson, .parquet, or the .tar of
    a WebDataset (a caption per sample)."""
    out: Path = Path("captions.lance")
    """Caption table, which is created or continued."""
    column: str | None = None
    """Column with the captions; unset: caption, text, prompt, title or txt, or the only one with text. Its number, such
    as 2, in a CSV or TSV file without a header line."""
    group_column: str | None = None
    """Column that names what must not be split between train and test, by its number where the captions' is a number;
    unset: each caption stands alone."""


@dataclass(frozen=True, kw_only=True)
class SetAside:
    """An entry that was not imported: where it stands and why. In Parquet files ``line`` is the row, in archives
    the sample."""

    file: str
    line: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class ImportSummary:
    """What an import did: ``read == new + duplicates + num_set_aside``, all in entries of the files.

    ``set_aside`` lists the first 1,000 entries set aside, so that a huge bad file cannot fill the memory; ``scripts``
    and ``characters`` say how the others are written and how long they are.
    """

    path: Path
    read: int
    new: int
    duplicates: int
    num_set_aside: int
    scripts: dict[str, int]
    characters: Lengths
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

    Every file is read to its end before the table is touched. Blank, unreadable and over-long entries are set aside
    and counted. Of equal captions the first stays, with its source and group. Raises ``UserError`` for files
    that are missing, empty, damaged, not text, of unknown kind or without the column.
    """
    sources = _check(config)
    intake = _Intake()
    with Partitions(beside=config.out.parent) as partitions:
        for source in sources:
            entries = source.entries()
            while batch := list(itertools.islice(entries, _BATCH)):
                partitions.put(intake.rows(batch, source.path))
        table = CaptionTable.open_or_create(config.out)
        new = sum(table.append(part) for part in partitions.parts())
    num_set_aside = intake.read - intake.usable
    summary = ImportSummary(
        path=config.out,
        read=intake.read,
        new=new,
        duplicates=intake.usable - new,
        num_set_aside=num_set_aside,
        scripts=intake.statistics.scripts(),
        characters=intake.statistics.lengths(),
        set_aside=tuple(intake.set_aside),
    )
    _report(summary, sources, console)
    return summary


class _Intake:
    """Turns entries into rows, and counts what it saw."""

    def __init__(self) -> None:
        self.read = 0
        self.usable = 0
        self.set_aside: list[SetAside] = []
        self.statistics = Statistics()

    def rows(self, batch: list[Entry], path: Path) -> list[dict[str, str]]:
        """The rows of the usable entries; the others are set aside."""
        rows = [_row(entry, path) for entry in batch if entry.fault is None]
        for row in rows:
            self.statistics.add(row["text"])
        self.read += len(batch)
        self.usable += len(rows)
        faulty = (entry for entry in batch if entry.fault is not None)
        for entry in itertools.islice(faulty, _LISTED - len(self.set_aside)):
            self.set_aside.append(SetAside(file=str(path), line=entry.line, reason=str(entry.fault)))
        return rows


def _row(entry: Entry, path: Path) -> dict[str, str]:
    text = normalise_text(entry.text)
    identity = caption_id(text)
    source = path.name.encode(errors="replace").decode()  # a name need not be UTF-8, a column must
    return {"id": identity, "text": text, "source": source, "group": entry.group or identity}


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
    for given in config.files:
        try:
            for path in _files(given):
                sources.append(_source(path, config))
        except UserError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{given} cannot be read: {error.strerror or str(error).splitlines()[0]}")
    if problems:
        raise UserError("; ".join(problems))
    asked = config.column or config.group_column
    if asked is not None and all(source.kind.columns is None for source in sources):
        raise UserError(f"column {asked!r} was asked for, but text files have no columns; leave it out")
    return sources


def _files(path: Path) -> list[Path]:
    """The file itself, or the caption files in a folder at any depth, in the order of their paths."""
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in FILE_KINDS and file.is_file())
    if not found:
        raise UserError(f"{path} is a folder without caption files; known kinds: {', '.join(FILE_KINDS)}")
    return found


def _source(path: Path, config: ImportConfig) -> _Source:
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty")
    kind = FILE_KINDS.get(path.suffix.lower())
    if kind is None:
        raise UserError(f"{path}: unknown kind of file; known: {', '.join(FILE_KINDS)}")
    if path.suffix.lower() not in _BINARY:
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
    if b"\r" in head and b"\n" not in head:  # all of it would be one caption
        raise UserError(f"{path} has carriage returns for line ends; convert them first (tr '\\r' '\\n')")


def _choose_columns(path: Path, kind: FileKind, config: ImportConfig) -> Columns:
    if kind.columns is None:
        return Columns(caption=None)
    columns = kind.columns(path)
    if kind.num_columns and (config.column or "").isdecimal() and config.column not in columns:
        return _numbered_columns(path, kind.num_columns(path), config)
    shown = [repr(name if len(name) <= _SHOWN else f"{name[:_SHOWN]}...") for name in columns]
    offered = f"its columns are {', '.join(shown)}" if columns else "no columns could be read from it"
    for name in (config.column, config.group_column):
        if name is not None and name not in columns:
            raise UserError(f"{path} has no column {name!r}; {offered}")
    if config.column is not None:
        return Columns(caption=config.column, group=config.group_column)
    usual = [name for wanted in _USUAL_NAMES for name in columns if name.lower() == wanted]
    texts = [name for name, holds_text in columns.items() if holds_text]
    if not usual and kind.num_columns and any(map(seems_data, columns)):
        raise UserError(
            f"{path} seems to have no header line, as the first one reads {', '.join(shown)}; choose the column with "
            "captions by its number, such as --column 2, or by its name if this is one"
        )
    if not usual and len(texts) != 1:
        raise UserError(
            f"{path}: which column holds the captions is not clear; {offered}; choose one with --column"
        )
    return Columns(caption=(usual or texts)[0], group=config.group_column)


def _numbered_columns(path: Path, num_columns: int, config: ImportConfig) -> Columns:
    """Columns of a file without a header line."""
    numbers = [str(number) for number in range(1, 1 + num_columns)]
    for name in (config.column, config.group_column):
        if name is not None and name not in numbers:
            raise UserError(
                f"{path} has no column {name!r}; without a header line its columns are {', '.join(numbers)}"
            )
    return Columns(caption=config.column, group=config.group_column, has_header=False)


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
