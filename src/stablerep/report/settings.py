"""What was asked, and on what it ran: settings of teachers and runs, provenance, as rows of text."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stablerep.report.reading import Project, RunFolder, flatten

_DIGEST = re.compile(r"\b[0-9a-f]{20,}\b")
_SHOWN_DIGITS = 12

# What a reader asks first; everything else is folded away.
_IMPORTANT = {
    ("", "num inference steps"), ("", "guidance scale"), ("", "dtype"), ("", "device"), ("", "size"), ("", "pipeline"),
    ("scheduler", "class"), ("scheduler", "name"),
    ("", "num steps"), ("", "num epochs"), ("", "seed"), ("data", "num captions"), ("data", "origin"),
    ("data", "captions per batch"), ("data", "images per caption"), ("data", "keep"), ("data", "where"),
    ("data view", "augmentation"), ("data view", "image size"), ("optim", "lr"), ("optim", "base lr"),
    ("method encoder", "architecture"), ("method", "temperature"),
    ("", "python"), ("", "processor"), ("", "threads"), ("", "git revision"), ("versions", "stablerep"),
    ("versions", "torch"), ("", "seconds from first to last record"),
}  # fmt: skip

Settings = Mapping[str, str]
"""Dotted key -> value as text."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """Settings that belong together: one table of the configuration."""

    title: str
    entries: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What several runs share, and one row per setting in which they differ, one column per run."""

    shared: tuple[Section, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """The settings that only the runs of one method have."""

    kind: str
    names: tuple[str, ...]
    sections: tuple[Section, ...]


def training_settings(project: Project) -> tuple[Comparison, list[MethodSettings]]:
    """Settings that every run has, shared or compared, and beside them those of each method."""
    settings = {run.name: _settings_of(run) for run in project.runs}
    common = _common_keys(list(settings.values()))
    by_kind: dict[str, list[RunFolder]] = defaultdict(list)
    for run in project.runs:
        by_kind[run.kind].append(run)
    methods = [_of_method(kind, runs, settings, common) for kind, runs in by_kind.items()]
    return compare(settings, common), [method for method in methods if method.sections]


def compare(settings: Mapping[str, Settings], keys: Sequence[str]) -> Comparison:
    """Split the keys into those with one value for all names and those where the values differ."""
    columns = list(settings.values())
    differing = [key for key in keys if len({column[key] for column in columns}) > 1]
    shared = {key: columns[0][key] for key in keys if key not in differing}
    return Comparison(
        shared=sections(shared),
        columns=tuple(settings),
        rows=tuple((readable(key), tuple(column[key] for column in columns)) for key in differing),
    )


def sections(settings: Mapping[str, Any]) -> tuple[Section, ...]:
    """Settings, nested or dotted, as one section per table, what stands in no table first."""
    tables: dict[str, list[tuple[str, str]]] = {"": []}
    for key, value in flatten(settings).items():
        table, _, name = key.rpartition(".")
        tables.setdefault(table, []).append((readable(name), as_text(value)))
    return tuple(
        Section(title=readable(table), entries=tuple(entries)) for table, entries in tables.items() if entries
    )


def important(found: Sequence[Section]) -> tuple[Section, ...]:
    """The entries that a reader asks for first, in one section without a title, named by what tells them apart."""
    entries = [
        (f"{section.title} {name}".removeprefix("data ").strip(), value)
        for section in found
        for name, value in section.entries
        if (section.title, name) in _IMPORTANT and value != "not on record"
    ]
    return (Section(title="", entries=tuple(entries)),) if entries else ()


def provenance(project: Project) -> Comparison:
    """Where each run was made: versions, revision, machine, threads, and the seconds its records span."""
    columns = {}
    for run in project.runs:
        facts = {**run.provenance, "seconds from first to last record": _seconds(run)}
        columns[run.name] = {key: as_text(value) for key, value in flatten(facts).items()}
    keys = list(dict.fromkeys(key for column in columns.values() for key in column))
    complete = {
        name: {key: column.get(key, "not on record") for key in keys} for name, column in columns.items()
    }
    return compare(complete, keys)


def as_text(value: Any) -> str:
    """A setting as a reader would write it; long digests are cut to the digits that identify them."""
    if value is None:
        return "not on record"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        return grouped(value) if abs(value) < 10**9 else str(value)
    if isinstance(value, list | tuple):
        return ", ".join(as_text(item) for item in value) or "none"
    return _DIGEST.sub(lambda match: f"{match[0][:_SHOWN_DIGITS]}…", str(value))


def grouped(count: int) -> str:
    """A count with commas from five digits on: 1024, but 10,240."""
    return f"{count:,}" if abs(count) >= 10_000 else str(count)


def readable(key: str) -> str:
    """``data.view.image_size`` -> "data view image size"."""
    return key.replace(".", " ").replace("_", " ")


def _settings_of(run: RunFolder) -> dict[str, str]:
    flat = {"method": run.kind, **flatten(run.config)}
    return {key: as_text(value) for key, value in flat.items() if key != "out"}  # the run's name says it


def _common_keys(settings: Sequence[Settings]) -> list[str]:
    return [key for key in (settings[0] if settings else ()) if all(key in column for column in settings)]


def _of_method(
    kind: str, runs: Sequence[RunFolder], settings: Mapping[str, Settings], common: Sequence[str]
) -> MethodSettings:
    own = [settings[run.name] for run in runs]
    keys = dict.fromkeys(key for column in own for key in column if key not in common)
    values = {key: list(dict.fromkeys(column.get(key, "not set") for column in own)) for key in keys}
    return MethodSettings(
        kind=kind,
        names=tuple(run.name for run in runs),
        sections=sections({key: " / ".join(alternatives) for key, alternatives in values.items()}),
    )


def _seconds(run: RunFolder) -> int | None:
    times = [record["time"] for record in run.metrics if "time" in record]
    return round(max(times) - min(times)) if times else None
