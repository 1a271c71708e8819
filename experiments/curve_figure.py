"""The figure of a part of claims.py: value against accuracy with its interval, a panel per test, a line per arm."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paper import PAPER
from stablerep.errors import UserError
from stablerep.evaluation.intervals import Interval
from stablerep.report.comparison import COLOURS, draw_lines, draw_panels, dress


@dataclass(frozen=True)
class Axis:
    """What the values of a part are."""

    label: str
    is_logarithmic: bool = False


UNLEARNED = "digits"
"""The benchmark that no caption speaks of, which answers another question than the paper's."""
CAPTIONS = Axis("captions", is_logarithmic=True)
AXES: Mapping[str, Axis] = {
    "images": Axis("pictures per caption", is_logarithmic=True),
    "guidance": Axis("guidance scale"),
    "mix": Axis("share of real pictures"),
    "kept": Axis("pictures kept of each caption"),
    "weights": Axis("weight of a picture"),
    "teachers": Axis("seconds of painting"),
    "headline": Axis("pictures", is_logarithmic=True),
}
"""What tells the points of a part apart; where a part is not here, the number of captions."""


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One score with its interval."""

    panel: str
    line: str
    place: float
    score: Interval


def draw_curves(content: Mapping[str, Any], path: Path) -> None:
    """Write the figure of what a PART.json or compare.json holds as PNG; ``UserError`` where that is no curve."""
    dots = list(dots_of(content))
    if len({dot.place for dot in dots}) < 2:
        raise UserError(
            f"{path}: all scores lie at one value, so there is no curve; give a part with several, or no --figure"
        )
    part = content.get("part", "")
    axis, places = AXES.get(part, CAPTIONS), sorted({dot.place for dot in dots})
    lines = dict.fromkeys(dot.line for dot in dots)
    colours = dict(zip(lines, itertools.cycle(COLOURS), strict=False))  # those of draw_lines

    def draw(axes: Any, panel: str) -> None:
        mine = [dot for dot in dots if dot.panel == panel]
        draw_lines(axes, {line: {dot.place: dot.score for dot in mine if dot.line == line} for line in lines})
        _draw_crossings(axes, mine, content.get("needed", []))
        if panel.endswith("linear") and not panel.startswith(UNLEARNED):
            _draw_paper(axes, part, colours)
        dress(axes, axis.label, logarithmic=places if axis.is_logarithmic else ())

    draw_panels(list(dict.fromkeys(dot.panel for dot in dots)), draw, path)


def dots_of(content: Mapping[str, Any]) -> Iterator[Dot]:
    """The scores of all arms; baselines learn from nothing and have no place."""
    for point in content.get("points", [content]):
        for row in point["rows"]:
            if ":" not in row["arm"]:
                continue
            summary, place = row["summary"], point.get("place")
            yield Dot(
                panel=name_of(summary),
                line=point.get("line", "{arm}").format(arm=row["arm"]),
                place=row["num_captions"] if place is None else place,
                score=Interval.read(summary["mean_per_class"]),
            )


def name_of(summary: Mapping[str, Any]) -> str:
    """The test and the protocol of a score."""
    return f"{summary['benchmark']}: {summary['test']}, {summary['protocol']}"


def _draw_crossings(axes: Any, dots: Sequence[Dot], needed: Sequence[Mapping[str, Any]]) -> None:
    """From what painted pictures reach to the number of real ones that reach it."""
    for one in needed:
        level = [dot.score.value for dot in dots if dot.place == one["painted"] and "painted" in dot.line]
        if dots[0].panel != name_of(one) or one["pictures"] is None or not level:
            continue
        ends = [one["painted"], one["pictures"]]
        style = {"color": "grey", "marker": "|", "label": "as many real pictures reach it"}
        _draw_line(axes, ends, [100 * level[0]] * 2, ":", style)
        axes.annotate(
            f"{one['pictures']:,.0f}", (ends[1], 100 * level[0]), (2, -9), textcoords="offset points", size=7
        )


def _draw_paper(axes: Any, part: str, colours: Mapping[str, str]) -> None:
    """Published numbers in the colours of the arms, hollow and dashed: they are of another data set."""
    found = [one for one in PAPER if one.part == part and one.place is not None]
    for arm in dict.fromkeys(one.arm for one in found):
        mine = [one for one in found if one.arm == arm]
        style = {"marker": "D", "markersize": 4, "markerfacecolor": "none", "linewidth": 0.8}
        said = {"color": colours.get(arm, "grey"), "label": f"the paper, {arm}, ImageNet"}
        _draw_line(axes, [one.place for one in mine], [one.percent for one in mine], "--", style | said)


def _draw_line(
    axes: Any, places: Sequence[Any], percents: Sequence[float], dashes: str, style: Mapping[str, Any]
) -> None:
    """A line without intervals, as error bars all the same: a legend puts plain lines before those of the arms."""
    axes.errorbar(places, percents, fmt=dashes, **style)
