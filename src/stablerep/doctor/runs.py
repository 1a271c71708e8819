"""Run folders: whether they came to their end, and what killed processes left in them."""

import pickle
import time
from collections.abc import Iterator
from pathlib import Path

from stablerep.doctor.finding import Finding
from stablerep.errors import UserError
from stablerep.run import Run, torn_files
from stablerep.storage import location
from stablerep.store import ImageTable

_PRODUCTS = ("encoder", "text", "teacher", "autoencoder")


def examine_run(path: Path, hours: float) -> Iterator[Finding]:
    """A run without its last checkpoint or its product, with data that are gone, or with torn files."""
    run = Run(path)
    try:
        config = run.description["config"]
        num_steps, tables = config.get("num_steps"), list(config.get("data", {}).get("images", []))
        last = max((record.get("step", 0) for record in run.metrics()), default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        yield Finding(
            path=str(path),
            severity="broken",
            what=f"its description cannot be read ({type(error).__name__}: {error})",
            remedy="train again into another folder",
        )
        return
    yield from _end(run, num_steps, last)
    for table in tables:
        what = f"the pictures that it was trained on are not at {location(table)} any more"
        try:
            if ImageTable.exists(table):
                continue
        except UserError as error:
            what = f"nobody can tell whether its pictures are still there ({error})"
        remedy = "nothing, unless it is to be continued"
        yield Finding(path=str(path), severity="note", what=what, remedy=remedy)
    yield from _torn_files(path, hours)


def _end(run: Run, num_steps: int | None, last: int) -> Iterator[Finding]:
    try:
        state = run.load_checkpoint()
        step = 0 if state is None else int(state.get("step", 0))
    except (OSError, RuntimeError, EOFError, ValueError, AttributeError, pickle.UnpicklingError) as error:
        yield Finding(
            path=str(run.path),
            severity="broken",
            what=f"its checkpoint cannot be read ({(str(error) or type(error).__name__).splitlines()[0]})",
            remedy="remove checkpoint.pt and give the same command again, which then begins at the first step",
        )
        return
    exported = [name for name in _PRODUCTS if (run.path / name).is_dir()]
    if state is None and not exported:
        what = f"it has no checkpoint (step {last} was logged)" if last else "it has no checkpoint"
    elif state is not None and num_steps is not None and step < num_steps:
        what = f"it stopped at step {step} of {num_steps}"
    elif state is not None and not exported:
        what = f"it exported nothing (none of {', '.join(_PRODUCTS)})"
    else:
        return
    command = "the command that began it goes on from there"
    yield Finding(path=str(run.path), severity="broken", what=what, remedy=command)


def _torn_files(path: Path, hours: float) -> Iterator[Finding]:
    limit = time.time() - hours * 3600
    torn = [file for file in torn_files(path) if file.stat().st_mtime < limit]
    if torn:

        def remove() -> str:
            for file in torn:
                file.unlink(missing_ok=True)
            return f"{len(torn)} files removed"

        yield Finding(
            path=str(path),
            severity="wasteful",
            what=f"{len(torn)} files of processes that were killed while they wrote",
            remedy="--repair removes them",
            repair=remove,
        )


def is_run(path: Path) -> bool:
    """Whether a folder is a run."""
    return (path / "run.json").is_file()
