"""Pictures with a class for every pixel: scenes put together from drawings, and ADE20k.

Shapes: H and W pixels; class 0 of the scenes is the background, 255 is not counted.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from stablerep import runtime
from stablerep.evaluation.benchmarks import HELD_OUT_STYLE, TRAINING_STYLES
from stablerep.evaluation.pictures import LazyPictures, as_png, picture_files, read_file
from stablerep.evaluation.splits import BenchmarkData, MissingDataError
from stablerep.runtime import seed_for

IGNORED = 255
_SIDE = 96
_DRAWING = (32, 56)
_SIZES = {"train": 600, "validation": 150, "test": 300}


@dataclass(frozen=True)
class Scenes:
    """M encoded pictures, and for each its classes (H, W) as uint8, both read when asked for."""

    images: Sequence[bytes]
    mask: Callable[[int], np.ndarray]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Segmented:
    """Scenes in splits; pixel class c is ``classes[c]``."""

    name: str
    classes: tuple[str, ...]
    train: Scenes
    validation: Scenes
    tests: Mapping[str, Scenes]


@dataclass(frozen=True)
class _Drawing:
    image: bytes
    label: int


def icon_scenes(data: BenchmarkData) -> Segmented:  # noqa: ARG001 -- the drawings come with the package
    """2 to 4 drawings on a plain, shaded, chequered or noisy ground, with masks from their transparency.

    No drawing of a test scene is in a training scene; a second test has drawings of the held-out style alone.
    """
    with resources.as_file(resources.files("stablerep") / "data" / "icons.parquet") as path:
        columns = ["picture_id", "image", "style", "category", "split"]
        rows = sorted(
            pq.read_table(path, columns=columns).to_pylist(), key=lambda row: str(row["picture_id"])
        )
    return scenes_of(rows, _SIZES)


def scenes_of(rows: Sequence[Mapping[str, Any]], sizes: Mapping[str, int]) -> Segmented:
    """Scenes of drawings with ``image`` (encoded, with transparency), ``style``, ``category`` and ``split``."""
    classes = tuple(sorted({str(row["category"]) for row in rows}))
    number = {name: label for label, name in enumerate(classes, start=1)}

    def part(split: str, *styles: str) -> Scenes:
        drawings = [
            _Drawing(row["image"], number[str(row["category"])])
            for row in rows
            if row["split"] == split and row["style"] in styles
        ]
        if not drawings:
            raise MissingDataError(f"benchmark icons: there are no drawings for {split} scenes")
        made = _Scenery(f"{split} {' '.join(styles)}", drawings)
        return Scenes(LazyPictures(sizes[split], made.picture), made.mask)

    return Segmented(
        "icons",
        ("background", *classes),
        part("train", *TRAINING_STYLES),
        part("validation", *TRAINING_STYLES),
        {
            "scenes of test drawings, training styles": part("test", *TRAINING_STYLES),
            "scenes of test drawings, held-out style": part("test", HELD_OUT_STYLE),
        },
    )


class _Scenery:
    """Scene m is a function of the name and m; drawings of every class are drawn equally often."""

    def __init__(self, name: str, drawings: Sequence[_Drawing]) -> None:
        self.name = name
        self.by_class: dict[int, list[_Drawing]] = {}
        for drawing in drawings:
            self.by_class.setdefault(drawing.label, []).append(drawing)

    def picture(self, place: int) -> bytes:
        return as_png(self._scene(place)[0])

    def mask(self, place: int) -> np.ndarray:
        return self._scene(place)[1]

    def _scene(self, place: int) -> tuple[Image.Image, np.ndarray]:
        rng = runtime.numpy_generator("scene", self.name, place)
        scene = Image.fromarray(_ground(rng)).convert("RGBA")
        mask = np.zeros((_SIDE, _SIDE), dtype=np.uint8)
        labels = sorted(self.by_class)
        for _ in range(int(rng.integers(2, 5))):
            members = self.by_class[labels[int(rng.integers(len(labels)))]]
            drawing = members[int(rng.integers(len(members)))]
            side = int(rng.integers(*_DRAWING))
            left, top = (int(rng.integers(_SIDE - side + 1)) for _ in range(2))
            with Image.open(io.BytesIO(drawing.image)) as encoded:
                layer = encoded.convert("RGBA").resize((side, side), Image.Resampling.BICUBIC)
            scene.alpha_composite(layer, (left, top))
            covered = np.asarray(layer)[:, :, 3] >= 128
            mask[top : top + side, left : left + side][covered] = drawing.label
        return scene.convert("RGB"), mask


def _ground(rng: np.random.Generator) -> np.ndarray:
    """A plain, shaded, chequered or noisy ground (H, W, 3)."""
    one, other = rng.integers(0, 256, (2, 3))
    kind = int(rng.integers(4))
    share: np.ndarray
    across = np.linspace(0, 1, _SIDE)[:, None, None] * np.ones((1, _SIDE, 1))
    if kind == 0:
        share = np.zeros((_SIDE, _SIDE, 1))
    elif kind == 1:
        share = across if rng.random() < 0.5 else across.transpose(1, 0, 2)
    elif kind == 2:
        cell = int(rng.integers(6, 17))
        rows = np.arange(_SIDE) // cell
        share = ((rows[:, None] + rows[None]) % 2)[:, :, None] * 0.5
    else:
        share = rng.random((_SIDE, _SIDE, 1)) * 0.5
    ground: np.ndarray = np.round(one * (1 - share) + other * share).astype(np.uint8)
    return ground


def ade20k(data: BenchmarkData) -> Segmented:
    """150 classes; a twentieth of the training pictures, by hash, chooses, the official validation pictures test.

    ``ADEChallengeData2016/`` of the data sets as its archive unpacks: images/ and annotations/, each with training/ and
    validation/. Annotation 0 is not counted, k is class k - 1.
    """
    if data.datasets is None:
        raise MissingDataError("benchmark ade20k: name the folder of ADEChallengeData2016/ with --datasets")
    folder = data.datasets / "ADEChallengeData2016"
    parts = {}
    for part in ("training", "validation"):
        paths = sorted((folder / "images" / part).glob("*.jpg"))
        if not paths:
            raise MissingDataError(
                f"benchmark ade20k: {folder / 'images' / part} has no .jpg; unpack ADEChallengeData2016.zip there"
            )
        parts[part] = paths
    order = sorted(parts["training"], key=lambda path: seed_for("ade20k", path.stem))
    held = max(1, len(order) // 20)
    return Segmented(
        "ade20k",
        _ade_names(folder),
        _annotated(order[held:], folder / "annotations" / "training"),
        _annotated(order[:held], folder / "annotations" / "training"),
        {"official validation": _annotated(parts["validation"], folder / "annotations" / "validation")},
    )


def _annotated(paths: Sequence[Path], annotations: Path) -> Scenes:
    def mask(place: int) -> np.ndarray:
        encoded = read_file(annotations / f"{paths[place].stem}.png")
        with Image.open(io.BytesIO(encoded)) as picture:
            classes = np.asarray(picture).astype(np.int64)
        return np.where(classes == 0, IGNORED, classes - 1).astype(np.uint8)

    return Scenes(picture_files(paths), mask)


def _ade_names(folder: Path) -> tuple[str, ...]:
    listed = folder / "objectInfo150.txt"
    if not listed.is_file():
        return tuple(f"class {number}" for number in range(1, 151))
    lines = listed.read_text(encoding="utf-8").splitlines()[1:]
    return tuple(line.split("\t")[-1].split(",")[0].strip() for line in lines if line.strip())


SCENES: Mapping[str, Callable[[BenchmarkData], Segmented]] = {"icons": icon_scenes, "ade20k": ade20k}
"""Benchmarks with a class for every pixel."""
