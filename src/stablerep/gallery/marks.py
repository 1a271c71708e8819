"""Keep, reject, repaint: what a reader says of pictures, as columns of the table itself."""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from stablerep.errors import UserError
from stablerep.gallery.index import MARK, MARKED_AT, PictureIndex

MARKS = ("keep", "reject", "repaint")
_ONE_WRITER = threading.Lock()


def write_marks(index: PictureIndex, positions: Sequence[int], mark: str | None) -> None:
    """Mark pictures, or take their marks away where ``mark`` is None, in a new version of the table.

    The time (UTC) stands beside the mark, also where one was taken away. The index shows the marks at once. Raises
    ``UserError`` for a mark that there is none of, for rows that the table does not have, and as ``write_columns``.
    """
    if mark is not None and mark not in MARKS:
        raise UserError(f"there is no mark {mark!r}; there are {', '.join(MARKS)}")
    rows = np.unique(np.asarray(positions, dtype=np.int64))
    if not len(rows):
        return
    if rows[0] < 0 or rows[-1] >= len(index):
        raise UserError(
            f"{index.name} has no picture at place {rows[-1] if rows[0] >= 0 else rows[0]}; reload the page"
        )
    now = datetime.now(UTC)
    columns = {
        MARK: pa.array([mark] * len(rows), pa.string()),
        MARKED_AT: pa.array([now] * len(rows), pa.timestamp("us", "UTC")),
    }
    with _ONE_WRITER:
        newer = index.table.write_columns(rows, columns)
        index.replace_column(MARK, newer)


def marks_of(index: PictureIndex, rows: np.ndarray) -> list[str | None]:
    """The mark of each of some rows."""
    column = index.column(MARK)
    if column is None:
        return [None] * len(rows)
    names = [name if name in MARKS else None for name in getattr(column, "choices", ())]
    return [names[code] for code in getattr(column, "codes")[rows]]  # noqa: B009
