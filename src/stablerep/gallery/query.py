"""Which pictures are shown, in which order, on which page: pure functions of the index.

Shapes: M rows of the table, R rows that were chosen.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from stablerep.errors import UserError
from stablerep.gallery.columns import Filter
from stablerep.gallery.index import PictureIndex
from stablerep.store import REAL

View = Literal["captions", "pictures"]
TABLE_ORDER = "*table"  # no column has a star in its name
BEST_MATCH = "*match"


@dataclass(frozen=True)
class Hits:
    """What a search found: a score per row (M,), minus infinity where it is no hit, and how it was found."""

    scores: np.ndarray
    how: str
    """One sentence for the reader."""
    ranked: bool = True
    """Whether the scores say which hit is better."""

    @property
    def found(self) -> np.ndarray:
        """Which rows are hits (M,)."""
        found: np.ndarray = np.isfinite(self.scores)
        return found


@dataclass(frozen=True, kw_only=True)
class Query:
    """What to show of a table."""

    view: View = "captions"
    filters: Mapping[str, Filter] = field(default_factory=dict)
    """By column; a row must pass all of them."""
    sort: str = TABLE_ORDER
    """``TABLE_ORDER``, ``BEST_MATCH`` (of the search) or the name of a column."""
    descending: bool = False


@dataclass(frozen=True)
class Group:
    """Rows that are shown together: those of one caption, in order."""

    caption: int
    rows: np.ndarray


def select(index: PictureIndex, query: Query, hits: Hits | None = None) -> np.ndarray:
    """Positions (R,) of the rows to show, in their order. Rows without a value in the sorting column come last.

    Raises ``UserError`` for a column that the table does not have.
    """
    kept = np.ones(len(index), dtype=bool) if hits is None else hits.found.copy()
    for name, chosen in query.filters.items():
        column = index.column(name)
        if column is None:
            raise UserError(f"{index.name} has no column {name!r} to choose by")
        kept &= chosen.keeps(column)
    return _ordered(index, np.flatnonzero(kept), query, hits)


def _ordered(index: PictureIndex, rows: np.ndarray, query: Query, hits: Hits | None) -> np.ndarray:
    if query.sort == BEST_MATCH and hits is not None and hits.ranked:
        return np.asarray(rows[np.argsort(-hits.scores[rows], kind="stable")])
    if query.sort in (TABLE_ORDER, BEST_MATCH):
        by_caption = np.asarray(
            rows[np.lexsort((index.image_index[rows], index.origin[rows], index.caption[rows]))]
        )
        return by_caption[::-1] if query.descending else by_caption
    column = index.column(query.sort)
    if column is None:
        raise UserError(f"{index.name} has no column {query.sort!r} to sort by")
    keys = -column.sort_key[rows] if query.descending else column.sort_key[rows]
    return np.asarray(rows[np.argsort(keys, kind="stable")])  # NaN sorts last either way


def group_by_caption(index: PictureIndex, rows: np.ndarray) -> np.ndarray:
    """The captions of some rows, each once, in the order of its first row."""
    captions = index.caption[rows]
    _, first = np.unique(captions, return_index=True)
    ordered: np.ndarray = captions[np.sort(first)]
    return ordered


def groups_of_page(index: PictureIndex, rows: np.ndarray, captions: np.ndarray) -> list[Group]:
    """The rows of each of these captions, origin by origin with real pictures first, else in the order given."""
    on_page = rows[np.isin(index.caption[rows], captions)]
    is_painted = np.array([name != REAL for name in index.origins])[index.origin[on_page]]
    on_page = on_page[np.lexsort((index.origin[on_page], is_painted))]
    return [Group(int(caption), on_page[index.caption[on_page] == caption]) for caption in captions]


@dataclass(frozen=True)
class Page:
    """One page out of several, counted from 0."""

    number: int
    num_pages: int
    start: int
    stop: int


def page_of(total: int, size: int, number: int) -> Page:
    """Page ``number`` of ``total`` things, brought into range."""
    num_pages = max(1, -(-total // size))
    number = min(max(number, 0), num_pages - 1)
    return Page(number, num_pages, number * size, min(total, (number + 1) * size))
