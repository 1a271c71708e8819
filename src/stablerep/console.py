"""One style of talking to the terminal: sentences and progress on stderr, results on stdout.

Captions, file names and messages of libraries come from outside: markup in them is shown as it is, and control
characters, which could move the cursor or change colours, never reach the terminal.
"""

import contextlib
import dataclasses
import itertools
import json
import math
import re
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import rich.box
import rich.cells
import rich.console
import rich.progress
import rich.table
from rich.text import Text

from stablerep.storage import location

_SPACE = re.compile(r"[\t-\r\x1c-\x1f\x85\u2028\u2029]+")
_HARMFUL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_NUMBER = re.compile(r"[+-]?[\d.]|$")
_GAP = 3  # spaces between columns
_WRAPPED = 15  # the least width to which the text of the first column is wrapped
_WRAPPED_LATER = 30  # of another column
_MOST_ITEMS = 10
_SAY_EVERY = 60.0  # seconds, where there is no bar
_SPEED_OVER = 600.0  # seconds: a batch of pictures may take a minute


def plain(text: str) -> str:
    """One line that any terminal can show: line breaks become spaces, terminal escapes and lone surrogates go."""
    return _SURROGATE.sub("\ufffd", _HARMFUL.sub("", _SPACE.sub(" ", text)))


def duration(seconds: float) -> str:
    """``0.4 s``, ``3 min 20 s``, ``2 h 05 min``, ``3 d 4 h``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


class Progress:
    """A running count with rate and time left: as a bar, or, where ``say`` is given, as a line every minute."""

    def __init__(self, bar: rich.progress.Progress, unit: str, say: Callable[[str], None] | None) -> None:
        self._bar, self._unit, self._say = bar, unit, say
        self._task = bar.tasks[0]
        self._first = self._task.completed
        self._begin = self._said = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count further units as done; ``note`` is shown beside the bar (a loss, a number of failures)."""
        self._bar.update(self._task.id, advance=count, note=plain(note))
        now = time.monotonic()
        if self._say is not None and now - self._said >= _SAY_EVERY:
            self._said = now
            self._say(self._line(now - self._begin, note))

    def close(self) -> None:
        """The line that ends a count of which something was done."""
        if self._say is not None and self._done:
            seconds = max(time.monotonic() - self._begin, 1e-9)
            what = f"{self._task.description}: {self._done:,.0f} {self._unit}"
            self._say(f"{what} in {seconds:,.1f} s ({self._done / seconds:,.1f}/s)")

    @property
    def _done(self) -> float:
        return self._task.completed - self._first

    def _line(self, seconds: float, note: str) -> str:
        done, total, rate = self._task.completed, self._task.total, self._done / seconds
        of_all = "" if total is None else f" of {total:,.0f}"
        parts = [f"{self._task.description}: {done:,.0f}{of_all} {self._unit}", f"{rate:,.1f}/s"]
        if rate and total is not None:
            parts.append(f"{duration((total - done) / rate)} left")
        return ", ".join([*parts, *filter(None, [note])])


