"""Which images each caption has: columns of numbers beside one another, some thirty bytes an image.

Shapes: M images, C captions. Captions are in the order of their ids, the images of each by origin and image index.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stablerep.store import REAL, ImageTable

Numbers = NDArray[np.int64]
Codes = NDArray[np.int32]

_NAMES = ("caption_id", "origin", "style", "label", "group")


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One image: where it lies and what is known of it."""

    table: int
    position: int
    caption: str
    origin: str
    image_index: int
    style: str | None
    label: str | None
    group: str | None


@dataclass(frozen=True)
class _Words:
    """A column of few distinct texts: the number (M,) of each in ``values``, which are sorted; -1 for none."""

    values: Sequence[str]
    codes: Codes

    def __getitem__(self, row: int) -> str | None:
        code = int(self.codes[row])
        return None if code < 0 else self.values[code]

    def part(self, rows: slice | NDArray[np.bool_] | Numbers) -> "_Words":
        return _Words(self.values, self.codes[rows])

    def content(self) -> bytes:
        """The texts, whatever else ``values`` holds."""
        used, numbers = np.unique(self.codes, return_inverse=True)
        texts = "\x1f".join("\x1e" if code < 0 else self.values[code] for code in used.tolist())
        return texts.encode() + numbers.astype(np.int32).tobytes()


@dataclass(frozen=True)
class ImageIndex:
    """The images that may be drawn, by caption."""

    captions: Sequence[str]
    """(C,) their ids, sorted."""
    starts: Numbers
    """(C + 1,) caption c has the images ``starts[c]`` to ``starts[c + 1]``."""
    table: NDArray[np.int16]
    """(M,) number of the table that holds an image."""
    position: Numbers
    """(M,) its position there."""
    image_index: Codes
    words: dict[str, _Words]
    """Origin, style, label, group of every image."""

    @classmethod
    def read(
        cls,
        tables: Sequence[ImageTable],
        positions: Sequence[Numbers],
        num_real: int | None,
        num_painted: int | None,
    ) -> "ImageIndex":
        """Index the rows at these positions of each table.

        An image that several tables hold is taken from the first. Of each caption and origin only the first
        ``num_real`` or ``num_painted`` images are taken, where these are given.
        """
        words = {name: _coded(tables, positions, name) for name in _NAMES}
        table = np.repeat(np.arange(len(tables), dtype=np.int16), [len(some) for some in positions])
        numbers = [
            table.read(["image_index"])["image_index"].to_numpy()[some].astype(np.int32)
            for table, some in zip(tables, positions, strict=True)
        ]
        image_index, caption, origin = np.concatenate(numbers), words["caption_id"], words["origin"]
        order = np.lexsort((table, image_index, origin.codes, caption.codes))
        same_origin = _repeats(caption.codes[order], origin.codes[order])
        is_new = ~(same_origin & _repeats(image_index[order]))
        order, same_origin = order[is_new], same_origin[is_new]
        order = order[_rank(same_origin) < _most(origin.part(order), num_real, num_painted)]
        found, starts = np.unique(caption.codes[order], return_index=True)
        return cls(
            captions=[caption.values[code] for code in found.tolist()],
            starts=np.append(starts, len(order)),
            table=table[order],
            position=np.concatenate(positions)[order],
            image_index=image_index[order],
            words={name: words[name].part(order) for name in _NAMES[1:]},
        )

    def first(self, num: int | None) -> "ImageIndex":
        """That of the first captions only."""
        starts = self.starts if num is None else self.starts[: num + 1]
        rows = slice(0, int(starts[-1]))
        return ImageIndex(
            captions=self.captions[:num],
            starts=starts,
            table=self.table[rows],
            position=self.position[rows],
            image_index=self.image_index[rows],
            words={name: words.part(rows) for name, words in self.words.items()},
        )

    def images_of(self, row: int) -> list[ImageRef]:
        """The images of the caption in this row."""
        return [
            ImageRef(
                table=int(self.table[at]),
                position=int(self.position[at]),
                caption=self.captions[row],
                origin=self.words["origin"][at] or "",
                image_index=int(self.image_index[at]),
                style=self.words["style"][at],
                label=self.words["label"][at],
                group=self.words["group"][at],
            )
            for at in range(int(self.starts[row]), int(self.starts[row + 1]))
        ]

    @property
    def counts(self) -> Numbers:
        """(C,) images of each caption."""
        return np.diff(self.starts)

    def expected(self, num: int, *, by_style: bool) -> NDArray[np.float64]:
        """(C,) how many different images of a caption a draw of ``num`` holds.

        With ``by_style`` one of its images is drawn, and then images of the style of that one.
        """
        if not by_style:
            return np.minimum(self.counts, num).astype(np.float64)
        caption, alike = self._alike()
        found = np.bincount(caption, weights=alike * np.minimum(alike, num), minlength=len(self.captions))
        return found / self.counts

    def num_with_several(self, *, by_style: bool) -> int:
        """How many captions have at least two images, with ``by_style`` two in one style."""
        if not by_style:
            return int((self.counts > 1).sum())
        caption, alike = self._alike()
        return len(np.unique(caption[alike > 1]))

    def _alike(self) -> tuple[Numbers, Numbers]:
        """For each caption and each of its styles: the caption's row, and how many of its images have the style."""
        style = self.words["style"]
        num = len(style.values) + 1
        rows = np.repeat(np.arange(len(self.captions)), self.counts)
        keys, alike = np.unique(rows * num + style.codes + 1, return_counts=True)
        return keys // num, alike

    def num_values_with_several(self, name: str) -> int:
        """How many of the texts in a column at least two images have."""
        codes = self.words[name].codes
        return int((np.bincount(codes[codes >= 0]) > 1).sum())

    def digest(self) -> bytes:
        """Hash of everything but where the images lie."""
        digest = hashlib.blake2b("\x1f".join(self.captions).encode())
        digest.update(self.starts.tobytes())
        digest.update(self.image_index.tobytes())
        for words in self.words.values():
            digest.update(words.content())
        return digest.digest()


def _coded(tables: Sequence[ImageTable], positions: Sequence[Numbers], name: str) -> _Words:
    columns = [table.read([name])[name] for table in tables]
    values = pc.unique(pa.chunked_array([pc.unique(column) for column in columns], pa.string())).drop_null()
    values = values.take(pc.sort_indices(values))
    codes = [
        pc.fill_null(pc.index_in(column, value_set=values), -1).to_numpy()[some].astype(np.int32)
        for column, some in zip(columns, positions, strict=True)
    ]
    return _Words(values.to_pylist(), np.concatenate(codes))


def _repeats(*columns: Codes) -> NDArray[np.bool_]:
    """(M,) which rows have in all columns what the row before has."""
    repeats = np.zeros(len(columns[0]), dtype=bool)
    repeats[1:] = np.logical_and.reduce([column[1:] == column[:-1] for column in columns])
    return repeats


def _rank(repeats: NDArray[np.bool_]) -> Numbers:
    """(M,) how many rows of the same stretch come before."""
    rows = np.arange(len(repeats))
    return rows - np.maximum.accumulate(np.where(repeats, 0, rows))


def _most(origin: _Words, num_real: int | None, num_painted: int | None) -> Numbers:
    """(M,) how many images of its caption and origin are taken at most."""
    is_real = np.array([value == REAL for value in origin.values], dtype=bool)[origin.codes]
    no_end = np.iinfo(np.int64).max
    return np.where(is_real, num_real or no_end, num_painted or no_end)
