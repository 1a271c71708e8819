"""The figure of a circle: what changes from turn to turn, a panel for each measure."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from stablerep.run import write_atomically

_PANELS_PER_ROW = 4
_COLOUR = "#2a6f97"
_ROOM = 0.12
"""Above and below the points, of the height between them."""

Point = tuple[float, float, float]
"""A value, and the lower and upper end of its interval."""


def draw_turns(curves: Mapping[str, Sequence[Point | None]], path: Path) -> Path:
    """Write the figure as PNG: each panel a measure by turn (0, 1, ...), with 95 % intervals where there are any.

    Measures without intervals begin at zero.
    """
    columns = min(_PANELS_PER_ROW, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure = Figure(figsize=(3 * columns, 2.4 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(curves) :]:
        axes.set_visible(False)
    for axes, (title, curve) in zip(grid.flat, curves.items(), strict=False):
        turns = [turn for turn, point in enumerate(curve) if point is not None]
        values = [point for point in curve if point is not None]
        axes.errorbar(
            turns,
            [value for value, _, _ in values],
            yerr=[
                [max(0.0, value - low) for value, low, _ in values],
                [max(0.0, high - value) for value, _, high in values],
            ],
            color=_COLOUR,
            marker="o",
            markersize=4,
            linewidth=1.4,
            capsize=2,
        )
        axes.set_title(title, fontsize=9, loc="left")
        axes.set_xticks(range(len(curve)))
        axes.set_xlabel("turn", fontsize=8)
        axes.set_ylim(*_limits(values))
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", linewidth=0.4)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150))
    return path


def _limits(values: Sequence[Point]) -> tuple[float, float]:
    """Ends of the axis: around the intervals, which say how much a difference is; from zero where there are none."""
    lowest, highest = min(low for _, low, _ in values), max(high for _, _, high in values)
    if any(low < high for _, low, high in values):
        room = _ROOM * (highest - lowest)
        return lowest - room, highest + room
    lowest = min(0.0, lowest)
    return lowest, highest + (_ROOM * (highest - lowest) or 1.0)
