"""Locks between processes: whoever is at a piece of work holds its file, and others wait or are told so."""

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from stablerep.console import Console
from stablerep.errors import UserError

T = TypeVar("T")

_PAUSE = 1.0  # seconds until what others are at is tried again


class BusyError(UserError):
    """Another process is at it."""


@contextlib.contextmanager
def alone(path: Path, busy: str | None = None) -> Iterator[None]:
    """Hold the lock of a file, which is made; it ends with the process, however that ends.

    Waits until no other process holds it, or, where there is a sentence for that, raises ``BusyError`` with it at once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if busy is None else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise BusyError(busy) from error
        except OSError:
            pass  # some network disks have no locks
        yield


def together(tasks: Sequence[Callable[[], T]], console: Console) -> list[T]:
    """What all tasks return, in their order: those that another process is at (``BusyError``) come later, after it.

    So several processes that are given the same tasks share them, where a task that was done is not done again.
    """
    done: dict[int, T] = {}
    said = set[str]()
    while len(done) < len(tasks):
        before = len(done)
        for number, task in enumerate(tasks):
            if number in done:
                continue
            try:
                done[number] = task()
            except BusyError as error:
                waiting = str(error)
        if len(done) == before:
            if waiting not in said:
                console.say(waiting)
            said.add(waiting)
            time.sleep(_PAUSE)
    return [done[number] for number in range(len(tasks))]
