"""Columns that one can choose by: numbers with a histogram, choices with their counts.

Shapes: M rows, B bins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stablerep.errors import UserError

NUM_BINS = 24
MOST_CHOICES = 40
NONE = "(none)"
_FREE_TEXT = 0.5  # strings that are distinct in more than this share of the rows are remarks, not choices


@dataclass(frozen=True, eq=False)
class NumberColumn:
    """Numbers; what is null or not finite has no bin."""

    name: str
    values: np.ndarray
    """float64 (M,), NaN where there is none."""
    edges: np.ndarray
    """Borders of the bins (B + 1,), ascending."""
    bins: np.ndarray
    """Bin of each row (M,) int16, -1 where there is none."""

    def counts(self, rows: np.ndarray | None = None) -> np.ndarray:
        """How many of all rows, or of those at some positions, fall into each bin (B,)."""
        bins = self.bins if rows is None else self.bins[rows]
        return np.bincount(bins[bins >= 0], minlength=len(self.edges) - 1)

    @property
    def sort_key(self) -> np.ndarray:
        """What rows are ordered by (M,), NaN last."""
        return self.values

    @property
    def num_missing(self) -> int:
        """Rows without a number."""
        return int((self.bins < 0).sum())


@dataclass(frozen=True, eq=False)
class ChoiceColumn:
    """Few distinct values, the most frequent first; ``(none)`` is one of them where rows have no value."""

    name: str
    choices: tuple[str, ...]
    codes: np.ndarray
    """Which choice (M,) int32."""

    def counts(self, rows: np.ndarray | None = None) -> np.ndarray:
        """How many of all rows, or of those at some positions, have each choice."""
        codes = self.codes if rows is None else self.codes[rows]
        return np.bincount(codes, minlength=len(self.choices))

    @property
    def sort_key(self) -> np.ndarray:
        """What rows are ordered by (M,): the alphabet, NaN for rows without a value."""
        rank = {name: float(place) for place, name in enumerate(sorted(self.choices))}
        ranks = np.array([np.nan if name == NONE else rank[name] for name in self.choices])
        keys: np.ndarray = ranks[self.codes]
        return keys


Column = NumberColumn | ChoiceColumn


@dataclass(frozen=True)
class Between:
    """Rows whose number lies in [low, high]; None is no border. Rows without a number are left out."""

    low: float | None = None
    high: float | None = None

    def keeps(self, column: Column) -> np.ndarray:
        """Which rows (M,) stay."""
        if not isinstance(column, NumberColumn):
            raise UserError(f"column {column.name!r} holds no numbers; choose among its values")
        with np.errstate(invalid="ignore"):
            kept: np.ndarray = np.isfinite(column.values)
            if self.low is not None:
                kept = kept & (column.values >= self.low)
            if self.high is not None:
                kept = kept & (column.values <= self.high)
        return kept


@dataclass(frozen=True)
class OneOf:
    """Rows whose value is one of these."""

    choices: tuple[str, ...]

    def keeps(self, column: Column) -> np.ndarray:
        """Which rows (M,) stay."""
        if not isinstance(column, ChoiceColumn):
            raise UserError(f"column {column.name!r} holds numbers; give a lowest and a highest one")
        wanted = np.array([name in self.choices for name in column.choices])
        kept: np.ndarray = wanted[column.codes]
        return kept


Filter = Between | OneOf


def read_filter(said: Mapping[str, Any]) -> Filter | None:
    """The filter that a browser sent: ``{"choices": [...]}`` or ``{"low": number, "high": number}``; None if empty."""
    choices = said.get("choices")
    if isinstance(choices, Sequence) and not isinstance(choices, str):
        return OneOf(tuple(str(choice) for choice in choices)) if choices else None
    low, high = (_number(said.get(end)) for end in ("low", "high"))
    return None if low is None and high is None else Between(low, high)


def _number(said: Any) -> float | None:
    if said is None or said == "":
        return None
    try:
        number = float(said)
    except (TypeError, ValueError) as error:
        raise UserError(f"{said!r} is no number; give one, or leave the field empty") from error
    return number if np.isfinite(number) else None


def read_column(name: str, values: pa.ChunkedArray) -> Column | None:
    """A column of a table; None for kinds that one cannot choose by, and for strings that are all different."""
    kind = values.type
    if pa.types.is_boolean(kind):
        return _choices(name, pc.if_else(values, "yes", "no"))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return _numbers(name, values.cast(pa.float64()).to_numpy(zero_copy_only=False))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _strings(name, values)
    return None


def _numbers(name: str, values: np.ndarray) -> NumberColumn | None:
    values = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        return None
    low, high = float(values[finite].min()), float(values[finite].max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, NUM_BINS + 1)
    bins = np.full(len(values), -1, dtype=np.int16)
    bins[finite] = np.clip(np.searchsorted(edges, values[finite], side="right") - 1, 0, NUM_BINS - 1)
    return NumberColumn(name, np.where(finite, values, np.nan), edges, bins)


def _strings(name: str, values: pa.ChunkedArray) -> ChoiceColumn | None:
    num_present = len(values) - values.null_count
    if not num_present:
        return None
    num_distinct = len(pc.unique(values.drop_null()))
    if num_distinct > MOST_CHOICES and num_distinct > _FREE_TEXT * num_present:
        return _choices(name, pc.if_else(pc.is_valid(values), "present", NONE))
    return _choices(name, values)


def _choices(name: str, values: pa.ChunkedArray) -> ChoiceColumn | None:
    if values.null_count == len(values):
        return None
    encoded = pc.dictionary_encode(pc.fill_null(values, NONE)).combine_chunks()
    names: list[str] = encoded.dictionary.to_pylist()
    codes = encoded.indices.to_numpy()
    counts = np.bincount(codes, minlength=len(names))
    order = sorted(range(len(names)), key=lambda code: (names[code] == NONE, -counts[code], names[code]))
    new = np.empty(len(names), dtype=np.int32)
    new[order] = np.arange(len(names), dtype=np.int32)
    return ChoiceColumn(name, tuple(names[code] for code in order), new[codes])
