"""How much data an encoder needs: accuracy against the number of captions, from a comparison or from single runs."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stablerep.errors import UserError
from stablerep.evaluation.intervals import Interval
from stablerep.evaluation.scores import BASELINES
from stablerep.report.comparison import METRICS, ConceptRow, concept_rows, metrics_of
from stablerep.report.findings import Findings
from stablerep.report.reading import Project, RunFolder
from stablerep.report.scores import MAIN_TEST, PROTOCOLS, Measured, how_measured, in_percent, percent
from stablerep.report.settings import grouped
from stablerep.report.trends import Cell, Score, Trend, TrendTable, number_series, size_trend
from stablerep.run import read_json

_FILE = "compare.json"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One compare.json: what was compared, and every score of it."""

    folder: Path
    arms: tuple[str, ...]
    num_steps: int
    num_seeds: int
    scores: Mapping[tuple[str, str], tuple[Score, ...]]
    """(benchmark, test) -> its scores, the protocol as panel."""
    concepts: tuple[ConceptRow, ...]
    """What `geometry` found, if it was measured."""


def read_comparisons(project: Project) -> list[Comparison]:
    """The comparisons among the given folders; ``UserError`` where a compare.json holds something else."""
    return [_read(folder) for folder in project.folders if (folder / _FILE).exists()]


def comparison_trends(comparisons: Sequence[Comparison]) -> list[Trend]:
    """Every test of every comparison."""
    return [
        size_trend(
            f"{benchmark}: {test}",
            f"{grouped(found.num_steps)} steps, {_seeds(found)}; small print: the 95\u00a0% interval, and for every "
            f"arm but the first its paired difference to {found.arms[0]}, in points, bold where the interval leaves "
            "out zero.",
            scores,
            f"sizes-{number}-{place}",
        )
        for number, found in enumerate(comparisons)
        for place, ((benchmark, test), scores) in enumerate(found.scores.items())
    ]


def concept_trends(comparisons: Sequence[Comparison]) -> list[Trend]:
    """Of every comparison and test how concepts and styles lie in the features, a table for each size."""
    return [
        Trend(
            title=f"Concept, not pixels: {place}",
            sentence="Alignment is the mean squared distance of two pictures of one concept, uniformity smaller where "
            "features are spread more evenly. Concept over style is the variance between concepts over that between "
            "the styles of one concept. Same concept and same style are the pictures whose nearest neighbour is of the "
            f"same, in per cent. Means over {_seeds(found)}.",
            keys=(),
            figure=None,
            tables=tuple(_concept_table(rows) for rows in _by_size(found.concepts, place)),
        )
        for found in comparisons
        for place in dict.fromkeys(row.place for row in found.concepts)
    ]


def run_trends(project: Project, measured: Sequence[Measured]) -> list[Trend]:
    """The same from runs that learned from several numbers of captions, where one method has at least two.

    Several seeds of one method at one size are lines of their own.
    """
    runs = {run.path.resolve(): run for run in project.runs}
    sized: list[tuple[RunFolder, int, Measured]] = []
    for scores in measured:
        run = runs.get(scores.folder.resolve())
        size = None if run is None else run.config.get("data", {}).get("num_captions")
        if run is not None and size:
            sized.append((run, int(size), scores))
    by_seed = len({(_series(run), size) for run, size, _ in sized}) < len(sized)
    tests: dict[tuple[str, str], list[Score]] = defaultdict(list)
    for run, size, scores in sized:
        series = _series(run) + (f", seed {run.config.get('seed')}" if by_seed else "")
        for record in scores.records:
            if record.kind == "run":
                panel = PROTOCOLS.get(record.protocol, record.protocol)
                tests[record.benchmark, record.test].append(
                    Score(panel=panel, series=series, size=size, score=record.mean_per_class)
                )
    return [
        size_trend(
            f"{benchmark}: {test}",
            "The runs that were given, by the number of captions that each learned from; whether they are equal in "
            "everything else stands under “What was asked”.",
            scores,
            f"run-sizes-{place}",
        )
        for place, ((benchmark, test), scores) in enumerate(tests.items())
        if _has_sizes(scores)
    ]


def find_compared(comparison: Comparison) -> Findings | None:
    """The headline of a comparison: its main test, with a linear probe where there is one, at the largest size."""
    test = next(
        (key for key in comparison.scores if MAIN_TEST in key[1]), next(iter(comparison.scores), None)
    )
    if test is None:
        return None
    scores = comparison.scores[test]
    panels = dict.fromkeys(score.panel for score in scores)
    panel = PROTOCOLS["linear"] if PROTOCOLS["linear"] in panels else next(iter(panels))
    size = max(score.size for score in scores)
    shown = [score for score in scores if score.panel == panel and score.size == size]
    shown.sort(key=lambda score: -score.score.value)
    learned = [score for score in shown if score.series not in BASELINES]
    if not learned:
        return None
    best, baselines = learned[0], [score for score in shown if score not in learned]
    listed = ", ".join(f"{one.series} {in_percent(one.score.value)}" for one in [*learned[1:], *baselines])
    return Findings(
        headline=f"From {grouped(size)} captions, {best.series} learns to name {in_percent(best.score.value)} correctly"
        f"{f'; {listed}' if listed else ''}.",
        remarks=(
            f"Measured on {test[0]} ({test[1]}) by {how_measured(panel)}, as the mean "
            f"over classes; {grouped(comparison.num_steps)} steps, {_seeds(comparison)}.",
            *_differences(comparison, learned),
        ),
    )


