"""Verdicts of audits, side by side in the table of pictures, and the keep mask that follows from all of them.

An audit NAME writes NAME_ok (true or false, null where it has not looked) and NAME_reason (what speaks against the
picture). The mask is made from whatever such columns are there, so an audit that runs again replaces its own verdicts
and no others. Nothing is ever deleted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stablerep.store import CaptionTable, ImageTable

KEEP, KEEP_REASON = "keep", "keep_reason"
_OK, _REASON = "_ok", "_reason"


@dataclass(frozen=True, kw_only=True)
class Kept:
    """How many pictures the mask keeps, over all audits."""

    num_kept: int
    num_rejected: int
    num_unknown: int
    """Rows that no audit has judged, failed paintings among them: their mask is null, and training on it skips them."""
    rejected_by: Mapping[str, int]
    """Pictures that each audit speaks against; several may reject the same one."""


def verdict_columns(name: str, reasons: Sequence[str | None]) -> dict[str, pa.Array]:
    """The two columns of an audit: a picture is fine where there is no reason against it."""
    return {
        f"{name}{_OK}": pa.array([reason is None for reason in reasons], pa.bool_()),
        f"{name}{_REASON}": pa.array(list(reasons), pa.string()),
    }


def with_nulls(columns: Mapping[str, pa.Array], num: int) -> dict[str, pa.Array]:
    """The columns with null in ``num`` further rows: pictures that could not be looked at."""
    return {name: pa.concat_arrays([values, pa.nulls(num, values.type)]) for name, values in columns.items()}


def write_verdicts(
    table: ImageTable,
    positions: np.ndarray,
    name: str,
    reasons: Sequence[str | None],
    scores: Mapping[str, pa.Array],
) -> Kept:
    """Write the scores and verdicts of audit ``name`` into the rows at ``positions``, and renew the mask.

    Errors as ``ImageTable.write_columns``.
    """
    table = table.write_columns(positions, {**scores, **verdict_columns(name, reasons)})
    return renew_mask(table)


def audits_of(table: ImageTable | CaptionTable) -> list[str]:
    """Names of the audits whose verdicts a table holds, in the order in which they came."""
    schema = table.dataset.schema
    found = [field.name.removesuffix(_OK) for field in schema if field.name.endswith(_OK)]
    return [
        name
        for name in found
        if pa.types.is_boolean(schema.field(name + _OK).type) and name + _REASON in schema.names
    ]


def renew_mask(table: ImageTable) -> Kept:
    """Make ``keep`` and ``keep_reason`` from all verdicts of the table at its newest version.

    A picture is kept where every audit that looked at it found it fine. Where verdicts change meanwhile, by an audit
    that runs beside this one, the mask is made again.
    """
    table = table.reload()
    while True:
        verdicts = _read(table)
        keep, why = combine(verdicts, len(table))
        table = table.write_columns(np.arange(len(keep)), {KEEP: keep, KEEP_REASON: why})
        newest = {name: verdict.slice(0, len(keep)) for name, verdict in _read(table).items()}
        if all(verdict.equals(verdicts.get(name)) for name, verdict in newest.items()):
            return _count(keep, verdicts)


def combine(verdicts: Mapping[str, pa.Table], num_rows: int) -> tuple[pa.Array, pa.Array]:
    """The mask (bool) and its reasons (string) from the verdicts (columns ``ok`` and ``reason``) of each audit, if any.

    The mask is null where no audit has a verdict; the reason names every audit that speaks against a picture.
    """
    keep, why = pa.nulls(num_rows, pa.bool_()), pa.nulls(num_rows, pa.string())
    for name, table in verdicts.items():
        fine = table["ok"].combine_chunks()
        keep = pc.if_else(pc.is_valid(fine), pc.and_(fine, pc.fill_null(keep, True)), keep)
        reason = pc.fill_null(table["reason"].combine_chunks().cast(pa.string()), "rejected")
        said = pc.binary_join_element_wise(pa.scalar(f"{name}:"), reason, " ")
        against = pc.if_else(pc.fill_null(pc.invert(fine), False), said, pa.scalar(None, pa.string()))
        both = pc.binary_join_element_wise(why, against, "; ")  # null where one of them is
        why = pc.coalesce(both, why, against)
    return keep, why


def _read(table: ImageTable) -> dict[str, pa.Table]:
    """The verdicts of each audit in the table."""
    return {
        name: table.read([name + _OK, name + _REASON]).rename_columns(["ok", "reason"])
        for name in audits_of(table)
    }


def _count(keep: pa.Array, verdicts: Mapping[str, pa.Table]) -> Kept:
    num_kept, num_judged = pc.sum(keep).as_py() or 0, pc.count(keep).as_py()
    return Kept(
        num_kept=num_kept,
        num_rejected=num_judged - num_kept,
        num_unknown=len(keep) - num_judged,
        rejected_by={name: pc.sum(pc.invert(table["ok"])).as_py() or 0 for name, table in verdicts.items()},
    )
