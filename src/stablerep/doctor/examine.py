"""The command: find tables and runs, examine each, mend what may be mended."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from stablerep.console import Console
from stablerep.doctor.files import Table, compact, examine_files
from stablerep.doctor.finding import Finding
from stablerep.doctor.runs import examine_run, is_run
from stablerep.doctor.tables import examine_captions, examine_images, examine_together
from stablerep.errors import UserError
from stablerep.storage import is_remote, is_table, location
from stablerep.store import CaptionTable, ImageTable

_QUIET = Console(quiet=True)


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Examine tables and runs; nothing is changed without --repair or --compact."""

    paths: Positional[tuple[Path, ...]]
    """Tables, run folders, or folders that hold some."""
    repair: bool = False
    """Remove what is certainly useless: repeated rows, unreadable painted pictures, files of killed writers."""
    compact: bool = False
    """Join small fragments and drop old versions; an audit that runs on a table meanwhile must begin again."""
    decode: bool = False
    """Decode every picture, instead of reading its header only."""
    hours: float = 24.0
    """Files and versions younger than this may be in use, and stay."""

    def __post_init__(self) -> None:
        if self.hours < 0:
            raise ValueError(f"hours must not be negative, got {self.hours}")


@dataclass(frozen=True, kw_only=True)
class DoctorSummary:
    """What was examined, found and done."""

    examined: tuple[str, ...]
    findings: tuple[Finding, ...]
    done: tuple[str, ...]

    @property
    def num_broken(self) -> int:
        """Findings that make data wrong or a run useless."""
        return sum(finding.severity == "broken" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "examined": list(self.examined),
            "findings": [finding.to_json() for finding in self.findings],
            "done": list(self.done),
        }

    def show(self, console: Console) -> None:
        """One paragraph per place: what is wrong, and what to do."""
        counts = Counter(finding.severity for finding in self.findings)
        console.facts({"examined": list(self.examined), "found": dict(counts) or "nothing wrong"})
        for finding in self.findings:
            console.facts({finding.severity: f"{finding.path}: {finding.what} -> {finding.remedy}"})
        if self.done:
            console.facts({"done": list(self.done)})


def doctor(config: DoctorConfig, *, console: Console = _QUIET) -> DoctorSummary:
    """Examine what lies at the paths; raises ``UserError`` where that is neither a table nor a run."""
    if not config.paths:
        raise UserError("no paths given; name tables or runs, or a folder that holds some, such as .")
    tables, runs, findings = _find(config.paths)
    captions = [table for table in tables if isinstance(table, CaptionTable)]
    for table in tables:
        console.say(f"examining {table.path}")
        findings += _as_far_as_readable(table, _examine(table, captions, config))
    for run in runs:
        console.say(f"examining {run}")
        findings += examine_run(run, config.hours)
    done = list(_mend(config, findings, tables))
    return DoctorSummary(
        examined=(*(table.path for table in tables), *map(str, runs)),
        findings=tuple(findings),
        done=tuple(done),
    )


def _examine(table: Table, captions: Sequence[CaptionTable], config: DoctorConfig) -> Iterator[Finding]:
    yield from examine_files(table, config.hours)
    if isinstance(table, CaptionTable):
        yield from examine_captions(table)
    else:
        yield from examine_images(table, decode=config.decode)
        yield from examine_together(table, captions) if captions else ()


def _as_far_as_readable(table: Table, look: Iterator[Finding]) -> Iterator[Finding]:
    """What is found before the examination meets a file that cannot be read, and then that file."""
    try:
        yield from look
    except UserError as error:
        yield _damage(table.path, error)


def _damage(path: str, error: UserError) -> Finding:
    return Finding(
        path=path,
        severity="broken",
        what=str(error),
        remedy="bring the damaged file back from a copy; without one, make a new table with the command that made this",
    )


def _mend(config: DoctorConfig, findings: Sequence[Finding], tables: Sequence[Table]) -> Iterator[str]:
    if config.repair:
        for finding in findings:
            if finding.repair is not None:
                yield f"{finding.path}: {finding.repair()}"
    if config.compact:
        for table in tables:
            yield f"{table.path}: {compact(table, config.hours)}"


def _find(paths: Sequence[Path]) -> tuple[list[Table], list[Path], list[Finding]]:
    """The tables and the runs at or below the paths, and what is there of tables that cannot be opened."""
    tables: list[Table] = []
    runs: list[Path] = []
    damaged: list[Finding] = []
    for path in paths:
        before = len(tables) + len(runs) + len(damaged)
        if is_remote(path):
            tables.append(_open(path))
        elif is_table(path):
            _sort_in(path, tables, damaged)
        elif is_run(path):
            runs.append(path)
        elif path.is_dir():
            for folder in sorted(entry for entry in path.rglob("*") if entry.is_dir()):
                if is_table(folder):
                    _sort_in(folder, tables, damaged)
                elif is_run(folder):
                    runs.append(folder)
        if len(tables) + len(runs) + len(damaged) == before:
            raise UserError(f"{location(path)}: neither a table nor a run, nor a folder that holds one")
    return tables, runs, damaged


def _sort_in(path: Path, tables: list[Table], damaged: list[Finding]) -> None:
    try:
        tables.append(_open(path))
    except UserError as error:
        damaged.append(_damage(str(path), error))


def _open(path: Path) -> Table:
    try:
        return ImageTable.open(path)
    except UserError:
        return CaptionTable.open(path)
