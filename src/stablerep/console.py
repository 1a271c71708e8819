"""One style of talking to the terminal: sentences and progress on stderr, results on stdout."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import rich.box
import rich.console
import rich.progress
import rich.table
import rich.text
from rich.markup import escape


class Progress:
    """A running count with rate and time left."""

    def __init__(self, bar: rich.progress.Progress, task: rich.progress.TaskID) -> None:
        self._bar = bar
        self._task = task

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count further units as done; ``note`` is shown beside the bar (a loss, a number of failures)."""
        self._bar.update(self._task, advance=count, note=escape(note))


class Console:
    """What a command says while it works. ``quiet`` silences everything but results and errors."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._err = rich.console.Console(stderr=True, highlight=False, quiet=quiet)
        self._out = rich.console.Console(highlight=False, soft_wrap=True)

    def say(self, sentence: str) -> None:
        """One sentence of what was done or found. Text from outside is never read as markup."""
        self._err.print(escape(sentence))

    @contextlib.contextmanager
    def progress(self, what: str, total: int, unit: str, done: int = 0) -> Iterator[Progress]:
        """A progress bar on a terminal; where stderr is piped, one closing line with the rate."""
        columns = (
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            _Rate(unit),
            rich.progress.TimeRemainingColumn(),
            rich.progress.TextColumn("{task.fields[note]}"),
        )
        begin = time.monotonic()
        with rich.progress.Progress(
            *columns, console=self._err, disable=self.quiet or not sys.stderr.isatty()
        ) as bar:
            task = bar.add_task(escape(what), total=total, completed=done, note="")
            yield Progress(bar, task)
            finished = int(bar.tasks[0].completed) - done
        if not sys.stderr.isatty() and finished:
            seconds = max(time.monotonic() - begin, 1e-9)
            self.say(f"{what}: {finished} {unit} in {seconds:.0f} s ({finished / seconds:.1f}/s)")

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A result table on stdout; the first column is text, the others are numbers."""
        table = rich.table.Table(title=title, title_justify="left", box=rich.box.SIMPLE)
        for index, name in enumerate(header):
            table.add_column(escape(name), justify="left" if index == 0 else "right")
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        self._out.print(table)

    def json(self, value: Mapping[str, Any]) -> None:
        """A result as one JSON document on stdout."""
        print(json.dumps(value, indent=2, default=str))


class _Rate(rich.progress.ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: rich.progress.Task) -> rich.text.Text:
        speed = task.finished_speed or task.speed
        return rich.text.Text(f"{speed:.1f} {self._unit}/s" if speed else "")
