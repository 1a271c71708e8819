"""The figures of the report: trainings, scores, trends and histograms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from stablerep.report.drawing import (
    INK,
    MUTED,
    NARROW,
    SERIES,
    WIDE,
    ResponsiveFigure,
    key_sample,
    responsive,
)

_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2.5), (1.5, 2), (7, 2, 1.5, 2), (3, 3), (9, 3))
_MARKERS = ("o", "D", "s", "^", "v", "P")
_MOST_POINTS = 160
MOST_TOLD_APART = len(SERIES)
"""Curves in one figure that have a colour of their own; more are drawn alike."""
_CHANCE_LINE: dict[str, Any] = {"color": MUTED, "linewidth": 1, "linestyle": (0, (2, 2))}
_BASELINE: dict[str, Any] = {"color": MUTED, "marker": "x", "markersize": 5, "linewidth": 1.2}
_BASELINE["linestyle"] = (0, (4, 2))


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What a run logged: loss and learning rate against pictures seen."""

    name: str
    images_seen: Sequence[float]
    loss: Sequence[float]
    learning_rate: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Whisker:
    """One score with its interval, all in per cent; ``series`` counts the protocols from 0."""

    row: str
    series: int
    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The values of one measure, of pictures that were found fine and of those that were rejected."""

    name: str
    fine: np.ndarray
    rejected: np.ndarray


@dataclass(frozen=True, kw_only=True)
class TrendPoint:
    """One value of one series with its interval, where it has one."""

    series: str
    x: float
    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class TrendPanel:
    """What is drawn in one frame, every series as a line over x."""

    title: str
    points: tuple[TrendPoint, ...]


def training_figure(curves: Sequence[Curve], name: str) -> ResponsiveFigure:
    """Loss above, learning rate below, against pictures seen; ``name`` keeps the figure's ids apart from others."""
    described = f"Training curves of {', '.join(curve.name for curve in curves)}: loss and learning rate."
    return responsive(name, described, lambda width: _draw_training(curves, width))


def score_figure(whiskers: Sequence[Whisker], chance: float | None, name: str) -> ResponsiveFigure:
    """A dot with its interval per row and protocol; rows keep the order given, chance is a dashed line where known."""
    rows = list(dict.fromkeys(whisker.row for whisker in whiskers))
    described = f"Scores with 95 % intervals of {', '.join(rows)}; the table holds the same numbers."
    return responsive(name, described, lambda width: _draw_scores(whiskers, rows, chance, width))


def trend_figure(
    panels: Sequence[TrendPanel], series: Mapping[str, int | None], x_label: str, name: str
) -> ResponsiveFigure:
    """A line with intervals per series in every panel; ``series`` counts those that were learned, None is a baseline.

    Panels share x, which is logarithmic where its values span more than a factor of three.
    """
    described = (
        f"{', '.join(panel.title for panel in panels)} against {x_label}, of {', '.join(series)}; "
        "the tables hold the same numbers."
    )
    return responsive(name, described, lambda width: _draw_trends(panels, series, x_label, width))


def histogram_figure(panels: Sequence[Panel], name: str) -> ResponsiveFigure:
    """One histogram per measure, the rejected pictures on top of the others; values beyond the outermost 0.5 % of all
    pictures are counted at the ends."""
    described = (
        f"Histograms of {', '.join(panel.name for panel in panels)} over the pictures, kept and rejected."
    )
    return responsive(name, described, lambda width: _draw_histograms(panels, width))


def series_key(figure: str, index: int, *, marker: bool = False) -> str:
    """The small sample of line or marker that the legend of a figure shows beside a name."""
    name = f"{figure}-key-{index}"
    if not marker:
        return key_sample(name, lambda axes: axes.plot([1, 25], [5, 5], **_line(index)))

    def draw(axes: Any) -> None:
        axes.plot([2, 24], [5, 5], color=_series_colour(index), linewidth=1.4)
        axes.plot([13], [5], **_marker(index))

    return key_sample(name, draw)


