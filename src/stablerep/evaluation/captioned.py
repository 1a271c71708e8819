"""Real pictures with texts: which texts belong to which picture. Shapes: M pictures, T texts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stablerep.evaluation.benchmarks import BenchmarkData, MissingDataError
from stablerep.features import TableImages
from stablerep.store import OK, REAL, CaptionTable, ImageTable


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """M pictures and T texts; a text belongs to a picture where both are of one concept."""

    name: str
    test: str
    images: Sequence[bytes]
    image_concepts: np.ndarray
    """Concept of each picture (M,)."""
    captions: tuple[str, ...]
    """Its own caption (M)."""
    groups: np.ndarray
    """Pictures that succeed or fail together (M,)."""
    texts: tuple[str, ...]
    """Distinct texts (T)."""
    text_concepts: np.ndarray
    """Concept of each text (T,)."""
    text_groups: np.ndarray
    """Texts that succeed or fail together (T,)."""


def _world(name: str, folder: Path | None, option: str) -> Captioned:
    """The real test pictures of a world, and all captions of their concepts."""
    if folder is None:
        raise MissingDataError(f"benchmark {name}: no folder was given; name its world with --{option}")
    return read_captioned(name, folder / "captions.lance", folder / "images.lance")


def read_captioned(name: str, captions: Path, images: Path) -> Captioned:
    """Pictures of the split `test` of an image table, with all texts of their concepts.

    Raises ``MissingDataError`` where a table or the pictures are missing.
    """
    for kind, path in ((CaptionTable, captions), (ImageTable, images)):
        if not kind.exists(path):
            raise MissingDataError(
                f"benchmark {name}: {path} is missing; captions and images are both needed"
            )
    rows = CaptionTable.open(captions).read(["id", "text", "concept", "group"]).to_pylist()
    concept_of = {row["id"]: row["concept"] or row["id"] for row in rows}
    table = ImageTable.open(images)
    positions = table.positions(f"origin = '{REAL}' AND status = '{OK}' AND split = 'test'")
    columns = table.read(["caption_id", "image_index", "group"]).take(positions).to_pylist()
    order = sorted(
        (place for place, row in enumerate(columns) if row["caption_id"] in concept_of),
        key=lambda place: (columns[place]["caption_id"], columns[place]["image_index"]),
    )
    if not order:
        raise MissingDataError(
            f"benchmark {name}: {images} has no real pictures of the split test with a caption"
        )
    shown = [columns[place] for place in order]
    concepts = np.array([concept_of[row["caption_id"]] for row in shown])
    wanted = set(concepts.tolist())
    asked = sorted((row for row in rows if concept_of[row["id"]] in wanted), key=lambda row: str(row["id"]))
    text_of = {row["id"]: row["text"] for row in rows}
    return Captioned(
        name=name,
        test="test pictures and all captions of their concepts",
        images=TableImages(table, positions[order]),
        image_concepts=concepts,
        captions=tuple(text_of[row["caption_id"]] for row in shown),
        groups=np.array([row["group"] or row["caption_id"] for row in shown]),
        texts=tuple(row["text"] for row in asked),
        text_concepts=np.array([concept_of[row["id"]] for row in asked]),
        text_groups=np.array([row["group"] or row["id"] for row in asked]),
    )


def _table(data: BenchmarkData) -> Captioned:
    if data.table is None:
        raise MissingDataError("benchmark table: no table was given; name images.lance with --table")
    return read_captioned("table", data.table.parent / "captions.lance", data.table)


CAPTIONED: Mapping[str, Callable[[BenchmarkData], Captioned]] = {
    "icons": lambda data: _world("icons", data.world, "world"),
    "fashion": lambda data: _world("fashion", data.fashion, "fashion"),
    "table": _table,
}
"""Benchmarks of real pictures with texts."""
