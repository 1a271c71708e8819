"""Scores beside those of earlier evaluations: what was measured before stays in scores.json as long as it holds."""

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.evaluation.scores import Entry, Measurement, Outcome, Record, Scores, in_order
from stablerep.locks import alone

_Place = tuple[str, str, str, str]


def read_earlier(folder: Path) -> Scores | None:
    """What earlier evaluations left in a folder; ``UserError`` where it cannot be read, None where there is nothing."""
    if not (folder / "scores.json").exists():
        return None
    try:
        return Scores.read(folder)
    except UserError as error:
        raise UserError(
            f"{folder} holds scores of an earlier evaluation that cannot be read ({error.__cause__}), so new ones "
            "cannot be put beside them; move scores.json and predictions.parquet away"
        ) from error


class Keeper:
    """Writes the scores of an evaluation as they grow, beside what earlier ones left in the folder and still holds.

    What is there is read once, and again only where another evaluation wrote there meanwhile. Any number may write into
    one folder at the same time. Raises ``UserError`` where it cannot be read.
    """

    def __init__(self, folder: Path, console: Console) -> None:
        self.folder = folder
        self._console = console
        self._said: set[str] = set()
        self._state = self._look()
        self._before = None
        if self._state is not None:
            with self._alone():  # another may be replacing the two files that are read
                self._state, self._before = self._look(), read_earlier(folder)

    def keep(self, now: Scores, encoders: Mapping[str, str]) -> Path:
        """Write all that this evaluation has found so far; path of scores.json.

        ``encoders`` are the fingerprints of what is being measured, by name.
        """
        with self._alone():  # of two at once, one would take away the other's scores
            if self._look() != self._state:
                self._before = read_earlier(self.folder)
            path = self._joined(now, encoders).write(self.folder)
            self._state = self._look()
        return path

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        return alone(self.folder / ".scores.lock")

    def _joined(self, now: Scores, encoders: Mapping[str, str]) -> Scores:
        if self._before is None:
            return now
        joined = Combined(self._before, now, encoders)
        for sentence in joined.outdated():
            if sentence not in self._said:
                self._console.say(sentence)
                self._said.add(sentence)
        return joined.scores()

    def _look(self) -> tuple[int, int] | None:
        """What tells one scores.json from another: each is a new file."""
        path = self.folder / "scores.json"
        if not path.exists():
            return None
        state = path.stat()
        return state.st_ino, state.st_mtime_ns


