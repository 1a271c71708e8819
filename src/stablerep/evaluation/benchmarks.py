"""Real labelled data for scoring: which pictures train a probe, which choose its settings, which test it."""

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from stablerep.errors import UserError
from stablerep.probes.metrics import Metric
from stablerep.store import OK, REAL, ImageTable

TRAINING_STYLES = ("noto", "twemoji", "clipart")
HELD_OUT_STYLE = "fluent"


class MissingDataError(UserError):
    """The data of a benchmark are not there: a sentence to report, never a score of zero."""


@dataclass(frozen=True)
class Split:
    """M encoded pictures in data order, their classes as numbers (M,), and their groups.

    Where pictures have several classes, ``labels`` is (M, C): 1 for shown, 0 for not, -1 for not counted.
    """

    images: Sequence[bytes]
    labels: np.ndarray
    groups: list[str]
    num_left_out: int = 0
    """Pictures without a label, or of a class that no training picture has."""
    attributes: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What else is known of each picture (M,), such as the style: the groups that `fairness` compares."""

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Benchmark:
    """Splits that share the classes of the training split; class c is ``classes[c]``."""

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    tests: Mapping[str, Split]
    metric: Metric | Literal["map11"] = "mean_per_class"
    """What is published for it; map11, the 11-point mean average precision, where pictures have several classes."""
    names: tuple[str, ...] = ()
    """The classes as a text would name them; ``classes`` where not given."""

    @property
    def several(self) -> bool:
        """Whether a picture may have several classes."""
        return self.metric == "map11"


@dataclass(frozen=True, kw_only=True)
class BenchmarkData:
    """Where the benchmarks find their data."""

    world: Path | None = None
    """Folder of the icons world (images.lance with the real pictures)."""
    fashion: Path | None = None
    """Folder of the fashion world."""
    num_train: int | None = None
    """At most so many training pictures, the first in hash order; all where not given."""
    folder: Path | None = None
    """Folder of class folders (train/CLASS/..., test/CLASS/...), for the benchmark `folder`."""
    table: Path | None = None
    """Image table with labels and splits, for the benchmark `table`."""
    datasets: Path | None = None
    """Folder that holds public data sets, each in its own layout."""
    download: bool = False
    """Let torchvision download a data set that is not there."""


def load_benchmark(name: str, data: BenchmarkData) -> Benchmark:
    """The benchmark of this name.

    Raises ``UserError`` for an unknown name, and ``MissingDataError`` where its data are missing.
    """
    if name not in BENCHMARKS:
        raise UserError(f"unknown benchmark {name!r}; known: {', '.join(BENCHMARKS)}")
    benchmark = BENCHMARKS[name](data)
    parts = {"training": benchmark.train, "validation": benchmark.validation, **benchmark.tests}
    empty = [part for part, split in parts.items() if len(split) == 0]
    if empty:
        raise MissingDataError(f"benchmark {name}: there are no labelled pictures for {', '.join(empty)}")
    if data.num_train is not None:
        benchmark = replace(benchmark, train=_first_in_hash_order(benchmark.train, data.num_train))
    return benchmark


@dataclass(frozen=True)
class _Picture:
    image: bytes
    label: str | None
    group: str
    split: str | None
    style: str | None


def _icons(data: BenchmarkData) -> Benchmark:
    """Drawn pictures by subject; no training picture is by the hand that drew the held-out style."""
    pictures = _real_pictures(data.world, "icons", "world")

    def part(split: str, *styles: str) -> list[_Picture]:
        return [picture for picture in pictures if picture.split == split and picture.style in styles]

    return _benchmark(
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

    def part(split: str) -> list[_Picture]:
        return [picture for picture in pictures if picture.split == split]

    return _benchmark(
        "fashion", train=part("train"), validation=part("validation"), tests={"official test": part("test")}
    )


def _digits(data: BenchmarkData) -> Benchmark:  # noqa: ARG001 -- they come with scikit-learn
    """1,797 handwritten digits of 8 x 8 pixels, enlarged to 32; 60 / 15 / 25 % of each class by hash."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    encoded = [_enlarged_png(image, size=32) for image in digits.images]
    names = [str(target) for target in digits.target]
    parts: dict[str, list[_Picture]] = {"train": [], "validation": [], "test": []}
    for name in sorted(set(names)):
        members = sorted((row for row in range(len(names)) if names[row] == name), key=_by_hash(encoded))
        for rank, row in enumerate(members):
            share = rank / len(members)
            split = "train" if share < 0.6 else "validation" if share < 0.75 else "test"
            parts[split].append(_Picture(encoded[row], name, f"digit {row}", split, None))
    return _benchmark(
        "digits", train=parts["train"], validation=parts["validation"], tests={"test": parts["test"]}
    )