def baseline_key(figure: str) -> str:
    """The sample of the line of a baseline in a trend."""
    return key_sample(
        f"{figure}-key-baseline", lambda axes: axes.plot([1, 25], [5, 5], **_BASELINE | {"marker": ""})
    )


def chance_key(figure: str) -> str:
    """The sample of the line that marks chance in a score figure."""
    return key_sample(f"{figure}-key-chance", lambda axes: axes.plot([13, 13], [0, 10], **_CHANCE_LINE))


def _draw_training(curves: Sequence[Curve], width: int) -> Figure:
    figure = Figure(figsize=(width / 72, 300 / 72), layout="constrained")
    loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for number, curve in enumerate(curves):
        index = number if len(curves) <= MOST_TOLD_APART else 0
        seen, middle, low, high = _binned(curve.images_seen, curve.loss)
        if not np.array_equal(low, high):
            loss.fill_between(seen, low, high, color=_series_colour(index), alpha=0.18, linewidth=0)
        loss.plot(seen, middle, **_line(index))
        seen, middle, _, _ = _binned(curve.images_seen, curve.learning_rate)
        rate.plot(seen, middle, **_line(index) | {"linewidth": 1.4})
    loss.set_title("loss", color=MUTED)
    rate.set_title("learning rate", color=MUTED)
    rate.set_xlabel("pictures seen")
    rate.set(xlim=(0, None), ylim=(0, None))
    rate.xaxis.set_major_formatter(lambda value, _: _thousands(value))
    rate.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    rate.locator_params(axis="y", nbins=2)
    rate.locator_params(axis="x", nbins=8 if width == WIDE else 4)
    for axes in (loss, rate):
        axes.grid(axis="y", linewidth=0.8)
        axes.set_axisbelow(True)
    return figure


