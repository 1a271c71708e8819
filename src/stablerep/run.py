"""The run folder: resolved configuration, provenance, metrics.jsonl, atomic checkpoints, exact resume."""

import contextlib
import functools
import importlib.metadata
import json
import os
import platform
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from stablerep import config as config_module
from stablerep.errors import UserError
from stablerep.storage import refuse_remote

_PACKAGES = ("stablerep", "torch", "torchvision", "timm", "diffusers", "transformers", "pylance", "numpy")
_TORN = re.compile(r"\..+\.[0-9a-f]{16}")
LOCK = ".train.lock"
"""Held in the folder of a run by the command that trains there."""


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to disk, then rename it into place."""
    refuse_remote(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        temporary.touch(exist_ok=False)  # ordinary permissions; tempfile would hide the result from others
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def torn_files(folder: Path) -> list[Path]:
    """What processes left below a folder that were killed inside ``write_atomically``."""
    return [path for path in folder.rglob(".*") if _TORN.fullmatch(path.name)]


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` to be filled; renamed to ``path`` at the end, removed where that fails.

    What a killed process left is removed by the next one that writes the same folder. Raises ``UserError`` where
    ``path`` exists and is not an empty folder.
    """
    refuse_remote(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} exists; give another place, or remove it first")
    temporary = path.resolve().with_name(f".{path.resolve().name}.partial")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old content or the new, never a part."""
    write_atomically(path, lambda temporary: _write_utf8(temporary, text))


def _write_utf8(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; ``UserError`` that names the file where it is missing, damaged or of another kind."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); restore or remove it") from error
    if not isinstance(value, dict):
        raise UserError(
            f"{path} holds a {type(value).__name__} where an object was expected; restore or remove it"
        )
    return value


def provenance() -> dict[str, Any]:
    """Versions, git revision, machine and thread count: what is needed to say where a result came from."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "git_revision": _git_revision(),
        "versions": dict(_versions()),
    }


@functools.cache
def _versions() -> dict[str, str]:
    """Looked up once, like the revision: the code that runs is that of the start."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


@functools.cache
def _git_revision() -> str | None:
    here = Path(__file__).parent
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None  # an installed package has no repository around it
    return result.stdout.strip()


_NOTHING_LOST = "; it has no checkpoint yet, so that nothing is lost with it unless a process trains there"


class Run:
    """One folder: config.toml, provenance.json, metrics.jsonl, checkpoint.pt, and what the run exports."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open_or_create(cls, path: Path, config: Any, *, kind: str) -> "Run":
        """Open the run at ``path`` to go on with it, or create it.

        Fields of the configuration that are ``config.FREE`` may differ from those it began with; the folder then holds
        the new ones. Raises ``UserError`` where it holds something else, or a run with another configuration.
        """
        refuse_remote(path)
        run = cls(path)
        asked = json.loads(json.dumps({"kind": kind, "config": config_module.to_dict(config)}))
        if run.description_path.exists():
            there = run.description
            differences = config_module.differing_fields(
                *(
                    {**one, "config": config_module.without_free(config, one["config"])}
                    for one in (there, asked)
                )
            )
            if differences:
                raise UserError(
                    f"{path} holds a run with other settings ({'; '.join(differences)}); "
                    "give another output folder, or the same settings to go on"
                    + ("" if run.checkpoint_path.exists() else _NOTHING_LOST)
                )
            if there != asked:
                write_text(path / "config.toml", config_module.to_toml(config))
                write_text(run.description_path, json.dumps(asked, indent=2) + "\n")
        else:
            run.claim()
            write_text(run.description_path, json.dumps(asked, indent=2) + "\n")
        if not (path / "provenance.json").exists():  # new, or killed between these lines
            write_text(path / "config.toml", config_module.to_toml(config))
            write_text(path / "provenance.json", json.dumps(provenance(), indent=2) + "\n")
        return run

    @classmethod
    def open(cls, path: Path) -> "Run":
        """Open an existing run for reading."""
        run = cls(path)
        if not run.description_path.exists():
            raise UserError(
                f"{path} is not a run folder (no {run.description_path.name}); give the folder that `train` wrote"
            )
        return run

    def claim(self) -> None:
        """Make the folder, or take an empty one or that of a run; ``UserError`` where it holds something else."""
        if not self.description_path.exists():
            _claim_folder(self.path)

    @property
    def description_path(self) -> Path:
        return self.path / "run.json"

    @property
    def kind(self) -> str:
        """What made the run: the name of the method."""
        return str(self.description["kind"])

    @property
    def description(self) -> dict[str, Any]:
        """``kind`` and ``config`` as they were resolved when the run was created."""
        there = read_json(self.description_path)
        for name in ("kind", "config"):
            if name not in there:
                raise UserError(f"{self.description_path} holds no {name}; restore or remove it")
        return there

    @property
    def checkpoint_path(self) -> Path:
        return self.path / "checkpoint.pt"

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint atomically; the state holds tensors and plain values only (read weights-only)."""
        write_atomically(self.checkpoint_path, lambda temporary: torch.save(dict(state), temporary))

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint on CPU, or None where there is none yet."""
        if not self.checkpoint_path.exists():
            return None
        state: dict[str, Any] = torch.load(self.checkpoint_path, map_location="cpu", weights_only=True)
        return state

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl, stamped with the time in seconds."""
        line = json.dumps({**record, "time": round(time.time(), 3)}, allow_nan=True)
        with (self.path / "metrics.jsonl").open("ab+") as file:
            if _ends_torn(file):
                file.write(b"\n")
            file.write(line.encode() + b"\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All records in order, each step once: what a killed process wrote past its checkpoint is replaced."""
        records: list[dict[str, Any]] = []
        last = -1
        for record in _read_lines(self.path / "metrics.jsonl"):
            step = record.get("step")
            if step is not None:
                if step <= last:  # a resumed process took up an earlier checkpoint
                    records = [one for one in records if one.get("step", -1) < step]
                last = step
            records.append(record)
        return records

    def write_json(self, name: str, value: Any) -> Path:
        """Write a result beside the configuration, atomically, and say where."""
        path = self.path / name
        write_text(path, json.dumps(value, indent=2) + "\n")
        return path


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue  # the torn last line of a killed process; its step is logged again after the resume


def _ends_torn(file: BinaryIO) -> bool:
    """Whether a killed process left half a line, to which the next record must not be glued."""
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


def _claim_folder(path: Path) -> None:
    """Create the folder, or take an empty one, or one where a run was killed before it had a description."""
    refuse_remote(path)
    entries = list(path.iterdir()) if path.is_dir() else []
    if any(not entry.name.startswith((".run.json.", LOCK)) for entry in entries) or path.is_file():
        raise UserError(f"{path} exists and is not a run folder; give another output folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create the run folder {path}: {error.strerror}") from error
    if not os.access(path, os.W_OK):
        raise UserError(f"the run folder {path} is not writable")
