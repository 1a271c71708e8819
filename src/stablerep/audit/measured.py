"""The measures of quality over a whole table: read in chunks, computed size by size, compared within each caption.

Shapes: M pictures, D values of a thumbnail.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import UnidentifiedImageError
from torch import Tensor

from stablerep.audit import measures
from stablerep.audit.rows import Rows
from stablerep.console import Console
from stablerep.features import decode_image

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


def measure(images: Sequence[bytes], console: Console, *, short_side: int | None = None) -> Measured:
    """Every measure of every encoded picture; larger ones are first shrunk to ``short_side`` where it is given."""
    values = {name: np.full(len(images), np.nan, dtype=np.float32) for name in MEASURES}
    thumbnails = np.zeros((len(images), measures.THUMBNAIL_DIM), dtype=np.uint8)
    undecoded: dict[int, str] = {}
    with ThreadPoolExecutor(4) as pool, console.progress("quality", len(images), "pictures") as progress:
        for start in range(0, len(images), _CHUNK):
            decoded = list(pool.map(_decoded, images[start : start + _CHUNK]))
            undecoded |= {start + row: why for row, why in enumerate(decoded) if isinstance(why, str)}
            pictures = {start + row: one for row, one in enumerate(decoded) if not isinstance(one, str)}
            for rows, batch in _batches(pictures, short_side):
                for name, kind in MEASURES.items():
                    values[name][rows] = kind.compute(batch).numpy()
                thumbnails[rows] = measures.thumbnails(batch).round().clamp(0, 255).to(torch.uint8).numpy()
            progress.advance(len(decoded))
    return Measured(values, thumbnails, undecoded)


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


def _decoded(encoded: bytes) -> Tensor | str:
    """The picture, or why it cannot be decoded."""
    try:
        return decode_image(encoded)
    except UnidentifiedImageError:  # its message holds an address in memory
        return "cannot be decoded (no known picture format)"
    except (OSError, SyntaxError, ValueError, TypeError) as error:
        return f"cannot be decoded ({error})"
