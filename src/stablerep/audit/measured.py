"""The measures of quality over a whole table: read in chunks, computed size by size, compared within each caption.

Shapes: M pictures, D values of a thumbnail.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from stablerep.audit import measures
from stablerep.audit.rows import Rows
from stablerep.cluster import EngineConfig, Task, hired
from stablerep.console import Console
from stablerep.features import decoded

_CHUNK = 64
_MOST_PIXELS = 2**21  # in one batch, so that large pictures do not fill the memory


@dataclass(frozen=True)
class Measure:
    """One measure: what computes it, on which side it is bad, and how that is said."""

    compute: Callable[[Tensor], Tensor]
    bad: Literal["low", "high"]
    words: str

    def is_bad(self, value: float, limit: float) -> bool:
        """Whether a value lies on the bad side of a limit."""
        return value < limit if self.bad == "low" else value > limit


MEASURES: dict[str, Measure] = {
    "spread": Measure(measures.spread, "low", "hardly any contrast"),
    "clipped": Measure(measures.clipped, "high", "clipped"),
    "noise": Measure(measures.noise, "high", "noisy"),
    "blur": Measure(measures.blur, "high", "blurred"),
    "blockiness": Measure(measures.blockiness, "high", "blocks of compression"),
    "resolution": Measure(measures.resolution, "low", "less detail than pixels"),
}
"""Every measure of a single picture; its column is quality_NAME."""


@dataclass(frozen=True)
class Measured:
    """What was measured of M pictures: one array (M,) per measure, NaN where a picture cannot be decoded."""

    values: Mapping[str, np.ndarray]
    thumbnails: np.ndarray
    """uint8 (M, D)."""
    undecoded: Mapping[int, str]
    """Row -> why it cannot be decoded."""


def measure(
    images: Sequence[bytes],
    console: Console,
    *,
    short_side: int | None = None,
    engine: EngineConfig = EngineConfig(),  # noqa: B008 - frozen
) -> Measured:
    """Every measure of every encoded picture; larger ones are first shrunk to ``short_side`` where it is given."""
    values = {name: np.full(len(images), np.nan, dtype=np.float32) for name in MEASURES}
    thumbnails = np.zeros((len(images), measures.THUMBNAIL_DIM), dtype=np.uint8)
    undecoded: dict[int, str] = {}
    with (
        _measuring(short_side, engine, console) as parts,
        console.progress("quality", len(images), "pictures") as progress,
    ):
        for chunk, part in parts(_chunks(images)):
            place = slice(chunk.start, chunk.start + len(chunk.images))
            for name, found in part.values.items():
                values[name][place] = found
            thumbnails[place] = part.thumbnails
            undecoded |= {chunk.start + row: why for row, why in part.undecoded.items()}
            progress.advance(len(chunk.images))
    return Measured(values, thumbnails, undecoded)


@dataclass(frozen=True)
class _Chunk:
    """Encoded pictures, and the number of the first of them."""

    start: int
    images: Sequence[bytes]


def _chunks(images: Sequence[bytes]) -> Iterator[_Chunk]:
    for start in range(0, len(images), _CHUNK):
        yield _Chunk(start, images[start : start + _CHUNK])


class _Measuring:
    """What measures a chunk, here or in a Ray worker."""

    settings: Mapping[str, Any] = {}  # processors differ by rounding only
    description = None

    def __init__(self, short_side: int | None) -> None:
        self._short_side = short_side
        self._pool = ThreadPoolExecutor(4)

    def __call__(self, chunk: _Chunk) -> Measured:
        """Every measure of every picture of a chunk."""
        num = len(chunk.images)
        values = {name: np.full(num, np.nan, dtype=np.float32) for name in MEASURES}
        thumbnails = np.zeros((num, measures.THUMBNAIL_DIM), dtype=np.uint8)
        found = dict(enumerate(self._pool.map(decoded, chunk.images)))
        pictures = {row: one for row, one in found.items() if not isinstance(one, str)}
        for rows, batch in _batches(pictures, self._short_side):
            for name, kind in MEASURES.items():
                values[name][rows] = kind.compute(batch).numpy()
            thumbnails[rows] = measures.thumbnails(batch).round().clamp(0, 255).to(torch.uint8).numpy()
        undecoded = {row: why for row, why in found.items() if isinstance(why, str)}
        return Measured(values, thumbnails, undecoded)


@contextlib.contextmanager
def _measuring(
    short_side: int | None, engine: EngineConfig, console: Console
) -> Iterator[Callable[[Iterator[_Chunk]], Iterator[tuple[_Chunk, Measured]]]]:
    """What gives each chunk with what was measured of it: one after the other, or as Ray's workers finish them."""
    if engine.engine == "local":
        work = _Measuring(short_side)
        yield lambda chunks: ((chunk, work(chunk)) for chunk in chunks)
        return
    name = f"the chunk of {_CHUNK} pictures from number {{0.start}} on".format
    task = Task(load=functools.partial(_Measuring, short_side), name=name, device="cpu")
    with hired(task, engine, console) as crew:
        crew.describe()
        yield crew.run


def among_siblings(rows: Rows, measured: Measured) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How pictures of one caption differ, in levels of their thumbnails.

    Diversity (M,), the mean difference of all pairs of a caption; nearest (M,), the least difference to an earlier
    picture of it; and which row (M,) that is. NaN, NaN and -1 where there is no other, or no earlier one.
    """
    diversity = np.full(len(rows), np.nan, dtype=np.float32)
    nearest = np.full(len(rows), np.nan, dtype=np.float32)
    which = np.full(len(rows), -1)
    for siblings in rows.by_caption():
        members = np.array([row for row in siblings if row not in measured.undecoded], dtype=np.int64)
        if len(members) < 2:
            continue
        apart = measures.differences(torch.from_numpy(measured.thumbnails[members]).float()).numpy()
        diversity[members] = apart[np.triu_indices(len(members), 1)].mean()
        for place in range(1, len(members)):
            earlier = int(apart[place, :place].argmin())
            nearest[members[place]], which[members[place]] = apart[place, earlier], members[earlier]
    return diversity, nearest, which


def _batches(pictures: Mapping[int, Tensor], short_side: int | None) -> Iterator[tuple[list[int], Tensor]]:
    """Rows and pictures float32 (N, 3, H, W) of one size, few enough to fit into memory."""
    by_size: dict[torch.Size, list[int]] = {}
    for row, picture in pictures.items():
        by_size.setdefault(picture.shape, []).append(row)
    for size, rows in by_size.items():
        most = max(1, _MOST_PIXELS // (size[1] * size[2]))
        for start in range(0, len(rows), most):
            part = rows[start : start + most]
            yield part, measures.shrunk(torch.stack([pictures[row] for row in part]).float(), short_side)
