"""The figure of a comparison: accuracy against the number of captions, a panel per test, a line per arm."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from stablerep.evaluation.intervals import Interval
from stablerep.run import write_atomically

_COLOURS = ("#2a6f97", "#c1440e", "#4f7d3a", "#7a4f9e", "#a8842c", "#5b5b5b", "#b0577b", "#2f8f8b")
_PANELS_PER_ROW = 3


@dataclass(frozen=True, kw_only=True)
class Point:
    """One score with its interval."""

    panel: str
    arm: str
    num_captions: int
    score: Interval


def draw_comparison(points: Sequence[Point], path: Path) -> Path:
    """Write the figure as PNG; arms keep their colour over all panels, intervals are 95 %."""
    panels = list(dict.fromkeys(point.panel for point in points))
    arms = list(dict.fromkeys(point.arm for point in points))
    columns = min(_PANELS_PER_ROW, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4 * columns, 3 * rows + 0.6), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        for number, arm in enumerate(arms):
            mine = [point for point in points if point.panel == panel and point.arm == arm]
            _draw_arm(axes, sorted(mine, key=lambda point: point.num_captions), number, len(arms))
        sizes = sorted({point.num_captions for point in points})
        axes.set_xscale("log")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.set_title(panel, fontsize=9, loc="left")
        axes.set_xlabel("captions", fontsize=8)
        axes.set_ylabel("mean per class, %", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", linewidth=0.4)
    drawn = {
        label: handle
        for axes in grid.flat
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        drawn.values(),
        drawn.keys(),
        loc="outside upper center",
        ncols=min(4, len(arms)),
        fontsize=8,
        frameon=False,
    )
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150))
    return path


def _draw_arm(axes: Any, points: Sequence[Point], number: int, num_arms: int) -> None:
    """Arms are moved a little apart, so that no interval hides another."""
    shift = 1.04 ** (number - (num_arms - 1) / 2)
    values = [100 * point.score.value for point in points]
    below = [max(0.0, 100 * (point.score.value - point.score.low)) for point in points]
    above = [max(0.0, 100 * (point.score.high - point.score.value)) for point in points]
    axes.errorbar(
        [point.num_captions * shift for point in points],
        values,
        yerr=[below, above],
        label=points[0].arm if points else None,
        color=_COLOURS[number % len(_COLOURS)],
        marker="o",
        markersize=4,
        linewidth=1.4,
        capsize=2,
    )