BENCHMARKS: Mapping[str, Callable[[BenchmarkData], Benchmark]] = {
    "icons": _icons,
    "fashion": _fashion,
    "digits": _digits,
}
"""Every benchmark by its name on the command line."""


def _benchmark(
    name: str, *, train: list[_Picture], validation: list[_Picture], tests: dict[str, list[_Picture]]
) -> Benchmark:
    classes = tuple(sorted({picture.label for picture in train if picture.label is not None}))
    number = {label: index for index, label in enumerate(classes)}

    def split(pictures: list[_Picture]) -> Split:
        known = [picture for picture in pictures if picture.label in number]
        return Split(
            images=[picture.image for picture in known],
            labels=np.array([number[picture.label] for picture in known if picture.label], dtype=np.int64),
            groups=[picture.group for picture in known],
            num_left_out=len(pictures) - len(known),
            attributes={} if any(picture.style is None for picture in known) else {"style": _styles(known)},
        )

    return Benchmark(
        name, classes, split(train), split(validation), {test: split(part) for test, part in tests.items()}
    )


def _styles(pictures: Sequence[_Picture]) -> np.ndarray:
    return np.array([str(picture.style) for picture in pictures])


def _real_pictures(folder: Path | None, world: str, option: str) -> list[_Picture]:
    """The usable real pictures of a world, ordered by identity, so that no writing order shows."""
    if folder is None:
        raise MissingDataError(f"benchmark {world}: no folder was given; name its world with --{option}")
    if not (folder / "images.lance").exists():
        raise MissingDataError(
            f"benchmark {world}: {folder} has no images.lance; give the folder of the {world} world"
        )
    columns = ["caption_id", "image_index", "image", "label", "group", "split", "style"]
    rows = ImageTable.open(folder / "images.lance").read(columns, f"origin = '{REAL}' AND status = '{OK}'")
    ordered = rows.sort_by([("caption_id", "ascending"), ("image_index", "ascending")]).to_pylist()
    return [
        _Picture(row["image"], row["label"], row["group"] or row["caption_id"], row["split"], row["style"])
        for row in ordered
    ]


def _first_in_hash_order(split: Split, num: int) -> Split:
    if num < 1:
        raise UserError(f"num_train must be positive, got {num}")
    rows = sorted(sorted(range(len(split)), key=_by_hash(split.images))[:num])
    return Split(
        images=[split.images[row] for row in rows],
        labels=split.labels[rows],
        groups=[split.groups[row] for row in rows],
        num_left_out=split.num_left_out,
        attributes={name: values[rows] for name, values in split.attributes.items()},
    )


def _by_hash(images: Sequence[bytes]) -> Callable[[int], tuple[bytes, int]]:
    return lambda row: (hashlib.blake2b(images[row], digest_size=16).digest(), row)


def _enlarged_png(image: np.ndarray, size: int) -> bytes:
    """Intensities 0 .. 16 (8, 8) as an encoded grey picture."""
    picture = Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8))
    buffer = io.BytesIO()
    picture.resize((size, size), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()
