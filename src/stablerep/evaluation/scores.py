"""What an evaluation found: scores.json and predictions.parquet of a run, and the summary over several runs.

``scores.json`` is one object::

    run          name of the measured run
    path         where it was
    config       the resolved configuration of the last evaluation; results of earlier ones stand beside its own
    precision    number format in which it computed the features ("float32" or "bfloat16")
    benchmarks   name -> num_train, num_validation, num_classes, num_left_out (pictures without a known class)
    skipped      BENCHMARK[: PROTOCOL[: ENCODER]] that could not run -> one sentence why
    provenance   its versions and machine
    records      list: one object, a ``Record``, for each benchmark, test, encoder and protocol that names classes
    measurements list: one object, a ``Measurement``, for each of the other protocols

All accuracies are shares in [0, 1]. ``predictions.parquet`` holds, for each record and test picture, the
picture's ``position`` in the test, ``group``, ``label`` and ``predicted`` class, for paired comparisons.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stablerep import runtime
from stablerep.errors import UserError
from stablerep.evaluation.intervals import METRICS, Accuracies, GroupBootstrap, Interval, over_seeds
from stablerep.run import write_atomically, write_text

Kind = Literal["run", "further run", "baseline"]
RAW, UNTRAINED = "raw pixels", "untrained encoder"
BASELINES = (RAW, UNTRAINED)
"""Names of what is measured beside whatever was learned."""
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
    """Paired difference in mean per-class accuracy, the run minus this encoder; None for the run itself, and where the
    run was not measured, or no longer says what it said when this encoder was."""
    num_pictures: int
    num_groups: int
    num_classes: int
    """Classes present in the test."""
    chance_mean_per_class: float
    """Expected when guessing evenly among the training classes."""
    chance_top1: float
    """Reached by always naming the most frequent training class."""
    chosen: Mapping[str, float]
    """Hyper-parameters, chosen on the split ``chosen_on``, by ``metric`` unless the settings say otherwise."""
    chosen_on: str
    validation_accuracy: float | None
    """The accuracy that chose; None where nothing was chosen."""
    note: str
    metric: str = "mean_per_class"
    """The accuracy that is published for this benchmark."""
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

    @property
    def key(self) -> tuple[str, str, str]:
        """Benchmark, test and protocol."""
        return self.benchmark, self.test, self.protocol

    def of_the_same_pictures(self, other: "Outcome") -> bool:
        """Whether both are about the same labels and groups, in the same order."""
        return np.array_equal(self.labels, other.labels) and np.array_equal(self.groups, other.groups)


Entry = TypeVar("Entry", Record, Measurement)


def in_order(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Test by test and protocol by protocol, as they first appear, the run before what it is compared with."""
    listed = list(entries)
    kinds = get_args(Kind)
    benchmarks, tests, protocols = (
        list(dict.fromkeys(getattr(one, name) for one in listed))
        for name in ("benchmark", "test", "protocol")
    )

    def rank(one: Entry) -> tuple[int, int, int, int]:
        return (
            benchmarks.index(one.benchmark),
            tests.index(one.test),
            protocols.index(one.protocol),
            kinds.index(one.kind),
        )

    return tuple(sorted(listed, key=rank))


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

    def of_the_run(self) -> dict[tuple[str, str, str], Outcome]:
        """What the measured run itself said, by benchmark, test and protocol."""
        return {outcome.key: outcome for outcome in self.outcomes if outcome.encoder == self.run}

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
    """Difference in mean per-class accuracy to the runs compared against; None where there are none, or one of them
    lacks the protocol."""


def summarise(
    runs: Sequence[Scores], *, against: Sequence[Scores] = (), num_bootstrap: int = 10_000, seed: int = 0
) -> list[Summary]:
    """Mean and interval over training seeds and test groups, for each test and protocol that all of ``runs`` share.

    Hierarchical bootstrap: every replicate draws the groups, the same for all runs, and the runs of each side by their
    names, so that the same comparison seen from its other side is the negative, exactly. Where one of ``against`` lacks
    a protocol, the runs stand alone, with ``ahead`` None. ``UserError`` where the runs share nothing, or a test does
    not hold the same pictures everywhere.
    """
    if not runs:
        raise UserError("no scores to summarise; give the scores of at least one run")
    sides = [[scores.of_the_run() for scores in side] for side in (runs, against)]
    shared = [key for key in sides[0][0] if all(key in outcomes for outcomes in sides[0])]
    if not shared:
        raise UserError(
            "these runs share no benchmark, test and protocol; evaluate them with the same settings"
        )
    draws = _Draws(num_bootstrap, seed)
    summaries: dict[tuple[str, str, str], Summary] = {}
    for key in sorted(shared):  # test by test, as the draws of one are held at a time
        ours, theirs = (
            [outcomes[key] for outcomes in side] if all(key in outcomes for outcomes in side) else []
            for side in sides
        )
        accuracies = draws.accuracies([*ours, *theirs])
        mean = draws.over_seeds(accuracies[: len(ours)], runs)
        other = draws.over_seeds(accuracies[len(ours) :], against) if theirs else None
        summaries[key] = Summary(
            benchmark=key[0],
            test=key[1],
            protocol=key[2],
            num_runs=len(ours),
            mean_per_class=mean.interval("mean_per_class"),
            top1=mean.interval("top1"),
            per_run=tuple(one.value["mean_per_class"] for one in accuracies[: len(ours)]),
            ahead=None if other is None else mean.ahead_of(other, "mean_per_class"),
        )
    return [summaries[key] for key in shared]


class _Draws:
    """The draws of a summary: groups of a test, shared by all runs and protocols, and runs of each side.

    Those of one test give way to those of the next: 10,000 replicates of a large test take gigabytes.
    """

    def __init__(self, num: int, seed: int) -> None:
        self._num, self._seed = num, seed
        self._drawn: tuple[Outcome, GroupBootstrap] | None = None

    def accuracies(self, outcomes: Sequence[Outcome]) -> list[Accuracies]:
        """Of predictions in one test; ``UserError`` where they are not all about the same pictures."""
        one, test = outcomes[0], outcomes[0].key[:2]
        if self._drawn is None or self._drawn[0].key[:2] != test:
            self._drawn = None  # freed before the next are drawn, not after
            self._drawn = one, GroupBootstrap(one.labels, one.groups, num=self._num, seed=self._seed)
        first, bootstrap = self._drawn
        if not all(first.of_the_same_pictures(outcome) for outcome in outcomes):
            raise UserError(
                f"{test[0]}, {test[1]}: the runs were tested on different pictures; evaluate them on the same world"
            )
        return [bootstrap.accuracies(outcome.correct) for outcome in outcomes]

    def over_seeds(self, accuracies: Sequence[Accuracies], side: Sequence[Scores]) -> Accuracies:
        """The mean over the runs of a side, drawn by their names: whichever side it is, the draws are the same."""
        return over_seeds(accuracies, runtime.seed_for("summary", self._seed, *(one.run for one in side)))


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