class Console:
    """What a command says while it works. ``quiet`` silences everything but results and errors."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._err = rich.console.Console(stderr=True, highlight=False, quiet=quiet)
        self._out = rich.console.Console(highlight=False)

    def say(self, sentence: str) -> None:
        """One sentence of what was done or found: wrapped on a terminal, one line where stderr is piped."""
        self._err.print(Text(plain(sentence)), soft_wrap=not self._err.is_terminal)

    def complain(self, sentence: str) -> None:
        """One sentence on what went wrong; ``quiet`` does not silence it."""
        print(plain(sentence), file=sys.stderr)

    @contextlib.contextmanager
    def progress(self, what: str, total: int | None, unit: str, done: int = 0) -> Iterator[Progress]:
        """A progress bar on a terminal; where stderr is piped, a line every minute, and one at the end.

        ``total`` is None where it is not known beforehand.
        """
        columns = (
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            _Rate(unit),
            rich.progress.TimeRemainingColumn(),
            rich.progress.TextColumn("{task.fields[note]}", markup=False),
        )
        is_shown = self._err.is_terminal and not self.quiet
        bar = rich.progress.Progress(
            *columns, console=self._err, disable=not is_shown, speed_estimate_period=_SPEED_OVER
        )
        with bar:
            bar.add_task(plain(what), total=total, completed=done, note="")
            progress = Progress(bar, unit, None if is_shown else self.say)
            yield progress
        progress.close()

    def show(self, summary: Any) -> None:
        """The result of a command: as it shows itself, as the table that it is, or one line per field.

        A summary may have a method ``show(console)``, or ``HEADER`` and ``rows()``; any other is a dataclass or a path.
        """
        if hasattr(summary, "show"):
            summary.show(self)
        elif hasattr(summary, "rows"):
            self.table("", summary.HEADER, summary.rows())
        else:
            self.facts(_fields(summary))

    def lines(self, text: str) -> None:
        """Text of several lines on stdout, as it is."""
        for line in text.splitlines():
            print(plain(line))

    def facts(self, values: Mapping[str, Any]) -> None:
        """Named values on stdout, one to a line; those that are None or empty are left out."""
        lines = {plain(name).replace("_", " "): _in_words(value) for name, value in values.items()}
        lines = {name: words for name, words in lines.items() if words}
        indent = max(map(rich.cells.cell_len, lines), default=0) + _GAP
        for name, words in lines.items():
            first = name + " " * (indent - rich.cells.cell_len(name))
            for entry in words:
                # Longer words, such as paths, stay whole so that they can be copied.
                wrapped = textwrap.wrap(
                    plain(entry), self._out.width - indent, break_long_words=False, break_on_hyphens=False
                )
                for line in wrapped:
                    print(first + line.replace("\xa0", " "))
                    first = " " * indent

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A result table on stdout; columns of numbers are flush right.

        Where it is wider than the terminal (80 columns where there is none), rows that share their first cell come
        under it as a heading; where that is not enough, the last columns are left out, and a line says so.
        """
        lines = [[plain(cell) for cell in line] for line in (header, *rows)]
        if title:
            self._out.print(Text(plain(title)))
        groups = [("", lines)]
        if sum(_widths(lines)) > self._room and len({line[0] for line in lines[1:]}) < len(rows):
            inner = [line[1:] for line in lines]
            by_heading = itertools.groupby(range(1, len(lines)), key=lambda row: lines[row][0])
            groups = [(heading, [inner[0], *(inner[row] for row in group)]) for heading, group in by_heading]
            lines = inner
        widths = self._fitting(lines)
        for heading, group in groups:
            if heading:
                self._out.print(Text(f"\n{heading}", style="bold"))
            self._out.print(_grid(group, widths))
        left_out = lines[0][len(widths) :]
        if left_out:
            self._out.print(Text(f"left out, for want of room: {'; '.join(left_out)}"))

    def json(self, value: Any) -> None:
        """A result as one JSON document on stdout; numbers that are not finite, which JSON cannot say, become null."""
        content = value.to_json() if hasattr(value, "to_json") else _fields(value)
        print(json.dumps(_finite(content), indent=2, allow_nan=False))

    @property
    def _room(self) -> int:
        """Columns of the terminal, and the gap that the last column of a table does not need."""
        return self._out.width + _GAP

    def _fitting(self, lines: Sequence[Sequence[str]]) -> list[int]:
        """Widths of the columns that fit; text, first where it is longest, may be wrapped to make room."""
        widths = _widths(lines)
        least = [
            width if _is_number(lines, index) else min(width, _WRAPPED if index == 0 else _WRAPPED_LATER)
            for index, width in enumerate(widths)
        ]
        while len(least) > 2 and sum(least) > self._room:
            least.pop()
        kept = widths[: len(least)]
        while sum(kept) > self._room and kept != least:
            longest = max(
                (index for index in range(len(kept)) if kept[index] > least[index]), key=kept.__getitem__
            )
            kept[longest] -= 1
        return kept


def _is_number(lines: Sequence[Sequence[str]], index: int) -> bool:
    """Whether a column behind the first holds numbers alone."""
    return index > 0 and all(_NUMBER.match(line[index]) for line in lines[1:])


def _grid(lines: Sequence[Sequence[str]], widths: Sequence[int]) -> rich.table.Table:
    """A header and rows in columns of these widths; cells beyond the last are not shown."""
    header, *rows = (line[: len(widths)] for line in lines)
    grid = rich.table.Table(box=rich.box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
    for index, (name, width) in enumerate(zip(header, widths, strict=True)):
        justify = "right" if _is_number(lines, index) else "left"
        grid.add_column(Text(name), justify=justify, width=width - _GAP, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        grid.add_row(*map(Text, row))
    return grid


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    """What each column needs, with the gap between columns."""
    return [_GAP + max(map(rich.cells.cell_len, column)) for column in zip(*lines, strict=True)]


def _fields(summary: Any) -> dict[str, Any]:
    """The content of a summary, which is a dataclass, a mapping, or the path of what was written."""
    if isinstance(summary, Path):
        return {"path": summary}
    return dict(summary) if isinstance(summary, Mapping) else dataclasses.asdict(summary)


def _in_words(value: Any) -> list[str]:
    """A value as a reader would write it, in one or more lines; None and what is empty as no line."""
    if value is None:
        return []
    if isinstance(value, Mapping):
        return _counts(value)
    if isinstance(value, list | tuple):
        entries = [" ".join(line) for line in map(_in_words, value[:_MOST_ITEMS])]
        return entries + _rest(len(value))
    if isinstance(value, bool):
        return ["yes" if value else "no"]
    if isinstance(value, int):
        return [f"{value:,}"]
    if isinstance(value, float):
        return [f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"]
    return [location(value) if isinstance(value, Path) else str(value)]


def _counts(values: Mapping[str, Any]) -> list[str]:
    """``train 5,219, test 2,234``; of many numbers the largest."""
    items = list(values.items())
    if len(items) > _MOST_ITEMS and all(isinstance(value, int | float) for value in values.values()):
        items.sort(key=lambda item: -item[1])
    shown = [f"{name} {' '.join(_in_words(value))}" for name, value in items[:_MOST_ITEMS]]
    # A name and its number stay on one line.
    joined = ", ".join(text.replace(" ", "\xa0") for text in shown)
    return [joined, *_rest(len(items))] if items else []


def _rest(total: int) -> list[str]:
    return [f"and {total - _MOST_ITEMS:,} more (all with --json)"] if total > _MOST_ITEMS else []


def _finite(value: Any) -> Any:
    """Plain values for JSON: paths as text, mappings as objects, and null for what is no number."""
    if isinstance(value, Mapping):
        return {str(name): _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, Path):
        return location(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Rate(rich.progress.ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: rich.progress.Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} {self._unit}/s" if speed else "")
