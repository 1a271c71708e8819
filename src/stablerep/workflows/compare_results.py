"""What a comparison found: rows by arm, size, test and protocol, put together from the score tables of its seeds."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.evaluation.scores import Scores, Summary, summarise
from stablerep.report.comparison import METRICS, Point, concept_rows, metrics_of

_CONCEPTS = (
    "Concept, not pixels: effective rank, alignment and uniformity of features; ratio of the variance between concepts "
    "to that between styles of one concept; pictures whose nearest neighbour shows the same concept, and is of the "
    "same style. Means over seeds."
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One arm, or one baseline, at one number of captions in one test under one protocol, over all seeds."""

    arm: str
    num_captions: int
    summary: Summary

    @property
    def test(self) -> tuple[str, str, str]:
        """Benchmark, test and protocol."""
        return self.summary.benchmark, self.summary.test, self.summary.protocol

    @property
    def point(self) -> Point:
        """How the row is drawn."""
        benchmark, test, protocol = self.test
        return Point(
            panel=f"{benchmark}: {test}, {protocol}",
            arm=self.arm,
            num_captions=self.num_captions,
            score=self.summary.mean_per_class,
        )


@dataclass(frozen=True, kw_only=True)
class MetricRow:
    """One metric of a protocol that names no classes, of one arm or baseline at one size, seed by seed."""

    arm: str
    num_captions: int
    benchmark: str
    test: str
    protocol: str
    metric: str
    per_run: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a comparison found; ``compare.json`` holds the same."""

    path: Path
    figure: Path
    views_per_step: Mapping[str, float]
    """Pictures that count in a step: arm and number of captions -> their number, repetitions left out."""
    searched: Mapping[str, Mapping[str, float | None]]
    """Arm and number of captions -> learning rate -> accuracy of a linear probe on the world's validation pictures,
    None where the loss did not stay finite; empty where none was searched."""
    learning_rates: Mapping[str, float]
    """Arm and number of captions -> the best of these."""
    rows_found: tuple[Row, ...]
    metrics_found: tuple[MetricRow, ...] = ()
    """What protocols that name no classes found, such as `geometry`."""

    HEADER: ClassVar[tuple[str, ...]] = ("test", "arm", "captions", "per class, %", "against first")

    def rows(self) -> list[list[str]]:
        """The rows as text under ``HEADER``."""
        ordered = sorted(self.rows_found, key=lambda row: row.test)
        return [
            [
                " ".join(row.test),
                row.arm,
                str(row.num_captions),
                row.summary.mean_per_class.in_percent(),
                "" if row.summary.ahead is None else row.summary.ahead.in_percent(sign=True),
            ]
            for row in ordered
        ]

    def show(self, console: Console) -> None:
        """The table of accuracies; below it, where it was measured, how concepts and styles lie in the features."""
        console.table("", self.HEADER, self.rows())
        header, rows = self.concepts()
        if rows:
            console.lines("\n")
            console.table(_CONCEPTS, header, rows)

    def concepts(self) -> tuple[tuple[str, ...], list[list[str]]]:
        """Header and rows of text of what `geometry` found; no rows where it was not measured."""
        found = concept_rows(self.to_json()["measurements"])
        metrics = metrics_of(found)
        rows = [
            [
                f"{row.place}, {row.num_captions} captions",
                row.arm,
                *(row.cells.get(metric, ("", ""))[0] for metric in metrics),
            ]
            for row in sorted(found, key=lambda row: row.place)
        ]
        return ("test", "arm", *(METRICS[metric] for metric in metrics)), rows

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "figure": str(self.figure),
            "views_per_step": dict(self.views_per_step),
            "searched": {run: dict(reached) for run, reached in self.searched.items()},
            "learning_rates": dict(self.learning_rates),
            "rows": [dataclasses.asdict(row) for row in self.rows_found],
            "measurements": [dataclasses.asdict(one) for one in self.metrics_found],
        }


def prefix_of(arm: str, num_captions: int) -> str:
    """How the names of an arm's runs at one size begin."""
    return f"{arm.replace(':', '-')}-{num_captions}-seed-"


def rows_of(arms: Sequence[str], num: int, scores: Sequence[Scores]) -> list[Row]:
    """The arms, then the baselines, each over all seeds, with the paired difference to the first arm.

    What no protocol that names classes measured has no row; where only the first arm lacks a protocol, no difference.
    """
    first = _over_seeds(scores, prefix_of(arms[0], num))
    rows = []
    for arm in arms:
        mine = _over_seeds(scores, prefix_of(arm, num))
        summaries = summarise(mine, against=[] if arm == arms[0] else first) if mine else []
        rows += [Row(arm=arm, num_captions=num, summary=summary) for summary in summaries]
    for baseline in dict.fromkeys(
        record.encoder for record in scores[0].records if record.kind == "baseline"
    ):
        mine = [seen_as(scores[0], baseline)]
        rows += [
            Row(arm=baseline, num_captions=num, summary=summary) for summary in summarise(mine, against=first)
        ]
    return rows


def metric_rows_of(arms: Sequence[str], num: int, scores: Sequence[Scores]) -> list[MetricRow]:
    """The metrics of all arms, then of the baselines, with one value per seed."""
    prefixes = {prefix_of(arm, num): arm for arm in arms}
    values: dict[tuple[str, str, str, str, str], list[float]] = {}
    for one in scores:
        for found in one.measurements:
            arm = next(
                (arm for prefix, arm in prefixes.items() if found.encoder.startswith(prefix)), found.encoder
            )
            for metric, value in found.metrics.items():
                key = (arm, found.benchmark, found.test, found.protocol, metric)
                values.setdefault(key, []).append(value.value)
    return [
        MetricRow(
            arm=arm,
            num_captions=num,
            benchmark=benchmark,
            test=test,
            protocol=protocol,
            metric=metric,
            per_run=tuple(per_run),
        )
        for (arm, benchmark, test, protocol, metric), per_run in values.items()
    ]


def _over_seeds(scores: Sequence[Scores], prefix: str) -> list[Scores]:
    """Every table as that of the run whose name begins so; none where no table has records of it."""
    there = any(record.encoder.startswith(prefix) for one in scores for record in one.records)
    return [seen_as(one, prefix) for one in scores] if there else []


def seen_as(scores: Scores, prefix: str) -> Scores:
    """The same evaluation, as that of another encoder of its table, the first whose name begins so.

    Raises ``UserError`` where none does.
    """
    names = list(dict.fromkeys(record.encoder for record in scores.records))
    name = next((name for name in names if name.startswith(prefix)), None)
    if name is None:
        raise UserError(
            f"the scores of {scores.run} hold no accuracy of {prefix}...; they hold {', '.join(names) or 'none'}"
        )
    return dataclasses.replace(scores, run=name)
