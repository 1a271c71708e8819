"""The gallery without its page: the open tables, and what each part of the page asks of them."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from stablerep.errors import UserError
from stablerep.gallery import pairs, projection, search
from stablerep.gallery.columns import ChoiceColumn, Filter
from stablerep.gallery.index import MARK, PictureIndex
from stablerep.gallery.looking import Looker
from stablerep.gallery.marks import MARKS, write_marks
from stablerep.gallery.painting import Painter
from stablerep.gallery.pairs import CopyPair, Lane, Pair, Place
from stablerep.gallery.query import (
    BEST_MATCH,
    TABLE_ORDER,
    Group,
    Hits,
    Page,
    Query,
    View,
    group_by_caption,
    groups_of_page,
    page_of,
    select,
)
from stablerep.gallery.vectors import Vectors

Mode = Literal["words", "meaning"]
CAPTIONS_PER_PAGE = 24
PICTURES_PER_PAGE = 96
PAIRS_PER_PAGE = 12
_REMEMBERED = 8


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a reader asked to see on the first tab."""

    text: str = ""
    mode: Mode = "words"
    like: Place | bytes | None = None
    """A picture of the tables, or an uploaded one, to which the nearest are wanted; it goes before the text."""
    view: View = "captions"
    filters: Mapping[str, Filter] = field(default_factory=dict)
    sort: str = TABLE_ORDER
    descending: bool = False
    page: int = 0
    turn: int = 0
    """Number of the change that led to this wish, for the browser to know which answer is the last."""


@dataclass(frozen=True)
class Shown:
    """One page of what was found."""

    view: View
    groups: list[Group]
    """By caption; of one group that holds the whole page where single pictures are shown."""
    page: Page
    num_pictures: int
    num_captions: int
    how: str | None
    """What was searched for, in one sentence."""
    rows: np.ndarray
    """All positions that were found, in order."""
    is_filtered: bool
    """Whether columns were chosen by."""
    num_unseen: int
    """Pictures that the search could not find yet, because their vectors are being computed."""


