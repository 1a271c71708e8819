"""A comparison as a figure, accuracy against the number of captions, and what it says of concepts and styles."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from stablerep.evaluation.intervals import Interval
from stablerep.run import write_atomically

_COLOURS = ("#2a6f97", "#c1440e", "#4f7d3a", "#7a4f9e", "#a8842c", "#5b5b5b", "#b0577b", "#2f8f8b")
_PANELS_PER_ROW = 3
METRICS: Mapping[str, str] = {
    "effective rank": "rank",
    "alignment": "align",
    "uniformity": "uniform",
    "concept over style": "ratio",
    "same concept": "concept, %",
    "same style": "style, %",
}
"""What `geometry` says of concepts and styles, and how a narrow table heads it; a head with a sign is in per cent."""
_DIGITS = {"alignment": ".3f", "uniformity": ".3f"}


@dataclass(frozen=True, kw_only=True)
class Point:
    """One score with its interval."""

    panel: str
    arm: str
    num_captions: int
    score: Interval


@dataclass(frozen=True, kw_only=True)
class ConceptRow:
    """What the protocol `geometry` says of one arm at one size: by metric the mean over seeds, and its spread."""

    place: str
    """Benchmark and test."""
    num_captions: int
    arm: str
    cells: Mapping[str, tuple[str, str]]


def concept_rows(measurements: Iterable[Mapping[str, Any]]) -> list[ConceptRow]:
    """A row for each test, size and arm, from the measurements of compare.json; other protocols are left out."""
    found: dict[tuple[str, int, str], dict[str, Sequence[float]]] = {}
    for one in measurements:
        if one["protocol"] == "geometry" and one["metric"] in METRICS:
            place = f"{one['benchmark']}: {one['test']}"
            found.setdefault((place, one["num_captions"], one["arm"]), {})[one["metric"]] = one["per_run"]
    return [
        ConceptRow(
            place=place,
            num_captions=num,
            arm=arm,
            cells={metric: _said(metric, values) for metric, values in by_metric.items()},
        )
        for (place, num, arm), by_metric in found.items()
    ]


def metrics_of(rows: Iterable[ConceptRow]) -> list[str]:
    """The metrics that at least one row has, in their order: without styles some have none."""
    there = {metric for row in rows for metric in row.cells}
    return [metric for metric in METRICS if metric in there]


def _said(metric: str, values: Sequence[float]) -> tuple[str, str]:
    is_share = METRICS[metric].endswith("%")
    mean = statistics.fmean(values)
    spread = statistics.stdev(values) if len(set(values)) > 1 else 0.0
    said = f"{100 * mean:.1f}" if is_share else format(mean, _DIGITS.get(metric, ".3g"))
    around = f"{100 * spread:.1f}" if is_share else f"{spread:.2g}"
    return said, f"± {around}" if spread else ""


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
