"""Rows told apart by their keys, beyond what Lance does: within a batch that is appended, and before it is."""

from collections.abc import Sequence

import lance
import pyarrow as pa
import pyarrow.compute as pc


def _identities(rows: pa.Table | pa.RecordBatch, keys: Sequence[str]) -> list[str]:
    """The key of each row as one string."""
    columns = [rows.column(key).cast(pa.string()) for key in keys]
    identities: list[str] = pc.binary_join_element_wise(*columns, "\x1f").to_pylist()
    return identities


def first_of_each_key(table: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Lance compares the rows of a merge with the table, not with one another."""
    rows: dict[str, int] = {}
    for row, identity in enumerate(_identities(table, keys)):
        rows.setdefault(identity, row)
    return table if len(rows) == len(table) else table.take(list(rows.values()))


def all_present(dataset: lance.LanceDataset, table: pa.Table, keys: Sequence[str]) -> bool:
    """Whether the data set has every row. What is appended is nearly always new, which the first row says."""
    if not len(table):
        return True
    first = table.select(keys).slice(0, 1).to_pylist()[0]
    where = " AND ".join(f"{key} = {literal(value)}" for key, value in first.items())
    if not dataset.count_rows(filter=where):
        return False
    # Keys are streamed, never held; those without a wanted value in the most telling column are passed over.
    telling = max(keys, key=lambda key: pc.count_distinct(table[key]).as_py())
    wanted, missing = pc.unique(table[telling]), set(_identities(table, keys))
    for batch in dataset.scanner(columns=list(keys)).to_batches():
        missing.difference_update(_identities(batch.filter(pc.is_in(batch[telling], wanted)), keys))
        if not missing:
            return True
    return False


def literal(value: str | int) -> str:
    """A value as a filter says it: a text in quotes, quotes in it doubled."""
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
