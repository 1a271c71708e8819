"""Locks: one process at a time, others wait or are told; tasks are shared, and each is done once."""

import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from stablerep.console import Console
from stablerep.locks import BusyError, alone, together

HOLDER = """
import signal, sys
from pathlib import Path
from stablerep.locks import alone

with alone(Path(sys.argv[1])):
    print("held", flush=True)
    signal.pause()
"""


def test_what_another_process_is_at_is_busy_until_it_ends_however_that_is(tmp_path: Path) -> None:
    path = tmp_path / "new" / "work.lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match="somebody is at it"), alone(path, "somebody is at it"):
            pass
        threading.Timer(0.2, holder.kill).start()
        with alone(path):
            assert holder.wait() == -signal.SIGKILL
    with alone(path, "nobody is"):
        pass


def test_tasks_that_others_are_at_come_after_the_rest_and_none_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("stablerep.locks._PAUSE", 0.0)
    order, refusals = list[str](), {"b": 3}

    def task(name: str) -> str:
        if refusals.get(name, 0) > 0:
            refusals[name] -= 1
            raise BusyError(f"somebody is at {name}")
        order.append(name)
        return name.upper()

    assert together([partial(task, name) for name in "abc"], Console()) == ["A", "B", "C"]
    assert order == ["a", "c", "b"]
    assert capsys.readouterr().err.count("somebody is at b") == 1, (
        "said once, when there is nothing else to do"
    )


def test_other_mistakes_end_the_sharing() -> None:
    with pytest.raises(ZeroDivisionError):
        together([lambda: 1 // 0], Console(quiet=True))
