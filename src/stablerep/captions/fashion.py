"""The fashion world: Fashion-MNIST with captions from its classes and from what can be measured.

Tone, texture and proportions are cut at quantiles of the official training pictures, class by class. One rule
keeps the official test pictures apart: their captions use wordings that no training caption uses, so that no
text is shared, and carry the source ``fashion-test`` and groups of their own (``test/...``). Pictures of one
combination of traits form a group; a tenth of the groups, by hash, is the validation split.

Data: Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
Algorithms", 2017 (MIT licence).
"""

import functools
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from stablerep.captions.fashion_files import read_fashion_files
from stablerep.captions.fashion_words import (
    KINDS,
    TEST_WORDINGS,
    TEXTURES,
    TONES,
    TRAIN_WORDINGS,
    UNNAMED,
    Kind,
    Traits,
)
from stablerep.captions.material import CaptionRow, Material, Picture, running_numbers
from stablerep.runtime import seed_for
from stablerep.store import caption_id

SIZE = 28
_FOREGROUND = 20  # grey levels; the background of Fashion-MNIST is 0, its haze a few levels
_CHUNK = 10_000
_VALIDATION_ONE_IN = 10
_THIRDS = (1 / 3, 2 / 3)
_CUTS = {"tone": _THIRDS, "energy": (0.5, 0.8), "across": (0.5,), "build": _THIRDS, "shape": _THIRDS}

Pictures = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float64]
Labels = npt.NDArray[np.uint8]


def fashion_material(source: Path | None = None, *, hide_class: bool = False) -> Material:
    """Captions and pictures of the fashion world.

    With ``hide_class`` no caption names the class, and the scales are cut over all classes together, so that
    a caption tells of the class only what can be seen. Raises ``UserError`` where the data are not there.
    """
    data = read_fashion_files(source)
    classes = np.zeros_like(data.train_labels) if hide_class else data.train_labels
    kinds = (UNNAMED,) if hide_class else KINDS
    scales = Scales(measure(data.train_images), classes, kinds)
    captions: dict[str, CaptionRow] = {}
    pictures: list[Picture] = []
    for split in ("train", "test"):
        images, labels = data.part(split)
        traits = scales.traits(measure(images), np.zeros_like(labels) if hide_class else labels)
        rows = [_caption(split, position, each) for position, each in enumerate(traits)]
        captions |= {str(row["id"]): row for row in rows}
        pictures += _pictures(rows, images, labels)
    return Material(captions=list(captions.values()), pictures=pictures, digest=data.digest, size=SIZE)


def _caption(split: str, position: int, traits: Traits) -> CaptionRow:
    wordings = TEST_WORDINGS if split == "test" else TRAIN_WORDINGS
    template = sorted(wordings)[seed_for("fashion wording", split, position) % len(wordings)]
    text = wordings[template](traits)
    validation = split == "train" and seed_for("fashion validation", traits.concept) % _VALIDATION_ONE_IN == 0
    return {
        "id": caption_id(text),
        "text": text,
        "source": "fashion-test" if split == "test" else "fashion",
        "group": f"test/{traits.concept}" if split == "test" else traits.concept,
        "concept": traits.concept,
        "template": template,
        "split": "validation" if validation else split,
        "label": traits.kind.label or None,
    }


def _pictures(rows: list[CaptionRow], images: Pictures, labels: Labels) -> list[Picture]:
    ids = [str(row["id"]) for row in rows]
    return [
        Picture(
            caption_id=identity,
            image_index=index,
            draw=functools.partial(Image.fromarray, image),
            style="photo",
            split=str(row["split"]),
            group=str(row["group"]),
            label=KINDS[label].label,
            licence="MIT",
        )
        for row, identity, index, image, label in zip(
            rows, ids, running_numbers(ids), images, labels, strict=True
        )
    ]


def measure(images: Pictures) -> dict[str, Values]:
    """Measurements of pictures (N, 28, 28), each (N,).

    ``tone``: mean grey of the foreground. ``energy``: mean absolute difference of neighbouring pixels inside
    the outline. ``across``: share of the differences between rows in it, high where lines run horizontally.
    ``mean_width``: foreground pixels per row. ``shape``: width of the bounding box over its height. ``fill``:
    share of the bounding box that is foreground.
    """
    chunks = [_measure_chunk(images[start : start + _CHUNK]) for start in range(0, len(images), _CHUNK)]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _measure_chunk(images: Pictures) -> dict[str, Values]:
    grey = images.astype(np.int32)
    mask = images > _FOREGROUND
    inside = _eroded(mask)
    between_columns = (np.abs(np.diff(grey, axis=2)) * (inside[:, :, 1:] & inside[:, :, :-1])).sum((1, 2))
    between_rows = (np.abs(np.diff(grey, axis=1)) * (inside[:, 1:] & inside[:, :-1])).sum((1, 2))
    # Whole numbers up to here: no rounding can move a picture across a threshold on another machine.
    area = np.maximum(mask.sum((1, 2)), 1)
    height = np.maximum(mask.any(2).sum(1), 1)
    width = np.maximum(mask.any(1).sum(1), 1)
    differences = between_columns + between_rows
    return {
        "tone": (grey * mask).sum((1, 2)) / area,
        "energy": differences / np.maximum(inside.sum((1, 2)), 1),
        "across": between_rows / np.maximum(differences, 1),
        "mean_width": area / height,
        "shape": width / height,
        "fill": area / (width * height),
    }


def _eroded(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The mask without its outline, whose steep edge would pass for a pattern."""
    around = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    inner: npt.NDArray[np.bool_] = mask.copy()
    for neighbour in (around[:, :-2, 1:-1], around[:, 2:, 1:-1], around[:, 1:-1, :-2], around[:, 1:-1, 2:]):
        inner &= neighbour
    return inner


class Scales:
    """From measurements to words, by the quantiles of the training pictures of each class."""

    def __init__(self, measured: dict[str, Values], classes: Labels, kinds: tuple[Kind, ...]) -> None:
        self._kinds = kinds
        self._cuts: list[dict[str, Values]] = []
        for number, kind in enumerate(kinds):
            values = _of_members(measured, classes == number, kind)
            self._cuts.append({name: np.quantile(values[name], at) for name, at in _CUTS.items()})

    def traits(self, measured: dict[str, Values], classes: Labels) -> list[Traits]:
        """The traits of each picture, (N,) in order; ``classes`` (N,) are positions in ``kinds``."""
        result: dict[int, Traits] = {}
        for number, (kind, cuts) in enumerate(zip(self._kinds, self._cuts, strict=True)):
            members = classes == number
            values = _of_members(measured, members, kind)
            levels = np.stack([np.searchsorted(cut, values[name]) for name, cut in cuts.items()], axis=1)
            for position, row in zip(np.flatnonzero(members).tolist(), levels.tolist(), strict=True):
                result[position] = _spoken(kind, dict(zip(cuts, row, strict=True)))
        return [result[position] for position in range(len(classes))]


def _of_members(measured: dict[str, Values], members: npt.NDArray[np.bool_], kind: Kind) -> dict[str, Values]:
    values = {name: value[members] for name, value in measured.items()}
    return values | {"build": values[kind.build]}


def _spoken(kind: Kind, levels: dict[str, int]) -> Traits:
    plain, vertical, horizontal, bold = TEXTURES
    lined = horizontal if levels["across"] else vertical
    return Traits(
        kind=kind,
        tone=TONES[levels["tone"]],
        texture=(plain, lined, bold)[levels["energy"]],
        build=kind.builds[levels["build"]],
        shape=kind.shapes[levels["shape"]],
    )
