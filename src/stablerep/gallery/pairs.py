"""Pictures side by side: two origins for the same captions, and copies beside what they repeat.

Shapes: P pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stablerep.gallery.columns import ChoiceColumn
from stablerep.gallery.index import Key, PictureIndex

COPY_OF = "copy_of"
COPY_SCORE = "copy_score"
COPY_VERDICT = "copy_verdict"
NO_COPY = "none"
"""Verdict on a picture that is named beside the nearest one and does not repeat it."""


@dataclass(frozen=True)
class Place:
    """A picture: which of the tables, and where in it."""

    table: int
    position: int


@dataclass(frozen=True)
class Lane:
    """All pictures of one origin in one of the tables."""

    table: int
    origin: str

    def __str__(self) -> str:
        return f"{self.table}:{self.origin}"


@dataclass(frozen=True)
class Pair:
    """Two pictures of one caption; one of them may be missing."""

    caption_id: str
    left: Place | None
    right: Place | None
    same_seed: bool = False
    """Whether both were painted from the same noise, so that what differs is the painters."""


@dataclass(frozen=True)
class CopyPair:
    """A picture and the one that it repeats or is most like, which none of the open tables may have."""

    copy: Place
    original: Key
    found: Place | None
    score: float | None
    verdict: str | None


def lanes(tables: Sequence[PictureIndex]) -> dict[str, Lane]:
    """Every origin of every table by what it is called: with its table where there are several, by path if need be."""
    names = [table.name for table in tables]
    called = [
        name if names.count(name) == 1 else table.table.path
        for name, table in zip(names, tables, strict=True)
    ]
    return {
        origin if len(tables) == 1 else f"{origin} ({called[number]})": Lane(number, origin)
        for number, table in enumerate(tables)
        for origin in table.origins
    }


def shared_captions(tables: Sequence[PictureIndex], left: Lane, right: Lane) -> list[str]:
    """Captions that have pictures in both lanes, in the order of the left one."""
    there = set(_captions(tables[right.table], right.origin))
    return [name for name in _captions(tables[left.table], left.origin) if name in there]


def pairs_of(tables: Sequence[PictureIndex], left: Lane, right: Lane, caption_id: str) -> list[Pair]:
    """The pictures of a caption in two lanes, by image index; what one lane has more of stands alone."""
    first = _by_image_index(tables[left.table], left, caption_id)
    second = _by_image_index(tables[right.table], right, caption_id)
    seeds = {place: _seed(tables, place) for place in (*first.values(), *second.values())}
    pairs = []
    for number in sorted(first.keys() | second.keys()):
        a, b = first.get(number), second.get(number)
        same = a is not None and b is not None and seeds[a] is not None and seeds[a] == seeds[b]
        pairs.append(Pair(caption_id, a, b, same))
    return pairs


def has_copies(table: PictureIndex) -> bool:
    """Whether an audit looked for copies in this table."""
    return COPY_OF in table.table.dataset.schema.names


def copies(tables: Sequence[PictureIndex], verdicts: Sequence[str] = ()) -> np.ndarray:
    """Positions (P,) in the first table of the pictures that another one is named for, the most similar first."""
    table = tables[0]
    if not has_copies(table):
        return np.array([], dtype=np.int64)
    names = [name for name in (COPY_OF, COPY_SCORE) if name in table.table.dataset.schema.names]
    rows = table.table.read(names)
    is_copy = rows[COPY_OF].is_valid().to_numpy()
    column = table.column(COPY_VERDICT)
    if verdicts and isinstance(column, ChoiceColumn):
        is_copy = is_copy & np.isin(
            column.codes, [column.choices.index(name) for name in verdicts if name in column.choices]
        )
    found = np.flatnonzero(is_copy)
    if COPY_SCORE not in names:
        return found
    scores = rows[COPY_SCORE].to_numpy(zero_copy_only=False).astype(np.float64)[found]
    ordered: np.ndarray = found[np.argsort(-scores, kind="stable")]
    return ordered


def copy_pairs(tables: Sequence[PictureIndex], positions: np.ndarray) -> list[CopyPair]:
    """Some copies beside their originals."""
    pairs = []
    for position, known in zip(positions.tolist(), tables[0].details(positions), strict=True):
        key = Key.parse(str(known[COPY_OF]))
        if key is None:
            continue
        score = known.get(COPY_SCORE)
        pairs.append(
            CopyPair(
                copy=Place(0, position),
                original=key,
                found=_find(tables, key),
                score=None if score is None else float(score),
                verdict=known.get(COPY_VERDICT),
            )
        )
    return pairs


def _find(tables: Sequence[PictureIndex], key: Key) -> Place | None:
    for number, table in enumerate(tables):
        position = table.find(key)
        if position is not None:
            return Place(number, position)
    return None


def _captions(table: PictureIndex, origin: str) -> list[str]:
    codes = table.caption[(table.origin == table.origins.index(origin)) & table.has_picture]
    _, first = np.unique(codes, return_index=True)
    return [table.caption_ids[code] for code in codes[np.sort(first)]]


def _by_image_index(table: PictureIndex, lane: Lane, caption_id: str) -> dict[int, Place]:
    rows = table.rows_of(caption_id)
    rows = rows[(table.origin[rows] == table.origins.index(lane.origin)) & table.has_picture[rows]]
    return {int(table.image_index[row]): Place(lane.table, int(row)) for row in rows}


def _seed(tables: Sequence[PictureIndex], place: Place) -> int | None:
    seed = tables[place.table].details([place.position])[0].get("seed")
    return None if seed is None else int(seed)
