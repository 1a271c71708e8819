"""Vectors of all pictures of a table: computed once beside the browsing, on disk block by block, never all in memory.

Shapes: M rows of the table, W width of a vector.
"""

import threading
from pathlib import Path

import numpy as np

from stablerep.errors import UserError
from stablerep.gallery.blocks import BLOCK, block_names
from stablerep.gallery.index import PictureIndex
from stablerep.gallery.looking import Looker, Space
from stablerep.run import write_atomically

_BATCH = 64


class Vectors:
    """The vectors of one version of a table. One thread computes; any number may ask."""

    def __init__(self, index: PictureIndex, looker: Looker, folder: Path) -> None:
        self.index = index
        self.looker = looker
        names = block_names(index.table.dataset, len(index), looker.fingerprint)
        self.files = [folder / f"{name}.npy" for name in names]
        """One file for each block of rows."""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.problem: str | None = None
        """Why computing ended early, in one sentence."""

    @property
    def num_missing(self) -> int:
        """Rows that no vector is there for yet."""
        return sum(len(self._rows(block)) for block, file in enumerate(self.files) if not file.exists())

    def start(self) -> None:
        """Compute what is missing in a thread of its own."""
        if self._thread is None and self.num_missing:
            self._thread = threading.Thread(target=self._work, name="vectors", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End that thread after the batch it is at; what is whole stays on disk."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        try:
            self.compute()
        except (UserError, OSError) as error:
            self.problem = str(error)

    def compute(self) -> None:
        """Compute the blocks that are missing, in order."""
        for block, file in enumerate(self.files):
            if file.exists():
                continue
            vectors = self._look(self._rows(block))
            if vectors is None:  # asked to stop
                return
            write_atomically(file, lambda temporary, vectors=vectors: _save(temporary, vectors))  # type: ignore[misc]

    def scores(self, vector: np.ndarray, space: Space) -> np.ndarray:
        """Cosine of each row's vector with this one, (M,) float32; minus infinity where there is none (yet)."""
        scores = np.full(len(self.index), -np.inf, dtype=np.float32)
        for block, file in enumerate(self.files):
            if not file.exists():
                continue
            known = _load(file)
            part = known[:, self.looker.columns(space)]
            values = (part @ vector.astype(known.dtype)).astype(np.float32)
            scores[block * BLOCK :][: len(known)] = np.where(np.isnan(values), -np.inf, values)
        return scores

    def take(self, rows: np.ndarray, space: Space) -> np.ndarray:
        """Vectors (len(rows), W) of some rows; those of blocks that are missing are computed. NaN without picture."""
        parts: dict[int, np.ndarray] = {}
        for block in np.unique(rows // BLOCK):
            here = rows[rows // BLOCK == block]
            file = self.files[block]
            found = _load(file)[here - block * BLOCK] if file.exists() else self._look(here)
            if found is None:
                raise UserError("the gallery is closing")
            parts.update(zip(here.tolist(), found, strict=True))
        whole = np.stack([parts[int(row)] for row in rows]).astype(np.float32)
        return whole[:, self.looker.columns(space)]

    def _rows(self, block: int) -> np.ndarray:
        return np.arange(block * BLOCK, min((block + 1) * BLOCK, len(self.index)))

    def _look(self, rows: np.ndarray) -> np.ndarray | None:
        """Vectors of some rows as float32; NaN for failures and for what cannot be decoded; None if asked to stop."""
        whole = np.full((len(rows), self.looker.width), np.nan, dtype=np.float32)
        for start in range(0, len(rows), _BATCH):
            if self._stop.is_set():
                return None
            seen = start + np.flatnonzero(self.index.has_picture[rows[start : start + _BATCH]])
            if len(seen):
                whole[seen] = self._look_at(self.index.table.take_images(rows[seen]))
        return whole

    def _look_at(self, pictures: list[bytes]) -> np.ndarray:
        try:
            return self.looker.look(pictures)
        except UserError:  # one of them cannot be decoded: each for itself
            if len(pictures) == 1:
                return np.full((1, self.looker.width), np.nan, dtype=np.float32)
            return np.concatenate([self._look_at([picture]) for picture in pictures])


def _save(path: Path, vectors: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, vectors, allow_pickle=False)


def _load(path: Path) -> np.ndarray:
    try:
        vectors: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"the vectors {path} are damaged ({error}); delete the file") from error
    return vectors
