"""Every protocol on a benchmark, encoder by encoder; each result is handed over as soon as it is there.

Shapes: M pictures.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from stablerep import runtime
from stablerep.evaluation.benchmarks import (
    BENCHMARKS,
    Benchmark,
    BenchmarkData,
    MissingDataError,
    is_benchmark,
    load_benchmark,
)
from stablerep.evaluation.contract import Classified, Measure, Measured, NotMeasurableError, Subject, Tools
from stablerep.evaluation.intervals import Accuracies, GroupBootstrap
from stablerep.evaluation.scores import Measurement, Outcome, Record
from stablerep.models.encoder import Resize

Known = dict[tuple[str, ...], Measured]
"""What was found of baselines, by all that it depends on."""


@dataclass
class Found:
    """What was measured so far."""

    records: list[Record] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    sizes: dict[str, Mapping[str, int]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measuring:
    """Measures subjects, the run first among them, by every protocol; ``keep`` gets what was found after each."""

    subjects: Sequence[Subject]
    measures: Mapping[str, Measure]
    """Protocol by name."""
    data: BenchmarkData
    tools: Tools
    keep: Callable[[Found], object]
    resize: Mapping[str, Resize] = field(default_factory=dict)
    """How pictures become square, by protocol; squashed where nothing is said."""
    known: Known = field(default_factory=dict)
    """Baselines that need not be measured again; new ones are added."""
    conditions: str = ""
    """What results depend on beside benchmark, protocol and encoder, as far as ``known`` holds others."""
    found: Found = field(default_factory=Found)

    def on(self, name: str) -> None:
        """All protocols on one benchmark; what cannot run says so."""
        loaded = self._load(name)
        shared = _shared(loaded)
        scoring = None if shared is None else _Scoring(shared, self.tools)
        if shared is not None:
            self.found.sizes[name] = _sizes(shared)
        for protocol, data in loaded.items():
            for subject in self.subjects:
                if subject.kind != "baseline" or self.measures[protocol].trains_baselines:
                    self._measure(name, protocol, subject, data, scoring)

    def _measure(
        self, name: str, protocol: str, subject: Subject, data: Any, scoring: "_Scoring | None"
    ) -> None:
        measure = self.measures[protocol]
        resize: dict[str, Any] = {"resize": self.resize.get(protocol, "squash")}
        try:
            measured = self._measured(name, protocol, subject, data, resize)
        except NotMeasurableError as error:
            self._skip(f"{name}: {protocol}: {subject.name}", f"{protocol}: {error}")
            return
        if isinstance(measured, Classified):
            assert scoring is not None, "classes are named on a Benchmark only"
            settings = resize | dict(measure.settings)
            for record, outcome in scoring.score(subject, protocol, measured, settings):
                self.found.records.append(record)
                self.found.outcomes.append(outcome)
        else:
            self.found.measurements += [
                replace(one, settings=resize | dict(one.settings)) for one in measured
            ]
        self.keep(self.found)

    def _measured(
        self, name: str, protocol: str, subject: Subject, data: Any, resize: Mapping[str, Any]
    ) -> Measured:
        """What a protocol finds of an encoder, or found of a baseline before."""
        place = (self.conditions, name, protocol, subject.fingerprint)
        if subject.kind == "baseline" and place in self.known:
            return self.known[place]
        self.tools.console.say(f"{name}, {protocol}: {subject.name}")
        measured = self.measures[protocol].measure(subject, data, replace(self.tools, **resize))
        if subject.kind == "baseline":
            self.known[place] = measured
        return measured

    def _load(self, name: str) -> dict[str, Any]:
        """The data of a benchmark for each protocol that measures on it."""
        loaded: dict[str, Any] = {}
        for protocol, measure in self.measures.items():
            if name not in measure.benchmarks and not (
                measure.benchmarks is BENCHMARKS and is_benchmark(name)
            ):
                known = ", ".join(measure.benchmarks)
                sentence = f"protocol {protocol} does not measure on {name}; it knows {known}"
                self._skip(f"{name}: {protocol}", sentence)
                continue
            try:
                loaded[protocol] = self._loaded(name, measure, loaded)
            except MissingDataError as error:
                self._skip(name, str(error))
        return loaded

    def _loaded(self, name: str, measure: Measure, loaded: Mapping[str, Any]) -> Any:
        """The data of a benchmark; protocols that read the same pictures share them."""
        if measure.benchmarks is not BENCHMARKS:
            return measure.benchmarks[name](self.data)
        return _shared(loaded) or load_benchmark(name, self.data)

    def _skip(self, key: str, sentence: str) -> None:
        if key not in self.found.skipped:
            self.found.skipped[key] = sentence
            self.tools.console.say(f"skipped {sentence}")


def _shared(loaded: Mapping[str, Any]) -> Benchmark | None:
    """The pictures with classes, which all protocols that read some share."""
    return next((data for data in loaded.values() if isinstance(data, Benchmark)), None)


class _Scoring:
    """The scores of what encoders named on one benchmark: one bootstrap per test for all that is compared."""

    def __init__(self, benchmark: Benchmark, tools: Tools) -> None:
        self._benchmark, self._tools = benchmark, tools
        self._classes = np.array(benchmark.classes)
        self._bootstraps: dict[str, GroupBootstrap] = {}
        self._of_the_run: dict[tuple[str, str], Accuracies] = {}

    def score(
        self, subject: Subject, protocol: str, classified: Classified, settings: Mapping[str, Any]
    ) -> Iterator[tuple[Record, Outcome]]:
        """The record and the predictions of every test."""
        for test, split in self._benchmark.tests.items():
            outcome = Outcome(
                benchmark=self._benchmark.name,
                test=test,
                encoder=subject.name,
                protocol=protocol,
                groups=np.array(split.groups),
                labels=self._classes[split.labels],
                predicted=self._classes[classified.predicted[test]],
            )
            yield self._record(outcome, subject, classified, settings), outcome

    def _record(
        self, outcome: Outcome, subject: Subject, classified: Classified, settings: Mapping[str, Any]
    ) -> Record:
        benchmark, place = self._benchmark, (outcome.protocol, outcome.test)
        bootstrap = self._bootstrap(outcome)
        accuracy = bootstrap.accuracies(outcome.correct)
        if subject.kind == "run":
            self._of_the_run[place] = accuracy
        run = None if subject.kind == "run" else self._of_the_run.get(place)  # none where it was skipped
        frequent = self._classes[np.bincount(benchmark.train.labels).argmax()]
        return Record(
            benchmark=benchmark.name,
            test=outcome.test,
            encoder=subject.name,
            kind=subject.kind,
            fingerprint=subject.fingerprint,
            protocol=outcome.protocol,
            mean_per_class=accuracy.interval("mean_per_class"),
            top1=accuracy.interval("top1"),
            ahead=None if run is None else run.ahead_of(accuracy, "mean_per_class"),
            num_pictures=len(outcome.labels),
            num_groups=bootstrap.num_groups,
            num_classes=bootstrap.num_classes,
            chance_mean_per_class=1 / len(benchmark.classes),
            chance_top1=float((outcome.labels == frequent).mean()),
            chosen=classified.chosen,
            chosen_on=classified.chosen_on,
            validation_accuracy=classified.validation_accuracy,
            note=classified.note,
            metric=benchmark.metric,
            settings={**settings, **classified.used},
            official=classified.official.get(outcome.test, {}),
        )

    def _bootstrap(self, outcome: Outcome) -> GroupBootstrap:
        """That of the test, drawn when it is first needed."""
        if outcome.test not in self._bootstraps:
            seed = runtime.seed_for(self._tools.seed, self._benchmark.name, outcome.test)
            self._bootstraps[outcome.test] = GroupBootstrap(
                outcome.labels, outcome.groups, num=self._tools.num_bootstrap, seed=seed
            )
        return self._bootstraps[outcome.test]


def _sizes(benchmark: Benchmark) -> dict[str, int]:
    splits = [benchmark.train, benchmark.validation, *benchmark.tests.values()]
    return {
        "num_train": len(benchmark.train),
        "num_validation": len(benchmark.validation),
        "num_classes": len(benchmark.classes),
        "num_left_out": sum(split.num_left_out for split in splits),
    }
