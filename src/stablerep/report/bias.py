"""What audit bias found, attribute by attribute: shares beside captions and target, distances and amplification."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from stablerep.errors import UserError
from stablerep.report.drawing import (
    INK,
    MUTED,
    SERIES,
    WIDE,
    ResponsiveFigure,
    key_sample,
    responsive,
)
from stablerep.report.scores import in_percent, percent
from stablerep.report.settings import grouped
from stablerep.report.trends import Cell, Trend, TrendTable
from stablerep.run import read_json

_TO = "\u2013"
_MINUS = "\u2212"
_MOST_LETTERS = 18
_CAPTIONS = {"color": SERIES[1], "marker": "D", "markersize": 5, "linestyle": ""}
_PICTURES = {"color": SERIES[0], "marker": "o", "markersize": 7, "linestyle": ""}
_TARGET = {"color": INK, "linewidth": 1.4}


@dataclass(frozen=True, kw_only=True)
class ShareRow:
    """One value of an attribute, in per cent: its share in the pictures with its interval, wanted, and in captions."""

    value: str
    share: float
    low: float
    high: float
    target: float | None
    captions: float | None


@dataclass(frozen=True, kw_only=True)
class SharePanel:
    """The values of one group of captions."""

    title: str
    rows: tuple[ShareRow, ...]


def read_shares(path: Path, identity: str) -> tuple[tuple[Trend, ...], frozenset[str]]:
    """A part for each attribute of a bias.json, and the names of the facts of audit.json that they hold.

    ``identity`` keeps the ids of figures apart from others. Raises ``UserError`` where the file holds something else.
    """
    stored = read_json(path)
    try:
        parts = tuple(_attribute(name, found, f"{identity}-{name}") for name, found in stored.items())
        facts = {
            f"{name} of {group}"
            for name, found in stored.items()
            for group in (*found["groups"], *found.get("groups without pictures", ()))
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} does not hold what audit bias found ({error!r}); run the audit again"
        ) from error
    unread = {name for name, found in stored.items() if found["unread"] is not None}
    return parts, frozenset(facts | unread)


def share_figure(panels: Sequence[SharePanel], name: str) -> ResponsiveFigure:
    """A panel for each group: a dot with its interval for each value, a diamond for captions, a line for the target."""
    described = (
        f"Shares of {', '.join(row.value for row in panels[0].rows)} in the pictures of "
        f"{', '.join(panel.title for panel in panels)}, with 95 % intervals; the tables hold the same numbers."
    )
    return responsive(name, described, lambda width: _draw(panels, width))


def _attribute(name: str, found: Mapping[str, Any], identity: str) -> Trend:
    groups = found["groups"]
    panels = [SharePanel(title=group, rows=_rows(one)) for group, one in groups.items()]
    return Trend(
        title=name,
        sentence=_sentence(found),
        keys=_keys(panels, identity),
        figure=share_figure(panels, identity) if panels else None,
        tables=tuple(_table(group, one) for group, one in groups.items())
        + ((_summary(groups),) if groups else ()),
    )


def _sentence(found: Mapping[str, Any]) -> str:
    """How good the reader is, and what it could not read."""
    if found["unread"] is not None:
        return f"Not read: {found['unread']}."
    reader = found["reader"]
    empty = found.get("groups without pictures")
    missing = f" No picture was painted for a caption of {', '.join(empty)}." if empty else ""
    return (
        f"The reader answered {in_percent(reader['answered'])} of {grouped(reader['test pictures'])} real test "
        f"pictures, {in_percent(reader['accuracy of answers'])} of them rightly (asked: "
        f"{in_percent(reader['accuracy wanted'])}; worst value: {in_percent(reader['worst value'])}). Shares are "
        f"corrected for its errors.{missing}"
    )


def _rows(group: Mapping[str, Any]) -> tuple[ShareRow, ...]:
    def of(shares: Mapping[str, float] | None, value: str) -> float | None:
        return None if shares is None else 100 * shares[value]

    return tuple(
        ShareRow(
            value=value,
            share=100 * one["value"],
            low=100 * one["low"],
            high=100 * one["high"],
            target=of(group["target"], value),
            captions=of(group["captions"], value),
        )
        for value, one in group["shares"].items()
    )


def _table(name: str, group: Mapping[str, Any]) -> TrendTable:
    def cells(shares: Mapping[str, float] | None, value: str) -> Cell | None:
        return None if shares is None else Cell(value=percent(shares[value]))

    return TrendTable(
        title=f"{name}, % of {grouped(group['pictures'])} pictures ({in_percent(group['abstained'])} left open)",
        corner="value",
        columns=("pictures", "target", "captions"),
        rows=tuple(
            (value, False, (_interval(share), cells(group["target"], value), cells(group["captions"], value)))
            for value, share in group["shares"].items()
        ),
    )


def _summary(groups: Mapping[str, Mapping[str, Any]]) -> TrendTable:
    steps = ("captions to pictures", "pictures to answers")
    return TrendTable(
        title="points apart, and amplification: points that the leading value gains",
        corner="group",
        columns=("from the target", "by chance up to", *steps),
        rows=tuple(
            (
                name,
                False,
                (
                    _interval(group["total variation"]),
                    _interval(group.get("total variation by chance")),
                    *(_interval(group["amplification"].get(step), is_signed=True) for step in steps),
                ),
            )
            for name, group in groups.items()
        ),
    )


def _interval(found: Mapping[str, float] | float | None, *, is_signed: bool = False) -> Cell | None:
    """A share in per cent with its interval, which files of earlier versions may lack."""
    if found is None:
        return None
    text = _signed if is_signed else percent
    if not isinstance(found, Mapping):
        return Cell(value=text(found))
    return Cell(value=text(found["value"]), interval=f"{text(found['low'])} {_TO} {text(found['high'])}")


def _signed(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f}".replace("-", _MINUS)  # a zero has no minus


def _keys(panels: Sequence[SharePanel], identity: str) -> tuple[tuple[str, str], ...]:
    """Sample of the marker, what it stands for; of what some panel shows."""
    rows = [row for panel in panels for row in panel.rows]
    samples = {
        "pictures": (
            bool(rows),
            [((2, 24), (5, 5), {"color": SERIES[0], "linewidth": 1.4}), ((13,), (5,), _PICTURES)],
        ),
        "captions": (any(row.captions is not None for row in rows), [((13,), (5,), _CAPTIONS)]),
        "target": (any(row.target is not None for row in rows), [((13, 13), (0, 10), _TARGET)]),
    }

    def sample(name: str, lines: Any) -> str:
        return key_sample(
            f"{identity}-key-{name}", lambda axes: [axes.plot(x, y, **how) for x, y, how in lines]
        )

    return tuple((sample(name, lines), name) for name, (is_there, lines) in samples.items() if is_there)


def _draw(panels: Sequence[SharePanel], width: int) -> Figure:
    columns = min(len(panels), 2 if width == WIDE else 1)
    num_rows = -(-len(panels) // columns)
    height = num_rows * (34 + 26 * len(panels[0].rows)) + 24
    figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
    grid = figure.subplots(num_rows, columns, squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw_panel(axes, panel)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes in grid[-1]:
        axes.set_xlabel("per cent")
    return figure


def _draw_panel(axes: Any, panel: SharePanel) -> None:
    for y, row in enumerate(panel.rows):
        if row.target is not None:
            axes.plot([row.target, row.target], [y - 0.38, y + 0.38], **_TARGET)
        axes.plot([row.low, row.high], [y - 0.1, y - 0.1], color=SERIES[0], linewidth=1.4)
        axes.plot([row.share], [y - 0.1], **_PICTURES, clip_on=False)
        if row.captions is not None:
            axes.plot([row.captions], [y + 0.22], **_CAPTIONS, clip_on=False)
    axes.set(xlim=(0, 100), ylim=(len(panel.rows) - 0.5, -0.5))
    axes.set_yticks(range(len(panel.rows)), [_short(row.value) for row in panel.rows])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_title(panel.title, color=MUTED)
    axes.grid(axis="x", linewidth=0.8)
    axes.set_axisbelow(True)


def _short(name: str) -> str:
    return name if len(name) <= _MOST_LETTERS else name[: _MOST_LETTERS - 1] + "\u2026"
