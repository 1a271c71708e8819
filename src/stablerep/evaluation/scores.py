"""What an evaluation found: scores.json and predictions.parquet of a run, and the summary over several runs.

``scores.json`` is one object::

    run          name of the measured run
    path         where it was
    config       the evaluation's resolved configuration
    precision    number format in which the features were computed ("float32" or "bfloat16")
    benchmarks   name -> num_train, num_validation, num_classes, num_left_out (pictures without a known class)
    skipped      name of a benchmark that could not run -> one sentence why
    provenance   versions and machine
    records      list: one object, a ``Record``, for each benchmark, test, encoder and protocol that names classes
    measurements list: one object, a ``Measurement``, for each of the other protocols

All accuracies are shares in [0, 1]. ``predictions.parquet`` holds, for each record and test picture, the
picture's ``position`` in the test, ``group``, ``label`` and ``predicted`` class, for paired comparisons.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stablerep.errors import UserError
from stablerep.evaluation.intervals import METRICS, Accuracies, GroupBootstrap, Interval, over_seeds
from stablerep.run import write_atomically, write_text

Kind = Literal["run", "further run", "baseline"]
_LISTS = ("records", "measurements")


@dataclass(frozen=True, kw_only=True)
class Record:
    """The score of one encoder in one test of one benchmark under one protocol."""

    benchmark: str
    test: str
    encoder: str
    """Name in tables: the folder of a run, or the name of a baseline."""
    kind: Kind
    fingerprint: str
    protocol: str
    """Its name in ``PROTOCOLS``."""
    mean_per_class: Interval
    top1: Interval
    ahead: Interval | None
    """Paired difference in mean per-class accuracy, the run minus this encoder; None for the run itself."""
    num_pictures: int
    num_groups: int
    num_classes: int
    """Classes present in the test."""
    chance_mean_per_class: float
    """Expected when guessing evenly among the training classes."""
    chance_top1: float
    """Reached by always naming the most frequent training class."""
    chosen: Mapping[str, float]
    """Hyper-parameters, chosen by mean per-class accuracy on the split ``chosen_on``."""
    chosen_on: str
    validation_accuracy: float | None
    """None where nothing was chosen."""
    note: str
    metric: str = "mean_per_class"
    """The accuracy that is published for this benchmark; it also chose, unless the settings say otherwise."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The settings of the protocol."""
    official: Mapping[str, float] = field(default_factory=dict)
    """A number that official code selects on the test itself, with what it selected; optimistic by construction."""

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> Self:
        """Back from JSON."""
        intervals = {
            name: None if stored[name] is None else Interval.read(stored[name])
            for name in (*METRICS, "ahead")
        }
        return cls(**{**stored, **intervals})


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The result of one encoder under a protocol that does not name classes, metric by metric."""

    benchmark: str
    test: str
    encoder: str
    kind: Kind
    fingerprint: str
    protocol: str
    metrics: Mapping[str, Interval]
    """By name; the first is the one to report."""
    chance: Mapping[str, float]
    """What knowing nothing gives, for the metrics where that can be said."""
    settings: Mapping[str, Any]
    chosen: Mapping[str, float]
    chosen_on: str
    sizes: Mapping[str, int]
    """How many pictures, texts, episodes... were counted, and over what the intervals were drawn."""
    note: str = ""
    numbers: tuple[str, ...] = ()
    """Metrics that are plain numbers instead of shares, and never shown in percent."""

    def said(self, metric: str) -> str:
        """A metric with its interval, as text."""
        value = self.metrics[metric]
        return value.as_number() if metric in self.numbers else value.in_percent()

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> Self:
        """Back from JSON."""
        metrics = {name: Interval.read(value) for name, value in stored["metrics"].items()}
        return cls(**{**stored, "metrics": metrics, "numbers": tuple(stored.get("numbers", ()))})


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one encoder said about the M pictures of one test, in data order; classes by name."""

    benchmark: str
    test: str
    encoder: str
    protocol: str
    groups: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """Whether each prediction is right (M,)."""
        right: np.ndarray = self.labels == self.predicted
        return right


