"""What stands at one place of a caption file, whatever kind of file it is: a caption, or why it is none."""

from dataclasses import dataclass

from stablerep.store import encodable

MAX_CHARACTERS = 10_000
MAX_LINE_BYTES = 16 * 2**20
SAMPLE = 100  # records from which the columns of a file without types are judged


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What stands at one place of a file: a caption, or the fault that makes it unreadable.

    ``line`` counts from 1: the line on which the entry begins, in Parquet the row, in an archive the sample.
    """

    line: int
    text: str = ""
    group: str | None = None
    fault: str | None = None


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns to read; ``caption`` is None in files without columns.

    Where the file has no header line, columns are numbers, counted from 1.
    """

    caption: str | None
    group: str | None = None
    has_header: bool = True


def fault_of(text: str) -> str | None:
    """Why a text cannot be a caption, as a clause; None where it can."""
    if not text or text.isspace():
        return "blank"
    if len(text) > MAX_CHARACTERS:
        return f"more than {MAX_CHARACTERS:,} characters"
    if "\0" in text:
        return "contains a NUL character"
    return None if encodable(text) else "not valid UTF-8"


def entry_of(line: int, value: object, group: object = None) -> Entry:
    """Judge a value: the caption itself where it is text, otherwise the fault."""
    if value is None:
        return Entry(line=line, fault="blank")
    if not isinstance(value, str):
        return Entry(line=line, fault=f"not text but {type(value).__name__}")
    name = "" if group is None else str(group).strip()
    fault = fault_of(value) or (None if encodable(name) else "its group is not valid UTF-8")
    return Entry(line=line, fault=fault) if fault else Entry(line=line, text=value, group=name or None)
