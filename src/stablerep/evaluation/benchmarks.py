"""Real labelled data for scoring: which pictures train a probe, which choose its settings, which test it."""

import functools
import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from stablerep.captions.worlds import world_name
from stablerep.errors import UserError
from stablerep.evaluation.own import fairface, image_folder
from stablerep.evaluation.public import PUBLIC, TORCHVISION, torchvision_by_name
from stablerep.evaluation.splits import (
    Benchmark,
    BenchmarkData,
    LabelledPicture,
    MissingDataError,
    Split,
    by_hash,
    from_pictures,
)
from stablerep.runtime import seed_for
from stablerep.store import OK, REAL, ImageTable

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "BenchmarkData",
    "MissingDataError",
    "Split",
    "is_benchmark",
    "load_benchmark",
    "of_world",
]

TRAINING_STYLES = ("noto", "twemoji", "clipart")
HELD_OUT_STYLE = "fluent"


def load_benchmark(name: str, data: BenchmarkData) -> Benchmark:
    """The benchmark of this name.

    Raises ``UserError`` for an unknown name, and ``MissingDataError`` where its data are missing.
    """
    if not is_benchmark(name):
        raise UserError(f"unknown benchmark {name!r}; known: {', '.join(BENCHMARKS)}, {TORCHVISION}CLASS")
    benchmark = BENCHMARKS[name](data) if name in BENCHMARKS else torchvision_by_name(name, data)
    parts = {"training": benchmark.train, "validation": benchmark.validation, **benchmark.tests}
    empty = [part for part, split in parts.items() if len(split) == 0]
    if empty:
        raise MissingDataError(
            f"benchmark {name}: there are no labelled pictures for {', '.join(empty)}; those of a table are real, with "
            "a label and a split, those of a folder lie in train/CLASS/ and test/CLASS/"
        )
    if data.num_train is not None:
        benchmark = replace(benchmark, train=first_in_hash_order(benchmark.train, data.num_train))
    return benchmark


def _icons(data: BenchmarkData) -> Benchmark:
    """Drawn pictures by subject; no training picture is by the hand that drew the held-out style."""
    pictures = _real_pictures(data.world, "icons", "world")

    def part(split: str, *styles: str) -> list[LabelledPicture]:
        return [picture for picture in pictures if picture.split == split and picture.style in styles]

    return from_pictures(
        "icons",
        train=part("train", *TRAINING_STYLES),
        validation=part("validation", *TRAINING_STYLES),
        tests={
            "test captions, training styles": part("test", *TRAINING_STYLES),
            "test captions, held-out style": part("test", HELD_OUT_STYLE),
            "seen captions, held-out style": part("train", HELD_OUT_STYLE),
        },
    )


def _fashion(data: BenchmarkData) -> Benchmark:
    """Photographs of clothes in ten classes, with the official test split."""
    pictures = _real_pictures(data.fashion, "fashion", "fashion")

    def part(split: str) -> list[LabelledPicture]:
        return [picture for picture in pictures if picture.split == split]

    return from_pictures(
        "fashion", train=part("train"), validation=part("validation"), tests={"official test": part("test")}
    )


