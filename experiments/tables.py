"""The tables of docs/results.md, from the raw numbers of comparisons that are kept in experiments/measured/.

    python experiments/tables.py experiments/measured/fashion-matrix.json

Reads what `stablerep compare` wrote (compare.json) or a part of `experiments/claims.py` (PART.json), and prints
Markdown: one table of all tests, then what protocols without classes found, such as `geometry`, and the differences
that the part decides.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stablerep.evaluation.intervals import Interval

Rows = Sequence[Mapping[str, Any]]


def main(paths: Sequence[str]) -> None:
    """Print the tables of every file."""
    if not paths:
        raise SystemExit("give a compare.json or PART.json")
    for path in map(Path, paths):
        content = json.loads(path.read_text(encoding="utf-8"))
        for title, part in _parts(content, path.stem):
            print(
                "\n".join([f"### {title}", "", *_scores(part["rows"]), *_other(part.get("measurements", []))])
            )
        print("\n".join(_differences(content.get("against", []))))


def _parts(content: Mapping[str, Any], name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if "points" not in content:
        yield name, content
        return
    for point in content["points"]:
        yield f"{name}: {point['value']}", point


def _scores(rows: Rows) -> list[str]:
    """A line for each arm and size, a column for each test and protocol; differences are taken to the first arm."""
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
    ahead = summary["ahead"]
    return value if ahead is None else f"{value} ({Interval.read(ahead).in_percent(sign=True)})"


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
    main(sys.argv[1:])
