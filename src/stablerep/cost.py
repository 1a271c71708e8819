"""What a step of the flow cost: time, processor time and, where the machine can be asked, energy.

Every step appends one line to a JSONL file beside what it made. Nothing is guessed here: energy stands in a line only
where the processor's own counters (RAPL) could be read, and what a killed process had spent is not in the file.
"""

import contextlib
import dataclasses
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from stablerep.errors import UserError
from stablerep.storage import is_remote

FILE = "costs.jsonl"
_POWERCAP = Path("/sys/class/powercap")
_SECONDS_BETWEEN_READINGS = 60.0  # a counter of a busy server overflows after some minutes


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One line: what one process spent on one step."""

    step: str
    """What was done: ``generate``, ``train stablerep``, ..."""
    seconds: float
    """From begin to end."""
    cpu_seconds: float
    """Of all cores together, child processes included."""
    gpu_seconds: float = 0.0
    """Seconds during which the process held a GPU, busy or not, times their number."""
    joules: float | None = None
    """Of all processors of the machine, whatever else ran on them; None where no counter could be read."""
    rank: int = 0
    """Which process of a distributed step this is."""

    @classmethod
    def read(cls, stored: Any) -> Self:
        """Back from JSON; keys of a later version are passed over."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in stored.items() if key in names})


def beside(table: Path) -> Path:
    """The file of an image table: ``images.lance`` -> ``images.costs.jsonl``."""
    return table.parent / f"{table.stem}.{FILE}"


@contextlib.contextmanager
def metered(step: str, path: Path, num_gpus: int = 1) -> Iterator[None]:
    """Append the cost of the body to ``path``, also where the user stops it; a body that fails leaves no line.

    ``path`` lies in a folder that the body makes or that was there; ``num_gpus`` counts the GPUs that the body uses
    where it uses any.
    """
    energy = EnergyMeter()
    began, cpu = time.monotonic(), _cpu_seconds()
    with energy:
        try:
            yield
        except KeyboardInterrupt:
            _append(path, _cost(step, began, cpu, num_gpus, energy))
            raise
    _append(path, _cost(step, began, cpu, num_gpus, energy))


def read_costs(path: Path) -> list[Cost]:
    """The lines of a file, none where there is no file; ``UserError`` where a line is something else."""
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [Cost.read(json.loads(line)) for line in lines if line.strip()]
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} does not hold costs ({error}); restore or remove it") from error


class EnergyMeter:
    """Adds up the processors' energy counters while it is entered, in joules; they overflow, so a thread reads them."""

    def __init__(self, root: Path = _POWERCAP) -> None:
        self._counters = {path: value for path in _packages(root) if (value := _number(path)) is not None}
        self._sum = 0
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._keep_reading, daemon=True)

    def __enter__(self) -> Self:
        if self._counters:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    @property
    def joules(self) -> float | None:
        """Since it was made; None where no counter can be read."""
        if not self._counters:
            return None
        self._read()
        return self._sum / 1e6

    def _keep_reading(self) -> None:
        while not self._stop.wait(_SECONDS_BETWEEN_READINGS):
            self._read()

    def _read(self) -> None:
        with self._lock:
            for path, before in self._counters.items():
                now = _number(path)
                if now is None:
                    continue
                range_ = _number(path.with_name("max_energy_range_uj")) or 0
                self._sum += now - before + (range_ if now < before else 0)
                self._counters[path] = now


def _packages(root: Path) -> list[Path]:
    """The counters of whole processors; those of their parts, which lie below them, are not counted twice."""
    return sorted(root.glob("intel-rapl:[0-9]*/energy_uj")) if root.is_dir() else []


def _number(path: Path) -> int | None:
    """What a counter says; None where it is not there, or for the administrator only."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _cost(step: str, began: float, cpu: float, num_gpus: int, energy: EnergyMeter) -> Cost:
    seconds = time.monotonic() - began
    # Several are held by child processes, which this one cannot ask.
    is_used = num_gpus > 1 or torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return Cost(
        step=step,
        seconds=round(seconds, 3),
        cpu_seconds=round(_cpu_seconds() - cpu, 3),
        gpu_seconds=round(seconds * num_gpus, 3) if is_used else 0.0,
        joules=energy.joules,
        rank=int(os.environ.get("RANK", "0")),
    )


def _cpu_seconds() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _append(path: Path, cost: Cost) -> None:
    """One write of one line, so that processes that end together do not mix theirs."""
    if is_remote(path) or not path.parent.is_dir() or not any(path.parent.iterdir()):
        return  # the step made nothing here
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(dataclasses.asdict(cost)) + "\n")