@dataclass(frozen=True, kw_only=True)
class Scores:
    """All records of one evaluation, with the predictions behind them."""

    run: str
    path: str
    config: Mapping[str, Any]
    precision: str
    benchmarks: Mapping[str, Mapping[str, int]]
    skipped: Mapping[str, str]
    provenance: Mapping[str, Any]
    records: tuple[Record, ...]
    outcomes: tuple[Outcome, ...] = field(repr=False)
    measurements: tuple[Measurement, ...] = ()

    HEADER: ClassVar[tuple[str, ...]] = (
        "benchmark: test",
        "encoder",
        "protocol",
        "per class, %",
        "run ahead by",
        "top-1, %",
        "pictures",
    )

    def rows(self) -> list[list[str]]:
        """The records as rows of text under ``HEADER``."""
        return [
            [
                f"{record.benchmark}: {record.test}",
                record.encoder,
                record.protocol,
                record.mean_per_class.in_percent(),
                "" if record.ahead is None else record.ahead.in_percent(sign=True),
                record.top1.in_percent(),
                str(record.num_pictures),
            ]
            for record in self.records
        ] + [
            [
                f"{found.benchmark}: {found.test}",
                found.encoder,
                f"{found.protocol}: {metric}",
                found.said(metric),
                "",
                "",
                str(next(iter(found.sizes.values()))),
            ]
            for found in self.measurements
            for metric in found.metrics
        ]

    def to_json(self) -> dict[str, Any]:
        """The content of scores.json."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "outcomes"}
        lists = {name: [dataclasses.asdict(entry) for entry in fields[name]] for name in _LISTS}
        return {**fields, **lists}

    def write(self, folder: Path) -> Path:
        """Write predictions.parquet, then scores.json, each atomically; the path of the latter."""
        table = _outcome_table(self.outcomes)
        write_atomically(folder / "predictions.parquet", lambda temporary: pq.write_table(table, temporary))
        write_text(folder / "scores.json", json.dumps(self.to_json(), indent=2) + "\n")
        return folder / "scores.json"

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read back what ``write`` wrote; ``UserError`` where it is missing or damaged."""
        try:
            stored = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
            records = tuple(Record.read(record) for record in stored["records"])
            measurements = tuple(Measurement.read(found) for found in stored.get("measurements", ()))
            outcomes = _outcomes(pq.read_table(folder / "predictions.parquet"))
            read = {"records": records, "measurements": measurements, "outcomes": outcomes}
            return cls(**{**stored, **read})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{folder} holds no readable scores ({error}); run `stablerep evaluate` on it"
            ) from error


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The score of several training seeds of one method in one test under one protocol."""

    benchmark: str
    test: str
    protocol: str
    num_runs: int
    mean_per_class: Interval
    top1: Interval
    per_run: tuple[float, ...]
    """Mean per-class accuracy of each run."""
    ahead: Interval | None
    """Difference in mean per-class accuracy to the runs compared against."""


def summarise(
    runs: Sequence[Scores], *, against: Sequence[Scores] = (), num_bootstrap: int = 1000, seed: int = 0
) -> list[Summary]:
    """Mean and interval over training seeds and test groups, for each test that all the runs share.

    Hierarchical bootstrap: every replicate draws the groups, the same for all runs, and the runs of each
    side. ``UserError`` where nothing is shared, or a test does not hold the same pictures everywhere.
    """
    if not runs:
        raise UserError("no scores to summarise; give the scores of at least one run")
    measured = [_of_the_run(scores) for scores in (*runs, *against)]
    shared = [key for key in measured[0] if all(key in outcomes for outcomes in measured)]
    if not shared:
        raise UserError(
            "these runs share no benchmark, test and protocol; evaluate them with the same settings"
        )
    summaries = []
    for key in shared:
        outcomes = [outcomes[key] for outcomes in measured]
        _check_same_pictures(outcomes)
        bootstrap = GroupBootstrap(outcomes[0].labels, outcomes[0].groups, num=num_bootstrap, seed=seed)
        accuracies = [bootstrap.accuracies(outcome.correct) for outcome in outcomes]
        summaries.append(_summary(key, accuracies[: len(runs)], accuracies[len(runs) :], seed))
    return summaries


def _summary(
    key: tuple[str, str, str], ours: Sequence[Accuracies], theirs: Sequence[Accuracies], seed: int
) -> Summary:
    mean = over_seeds(ours, seed)
    return Summary(
        benchmark=key[0],
        test=key[1],
        protocol=key[2],
        num_runs=len(ours),
        mean_per_class=mean.interval("mean_per_class"),
        top1=mean.interval("top1"),
        per_run=tuple(run.value["mean_per_class"] for run in ours),
        ahead=mean.ahead_of(over_seeds(theirs, seed + 1), "mean_per_class") if theirs else None,
    )


def _of_the_run(scores: Scores) -> dict[tuple[str, str, str], Outcome]:
    return {
        (outcome.benchmark, outcome.test, outcome.protocol): outcome
        for outcome in scores.outcomes
        if outcome.encoder == scores.run
    }


def _check_same_pictures(outcomes: Sequence[Outcome]) -> None:
    first = outcomes[0]
    for other in outcomes[1:]:
        same = np.array_equal(first.labels, other.labels) and np.array_equal(first.groups, other.groups)
        if not same:
            raise UserError(
                f"{first.benchmark}, {first.test}: the runs were tested on different pictures; "
                "evaluate them on the same world"
            )


_KEYS = ("benchmark", "test", "encoder", "protocol")
_PER_PICTURE = {"group": "groups", "label": "labels", "predicted": "predicted"}


def _outcome_table(outcomes: Sequence[Outcome]) -> pa.Table:
    if not outcomes:
        names = [*_KEYS, *_PER_PICTURE]
        return pa.table(
            {**{name: pa.array([], pa.string()) for name in names}, "position": pa.array([], pa.int64())}
        )
    lengths = [len(outcome.labels) for outcome in outcomes]
    columns = {
        key: np.repeat(np.array([getattr(outcome, key) for outcome in outcomes]), lengths) for key in _KEYS
    }
    columns["position"] = np.concatenate([np.arange(length) for length in lengths])
    for column, name in _PER_PICTURE.items():
        columns[column] = np.concatenate([getattr(outcome, name) for outcome in outcomes])
    return pa.table(columns)


def _outcomes(table: pa.Table) -> tuple[Outcome, ...]:
    columns = {name: np.array(table[name].to_pylist()) for name in table.column_names}
    starts = np.flatnonzero(columns["position"] == 0)
    ends = np.append(starts[1:], len(table))[: len(starts)]
    return tuple(
        Outcome(
            benchmark=str(columns["benchmark"][start]),
            test=str(columns["test"][start]),
            encoder=str(columns["encoder"][start]),
            protocol=str(columns["protocol"][start]),
            groups=columns["group"][start:end],
            labels=columns["label"][start:end],
            predicted=columns["predicted"][start:end],
        )
        for start, end in zip(starts, ends, strict=True)
    )
