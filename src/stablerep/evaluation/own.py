"""The user's own pictures: folders of class folders, and FairFace's list of faces."""

import csv
from pathlib import Path

import numpy as np

from stablerep.errors import UserError
from stablerep.evaluation.pictures import picture_files
from stablerep.evaluation.public import held_out, in_words
from stablerep.evaluation.splits import Benchmark, BenchmarkData, MissingDataError, Split

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
_VALIDATION = ("val", "validation", "valid")
_HELD_OUT = 0.1


def image_folder(data: BenchmarkData) -> Benchmark:
    """``train/CLASS/*``, and ``test/CLASS/*`` or ``val/CLASS/*``.

    Where only two of the three are there, the second one tests, as with ImageNet, and a tenth of each training class
    chooses. Classes are those of the training folder; pictures of others are left out, and counted.
    """
    if data.folder is None or not data.folder.is_dir():
        what = "no folder was given" if data.folder is None else f"{data.folder} is no folder"
        raise MissingDataError(f"benchmark folder: {what}; name one with class folders with --folder")
    there = {path.name for path in data.folder.iterdir() if path.is_dir()}
    validation = next((name for name in _VALIDATION if name in there), None)
    if "train" not in there or not (validation or "test" in there):
        raise MissingDataError(
            f"benchmark folder: {data.folder} needs train/ and test/ or val/, each with a folder for every class"
        )
    classes = tuple(sorted(path.name for path in (data.folder / "train").iterdir() if path.is_dir()))
    train = _class_folders(data.folder / "train", classes)
    if validation and "test" in there:
        chooses = _class_folders(data.folder / validation, classes)
    else:
        held, rest = held_out(train.labels, _HELD_OUT, "folder")
        train, chooses = train.some(rest), train.some(held)
    test = "test" if "test" in there else str(validation)
    tests = {test: _class_folders(data.folder / test, classes)}
    return Benchmark("folder", classes, train, chooses, tests, "top1", tuple(map(in_words, classes)))


def _class_folders(folder: Path, classes: tuple[str, ...]) -> Split:
    """Every picture below the class folders, in the order of paths."""
    number = {name: label for label, name in enumerate(classes)}
    paths: list[Path] = []
    labels: list[int] = []
    left_out = 0
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in _SUFFIXES:
            continue
        label = number.get(path.relative_to(folder).parts[0])
        if label is None:
            left_out += 1
            continue
        paths.append(path)
        labels.append(label)
    groups = [str(path.relative_to(folder)) for path in paths]
    return Split(picture_files(paths), np.array(labels, dtype=np.int64), groups, left_out)


def fairface(target: str, data: BenchmarkData) -> Benchmark:
    """FairFace: a tenth of each training class chooses, the official validation faces test.

    ``fairface/`` of the data sets holds fairface_label_train.csv and fairface_label_val.csv (file, age, gender, race)
    and the pictures that they name. ``target`` is the column to predict, the others are the groups to compare.
    """
    name = f"fairface-{target}"
    if data.datasets is None:
        raise MissingDataError(
            f"benchmark {name}: no folder was given; name the one of fairface/ with --datasets"
        )
    folder = data.datasets / "fairface"
    lists = [folder / f"fairface_label_{part}.csv" for part in ("train", "val")]
    missing = [path for path in lists if not path.is_file()]
    if missing:
        raise MissingDataError(
            f"benchmark {name}: {missing[0]} is missing; put the two lists and the pictures of FairFace there"
        )
    known, test = (_faces(path, folder) for path in lists)
    classes = tuple(sorted(set(known[1][target])))
    train = _of_faces(*known, target, classes)
    held, rest = held_out(train.labels, _HELD_OUT, name)
    return Benchmark(
        name,
        classes,
        train.some(rest),
        train.some(held),
        {"official validation": _of_faces(*test, target, classes)},
        "top1",
        tuple(map(in_words, classes)),
    )


def _faces(path: Path, folder: Path) -> tuple[list[Path], dict[str, list[str]]]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = ("file", "age", "gender", "race")
    absent = [column for column in columns if not rows or column not in rows[0]]
    if absent:
        raise UserError(
            f"{path} has no column {', '.join(absent)}; FairFace's lists have {', '.join(columns)}"
        )
    return [folder / row["file"] for row in rows], {name: [row[name] for row in rows] for name in columns[1:]}


def _of_faces(
    paths: list[Path], columns: dict[str, list[str]], target: str, classes: tuple[str, ...]
) -> Split:
    number = {name: label for label, name in enumerate(classes)}
    kept = [row for row, name in enumerate(columns[target]) if name in number]
    return Split(
        picture_files([paths[row] for row in kept]),
        np.array([number[columns[target][row]] for row in kept], dtype=np.int64),
        [paths[row].as_posix() for row in kept],
        len(paths) - len(kept),
        {name: np.array(values)[kept] for name, values in columns.items() if name != target},
    )
