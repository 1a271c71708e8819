"""The scores of all encoders side by side: one table and one figure per test, from every scores.json."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stablerep.errors import UserError
from stablerep.evaluation.intervals import Interval
from stablerep.evaluation.scores import Measurement, Outcome, Record, Scores
from stablerep.report.drawing import ResponsiveFigure
from stablerep.report.figures import Whisker, chance_key, score_figure, series_key
from stablerep.report.reading import Project
from stablerep.report.settings import grouped
from stablerep.run import read_json

PROTOCOLS = {
    "linear": "linear probe",
    "knn": "k-NN",
    "logistic": "logistic regression, 45 constants",
    "sgd": "linear probe by SGD",
    "sgd-bn": "linear probe by SGD, batch norm",
    "fine-tune": "fine-tuned",
    "zero-shot": "zero-shot",
}
MAIN_TEST = "held-out style"
_FEWEST_PICTURES = 5
_NUM_WORST = 5


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One scores.json, with the predictions behind it where they were kept."""

    folder: Path
    run: str
    records: tuple[Record, ...]
    skipped: dict[str, str]
    left_out: dict[str, int]
    """Benchmark -> pictures whose class no training picture has."""
    outcomes: tuple[Outcome, ...]
    measurements: tuple[Measurement, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """An encoder and its scores, one per protocol of the table; None where it was not measured."""

    encoder: str
    learned: bool
    scores: tuple[Interval | None, ...]


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """All encoders in one test of one benchmark."""

    title: str
    sentence: str
    protocols: tuple[str, ...]
    rows: tuple[ScoreRow, ...]
    keys: tuple[tuple[str, str], ...]
    figure: ResponsiveFigure


def read_scores(project: Project) -> list[Measured]:
    """Every scores.json of the given folders and of the runs, in their order."""
    folders = {path.resolve(): path for path in [*project.folders, *(run.path for run in project.runs)]}
    return [_read(folder) for folder in folders.values() if (folder / "scores.json").exists()]


def score_tables(measured: Sequence[Measured]) -> list[ScoreTable]:
    """One table per benchmark and test; encoders with equal weights share a row, the best of each test comes first."""
    by_test: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in _records(measured):
        by_test[record.benchmark, record.test].append(record)
    names = names_of(measured)
    return [_table(f"scores-{number}", records, names) for number, records in enumerate(by_test.values())]


def main_records(measured: Measured) -> list[Record]:
    """The records of the test and protocol that a headline is about: the held-out style, with a linear probe."""
    if not measured.records:
        return []
    tests = dict.fromkeys((record.benchmark, record.test) for record in measured.records)
    test = next((test for test in tests if MAIN_TEST in test[1]), next(iter(tests)))
    records = [record for record in measured.records if (record.benchmark, record.test) == test]
    protocol = min((record.protocol for record in records), key=_protocol_rank)
    return [record for record in records if record.protocol == protocol]


def score_shortcomings(measured: Sequence[Measured]) -> list[str]:
    """What a reader of the scores should know: skipped benchmarks, doubtful fits, contradictions."""
    sentences = [
        f"Skipped: {reason if name in reason else f'{name}: {reason}'}."
        for scores in measured
        for name, reason in scores.skipped.items()
    ]
    sentences += [
        f"{grouped(count)} pictures of {name} were left out: no training picture has their class."
        for scores in measured
        for name, count in scores.left_out.items()
        if count
    ]
    sentences += [
        f"{record.encoder}, {PROTOCOLS.get(record.protocol, record.protocol)} on {record.benchmark}: {record.note}."
        for record in _records(measured)
        if record.note
    ]
    sentences += _contradictions(measured)
    return list(dict.fromkeys(sentences))


def how_measured(protocol: str) -> str:
    """A protocol, as tables name it, for a sentence: all but one leave the encoder as it is."""
    return "fine-tuning" if protocol == PROTOCOLS["fine-tune"] else f"{protocol} on frozen features"


def key_of(entry: Record | Outcome) -> tuple[str, str, str]:
    """Benchmark, test and protocol."""
    return entry.benchmark, entry.test, entry.protocol


def percent(share: float) -> str:
    """0.4213 -> "42.1"."""
    return f"{100 * share:.1f}"


def in_percent(share: float) -> str:
    """0.4213 -> "42.1 %", unbreakable."""
    return f"{percent(share)}\u00a0%"


def _read(folder: Path) -> Measured:
    path = folder / "scores.json"
    stored = read_json(path)
    try:
        kept = (folder / "predictions.parquet").exists()
        return Measured(
            folder=folder,
            run=stored["run"],
            records=tuple(Record.read(record) for record in stored["records"]),
            skipped=dict(stored["skipped"]),
            left_out={name: sizes["num_left_out"] for name, sizes in stored["benchmarks"].items()},
            outcomes=Scores.read(folder).outcomes if kept else (),
            measurements=tuple(Measurement.read(found) for found in stored.get("measurements", ())),
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} does not hold scores ({error!r}); run `stablerep evaluate` again") from error


def _records(measured: Iterable[Measured]) -> list[Record]:
    return [record for scores in measured for record in scores.records]


def names_of(measured: Iterable[Measured]) -> dict[str, str]:
    """Fingerprint -> name of the row; where two encoders share a name, the fingerprint tells them apart."""
    first: dict[str, str] = {}
    for scores in measured:
        every: list[Record | Measurement] = [*scores.records, *scores.measurements]
        for found in every:
            first.setdefault(found.fingerprint, found.encoder)
    count = Counter(first.values())
    return {
        fingerprint: name if count[name] == 1 else f"{name} ({fingerprint[:6]})"
        for fingerprint, name in first.items()
    }


def _table(identity: str, records: Sequence[Record], names: dict[str, str]) -> ScoreTable:
    protocols = sorted({record.protocol for record in records}, key=_protocol_rank)
    cells: dict[str, dict[str, Interval]] = defaultdict(dict)
    for record in records:
        cells[record.fingerprint].setdefault(record.protocol, record.mean_per_class)
    learned = {record.fingerprint for record in records if record.kind != "baseline"}
    order = sorted(cells, key=lambda row: -max(score.value for score in cells[row].values()))
    order.sort(key=lambda row: -cells[row][protocols[0]].value if protocols[0] in cells[row] else 0.0)
    shown = [PROTOCOLS.get(protocol, protocol) for protocol in protocols]
    whiskers = [
        Whisker(
            row=names[row], series=series, value=100 * score.value, low=100 * score.low, high=100 * score.high
        )
        for row in order
        for series, protocol in enumerate(protocols)
        if (score := cells[row].get(protocol)) is not None
    ]
    chance = records[0].chance_mean_per_class
    return ScoreTable(
        title=f"{records[0].benchmark}: {records[0].test}",
        sentence=f"{_counts(records)}. Guessing evenly gives {in_percent(chance)}.",
        protocols=tuple(shown),
        rows=tuple(
            ScoreRow(
                encoder=names[row],
                learned=row in learned,
                scores=tuple(cells[row].get(protocol) for protocol in protocols),
            )
            for row in order
        ),
        keys=(
            *((series_key(identity, series, marker=True), name) for series, name in enumerate(shown)),
            (chance_key(identity), "chance"),
        ),
        figure=score_figure(whiskers, 100 * chance, identity),
    )


def _counts(records: Sequence[Record]) -> str:
    sizes = sorted({(record.num_pictures, record.num_groups, record.num_classes) for record in records})
    return " or ".join(
        f"{grouped(pictures)} pictures in {grouped(groups)} groups and {classes} classes"
        for pictures, groups, classes in sizes
    )


def _protocol_rank(protocol: str) -> tuple[int, str]:
    known = list(PROTOCOLS)
    return (known.index(protocol) if protocol in known else len(known), protocol)


def _contradictions(measured: Sequence[Measured]) -> list[str]:
    """Equal weights with unequal scores: the evaluations were not run alike, and the table shows the first."""
    seen: dict[tuple[str, str, str, str], set[float]] = defaultdict(set)
    named: dict[str, str] = {}
    for record in _records(measured):
        seen[record.fingerprint, record.benchmark, record.test, record.protocol].add(
            record.mean_per_class.value
        )
        named.setdefault(record.fingerprint, record.encoder)
    return sorted(
        f"{named[key[0]]} was measured more than once on {key[1]}: {key[2]} ({PROTOCOLS.get(key[3], key[3])}), with "
        "different results, so the evaluations had different settings; the table shows the first."
        for key, values in seen.items()
        if len(values) > 1
    )


def weakest_classes(scores: Measured) -> list[str]:
    """Where the measured run fails most in its main test, of the classes with enough pictures to tell."""
    main = main_records(scores)
    sentences = []
    for outcome in scores.outcomes:
        if not main or outcome.encoder != scores.run or key_of(outcome) != key_of(main[0]):
            continue
        counts = {label: int((outcome.labels == label).sum()) for label in np.unique(outcome.labels)}
        right = {label: int(outcome.correct[outcome.labels == label].sum()) for label in counts}
        known = [label for label, count in counts.items() if count >= _FEWEST_PICTURES]
        worst = sorted(known, key=lambda label: (right[label] / counts[label], label))[:_NUM_WORST]
        if worst:
            listed = ", ".join(f"{label} ({right[label]} of {counts[label]})" for label in worst)
            sentences.append(
                f"Where {scores.run} is weakest on {outcome.benchmark}: {outcome.test}: {listed}."
            )
    return sentences
