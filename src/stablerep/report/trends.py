"""Scores over sizes or over turns: what one section of the page shows of them, a figure and its tables."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stablerep.evaluation.intervals import Interval
from stablerep.evaluation.scores import BASELINES
from stablerep.report.drawing import ResponsiveFigure
from stablerep.report.figures import (
    TrendPanel,
    TrendPoint,
    Whisker,
    baseline_key,
    score_figure,
    series_key,
    trend_figure,
)
from stablerep.report.scores import percent
from stablerep.report.settings import grouped

_TO = "\u2013"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A value with its interval, and the paired difference to what it is compared with."""

    value: str
    interval: str = ""
    difference: str = ""
    difference_interval: str = ""
    is_shown: bool = False
    """Whether the interval of the difference leaves out zero."""


@dataclass(frozen=True, kw_only=True)
class TrendTable:
    """One measure: a row per series, a column per size or turn."""

    title: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, bool, tuple[Cell | None, ...]], ...]
    """Name, whether it was learned here, and one cell per column."""


@dataclass(frozen=True, kw_only=True)
class Trend:
    """What belongs together: one test, or one circle."""

    title: str
    sentence: str
    keys: tuple[tuple[str, str], ...]
    figure: ResponsiveFigure | None
    tables: tuple[TrendTable, ...]
    is_beside: bool = False
    """Whether the figure stands beside its one table, and not above several."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One score in a table of sizes."""

    panel: str
    series: str
    size: int
    score: Interval
    ahead: Interval | None = None


def size_trend(title: str, sentence: str, scores: Sequence[Score], identity: str) -> Trend:
    """Scores against the number of captions: a panel and a table per protocol, a line per series.

    Where all have the same number, one table and a row of the figure per series.
    """
    if len({score.size for score in scores}) == 1:
        return _one_size(title, sentence, scores, identity)
    panels = list(dict.fromkeys(score.panel for score in scores))
    numbered = number_series([score.series for score in scores])
    drawn = [
        TrendPanel(
            title=f"{panel}, %",
            points=tuple(_point(score) for score in scores if score.panel == panel),
        )
        for panel in panels
    ]
    return Trend(
        title=title,
        sentence=sentence,
        keys=series_keys(numbered, identity),
        figure=trend_figure(drawn, numbered, "captions learned from", identity),
        tables=tuple(
            _table(panel, [score for score in scores if score.panel == panel], numbered) for panel in panels
        ),
    )


def _one_size(title: str, sentence: str, scores: Sequence[Score], identity: str) -> Trend:
    panels = list(dict.fromkeys(score.panel for score in scores))
    cells = {(score.series, score.panel): interval_cell(score.score, score.ahead) for score in scores}
    table = TrendTable(
        title=f"from {grouped(scores[0].size)} captions",
        corner="encoder",
        columns=tuple(panels),
        rows=tuple(
            (name, number is not None, tuple(cells.get((name, panel)) for panel in panels))
            for name, number in number_series([score.series for score in scores]).items()
        ),
    )
    whiskers = [
        Whisker(
            row=one.series, series=panels.index(one.panel), value=point.value, low=point.low, high=point.high
        )
        for one in scores
        for point in [_point(one)]
    ]
    return Trend(
        title=title,
        sentence=sentence,
        keys=tuple((series_key(identity, n, marker=True), name) for n, name in enumerate(panels)),
        figure=score_figure(whiskers, None, identity),
        tables=(table,),
        is_beside=True,
    )


def number_series(names: Sequence[str]) -> dict[str, int | None]:
    """Series in their order, those that were learned numbered from 0."""
    distinct = list(dict.fromkeys(names))
    learned = [name for name in distinct if name not in BASELINES]
    return {name: learned.index(name) if name in learned else None for name in distinct}


def series_keys(numbered: Mapping[str, int | None], identity: str) -> tuple[tuple[str, str], ...]:
    """Sample of line and marker, name."""
    learned = [(series_key(identity, n, marker=True), name) for name, n in numbered.items() if n is not None]
    others = [name for name, number in numbered.items() if number is None]
    return (*learned, *([(baseline_key(identity), ", ".join(others))] if others else []))


def interval_cell(score: Interval, ahead: Interval | None = None) -> Cell:
    """Per cent, to one digit."""
    cell = Cell(value=percent(score.value), interval=f"{percent(score.low)} {_TO} {percent(score.high)}")
    if ahead is None:
        return cell
    return dataclasses.replace(
        cell,
        difference=_signed(ahead.value),
        difference_interval=f"({_signed(ahead.low)} to {_signed(ahead.high)})",
        is_shown=ahead.low > 0 or ahead.high < 0,
    )


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "\u2212")


def _point(score: Score) -> TrendPoint:
    found = score.score
    return TrendPoint(
        series=score.series, x=score.size, value=100 * found.value, low=100 * found.low, high=100 * found.high
    )


def _table(panel: str, scores: Sequence[Score], numbered: Mapping[str, int | None]) -> TrendTable:
    sizes = sorted({score.size for score in scores})
    cells = {(score.series, score.size): interval_cell(score.score, score.ahead) for score in scores}
    return TrendTable(
        title=panel,
        corner="captions",
        columns=tuple(grouped(size) for size in sizes),
        rows=tuple(
            (name, number is not None, tuple(cells.get((name, size)) for size in sizes))
            for name, number in numbered.items()
            if any((name, size) in cells for size in sizes)
        ),
    )