def _draw_scores(
    whiskers: Sequence[Whisker], rows: Sequence[str], chance: float | None, width: int
) -> Figure:
    above = width == NARROW  # a narrow plot has no room for names beside it
    pitch = 46 if above else 36
    figure = Figure(figsize=(width / 72, (len(rows) * pitch + 56) / 72), layout="constrained")
    axes = figure.subplots()
    limit = _upper_limit(whiskers)
    num_series = 1 + max(whisker.series for whisker in whiskers)
    for whisker in whiskers:
        offset = (whisker.series - (num_series - 1) / 2) * 0.26
        y = rows.index(whisker.row) + offset + (0.12 if above else 0)
        axes.plot([whisker.low, whisker.high], [y, y], color=_series_colour(whisker.series), linewidth=1.4)
        axes.plot([whisker.value], [y], **_marker(whisker.series))
    if chance is not None:
        axes.axvline(chance, **_CHANCE_LINE)
    axes.set(ylim=(len(rows) - 0.5, -0.8), xlim=(0, limit))
    axes.set_xlabel("per cent correct, mean over classes")
    if above:
        _name_above(axes, rows, chance if chance is not None and chance < 0.25 * limit else 0.0)
    else:
        axes.set_yticks(range(len(rows)), rows)
        axes.tick_params(axis="y", labelcolor=INK, pad=8)
    axes.grid(axis="x", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure


def _panels(num: int, most_columns: int, size: tuple[int, int]) -> tuple[Figure, Any]:
    """A figure of so many panels, and their axes; ``size`` is the width of all and the height of one, in points."""
    columns = min(num, most_columns)
    num_rows = -(-num // columns)
    width, height = size
    figure = Figure(figsize=(width / 72, (num_rows * height + 12) / 72), layout="constrained")
    grid = figure.subplots(num_rows, columns, squeeze=False)
    for axes in grid.flat[num:]:
        axes.set_axis_off()
    return figure, grid


def _draw_trends(
    panels: Sequence[TrendPanel], series: Mapping[str, int | None], x_label: str, width: int
) -> Figure:
    figure, grid = _panels(len(panels), 2 if width == WIDE else 1, (width, 200))
    for axes, panel in zip(grid.flat, panels, strict=False):
        places = sorted({point.x for point in panel.points})
        is_log = places[0] > 0 and places[-1] > 3 * places[0]
        for number, (name, index) in enumerate(series.items()):
            mine = sorted((p for p in panel.points if p.series == name), key=lambda point: point.x)
            shift = (number - (len(series) - 1) / 2) * 0.012  # so that no interval hides another
            _draw_trend(axes, mine, index, 1 + shift if is_log else 1.0)
        axes.set_xscale("log" if is_log else "linear")
        axes.set_xticks(places, [_thousands(x) for x in places])
        axes.minorticks_off()
        axes.margins(x=0.08)
        axes.locator_params(axis="y", nbins=5)
        axes.set_title(panel.title, color=MUTED)
        axes.grid(axis="y", linewidth=0.8)
        axes.set_axisbelow(True)
    for axes in grid[-1]:
        axes.set_xlabel(x_label)
    return figure


def _draw_trend(axes: Any, points: Sequence[TrendPoint], index: int | None, stretch: float) -> None:
    style = _BASELINE if index is None else {**_marker(index), "linestyle": "-", "linewidth": 1.6}
    axes.plot([point.x * stretch for point in points], [point.value for point in points], **style)
    for point in points:
        if point.high > point.low:
            x = point.x * stretch
            axes.plot([x, x], [point.low, point.high], color=style["color"], linewidth=1.2, alpha=0.7)


def _draw_histograms(panels: Sequence[Panel], width: int) -> Figure:
    figure, grid = _panels(len(panels), 3 if width == WIDE else 2, (width, 118))
    for axes, panel in zip(grid.flat, panels, strict=False):
        values = np.concatenate([panel.fine, panel.rejected])
        low, high = np.quantile(values, [0.005, 0.995])
        edges = np.linspace(low, high if high > low else low + 1, 25)
        parts = [np.clip(part, edges[0], edges[-1]) for part in (panel.fine, panel.rejected)]
        # Outlines: as bars, each of 24 would be a shape of its own.
        axes.hist(
            parts, edges, stacked=True, histtype="stepfilled", color=[_series_colour(0), _series_colour(1)]
        )
        axes.set_title(panel.name, color=MUTED)
        axes.set_yticks([])
        axes.locator_params(axis="x", nbins=4)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    return figure


def _name_above(axes: Any, rows: Sequence[str], start: float) -> None:
    """Names over their whiskers, right of ``start`` so that the line of chance does not cross them."""
    axes.set_yticks([])
    for index, row in enumerate(rows):
        axes.annotate(
            row,
            (start, index - 0.22),
            (4, 0),
            textcoords="offset points",
            color=INK,
            va="bottom",
            annotation_clip=False,
        )


def _upper_limit(whiskers: Sequence[Whisker]) -> float:
    return float(min(100, np.ceil(max(whisker.high for whisker in whiskers) / 5 + 0.5) * 5))


def _binned(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean position, mean, lowest and highest value of at most ``_MOST_POINTS`` runs of neighbouring records."""
    parts = np.array_split(np.arange(len(x)), min(len(x), _MOST_POINTS))
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    return (
        np.array([xs[part].mean() for part in parts]),
        np.array([ys[part].mean() for part in parts]),
        np.array([ys[part].min() for part in parts]),
        np.array([ys[part].max() for part in parts]),
    )


def _series_colour(index: int) -> str:
    return SERIES[index % len(SERIES)]


def _line(index: int) -> dict[str, Any]:
    dashes = _DASHES[index % len(_DASHES)]
    return {"color": _series_colour(index), "linestyle": (0, dashes) if dashes else "-", "linewidth": 1.8}


def _marker(index: int) -> dict[str, Any]:
    return {
        "color": _series_colour(index),
        "marker": _MARKERS[index % len(_MARKERS)],
        "markersize": 7 if index == 0 else 6,
        "linestyle": "",
        "clip_on": False,
    }


def _thousands(value: float) -> str:
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