@dataclass(frozen=True)
class Combined:
    """The scores of now, and of those before whatever was not measured again and still holds.

    Measured again is what has the same benchmark, protocol and encoder, by fingerprint. What no longer holds is of an
    encoder whose name another one has now, or of a benchmark that is seen to hold other pictures now. How far the run
    is ahead of another encoder stays only where the run's own predictions stayed the same.
    """

    before: Scores
    now: Scores
    encoders: Mapping[str, str]

    def outdated(self) -> list[str]:
        """A sentence for everything that no longer holds."""
        entries = _entries(self.before)
        renewed = {entry.encoder for entry in entries if not self._has_its_weights(entry)}
        replaced = {entry.benchmark for entry in entries} & self._with_other_pictures()
        return [
            *(f"{name} has other weights now: its earlier scores are dropped" for name in sorted(renewed)),
            *(f"{name} holds other pictures now: earlier scores are dropped" for name in sorted(replaced)),
        ]

    def scores(self) -> Scores:
        """All that holds, under the configuration, precision and provenance of now."""
        records = self._join(self.before.records, self.now.records)
        measurements = self._join(self.before.measurements, self.now.measurements)
        outcomes = self._outcomes(records)
        there = {place[0] for place in (*records, *measurements)}
        sizes = {name: sizes for name, sizes in self.before.benchmarks.items() if name in there}
        skipped = {key: why for key, why in self.before.skipped.items() if not self._asked_again(key)}
        return dataclasses.replace(
            self.now,
            benchmarks={**sizes, **self.now.benchmarks},
            skipped={**skipped, **self.now.skipped},
            records=in_order(self._still_compared(records, outcomes)),
            measurements=in_order(measurements.values()),
            outcomes=outcomes,
        )

    def _join(self, before: Sequence[Entry], now: Sequence[Entry]) -> dict[_Place, Entry]:
        """What holds, by its place; new entries stand where the old ones stood."""
        again = {_measured(entry) for entry in _entries(self.now)}
        others = self._with_other_pictures()
        holding = [one for one in before if one.benchmark not in others and self._has_its_weights(one)]
        kept = {_place(entry): entry for entry in map(self._as_of_now, holding)}
        new = {_place(entry): entry for entry in now}
        every = {**kept, **new}
        return {at: entry for at, entry in every.items() if at in new or _measured(entry) not in again}

    def _has_its_weights(self, entry: Record | Measurement) -> bool:
        return self.encoders.get(entry.encoder, entry.fingerprint) == entry.fingerprint

    def _with_other_pictures(self) -> set[str]:
        """Benchmarks that differ in their sizes, in the pictures of a test, or else in what a protocol counted."""
        tests = {_test(one): one for one in self.before.outcomes}
        counted = {_counting(one): dict(one.sizes) for one in self.before.measurements}
        # Where these are known they decide: which groups geometry draws, and so counts, depends on the seed as well.
        sized = self.before.benchmarks.keys() & self.now.benchmarks.keys()
        return {
            *(
                name
                for name in sized
                if dict(self.before.benchmarks[name]) != dict(self.now.benchmarks[name])
            ),
            *(
                one.benchmark
                for one in self.now.outcomes
                if _test(one) in tests and not one.of_the_same_pictures(tests[_test(one)])
            ),
            *(
                one.benchmark
                for one in self.now.measurements
                if one.benchmark not in sized and counted.get(_counting(one), one.sizes) != one.sizes
            ),
        }

    def _as_of_now(self, entry: Entry) -> Entry:
        """The run may have another name now, or be another one of the encoders measured before."""
        of_the_run = entry.kind == "run" and entry.fingerprint == self.encoders[self.now.run]
        if of_the_run or entry.encoder == self.now.run:
            return dataclasses.replace(entry, encoder=self.now.run, kind="run")
        return dataclasses.replace(entry, kind="further run") if entry.kind == "run" else entry

    def _outcomes(self, records: Mapping[_Place, Record]) -> tuple[Outcome, ...]:
        """The predictions behind the records."""
        names = {record.encoder: self._as_of_now(record).encoder for record in self.before.records}
        before = (
            dataclasses.replace(one, encoder=names.get(one.encoder, one.encoder))
            for one in self.before.outcomes
        )
        every = {_place(one): one for one in (*before, *self.now.outcomes)}
        return tuple(one for at, one in every.items() if at in records)

    def _still_compared(self, records: Mapping[_Place, Record], outcomes: Sequence[Outcome]) -> list[Record]:
        """A lead is over predictions of the run: where these are others now, nothing is known of it."""
        before = self.before.of_the_run()
        run = {one.key: one for one in outcomes if one.encoder == self.now.run}
        fresh = {_place(record) for record in self.now.records}

        def compared(record: Record) -> bool:
            key = (record.benchmark, record.test, record.protocol)
            if record.encoder == self.now.run or key not in before or key not in run:
                return False
            same_predictions = np.array_equal(before[key].predicted, run[key].predicted)
            return same_predictions and run[key].of_the_same_pictures(before[key])

        return [
            record if at in fresh or compared(record) else dataclasses.replace(record, ahead=None)
            for at, record in records.items()
        ]

    def _asked_again(self, key: str) -> bool:
        """Whether what an earlier evaluation skipped (BENCHMARK[: PROTOCOL[: ENCODER]]) was part of this one."""
        benchmark, _, rest = key.partition(": ")
        protocol = rest.partition(": ")[0]
        asked: Mapping[str, Any] = self.now.config
        return benchmark in asked["benchmarks"] and (not protocol or protocol in asked["protocols"])


def _entries(scores: Scores) -> list[Record | Measurement]:
    return [*scores.records, *scores.measurements]


def _place(entry: Record | Measurement | Outcome) -> _Place:
    return entry.benchmark, entry.test, entry.protocol, entry.encoder


def _measured(entry: Record | Measurement) -> tuple[str, str, str]:
    return entry.benchmark, entry.protocol, entry.fingerprint


def _counting(measurement: Measurement) -> tuple[str, ...]:
    """What determines, with the pictures, how many of them a protocol counts: never the encoder."""
    settings = json.dumps(measurement.settings, sort_keys=True)
    return measurement.benchmark, measurement.test, measurement.protocol, settings


def _test(outcome: Outcome) -> tuple[str, str]:
    return outcome.benchmark, outcome.test
