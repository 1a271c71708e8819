"""What the gallery knows of a table of pictures without reading a picture: keys and columns, as arrays.

Shapes: M rows of the table, C distinct captions.
"""

import functools
import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stablerep.errors import UserError
from stablerep.gallery.blocks import block_names
from stablerep.gallery.columns import ChoiceColumn, Column, read_column
from stablerep.store import IMAGE_SCHEMA, OK, CaptionTable, ImageTable

MARK = "gallery_mark"
MARKED_AT = "gallery_marked_at"
DESCRIBED = ("origin", "status", "style", "split", "label")
"""Columns of every image table that one can choose by."""
_DETAILS = ("seed", "width", "height", "status", "reason", "style", "split", "group", "label", "licence")


@dataclass(frozen=True)
class Key:
    """Identity of a picture."""

    origin: str
    caption_id: str
    image_index: int

    def __str__(self) -> str:
        return f"{self.origin}/{self.caption_id}/{self.image_index}"

    @classmethod
    def parse(cls, text: str) -> "Key | None":
        """The key that ``str`` wrote; None where the text is none."""
        origin, *rest = text.rsplit("/", 2)
        if len(rest) != 2 or not rest[1].isdecimal():
            return None
        return cls(origin, rest[0], int(rest[1]))


class PictureIndex:
    """One version of an image table: keys, captions and columns in memory, pictures on demand.

    Rows are addressed by their position in this version; rows that others append come with ``reload``.
    """

    def __init__(self, table: ImageTable, texts: Mapping[str, str]) -> None:
        self.table = table
        self.name = Path(table.path).name
        keys = table.read(["origin", "caption_id", "image_index", "status"]).combine_chunks()
        origins = pc.dictionary_encode(keys["origin"]).combine_chunks()
        captions = pc.dictionary_encode(keys["caption_id"]).combine_chunks()
        self.origins: list[str] = origins.dictionary.to_pylist()
        self.origin = origins.indices.to_numpy()
        """Which of ``origins``, (M,)."""
        self.caption_ids: list[str] = captions.dictionary.to_pylist()
        self.caption = captions.indices.to_numpy()
        """Which caption, (M,)."""
        self.image_index = keys["image_index"].to_numpy()
        self.has_picture = pc.equal(keys["status"], OK).to_numpy()
        """False for failures, (M,)."""
        self.texts = pa.array([texts.get(name) for name in self.caption_ids], pa.string())
        """Text of each caption (C,); null where the captions that were given do not have it."""
        self._texts = texts
        self._code_of = {name: code for code, name in enumerate(self.caption_ids)}
        self._columns: dict[str, Column | None] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(cls, images: Path, captions: Path | None) -> "PictureIndex":
        """Open an image table, with the texts of a caption table where there is one."""
        texts: dict[str, str] = {}
        if captions is not None:
            rows = CaptionTable.open(captions).read(["id", "text"])
            texts = dict(zip(rows["id"].to_pylist(), rows["text"].to_pylist(), strict=True))
        table = ImageTable.open(images)
        if not len(table):
            raise UserError(f"{images} holds no picture; paint some with `stablerep generate`")
        return cls(table, texts)

    def __len__(self) -> int:
        return len(self.caption)

    @property
    def num_captions(self) -> int:
        """Captions with at least one row."""
        return len(self.caption_ids)

    def is_newest(self) -> bool:
        """Whether nobody changed the table since, this object included."""
        return self.table.reload().version == self.table.version

    def reload(self) -> "PictureIndex":
        """The same table at its newest version."""
        return PictureIndex(self.table.reload(), self._texts)

    def key(self, position: int) -> Key:
        """Identity of the row at a position."""
        return Key(
            self.origins[self.origin[position]],
            self.caption_ids[self.caption[position]],
            int(self.image_index[position]),
        )

    def find(self, key: Key) -> int | None:
        """Position of a picture; None where the table does not have it."""
        rows = self.rows_of(key.caption_id)
        is_it = [self.key(int(row)) == key for row in rows]
        return int(rows[is_it][0]) if any(is_it) else None

    def rows_of(self, caption_id: str) -> np.ndarray:
        """Positions of the rows of a caption, ascending; none where the table does not have it."""
        code = self._code_of.get(caption_id)
        return np.array([], dtype=np.int64) if code is None else np.flatnonzero(self.caption == code)

    def text(self, caption: int) -> str:
        """Text of a caption, or its identity where the text is not known."""
        text = self.texts[int(caption)].as_py()
        return f"caption {self.caption_ids[caption]}" if text is None else str(text)

    def text_of(self, caption_id: str) -> str | None:
        """Text of a caption by its identity, whether or not this table has a picture of it."""
        return self._texts.get(caption_id)

    @functools.cached_property
    def token(self) -> str:
        """Changes when pictures may stand at other positions: with it, a browser may keep what it was sent."""
        names = block_names(self.table.dataset, len(self), "pictures")
        return hashlib.blake2b("".join(names).encode(), digest_size=8).hexdigest()

    def column_names(self) -> tuple[str, ...]:
        """The columns that one can choose by: the mark, what an audit wrote, then those of every table."""
        own = [name for name in self.table.dataset.schema.names if name not in IMAGE_SCHEMA.names]
        first = [MARK] if MARK in own or self._columns.get(MARK) else []  # marks are newer than this version
        return (*first, *(name for name in own if name != MARK), *DESCRIBED)

    def column(self, name: str) -> Column | None:
        """A column, read when it is first asked for; None where it cannot be shown (lists, times) or has no value."""
        with self._lock:
            if name not in self._columns:
                if name not in self.column_names():
                    return None
                self._columns[name] = read_column(name, self.table.read([name])[name])
            return self._columns[name]

    def columns(self) -> list[Column]:
        """Every column that one can choose by; of those that every table has only what tells rows apart."""
        found = [column for name in self.column_names() if (column := self.column(name)) is not None]
        return [column for column in found if column.name not in DESCRIBED or _says_something(column)]

    def details(self, positions: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """Everything that is known of some rows but the picture: plain values by column, null ones left out."""
        names = [
            name
            for name in self.table.dataset.schema.names
            if name in _DETAILS or name not in IMAGE_SCHEMA.names
        ]
        rows = self.table.take(positions, names).to_pylist()
        return [{name: value for name, value in row.items() if value is not None} for row in rows]

    def replace_column(self, name: str, table: ImageTable) -> None:
        """Take a column from a newer version that has the same rows at the same positions, and maybe more after."""
        values = table.read([name])[name].slice(0, len(self))
        with self._lock:
            self._columns[name] = read_column(name, values)


def _says_something(column: Column) -> bool:
    return not isinstance(column, ChoiceColumn) or len(column.choices) > 1
