"""A comparison as a figure, accuracy against the number of captions, and what it says of concepts and styles."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from stablerep.evaluation.intervals import Interval
from stablerep.run import write_atomically

COLOURS = ("#2a6f97", "#c1440e", "#4f7d3a", "#7a4f9e", "#a8842c", "#5b5b5b", "#b0577b", "#2f8f8b")
_PANELS_PER_ROW = 3
_LEGENDS_PER_ROW = 2  # for each panel of a row
_BETWEEN_LINES = 4  # points
_POINTS_PER_INCH = 72
_BESIDE_LINES = 0.1  # of the axis: room for the outermost of them
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
    arms = list(dict.fromkeys(point.arm for point in points))
    sizes = sorted({point.num_captions for point in points})

    def draw(axes: Any, panel: str) -> None:
        mine = [point for point in points if point.panel == panel]
        lines: dict[str, dict[float, Interval]] = {
            arm: {point.num_captions: point.score for point in mine if point.arm == arm} for arm in arms
        }
        draw_lines(axes, lines)
        dress(axes, "captions", logarithmic=sizes)

    panels = list(dict.fromkeys(point.panel for point in points))
    return draw_panels(panels, draw, path)


def draw_panels(panels: Sequence[str], draw: Callable[[Any, str], object], path: Path) -> Path:
    """Write a PNG with a panel for each name, filled by ``draw``, and one legend above all."""
    columns = min(_PANELS_PER_ROW, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4 * columns, 3 * rows + 0.7), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    drawn: dict[str, Any] = {}
    for axes, panel in zip(grid.flat, panels, strict=False):
        draw(axes, panel)
        axes.set_title(panel, fontsize=9, loc="left")
        handles, labels = axes.get_legend_handles_labels()
        drawn |= dict(zip(labels, handles, strict=True))
    figure.legend(
        drawn.values(),
        drawn.keys(),
        loc="outside upper center",
        ncols=min(_LEGENDS_PER_ROW * columns, len(drawn)),
        fontsize=8,
        frameon=False,
    )
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150))
    return path


def draw_lines(axes: Any, lines: Mapping[str, Mapping[float, Interval]]) -> None:
    """Lines of scores by their place, with 95 % intervals; side by side, so that no interval hides another."""
    for number, (label, scores) in enumerate(lines.items()):
        places = sorted(scores)
        found = [scores[place] for place in places]
        spread = [
            [100 * max(0.0, score.value - score.low) for score in found],
            [100 * max(0.0, score.high - score.value) for score in found],
        ]
        style = {"marker": "o", "markersize": 4, "linewidth": 1.4, "capsize": 2}
        colour = COLOURS[number % len(COLOURS)]
        drawn = axes.errorbar(
            places, [100 * score.value for score in found], yerr=spread, label=label, color=colour, **style
        )
        aside = _BETWEEN_LINES * (number - (len(lines) - 1) / 2) / _POINTS_PER_INCH
        for part in drawn.get_children():
            part.set_transform(axes.transData + ScaledTranslation(aside, 0, axes.figure.dpi_scale_trans))
    axes.margins(x=_BESIDE_LINES)


def dress(axes: Any, label: str, *, logarithmic: Sequence[float] = ()) -> None:
    """What all panels have in common; ``logarithmic``: the places to name where they are so far apart."""
    if logarithmic:
        axes.set_xscale("log")
        axes.set_xticks(logarithmic, [f"{place:,g}" for place in logarithmic])
        axes.minorticks_off()
    axes.set_xlabel(label, fontsize=8)
    axes.set_ylabel("mean per class, %", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.4)
