"""Which rows of an image table training may draw, and how much each counts."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa

from stablerep.errors import UserError
from stablerep.row_keys import literal
from stablerep.store import OK, REAL, ImageTable

Origin = Literal["painted", "real", "any"]


def read_weights(table: ImageTable, positions: np.ndarray, column: str) -> np.ndarray:
    """The weight of every row of the table, float32; those that may be drawn must be numbers from 0."""
    kind = table.field(column).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise UserError(f"{table.path}: weights must be numbers, and column {column!r} holds {kind}")
    weights: np.ndarray = (
        table.read([column])[column].cast(pa.float32(), safe=False).to_numpy()
    )  # null becomes nan
    wrong = positions[~((weights[positions] >= 0) & np.isfinite(weights[positions]))]
    if len(wrong):
        row = table.read(["origin", "caption_id", "image_index"]).take(wrong[:1]).to_pylist()[0]
        # Also without what is not a number, which a filter takes for the greatest of all, and infinities.
        below = f" AND {column} < 1e38" if pa.types.is_floating(kind) else ""
        raise UserError(
            f"{table.path}: image {row['image_index']} of caption {row['caption_id']} (origin {row['origin']}) has "
            f"{column} {weights[wrong[0]]}, and {len(wrong)} images in all have no weight from 0; leave them out with "
            f'where = "{column} >= 0{below}"'
        )
    if len(positions) and not weights[positions].any():
        raise UserError(
            f"{table.path}: all {len(positions)} usable images have {column} 0, so that none counts; leave the table "
            "out, or give another column"
        )
    return weights


def allowed_positions(
    table: ImageTable, *, origin: Origin, where: str | None, keep: str | None, exclude_styles: Sequence[str]
) -> np.ndarray:
    """Positions of the rows that may be drawn: whatever the filter says, failures and held-out styles never enter.

    The settings are those of ``DataConfig``. Raises ``UserError`` for a filter that is not valid and for a column
    ``keep`` that is no mask.
    """
    conditions = [f"status = '{OK}'"]
    if origin != "any":
        conditions.append(f"origin {'=' if origin == 'real' else '!='} '{REAL}'")
    if keep is not None:
        if not pa.types.is_boolean(table.field(keep).type):
            raise UserError(
                f"{table.path}: keep must name a column of true and false, and {keep!r} holds "
                f"{table.field(keep).type}"
            )
        conditions.append(f"`{keep}` = true")
    for style in exclude_styles:
        conditions.append(f"(style IS NULL OR style != {literal(style)})")
    allowed = table.positions(" AND ".join(conditions))
    if where is None:
        return allowed
    # Apart: no bracket in it can then undo the conditions.
    return np.intersect1d(allowed, table.positions(where))
