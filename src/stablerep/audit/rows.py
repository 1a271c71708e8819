"""Which pictures an audit looks at, and the captions that they were painted for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stablerep.errors import UserError
from stablerep.store import OK, CaptionTable, ImageTable


@dataclass(frozen=True)
class Rows:
    """M pictures of a table, in its order, with what identifies them."""

    table: ImageTable
    positions: np.ndarray
    """Ascending."""
    origins: np.ndarray
    captions: np.ndarray
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.positions)

    def by_caption(self) -> Iterator[np.ndarray]:
        """The rows (0..M-1) of each caption of each origin, by image index."""
        order = np.lexsort((self.indices, self.captions, self.origins))
        same = (self.captions[order][1:] == self.captions[order][:-1]) & (
            self.origins[order][1:] == self.origins[order][:-1]
        )
        yield from np.split(order, np.flatnonzero(~same) + 1)

    def some(self, which: np.ndarray) -> "Rows":
        """Those at some places (integers, ascending) of these rows."""
        return Rows(
            self.table, self.positions[which], self.origins[which], self.captions[which], self.indices[which]
        )


@dataclass(frozen=True)
class CaptionFacts:
    """What an audit needs to know of a caption."""

    text: str
    group: str
    concept: str
    label: str | None


def read_rows(images: Path, where: str | None) -> Rows:
    """The pictures of a table that match a filter, failures left out; ``UserError`` where that leaves none."""
    table = ImageTable.open(images)
    positions = table.positions(f"status = '{OK}'")
    if where is not None:
        positions = np.intersect1d(positions, table.positions(where))
    if not len(positions):
        raise UserError(
            f"{images}: no picture{f' matches {where!r}' if where else ' in it'}; there is nothing to audit"
        )
    columns = table.read(["origin", "caption_id", "image_index"]).take(positions)
    return Rows(
        table=table,
        positions=positions,
        origins=np.array(columns["origin"].to_pylist(), dtype=object),
        captions=np.array(columns["caption_id"].to_pylist(), dtype=object),
        indices=columns["image_index"].to_numpy(),
    )


def first_pictures(table: ImageTable, num_captions: int) -> dict[str, np.ndarray]:
    """For each origin the positions of the first pictures of its captions, failures left out.

    At most ``num_captions`` of them, the first by their ids, which are hashes: a random choice that stays the same
    when more pictures of these captions are painted. The table is read in batches, and little of it is held.
    """
    names = ["origin", "caption_id", "image_index", "status"]
    order = [(name, "ascending") for name in names[:3]]
    first, start = None, 0
    for batch in table.scan(names):
        part = pa.Table.from_batches([batch])
        part = part.append_column("position", pa.array(np.arange(start, start + len(part))))
        start += len(part)
        part = part.filter(pc.equal(part["status"], OK))
        joined = (part if first is None else pa.concat_tables([first, part])).sort_by(order)
        first = joined.filter(pa.array(_is_first(joined, num_captions)))
    if first is None:
        return {}
    origins, positions = first["origin"].to_numpy(zero_copy_only=False), first["position"].to_numpy()
    return {str(origin): positions[origins == origin] for origin in np.unique(origins)}


def _is_first(pictures: pa.Table, num_captions: int) -> np.ndarray:
    """Of pictures sorted by origin and caption, which (M,) are the first of one of the first captions of an origin."""
    origins, captions = (pictures[name].to_numpy(zero_copy_only=False) for name in ("origin", "caption_id"))
    is_origin = np.ones(len(pictures), dtype=np.bool_)
    is_origin[1:] = origins[1:] != origins[:-1]
    is_caption = is_origin.copy()
    is_caption[1:] |= captions[1:] != captions[:-1]
    number = is_caption.cumsum()
    before = (number - 1)[is_origin][is_origin.cumsum() - 1]  # captions of the origins before
    first: np.ndarray = is_caption & (number - before <= num_captions)
    return first


def read_captions(path: Path, needed: Sequence[str]) -> dict[str, CaptionFacts]:
    """Every caption of a table by id; ``UserError`` where it does not know one of those that are needed."""
    columns = CaptionTable.open(path).read(["id", "text", "group", "concept", "label"]).to_pylist()
    # A caption without a concept is a concept of its own, as it is in training.
    facts = {
        row["id"]: CaptionFacts(row["text"], row["group"], row["concept"] or row["id"], row["label"])
        for row in columns
    }
    unknown = sorted(set(needed) - facts.keys())
    if unknown:
        raise UserError(
            f"{path} has no caption {unknown[0]} ({len(unknown)} such); give the table that was painted"
        )
    return facts
