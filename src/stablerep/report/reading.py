"""What lies on disk: which of the given folders are runs and which are projects, and the tables and runs in them."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stablerep.errors import UserError
from stablerep.row_keys import literal
from stablerep.run import Run, read_json
from stablerep.store import IMAGE_SCHEMA, OK, REAL, CaptionTable, ImageTable

# Below a project's own folder: the runs that `train` writes, and those of the turns of a circle.
_RUNS = ("runs/*/run.json", "judge/run.json", "turn-*/*/run.json")
_PRODUCTS = ("encoder.json", "model_index.json", "config.json")


@dataclass(frozen=True)
class RunFolder:
    """A run as the report reads it; of its files only run.json must be there."""

    path: Path
    name: str
    """What the page calls the run."""

    @cached_property
    def description(self) -> dict[str, Any]:
        """``kind`` and ``config``."""
        return read_json(self.path / "run.json")

    @property
    def kind(self) -> str:
        """What made the run: the name of the method."""
        return str(self.description["kind"])

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        config: dict[str, Any] = self.description["config"]
        return config

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Versions and machine; empty where the file is missing."""
        path = self.path / "provenance.json"
        return read_json(path) if path.exists() else {}

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The records of training steps, in order."""
        return [
            record for record in Run(self.path).metrics() if {"step", "loss", "images_seen"} <= record.keys()
        ]

    @property
    def encoder(self) -> Path | None:
        """The exported encoder, where the run learned one."""
        folder = self.path / "encoder"
        return folder if (folder / "encoder.json").exists() else None

    @property
    def product(self) -> Path | None:
        """The folder of what the run exported; None where it has not finished."""
        found = (path.parent for name in _PRODUCTS for path in sorted(self.path.glob(f"*/{name}")))
        return next(found, None)


@dataclass(frozen=True, kw_only=True)
class Project:
    """The tables and runs that one report is about, in the order in which they were given."""

    name: str
    runs: tuple[RunFolder, ...]
    images: tuple[ImageTable, ...]
    captions: tuple[CaptionTable, ...]
    folders: tuple[Path, ...]

    def caption_rows(self, where: str | None = None) -> list[dict[str, Any]]:
        """The caption rows of all tables that match a filter, each caption once."""
        rows: dict[str, dict[str, Any]] = {}
        for table in self.captions:
            there = [
                name for name in table.schema.names if name in table.dataset.schema.names
            ]  # older tables
            for row in table.read(there, where).to_pylist():
                rows.setdefault(row["id"], row)
        return list(rows.values())

    def texts(self, ids: Iterable[str]) -> dict[str, str]:
        """Caption id -> text, of those that a table knows."""
        return {row["id"]: row["text"] for row in self.caption_rows(f"id IN {quoted(ids)}")}

    def image_columns(self, columns: Sequence[str], where: str) -> pa.Table:
        """The image rows of all tables that match a filter, each (origin, caption id, image index) once."""
        keys = ["origin", "caption_id", "image_index"]
        parts = [table.read([*keys, *columns], where) for table in self.images]
        rows = pa.concat_tables(parts or [IMAGE_SCHEMA.empty_table().select([*keys, *columns])])
        if len(parts) < 2:
            return rows
        rows = rows.append_column("position", pa.array(np.arange(len(rows))))
        first = rows.group_by(keys, use_threads=False).aggregate([("position", "min")])["position_min"]
        return rows.take(first).drop_columns("position")

    @cached_property
    def teachers(self) -> dict[str, dict[str, Any]]:
        """The settings of every painted origin that a table describes."""
        return {name: settings for table in self.images for name, settings in table.origins().items()}


def open_project(
    folders: Sequence[Path], images: Path | None, captions: Path | None, world: Path | None
) -> Project:
    """Sort the folders into runs and projects and open what they hold.

    Tables come from the options, from the project folders and their ``world`` subfolder, and from where a run says that
    it read its images. ``UserError`` where a folder is neither a run nor a project.
    """
    if not folders:
        raise UserError(
            "no folder was given; name one or more run folders, or a project folder that holds runs/"
        )
    runs: list[Path] = []
    homes: list[Path] = []
    for folder in folders:
        if (folder / "run.json").exists():
            runs.append(folder)
        else:
            homes.append(_project_folder(folder))
            for pattern in _RUNS:
                runs.extend(sorted((path.parent for path in folder.glob(pattern)), key=_by_number))
    opened = _named(_distinct(runs))
    homes.extend(turn for folder in list(homes) for turn in sorted(folder.glob("turn-*")))
    homes.extend(folder / "world" for folder in list(homes))
    if world is not None:
        homes.append(_project_folder(world))
    image_paths = _tables(images, homes, "images.lance", _named_by_runs(opened, "images"))
    caption_paths = _tables(captions, homes, "captions.lance", _named_by_runs(opened, "captions"))
    return Project(
        name=folders[0].resolve().name,
        runs=opened,
        images=tuple(ImageTable.open(path) for path in image_paths),
        captions=tuple(CaptionTable.open(path) for path in caption_paths),
        folders=tuple(folders),
    )


def quoted(values: Iterable[str]) -> str:
    """Strings as the list of a filter: ``caption_id IN ('a', 'b')``."""
    return "(" + ", ".join(map(literal, values)) + ")"


def painted(origin: str) -> str:
    """The filter for all rows of a painted origin."""
    return f"origin IN {quoted([origin])}"


IS_REAL = f"origin = '{REAL}' AND status = '{OK}'"
IS_PAINTED = f"origin != '{REAL}'"


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat.update(
            flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
        )
    return flat


def _project_folder(folder: Path) -> Path:
    if any((folder / name).exists() for name in ("captions.lance", "images.lance", "runs", "circle.json")):
        return folder
    raise UserError(
        f"{folder} is neither a run (no run.json in it) nor a project (no captions.lance, images.lance or runs/); "
        "give the folder that `train` or `generate` wrote"
    )


def _tables(given: Path | None, homes: Sequence[Path], name: str, named: Sequence[Path]) -> list[Path]:
    found = [] if given is None else [given]
    found += [home / name for home in homes if (home / name).exists()]
    found += [path for path in named if path.exists()]
    return _distinct(found)


def _named_by_runs(runs: Sequence[RunFolder], key: str) -> list[Path]:
    paths: list[Path] = []
    for run in runs:
        value = run.config.get("data", {}).get(key) or []
        paths += [Path(item) for item in ([value] if isinstance(value, str) else value)]
    return paths


def _named(paths: Sequence[Path]) -> tuple[RunFolder, ...]:
    """Runs by the name of their folder; where two folders share it, by their paths."""
    names = Counter(path.resolve().name for path in paths)
    return tuple(
        RunFolder(path, path.resolve().name if names[path.resolve().name] == 1 else str(path))
        for path in paths
    )


def _by_number(path: Path) -> list[tuple[int, str]]:
    """Names in the order in which people read them: size-250 before size-1000."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(part) if part.isdecimal() else -1, part) for part in parts]


def _distinct(paths: Sequence[Path]) -> list[Path]:
    return list({path.resolve(): path for path in paths}.values())
