"""The tables of docs/results.md, from the raw numbers of comparisons that are kept in experiments/measured/.

    python experiments/tables.py experiments/measured/fashion-matrix.json

Reads what `stablerep compare` wrote (compare.json) or a part of `experiments/claims.py` (PART.json), and prints
Markdown: one table of all tests, with how far the first arm is ahead in brackets, then what protocols without classes
found, such as `geometry`, and what the part decides: differences, and how many real pictures equal the painted ones.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mistakes import in_one_sentence
from stablerep.errors import UserError
from stablerep.evaluation.intervals import Interval
from stablerep.run import read_json

Rows = Sequence[Mapping[str, Any]]


def main(paths: Sequence[str]) -> None:
    """Print the tables of every file."""
    if not paths:
        raise UserError("no file is named; give a compare.json or PART.json")
    for path in map(Path, paths):
        print("\n".join(tables(read_json(path), path.stem)))


def tables(content: Mapping[str, Any], name: str) -> list[str]:
    """The lines of Markdown for what a file of this name holds."""
    lines = []
    for title, part in _parts(content, name):
        lines += [f"### {title}", "", *_scores(part["rows"]), *_other(part.get("measurements", []))]
    return [*lines, *_differences(content.get("against", [])), *_needed(content.get("needed", []))]


def _parts(content: Mapping[str, Any], name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if "points" not in content:
        yield name, content
        return
    for point in content["points"]:
        yield f"{name}: {point['value']}", point


def _scores(rows: Rows) -> list[str]:
    """A line for each arm and size, a column for each test and protocol; in brackets how far the first arm is ahead."""
    tests = list(dict.fromkeys(_test(row) for row in rows))
    lines = [
        f"| arm | captions | {' | '.join(tests)} |",
        "|---" * (len(tests) + 2) + "|",
    ]
    found: dict[tuple[str, int], dict[str, str]] = {}
    for row in rows:
        found.setdefault((row["arm"], row["num_captions"]), {})[_test(row)] = _said(row["summary"])
    lines += [
        f"| {arm} | {num:,} | {' | '.join(cells.get(test, '') for test in tests)} |"
        for (arm, num), cells in found.items()
    ]
    return [*lines, ""]


def _test(row: Mapping[str, Any]) -> str:
    return _name(row["summary"])


def _name(summary: Mapping[str, Any]) -> str:
    return f"{summary['benchmark']}: {summary['test']}, {summary['protocol']}"


def _said(summary: Mapping[str, Any]) -> str:
    value = Interval.read(summary["mean_per_class"]).in_percent()
    if summary["ahead"] is None:
        return value
    arm = Interval.read(summary["ahead"])  # the arm minus the first; minus zero would print a sign
    first = Interval(value=0.0 - arm.value, low=0.0 - arm.high, high=0.0 - arm.low)
    return f"{value} ({first.in_percent(sign=True)})"


def _differences(found: Rows) -> list[str]:
    """A line for each pair that is compared, a column for each test and protocol; in points, with interval."""
    if not found:
        return []
    tests = list(dict.fromkeys(_name(one) for one in found))
    cells: dict[str, dict[str, str]] = {}
    for one in found:
        pair = f"{one.get('ours', one.get('painted'))} over {one.get('theirs', one.get('real'))}"
        cells.setdefault(pair, {})[_name(one)] = Interval.read(one["ahead"]).in_percent(sign=True)
    return [
        f"| ahead | {' | '.join(tests)} |",
        "|---" * (len(tests) + 1) + "|",
        *(f"| {pair} | {' | '.join(row.get(test, '') for test in tests)} |" for pair, row in cells.items()),
        "",
    ]


def _needed(found: Rows) -> list[str]:
    """With how many real pictures CLIP is level with StableRep+ on painted ones, test by test."""
    if not found:
        return []
    return [
        "| StableRep+, painted pictures | test | level with CLIP on real pictures |",
        "|---|---|---|",
        *(f"| {one['painted']:,} | {_name(one)} | {one['said']} |" for one in found),
        "",
    ]


def _other(measurements: Rows) -> list[str]:
    """Means over seeds with their standard deviations; no number in percent."""
    if not measurements:
        return []
    metrics = list(dict.fromkeys(one["metric"] for one in measurements))
    found: dict[tuple[str, str], dict[str, str]] = {}
    for one in measurements:
        values = np.array(one["per_run"])
        spread = (
            f" ± {values.std(ddof=1):.2g}"
            if len(values) > 1 and values.std() > 1e-9 * abs(values.mean())
            else ""
        )
        place = (f"{one['arm']}, {one['num_captions']:,}", f"{one['benchmark']}: {one['test']}")
        found.setdefault(place, {})[one["metric"]] = f"{values.mean():.3g}{spread}"
    return [
        f"| arm, captions | test | {' | '.join(metrics)} |",
        "|---" * (len(metrics) + 2) + "|",
        *(
            f"| {arm} | {test} | {' | '.join(cells.get(metric, '') for metric in metrics)} |"
            for (arm, test), cells in found.items()
        ),
        "",
    ]


if __name__ == "__main__":
    with in_one_sentence():
        main(sys.argv[1:])