def _digits(data: BenchmarkData) -> Benchmark:  # noqa: ARG001 -- they come with scikit-learn
    """1,797 handwritten digits of 8 x 8 pixels, enlarged to 32; 60 / 15 / 25 % of each class by hash."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    encoded = [_enlarged_png(image, size=32) for image in digits.images]
    names = [str(target) for target in digits.target]
    parts: dict[str, list[LabelledPicture]] = {"train": [], "validation": [], "test": []}
    for name in sorted(set(names)):
        members = sorted((row for row in range(len(names)) if names[row] == name), key=by_hash(encoded))
        for rank, row in enumerate(members):
            share = rank / len(members)
            split = "train" if share < 0.6 else "validation" if share < 0.75 else "test"
            parts[split].append(LabelledPicture(encoded[row], name, f"digit {row}", split, None))
    return from_pictures(
        "digits", train=parts["train"], validation=parts["validation"], tests={"test": parts["test"]}
    )


def _table(data: BenchmarkData) -> Benchmark:
    """Real pictures of any image table, split as its column says; without validation rows a part of training."""
    if data.table is None or not ImageTable.exists(data.table):
        what = "no table was given" if data.table is None else f"{data.table} is missing"
        raise MissingDataError(f"benchmark table: {what}; name an image table with --table")
    pictures = _read(data.table)
    parts = {
        name: [picture for picture in pictures if picture.split == name]
        for name in ("train", "validation", "test")
    }
    if not parts["validation"]:
        parts["validation"], parts["train"] = _share_of(parts["train"])
    return from_pictures(
        "table", train=parts["train"], validation=parts["validation"], tests={"test": parts["test"]}
    )


def _share_of(pictures: list[LabelledPicture]) -> tuple[list[LabelledPicture], list[LabelledPicture]]:
    """A fifth of the groups by hash, and the rest."""
    groups = sorted({picture.group for picture in pictures}, key=lambda group: seed_for("fold", group))
    taken = set(groups[: len(groups) // 5])
    return (
        [picture for picture in pictures if picture.group in taken],
        [picture for picture in pictures if picture.group not in taken],
    )


def is_benchmark(name: str) -> bool:
    """Whether there is a benchmark of this name, or a data set of torchvision."""
    return name in BENCHMARKS or name.startswith(TORCHVISION)


BENCHMARKS: Mapping[str, Callable[[BenchmarkData], Benchmark]] = {
    "icons": _icons,
    "fashion": _fashion,
    "digits": _digits,
    "folder": image_folder,
    "table": _table,
    **PUBLIC,
    **{f"fairface-{target}": functools.partial(fairface, target) for target in ("race", "gender", "age")},
}
"""Every benchmark of pictures with classes, by its name on the command line."""


def of_world(folder: Path) -> str:
    """The benchmark that a world is called; a folder in the shape of icons need not say what it is."""
    return world_name(folder) if (folder / "world.json").exists() else "icons"


def _real_pictures(folder: Path | None, world: str, option: str) -> list[LabelledPicture]:
    """The usable real pictures of a world, ordered by identity, so that no writing order shows."""
    if folder is None:
        raise MissingDataError(f"benchmark {world}: no folder was given; name its world with --{option}")
    if not ImageTable.exists(folder / "images.lance"):
        raise MissingDataError(
            f"benchmark {world}: {folder} has no images.lance; give the folder that `stablerep world {world}` wrote"
        )
    return _read(folder / "images.lance")


def _read(path: Path) -> list[LabelledPicture]:
    """The usable real pictures of a table, ordered by identity."""
    columns = ["caption_id", "image_index", "image", "label", "group", "split", "style"]
    rows = ImageTable.open(path).read(columns, f"origin = '{REAL}' AND status = '{OK}'")
    ordered = rows.sort_by([("caption_id", "ascending"), ("image_index", "ascending")]).to_pylist()
    return [
        LabelledPicture(
            row["image"], row["label"], row["group"] or row["caption_id"], row["split"], row["style"]
        )
        for row in ordered
    ]


def first_in_hash_order(split: Split, num: int) -> Split:
    """A random but fixed choice of pictures, of which a smaller one is a part.

    Raises ``UserError`` where none is asked for.
    """
    if num < 1:
        raise UserError(f"num_train must be positive, got {num}")
    rows = sorted(sorted(range(len(split)), key=by_hash(split.images))[:num])
    return split.some(np.array(rows, dtype=np.int64))


def _enlarged_png(image: np.ndarray, size: int) -> bytes:
    """Intensities 0 .. 16 (8, 8) as an encoded grey picture."""
    picture = Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8))
    buffer = io.BytesIO()
    picture.resize((size, size), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()
