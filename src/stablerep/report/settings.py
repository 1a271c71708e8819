"""What was asked, and on what it ran: settings of teachers and runs, provenance, as rows of text."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stablerep.report.reading import Project, RunFolder, flatten

_DIGEST = re.compile(r"\b[0-9a-f]{20,}\b")


@dataclass(frozen=True, kw_only=True)
class Section:
    """Settings that belong together: one nested table of the configuration."""

    title: str
    entries: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One row per name, one column per run."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """The runs of one method: what they share, and where they differ."""

    kind: str
    names: tuple[str, ...]
    shared: tuple[Section, ...]
    differing: Comparison


def method_settings(project: Project) -> list[MethodSettings]:
    """Training settings, the runs grouped by method in the order in which they were given."""
    by_kind: dict[str, list[RunFolder]] = defaultdict(list)
    for run in project.runs:
        by_kind[run.kind].append(run)
    return [_settings_of(kind, runs) for kind, runs in by_kind.items()]


def sections(settings: Mapping[str, Any], title: str = "") -> tuple[Section, ...]:
    """Nested settings as sections: plain values of a level first, then its tables under their dotted names."""
    plain = tuple((key, as_text(value)) for key, value in settings.items() if not isinstance(value, Mapping))
    found = [Section(title=title, entries=plain)] if plain else []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found.extend(sections(value, f"{title}.{key}" if title else key))
    return tuple(found)


def provenance_table(project: Project) -> Comparison:
    """Where each run was made: versions, revision, machine, threads, and the seconds between its records."""
    columns = []
    for run in project.runs:
        facts = flatten(run.provenance)
        versions = {key: facts.pop(key) for key in list(facts) if key.startswith("versions.")}
        columns.append(
            {"method": run.kind, **facts, "seconds": _seconds(run)}
            | {key.removeprefix("versions."): value for key, value in versions.items()}
        )
    names = list(dict.fromkeys(name for column in columns for name in column))
    return Comparison(
        columns=tuple(run.name for run in project.runs),
        rows=tuple(
            (name.replace("_", " "), tuple(as_text(column.get(name)) for column in columns)) for name in names
        ),
    )


def as_text(value: Any) -> str:
    """A setting as a reader would write it; long digests are cut to the digits that identify them."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, int):
        return grouped(value) if abs(value) < 10**9 else str(value)
    if isinstance(value, list | tuple):
        return ", ".join(as_text(item) for item in value) or "none"
    return _DIGEST.sub(lambda match: match[0][:12] + "…", str(value))


def grouped(count: int) -> str:
    """A count with commas from five digits on: 1024, but 10,240."""
    return f"{count:,}" if abs(count) >= 10_000 else str(count)


def _settings_of(kind: str, runs: Sequence[RunFolder]) -> MethodSettings:
    configs = [
        {key: value for key, value in run.config.items() if key != "out"} for run in runs
    ]  # the name says it
    flat = [{key: as_text(value) for key, value in flatten(config).items()} for config in configs]
    keys = list(dict.fromkeys(key for settings in flat for key in settings))
    differing = [key for key in keys if len({settings.get(key) for settings in flat}) > 1]
    return MethodSettings(
        kind=kind,
        names=tuple(run.name for run in runs),
        shared=_without(sections(configs[0]), set(differing)),
        differing=Comparison(
            columns=tuple(run.name for run in runs),
            rows=tuple((key, tuple(settings.get(key, "not set") for settings in flat)) for key in differing),
        ),
    )


def _without(given: Sequence[Section], left_out: set[str]) -> tuple[Section, ...]:
    kept = (
        Section(
            title=section.title,
            entries=tuple(
                (key, value)
                for key, value in section.entries
                if (f"{section.title}.{key}" if section.title else key) not in left_out
            ),
        )
        for section in given
    )
    return tuple(section for section in kept if section.entries)


def _seconds(run: RunFolder) -> float | None:
    times = [record["time"] for record in run.metrics if "time" in record]
    return round(max(times) - min(times), 1) if times else None
