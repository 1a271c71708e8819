"""The captions to paint: held as columns, a few hundred bytes per caption, and read one window after the other."""

import bisect
from collections.abc import Iterator, Sequence
from typing import Any, overload

import pyarrow as pa

from stablerep.errors import UserError
from stablerep.generation.plan import Caption
from stablerep.generation.settings import GenerateConfig
from stablerep.store import CaptionTable

_COPIED = ("split", "group", "label")
_WINDOW = 4096


class Captions(Sequence[Caption]):
    """(caption id, text) in the order of the ids; ``facts`` looks up what the image rows of a caption copy."""

    def __init__(self, rows: pa.Table) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Caption: ...
    @overload
    def __getitem__(self, index: slice) -> "Captions": ...
    def __getitem__(self, index: int | slice) -> "Caption | Captions":
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                raise ValueError(f"captions are cut into contiguous parts, not by a step of {step}")
            return Captions(self._rows.slice(start, max(0, stop - start)))
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return self._rows["id"][index].as_py(), self._rows["text"][index].as_py()

    def __iter__(self) -> Iterator[Caption]:
        for start in range(0, len(self), _WINDOW):
            window = self._rows.slice(start, _WINDOW)
            yield from zip(window["id"].to_pylist(), window["text"].to_pylist(), strict=True)

    @property
    def facts(self) -> "_Facts":
        return _Facts(self._rows)


class _Facts:
    """Columns by caption id, found by bisection."""

    def __init__(self, rows: pa.Table) -> None:
        self._rows = rows

    def __getitem__(self, caption_id: str) -> dict[str, Any]:
        ids = self._rows["id"]
        row = bisect.bisect_left(range(len(ids)), caption_id, key=lambda index: ids[index].as_py())
        if row == len(ids) or ids[row].as_py() != caption_id:
            raise KeyError(caption_id)
        return {name: self._rows[name][row].as_py() for name in _COPIED}


def read_captions(config: GenerateConfig) -> Captions:
    """What ``config.where`` and ``config.limit`` leave of the caption table; ``UserError`` where that is nothing."""
    rows = CaptionTable.open(config.captions).read(["id", "text", *_COPIED], config.where)
    # Arrow's ordinary strings cannot be sorted beyond 2 GB of text.
    rows = rows.cast(pa.schema([pa.field(name, pa.large_string()) for name in rows.column_names]))
    # By id, which is a hash: n captions contain the first n/2, and training's `num_captions` takes the same ones.
    rows = rows.sort_by("id").slice(0, config.limit).combine_chunks()
    if not len(rows):
        if not config.where:
            raise UserError(f"{config.captions}: no caption; there is nothing to paint")
        raise UserError(
            f"{config.captions}: no caption matches {config.where!r}; there is nothing to paint. A filter that came "
            "with a recipe fits the captions of its world: leave the recipe out, or give a filter of your own (--where)"
        )
    return Captions(rows)
