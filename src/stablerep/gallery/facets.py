"""What the side of the page shows of each column: counts of everything beside counts of what was found."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from stablerep.gallery.columns import MOST_CHOICES, Between, Column, NumberColumn, OneOf
from stablerep.gallery.session import Gallery, Wish


def facets(gallery: Gallery, wish: Wish, found: np.ndarray) -> dict[str, Any]:
    """Every column as plain values for the browser, with what is chosen in it now."""
    return {
        "columns": [_facet(column, wish, found) for column in gallery.main.columns()],
        "ranked": gallery.is_ranked(wish),
    }


def _facet(column: Column, wish: Wish, found: np.ndarray) -> dict[str, Any]:
    chosen = wish.filters.get(column.name)
    every, here = column.counts().tolist(), column.counts(found).tolist()
    if isinstance(column, NumberColumn):
        low, high = (chosen.low, chosen.high) if isinstance(chosen, Between) else (None, None)
        return {
            "name": column.name,
            "kind": "number",
            "every": every,
            "here": here,
            "edges": [_short(float(edge)) for edge in column.edges],
            "low": low,
            "high": high,
            "missing": column.num_missing,
        }
    picked: Sequence[str] = chosen.choices if isinstance(chosen, OneOf) else ()
    names = list(column.choices[:MOST_CHOICES])
    return {
        "name": column.name,
        "kind": "choice",
        "choices": [
            {"name": name, "every": every[code], "here": here[code], "picked": name in picked}
            for code, name in enumerate(names)
        ],
        "more": len(column.choices) - len(names),
    }


def _short(number: float) -> float:
    return float(f"{number:.4g}")
