"""Which pictures an audit looks at, and the captions that they were painted for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stablerep.errors import UserError
from stablerep.store import OK, CaptionTable, ImageTable


@dataclass(frozen=True)
class Rows:
    """M pictures of a table, in its order, with what identifies them."""

    table: ImageTable
    positions: np.ndarray
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


@dataclass(frozen=True)
class CaptionFacts:
    """What an audit needs to know of a caption."""

    text: str
    group: str
    concept: str


def read_rows(images: Path, where: str | None) -> Rows:
    """The pictures of a table that match a filter, failures left out; ``UserError`` where that leaves none."""
    table = ImageTable.open(images)
    positions = table.positions(f"status = '{OK}'")
    if where is not None:
        try:
            positions = np.intersect1d(positions, table.positions(where))
        except ValueError as error:
            reason = str(error).split(", /")[0]  # Lance appends the place in its own source
            raise UserError(f"{images}: the filter {where!r} is not valid ({reason})") from error
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


def read_captions(path: Path, needed: Sequence[str]) -> dict[str, CaptionFacts]:
    """Every caption of a table by id; ``UserError`` where it does not know one of those that are needed."""
    columns = CaptionTable.open(path).read(["id", "text", "group", "concept"]).to_pylist()
    # A caption without a concept is a concept of its own, as it is in training.
    facts = {
        row["id"]: CaptionFacts(row["text"], row["group"], row["concept"] or row["id"]) for row in columns
    }
    unknown = sorted(set(needed) - facts.keys())
    if unknown:
        raise UserError(
            f"{path} has no caption {unknown[0]} ({len(unknown)} such); give the table that was painted"
        )
    return facts