class Gallery:
    """Some image tables; the first is searched and marked, the others stand beside it."""

    def __init__(
        self, tables: Sequence[PictureIndex], looker: Looker, cache: Path, painter: Painter | None
    ) -> None:
        self.tables = list(tables)
        self.looker = looker
        self.painter = painter
        self._cache = cache
        self._found: OrderedDict[str, tuple[np.ndarray, Hits | None]] = OrderedDict()
        self._atlases: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self.vectors = Vectors(self.main, looker, cache)

    @property
    def main(self) -> PictureIndex:
        """The table that is searched and marked."""
        return self.tables[0]

    def close(self) -> None:
        """End what runs beside the page."""
        self.vectors.stop()

    def refresh(self) -> bool:
        """Take up what others wrote into the first table since; whether there was something."""
        with self._lock:
            if self.main.is_newest():
                return False
            self.tables[0] = self.main.reload()
            self._found.clear()
            self.vectors.stop()
            self.vectors = Vectors(self.main, self.looker, self._cache)
            self.vectors.start()
            return True

    def is_ranked(self, wish: Wish) -> bool:
        """Whether a wish is answered by vectors, the nearest first."""
        by_meaning = wish.mode == "meaning" and self.looker.reads and bool(wish.text.strip())
        return wish.like is not None or by_meaning

    def find(self, wish: Wish) -> tuple[np.ndarray, Hits | None]:
        """Every position that a wish finds, in order, and what its search found."""
        # What vectors answer finds more as more pictures were seen.
        num_unseen = self.vectors.num_missing if self.is_ranked(wish) else 0
        key = repr((replace(wish, page=0, turn=0, view="captions"), num_unseen))
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key]
        hits = self._search(wish)
        sort = BEST_MATCH if wish.sort == TABLE_ORDER and hits is not None and hits.ranked else wish.sort
        query = Query(filters=wish.filters, sort=sort, descending=wish.descending)
        found = select(self.main, query, hits), hits
        with self._lock:
            self._found[key] = found
            while len(self._found) > _REMEMBERED:
                self._found.popitem(last=False)
        return found

    def _search(self, wish: Wish) -> Hits | None:
        if isinstance(wish.like, bytes):
            return search.by_picture(self.vectors, wish.like)
        if wish.like is not None:
            place = self.place(wish.like.table, wish.like.position)
            picture = self.picture(place)
            return search.by_row(self.tables[place.table], self.vectors, place.position, picture)
        if wish.mode == "meaning" and self.looker.reads:
            return search.by_meaning(self.vectors, wish.text)
        return search.by_words(self.main, wish.text)

    def browse(self, wish: Wish) -> Shown:
        """The page of pictures or captions that a wish asks for."""
        rows, hits = self.find(wish)
        captions = group_by_caption(self.main, rows)
        how = None if hits is None else hits.how
        if wish.view == "pictures":
            page = page_of(len(rows), PICTURES_PER_PAGE, wish.page)
            groups = [Group(-1, rows[page.start : page.stop])]
        else:
            page = page_of(len(captions), CAPTIONS_PER_PAGE, wish.page)
            groups = groups_of_page(self.main, rows, captions[page.start : page.stop])
        is_coming = self.is_ranked(wish) and self.vectors.problem is None
        num_unseen = self.vectors.num_missing if is_coming else 0
        return Shown(
            wish.view, groups, page, len(rows), len(captions), how, rows, bool(wish.filters), num_unseen
        )

    def place(self, table: int, position: int) -> Place:
        """A place that exists; ``UserError`` for any other."""
        if not (0 <= table < len(self.tables) and 0 <= position < len(self.tables[table])):
            raise UserError(f"there is no picture {table}/{position}; reload the page")
        return Place(table, position)

    def picture(self, place: Place) -> bytes:
        """Encoded bytes of one picture; ``UserError`` for a failure, which has none."""
        index = self.tables[place.table]
        if not index.has_picture[place.position]:
            raise UserError("this row is a failure and has no picture")
        return index.table.take_images([place.position])[0]

    def mark(self, places: Sequence[Place], mark: str | None) -> None:
        """Mark pictures of the first table; ``UserError`` for those of another one."""
        if any(place.table != 0 for place in places):
            raise UserError(
                f"only pictures of {self.main.name} can be marked; open the other table as the first one"
            )
        write_marks(self.main, [place.position for place in places], mark)
        with self._lock:
            self._found.clear()  # what was filtered or sorted by mark is another set now

    def num_marked(self) -> dict[str, int]:
        """How many pictures carry each mark."""
        column = self.main.column(MARK)
        if not isinstance(column, ChoiceColumn):
            return {}
        return {
            name: int(count)
            for name, count in zip(column.choices, column.counts(), strict=True)
            if name in MARKS
        }

    def compare(self, left: Lane, right: Lane, page: int) -> tuple[list[list[Pair]], Page, int]:
        """The pairs of each caption of a page that both lanes have, and how many such captions there are."""
        captions = pairs.shared_captions(self.tables, left, right)
        there = page_of(len(captions), PAIRS_PER_PAGE, page)
        shown = captions[there.start : there.stop]
        return [pairs.pairs_of(self.tables, left, right, name) for name in shown], there, len(captions)

    def copies(self, verdicts: Sequence[str], page: int) -> tuple[list[CopyPair], Page, int]:
        """A page of pictures beside what they repeat, and how many there are."""
        found = pairs.copies(self.tables, verdicts)
        there = page_of(len(found), 2 * PAIRS_PER_PAGE, page)
        return pairs.copy_pairs(self.tables, found[there.start : there.stop]), there, len(found)

    def draw_map(self, wish: Wish, how: projection.Projection) -> tuple[projection.Map, str]:
        """A map of what a wish finds, and the name of its atlas."""
        rows, _ = self.find(wish)
        rows = rows[self.main.has_picture[rows]]
        if not len(rows):
            raise UserError("nothing was found to draw a map of; widen the search")
        chosen = projection.sample(rows)
        drawn = projection.project(chosen, self.vectors.take(chosen, "picture"), how, len(rows))
        name = f"{len(rows)}-{abs(hash(drawn.rows.tobytes())):x}"
        atlas = projection.atlas(self.main.table.take_images(drawn.rows))
        with self._lock:
            self._atlases[name] = atlas
            while len(self._atlases) > _REMEMBERED:
                self._atlases.popitem(last=False)
        return drawn, name

    def atlas(self, name: str) -> bytes | None:
        """The small pictures of a map that was drawn not long ago."""
        return self._atlases.get(name)
