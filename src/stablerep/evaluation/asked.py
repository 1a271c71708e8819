"""What a painter was asked for and what it painted: captions with their labels, and its pictures of them."""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa

from stablerep import runtime
from stablerep.errors import UserError
from stablerep.evaluation.benchmarks import HELD_OUT_STYLE
from stablerep.features import TableImages
from stablerep.store import OK, REAL, CaptionTable, ImageTable

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Asked:
    """The captions that are judged, by id."""

    labels: dict[str, str | None]
    texts: dict[str, str]
    num_left_out: int
    """Captions of the split with a word that no training caption has, where those are left out."""
    training: frozenset[str] = frozenset()
    """Those of the training split, from whose real pictures the judge learns."""
    num_images: int | None = None
    """So many pictures of each, the first by their image index; all where None."""

    def only(self, captions: Sequence[str], num_images: int) -> Self:
        """So many pictures of these captions (ids) alone."""
        return dataclasses.replace(
            self,
            labels={caption: self.labels[caption] for caption in captions},
            texts={caption: self.texts[caption] for caption in captions},
            training=self.training & set(captions),
            num_images=num_images,
        )


@dataclass(frozen=True)
class Paintings:
    """M painted pictures, ordered by identity, with the caption and the label that were asked for."""

    origin: str
    images: Sequence[bytes]
    captions: np.ndarray
    labels: np.ndarray
    num_failed: int
    num_not_judged: int
    num_left_out: int = 0
    """Pictures that a filter or a mask left out."""


def read_asked(world: Path, split: str, *, seen_words: bool) -> Asked:
    """The captions of a split of a world ("all": of every split), all or only those made of words seen in training."""
    columns = CaptionTable.open(world / "captions.lance").read(["id", "text", "label", "split"]).to_pylist()
    of_split = [row for row in columns if split in ("all", row["split"])]
    kept = of_split
    if seen_words:
        seen = set().union(*(words(row["text"]) for row in columns if row["split"] == "train"))
        kept = [row for row in of_split if words(row["text"]) <= seen]
    return Asked(
        labels={row["id"]: row["label"] for row in kept},
        texts={row["id"]: row["text"] for row in kept},
        num_left_out=len(of_split) - len(kept),
        training=frozenset(row["id"] for row in kept if row["split"] == "train"),
    )


def words(text: str) -> set[str]:
    """The words of a caption: runs of letters and digits, in lower case."""
    return set(_WORD.findall(text.lower()))


@dataclass(frozen=True)
class Wanted:
    """Which pictures of a table are judged, beside the captions that are asked for."""

    origin: str | None = None
    """The painter; the only one of the table where None."""
    where: str | None = None
    """A Lance filter on the rows."""
    keep: str | None = None
    """A column of true and false; rows where it is not true are left out."""

    def positions(self, table: ImageTable) -> np.ndarray:
        """Rows of a table that filter and mask let through; ``UserError`` where one of the two is not valid."""
        allowed = np.arange(len(table))
        if self.keep is not None:
            kind = table.field(self.keep).type
            if not pa.types.is_boolean(kind):
                raise UserError(
                    f"{table.path}: keep must name a column of true and false, and {self.keep!r} holds {kind}"
                )
            allowed = table.positions(f"`{self.keep}` = true")
        if self.where is None:
            return allowed
        # Apart: no bracket in it can then undo the mask.
        return np.intersect1d(allowed, table.positions(self.where))


def read_paintings(path: Path, wanted: Wanted, asked: Asked, classes: Sequence[str]) -> Paintings:
    """The pictures of one painter for the captions that are asked for and have one of the classes as label.

    Raises ``UserError`` where no picture can be judged, or the table has several painters and none is chosen.
    """
    table = ImageTable.open(path)
    columns = table.read(["origin", "caption_id", "image_index", "status"])  # row i is at position i
    origins, captions, statuses = (
        np.array(columns[name].to_pylist()) for name in ("origin", "caption_id", "status")
    )
    painter = choose_origin(sorted(set(origins) - {REAL}), wanted.origin, path)
    numbers = columns["image_index"].to_numpy()
    is_asked = (origins == painter) & np.isin(captions, list(asked.labels))
    if asked.num_images is not None:
        is_asked &= numbers < asked.num_images
    painted = np.flatnonzero(is_asked & (statuses == OK))
    good = np.intersect1d(painted, wanted.positions(table))
    good = good[np.lexsort((numbers[good], captions[good]))]
    labels = np.array([asked.labels[caption] or "" for caption in captions[good]], dtype=np.str_)
    is_judged = np.isin(labels, classes)
    if not is_judged.any():
        let_through = "" if len(good) == len(painted) else f", of which the filter keeps {len(good):,}"
        raise UserError(
            f"{path}: none of {len(painted):,} pictures of {painter}{let_through} belongs to one of the "
            f"{len(asked.labels):,} captions that are judged and has a label that the judge knows; give the world that "
            "was painted, another split or another filter"
        )
    return Paintings(
        origin=painter,
        images=TableImages(table, good[is_judged]),
        captions=captions[good][is_judged],
        labels=labels[is_judged],
        num_failed=int((is_asked & (statuses != OK)).sum()),
        num_not_judged=int((~is_judged).sum()),
        num_left_out=len(painted) - len(good),
    )


@dataclass(frozen=True)
class Counterparts:
    """M painted and M real pictures; painted and real picture i are of the same caption."""

    painted: np.ndarray
    """Which of the paintings."""
    real: Sequence[bytes]
    captions: np.ndarray


def real_counterparts(world: Path, paintings: Paintings, *, seed: int) -> Counterparts:
    """For every painted caption real pictures of it, in the styles that painters may learn, as far as there are any.

    A distance between painted and real pictures then says how they are painted, not how often a caption occurs.
    """
    table = ImageTable.open(world / "images.lance")
    columns = table.read(["origin", "caption_id", "status", "style"])
    origins, captions, statuses, styles = (
        np.array(columns[name].to_pylist(), dtype=object) for name in columns.column_names
    )
    usable = np.flatnonzero((origins == REAL) & (statuses == OK) & (styles != HELD_OUT_STYLE))
    there = _rows_by_caption(captions[usable], usable)
    painted, real = [], []
    for caption, rows in _rows_by_caption(paintings.captions, np.arange(len(paintings.captions))).items():
        rng = runtime.numpy_generator("counterparts", seed, caption)
        others = there.get(caption, np.array([], dtype=np.int64))
        num = min(len(rows), len(others))
        painted.append(rng.permutation(rows)[:num])
        real.append(rng.permutation(others)[:num])
    rows = np.concatenate(painted)
    return Counterparts(rows, TableImages(table, np.concatenate(real)), paintings.captions[rows])


def _rows_by_caption(captions: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
    order = np.argsort(captions, kind="stable")
    names, starts = np.unique(captions[order], return_index=True)
    return dict(zip(map(str, names), np.split(rows[order], starts[1:]), strict=True))


def choose_origin(painters: Sequence[str], asked: str | None, path: Path) -> str:
    """The painter that is asked for, or the only one of a table; ``UserError`` where there is no such one."""
    if asked in painters:
        return str(asked)
    if asked is None and len(painters) == 1:
        return painters[0]
    problem = "several painters" if asked is None and painters else f"no painter {asked or 'at all'}"
    raise UserError(
        f"{path} holds the pictures of {problem} (found: {', '.join(painters) or 'none'}); "
        "choose one with --origin"
    )
