"""Real labelled pictures in splits: what trains a probe, what chooses its settings, what tests it.

Shapes: M pictures, C classes.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from stablerep.errors import UserError
from stablerep.evaluation.pictures import some_of
from stablerep.probes.metrics import Metric


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

    def some(self, rows: np.ndarray) -> "Split":
        """These rows, in this order; what was left out is counted as before."""
        return replace(
            self,
            images=some_of(self.images, rows.tolist()),
            labels=self.labels[rows],
            groups=[self.groups[row] for row in rows],
            attributes={name: values[rows] for name, values in self.attributes.items()},
        )


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


@dataclass(frozen=True)
class LabelledPicture:
    """One encoded picture and what is known of it."""

    image: bytes
    label: str | None
    group: str
    split: str | None
    style: str | None


def from_pictures(
    name: str,
    *,
    train: list[LabelledPicture],
    validation: list[LabelledPicture],
    tests: dict[str, list[LabelledPicture]],
) -> Benchmark:
    """A benchmark whose classes are those of the training pictures; others are left out, and counted.

    An empty label, as files of others have it, is none.
    """
    classes = tuple(sorted({picture.label for picture in train if picture.label}))
    number = {label: index for index, label in enumerate(classes)}

    def split(pictures: list[LabelledPicture]) -> Split:
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


def _styles(pictures: Sequence[LabelledPicture]) -> np.ndarray:
    return np.array([str(picture.style) for picture in pictures])


def by_hash(images: Sequence[bytes]) -> Callable[[int], tuple[bytes, int]]:
    """A key that sorts places of a sequence by the content of its pictures."""
    return lambda row: (hashlib.blake2b(images[row], digest_size=16).digest(), row)
