"""The tables of docs/results.md, from the raw numbers of comparisons that are kept in experiments/measured/.

    python experiments/tables.py experiments/measured/fashion-matrix.json

Reads what `stablerep compare` wrote (compare.json) or a part of `experiments/claims.py` (PART.json), and prints
Markdown: one table of all values, arms and tests, with how far the first arm is ahead in brackets; what protocols
without classes found, such as `geometry`; what is published; and what the part decides: differences, and how many real
pictures equal the painted ones. ``--figure FILE`` draws the scores of one file against its values.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from curve_figure import AXES, draw_curves, name_of
from mistakes import in_one_sentence
from paper import PAPER
from stablerep.console import duration
from stablerep.errors import UserError
from stablerep.evaluation.intervals import Interval
from stablerep.run import read_json

Rows = Sequence[Mapping[str, Any]]


def main(paths: tyro.conf.Positional[tuple[Path, ...]] = (), figure: Path | None = None) -> None:
    """Print the tables of every file."""
    if not paths:
        raise UserError("no file is named; give a compare.json or PART.json")
    if figure is not None and len(paths) > 1:
        raise UserError(f"--figure {figure} would show {len(paths)} files; give one file")
    for path in paths:
        content = read_json(path)
        if not all("rows" in point for point in content.get("points", [content])):
            raise UserError(f"{path} holds no scores of a comparison; give a compare.json or PART.json")
        print("\n".join(tables(content, path.stem)))
        if figure is not None:
            draw_curves(content, figure)


def tables(content: Mapping[str, Any], name: str) -> list[str]:
    """The lines of Markdown for what a file of this name holds."""
    part, lines = content.get("part", ""), []
    for title, points in _tables_of(content, name):
        lines += [f"### {title}", "", *_scores(points, part), *_other(points, part)]
    lines += [*_published(part), *_differences(content.get("against", []))]
    return [*lines, *_needed(content.get("needed", [])), *_time(content.get("seconds", {}))]


def _tables_of(content: Mapping[str, Any], name: str) -> list[tuple[str, Rows]]:
    """Points that share a table, under its title: those of a curve do."""
    if "points" not in content or content["part"] in AXES:
        return [(name, content.get("points", [content]))]
    return [(f"{name}: {point['value']}", [point]) for point in content["points"]]


def _scores(points: Rows, part: str) -> list[str]:
    """A line for each value, arm and size, a column for each test; in brackets how far the first arm is ahead.

    Of a curve the baselines, which are the same at every value, come once and last.
    """
    tests = list(dict.fromkeys(name_of(row["summary"]) for point in points for row in point["rows"]))
    found: dict[tuple[str, ...], dict[str, str]] = {}
    baselines: dict[tuple[str, ...], dict[str, str]] = {}
    for point in points:
        for row in point["rows"]:
            arm, summary = row["arm"], row["summary"]
            if _is_baseline(arm) and part in AXES:
                key = (*_values(point, part, arm), arm, "")
                baselines.setdefault(key, {})[name_of(summary)] = _score(summary)
            else:
                key = (*_values(point, part, arm), arm, f"{row['num_captions']:,}")
                found.setdefault(key, {})[name_of(summary)] = _said(summary)
    return _table((*_value_columns(part), "arm", "captions"), tests, found | baselines)


def _table(
    first: Sequence[str], others: Sequence[str], found: Mapping[tuple[str, ...], Mapping[str, str]]
) -> list[str]:
    """A line for each key, whose words come first, and a column for each of the others; nothing without a key."""
    if not found:
        return []
    lines = [
        (*first, *others),
        *((*key, *(row.get(name, "") for name in others)) for key, row in found.items()),
    ]
    header, *shown = (f"| {' | '.join(line)} |" for line in lines)
    return [header, "|---" * len(lines[0]) + "|", *shown, ""]


def _value_columns(part: str) -> tuple[str, ...]:
    """What tells the points of a curve apart."""
    if part not in AXES:
        return ()
    return ("teacher", AXES[part].label) if part == "teachers" else (AXES[part].label,)


def _values(point: Mapping[str, Any], part: str, arm: str) -> tuple[str, ...]:
    """Cells of an arm at a point under ``_value_columns``; a baseline has no value."""
    columns = _value_columns(part)
    cells = (str(point.get("value", "")), f"{point.get('place') or 0:,.0f}")
    return ("",) * len(columns) if _is_baseline(arm) else cells[: len(columns)]


def _is_baseline(arm: str) -> bool:
    """Arms are METHOD:SOURCE, baselines have a name."""
    return ":" not in arm


def _published(part: str) -> list[str]:
    """What is known of the paper's own answer."""
    found = [(one.value, one.arm, f"{one.percent}", one.source) for one in PAPER if one.part == part]
    return _table(
        ("the paper", "arm", "ImageNet, linear probe unless said, %", "source"),
        (),
        {line: {} for line in found},
    )


def _score(summary: Mapping[str, Any]) -> str:
    return Interval.read(summary["mean_per_class"]).in_percent()


def _said(summary: Mapping[str, Any]) -> str:
    if summary["ahead"] is None:
        return _score(summary)
    arm = Interval.read(summary["ahead"])  # the arm minus the first; minus zero would print a sign
    first = Interval(value=0.0 - arm.value, low=0.0 - arm.high, high=0.0 - arm.low)
    return f"{_score(summary)} ({first.in_percent(sign=True)})"


def _differences(found: Rows) -> list[str]:
    """A line for each pair that is compared, a column for each test and protocol; in points, with interval."""
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for one in found:
        pair = f"{one.get('ours', one.get('painted'))} over {one.get('theirs', one.get('real'))}"
        cells.setdefault((pair,), {})[name_of(one)] = Interval.read(one["ahead"]).in_percent(sign=True)
    return _table(("ahead",), list(dict.fromkeys(map(name_of, found))), cells)


def _needed(found: Rows) -> list[str]:
    """With how many real pictures CLIP is level with StableRep+ on painted ones, test by test."""
    level = "level with CLIP on real pictures"
    cells: dict[tuple[str, ...], dict[str, str]] = {
        (f"{one['painted']:,}", name_of(one)): {level: one["said"]} for one in found
    }
    return _table(("StableRep+, painted pictures", "test"), (level,), cells)


def _other(points: Rows, part: str) -> list[str]:
    """Means over seeds with their standard deviations; no number in percent."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for point in points:
        for one in point.get("measurements", []):
            values = np.array(one["per_run"])
            spread = (
                f" ± {values.std(ddof=1):.2g}"
                if len(values) > 1 and values.std() > 1e-9 * abs(values.mean())
                else ""
            )
            place = (f"{one['arm']}, {one['num_captions']:,}", f"{one['benchmark']}: {one['test']}")
            key = (*_values(point, part, one["arm"]), *place)
            found.setdefault(key, {})[one["metric"]] = f"{values.mean():.3g}{spread}"
    metrics = list(dict.fromkeys(metric for row in found.values() for metric in row))
    return _table((*_value_columns(part), "arm, captions", "test"), metrics, found)


def _time(seconds: Mapping[str, float]) -> list[str]:
    """What was spent, in all and on each kind of step; nothing of a file that does not say."""
    if not seconds:
        return []
    steps = ", ".join(f"{step} {duration(spent)}" for step, spent in seconds.items())
    return [f"Total time: {duration(sum(seconds.values()))} ({steps}).", ""]


if __name__ == "__main__":
    with in_one_sentence():
        tyro.cli(main, description=__doc__)