def baselines_ahead(comparisons: Sequence[Comparison]) -> list[str]:
    """A sentence for each measurement in which a baseline scores higher than something that was learned."""
    sentences = []
    for found in comparisons:
        for (benchmark, test), scores in found.scores.items():
            for panel, size in dict.fromkeys((score.panel, score.size) for score in scores):
                shown = [score for score in scores if (score.panel, score.size) == (panel, size)]
                best = max(
                    (score for score in shown if score.series in BASELINES),
                    key=lambda score: score.score.value,
                    default=None,
                )
                less = [
                    f"{score.series} {in_percent(score.score.value)}"
                    for score in shown
                    if best is not None
                    and score.series not in BASELINES
                    and score.score.value < best.score.value
                ]
                if best is not None and less:
                    sentences.append(
                        f"{benchmark}: {test}, {panel}, {grouped(size)} captions: {', '.join(less)}, less than "
                        f"{best.series} ({in_percent(best.score.value)})."
                    )
    return sentences


def _read(folder: Path) -> Comparison:
    path = folder / _FILE
    stored = read_json(path)
    try:
        scores: dict[tuple[str, str], list[Score]] = defaultdict(list)
        for row in stored["rows"]:
            found = row["summary"]
            scores[found["benchmark"], found["test"]].append(_score(row, found))
        return Comparison(
            folder=folder,
            arms=tuple(stored["config"]["arms"]),
            num_steps=stored["config"]["num_steps"],
            num_seeds=len(stored["config"]["seeds"]),
            scores={test: tuple(rows) for test, rows in scores.items()},
            concepts=tuple(concept_rows(stored.get("measurements", ()))),
        )
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"{path} does not hold a comparison ({error!r}); run `stablerep compare` again"
        ) from error


def _by_size(rows: Sequence[ConceptRow], place: str) -> list[list[ConceptRow]]:
    sizes: dict[int, list[ConceptRow]] = defaultdict(list)
    for row in rows:
        if row.place == place:
            sizes[row.num_captions].append(row)
    return list(sizes.values())


def _concept_table(rows: Sequence[ConceptRow]) -> TrendTable:
    """Arms and baselines at one size."""
    metrics = metrics_of(rows)
    learned = number_series([row.arm for row in rows])
    return TrendTable(
        title=f"from {grouped(rows[0].num_captions)} captions",
        corner="encoder",
        columns=tuple(f"{metric}, %" if METRICS[metric].endswith("%") else metric for metric in metrics),
        rows=tuple(
            (
                row.arm,
                learned[row.arm] is not None,
                tuple(_concept_cell(row.cells.get(metric)) for metric in metrics),
            )
            for row in rows
        ),
    )


def _concept_cell(said: tuple[str, str] | None) -> Cell | None:
    return None if said is None else Cell(value=said[0], interval=said[1])


def _score(row: Mapping[str, Any], found: Mapping[str, Any]) -> Score:
    ahead = found["ahead"] if row["arm"] not in BASELINES else None
    return Score(
        panel=PROTOCOLS.get(found["protocol"], found["protocol"]),
        series=row["arm"],
        size=row["num_captions"],
        score=Interval.read(found["mean_per_class"]),
        ahead=None if ahead is None else Interval.read(ahead),
    )


def _differences(comparison: Comparison, learned: Sequence[Score]) -> list[str]:
    """Which arms differ from the first at this size, and which are not shown to."""
    first = comparison.arms[0]
    ahead = {score.series: score.ahead for score in learned if score.ahead is not None}
    differing = {name: one for name, one in ahead.items() if one.low > 0 or one.high < 0}
    sentences = [
        f"{name} is {'ahead of' if one.value > 0 else 'behind'} {first} by {percent(abs(one.value))} points "
        f"({percent(min(abs(one.low), abs(one.high)))} to {percent(max(abs(one.low), abs(one.high)))})."
        for name, one in differing.items()
    ]
    alike = [name for name in ahead if name not in differing]
    if alike:
        sentences.append(
            f"Between {first} and {' or '.join(alike)} no difference is shown: the interval includes zero."
        )
    return [" ".join(sentences)] if sentences else []


def _seeds(comparison: Comparison) -> str:
    return "one seed" if comparison.num_seeds == 1 else f"{comparison.num_seeds} seeds"


def _series(run: RunFolder) -> str:
    """Method, and origin of its pictures where the run was restricted to one."""
    origin = run.config.get("data", {}).get("origin")
    return f"{run.kind}, {origin} pictures" if origin in ("real", "painted") else run.kind


def _has_sizes(scores: Sequence[Score]) -> bool:
    sizes: dict[str, set[int]] = defaultdict(set)
    for score in scores:
        sizes[score.series].add(score.size)
    return any(len(found) > 1 for found in sizes.values())
