"""The command: read what is on disk, write one page."""

import importlib.metadata
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import Positional

from stablerep.console import Console
from stablerep.cost import FILE
from stablerep.report.audits import read_audits
from stablerep.report.circles import read_circles
from stablerep.report.costs import PowerConfig, find_costs
from stablerep.report.credits import find_credits
from stablerep.report.fidelity import read_fidelity
from stablerep.report.figures import MOST_TOLD_APART, Curve, series_key, training_figure
from stablerep.report.findings import find, subject_of
from stablerep.report.html import Page, Teacher, TrainingPlot, render
from stablerep.report.measurements import measurement_rows
from stablerep.report.neighbours import NeighbourConfig, find_neighbours
from stablerep.report.pictures import Painting, caption_grid, count_paintings
from stablerep.report.ranking import find_rankings
from stablerep.report.reading import Project, RunFolder, open_project
from stablerep.report.scores import Measured, read_scores, score_shortcomings, score_tables, weakest_classes
from stablerep.report.settings import grouped, provenance, sections, training_settings
from stablerep.report.shortcomings import find_shortcomings
from stablerep.report.sizes import (
    Comparison,
    baselines_ahead,
    comparison_trends,
    concept_trends,
    find_compared,
    read_comparisons,
    run_trends,
)
from stablerep.run import write_text


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write one HTML page: what was asked, painted, learned and measured, and what was not good."""

    folders: Positional[tuple[Path, ...]]
    """Run folders, or a project folder that holds captions.lance, images.lance and runs/."""
    images: Path | None = None
    """A further image table."""
    captions: Path | None = None
    """A further caption table."""
    world: Path | None = None
    """Folder of the world with the real pictures; a project's own is found without it."""
    out: Path = Path("report/index.html")
    """The page."""
    num_captions: int = 24
    """Captions shown with their pictures, per teacher."""
    seed: int = 0
    """Determines which captions and pictures are shown."""
    neighbours: NeighbourConfig = field(default_factory=NeighbourConfig)
    """The search for painted neighbours of real pictures."""
    power: PowerConfig = field(default_factory=PowerConfig)
    """For an estimate of energy."""

    def __post_init__(self) -> None:
        if self.num_captions < 1:
            raise ValueError(f"num_captions must be positive, got {self.num_captions}")


def write_report(config: ReportConfig, *, console: Console = Console(quiet=True)) -> Path:  # noqa: B008
    """Write the report to ``config.out``, a single file that loads nothing from elsewhere, and return its path.

    Raises ``UserError`` where a folder is neither a run nor a project, or a file in it cannot be read.
    """
    project = open_project(config.folders, config.images, config.captions, config.world)
    page = _page(config, project, console)
    write_text(config.out, render(page))
    console.say(f"report on {page.project}: {config.out}")
    return config.out


def _page(config: ReportConfig, project: Project, console: Console) -> Page:
    paintings = count_paintings(project)
    fidelity = read_fidelity(project)
    measured = read_scores(project)
    comparisons = read_comparisons(project)
    subject = subject_of(project, measured)
    measuring = score_shortcomings(measured) + (weakest_classes(subject) if subject else [])
    measuring += baselines_ahead(comparisons)
    compared, methods = training_settings(project)
    neighbours = find_neighbours(
        project, _encoder_run(project, subject, comparisons), config.neighbours, config.seed, console
    )
    return Page(
        project=project.name,
        findings=(find_compared(comparisons[0]) if comparisons and not measured else None)
        or find(project, paintings, measured),
        facts=_facts(project, paintings),
        teachers=tuple(_teacher(project, painting) for painting in paintings),
        training_settings=compared,
        methods=tuple(methods),
        sizes=tuple(comparison_trends(comparisons) or run_trends(project, measured)),
        concepts=tuple(concept_trends(comparisons)),
        turns=tuple(read_circles(project)),
        rankings=tuple(find_rankings(project)),
        grids=tuple(
            caption_grid(project, painting, config.num_captions, config.seed) for painting in paintings
        ),
        fidelity=tuple(fidelity),
        audits=tuple(read_audits(project)),
        training=tuple(_training_plots(project)),
        scores=tuple(score_tables(measured)),
        measurements=tuple(measurement_rows(measured)),
        neighbours=neighbours,
        shortcomings=tuple(find_shortcomings(project, paintings, fidelity, measuring)),
        costs=find_costs(project, config.power),
        costs_file=FILE,
        provenance=provenance(project),
        credits=tuple(find_credits(project)),
        version=importlib.metadata.version("stablerep"),
    )


def _encoder_run(
    project: Project, subject: Measured | None, comparisons: Sequence[Comparison]
) -> RunFolder | None:
    """The run of the headline where it has an encoder, else one of a comparison's first arm, else the first."""
    with_encoder = [run for run in project.runs if run.encoder is not None]
    first = f"{comparisons[0].arms[0].replace(':', '-')}-" if comparisons else ""
    with_encoder.sort(key=lambda run: not run.name.startswith(first))
    with_encoder.sort(key=lambda run: subject is None or run.path != subject.folder)
    return with_encoder[0] if with_encoder else None


def _facts(project: Project, paintings: Sequence[Painting]) -> tuple[tuple[str, str], ...]:
    captions = {identity for painting in paintings for identity in painting.caption_ids}
    pictures = sum(painting.num_painted for painting in paintings)
    seen = [int(run.metrics[-1]["images_seen"]) for run in project.runs if run.metrics]
    training = "pictures seen in training" if len(seen) == 1 else "pictures seen in the longest run"
    facts = {
        "captions painted": len(captions),
        "painted pictures": pictures,
        "runs": len(project.runs),
        training: max(seen, default=0),
    }
    return tuple((name, grouped(count)) for name, count in facts.items() if count)


def _teacher(project: Project, painting: Painting) -> Teacher:
    fewest, most = painting.per_caption
    each = f"{most} each" if fewest == most else f"{fewest} to {most} each"
    failed = f"; {grouped(painting.num_failed)} failed" if painting.num_failed else "; none failed"
    settings = project.teachers.get(painting.origin)
    unknown = "" if settings else " The table does not say with which settings they were painted."
    return Teacher(
        name=painting.origin,
        sentence=(
            f"{grouped(painting.num_painted)} pictures for {grouped(len(painting.caption_ids))} captions, "
            f"{each}{failed}.{unknown}"
        ),
        sections=sections(settings or {}),
    )


def _training_plots(project: Project) -> list[TrainingPlot]:
    """One plot per method: losses of different methods are different quantities."""
    curves: dict[str, list[Curve]] = defaultdict(list)
    for run in project.runs:
        records = [record for record in run.metrics if math.isfinite(record["loss"])]
        if len(records) > 1:
            curve = Curve(
                name=run.name,
                images_seen=[record["images_seen"] for record in records],
                loss=[record["loss"] for record in records],
                learning_rate=[record["learning_rate"] for record in records],
            )
            curves[run.kind].append(curve)
    return [
        _training_plot(f"training-{number}", kind, group)
        for number, (kind, group) in enumerate(curves.items())
    ]


def _training_plot(identity: str, kind: str, curves: Sequence[Curve]) -> TrainingPlot:
    is_told_apart = len(curves) <= MOST_TOLD_APART
    names = [curve.name for curve in curves] if is_told_apart else []
    return TrainingPlot(
        kind=kind,
        sentence=_ends(curves) if is_told_apart else _ends_of_many(curves),
        keys=tuple((series_key(identity, index), name) for index, name in enumerate(names)),
        figure=training_figure(curves, identity),
    )


def _ends(curves: Sequence[Curve]) -> str:
    ends = "; ".join(
        f"{curve.name} ended at a loss of {curve.loss[-1]:.4g} after {grouped(int(curve.images_seen[-1]))} pictures"
        for curve in curves
    )
    return f"{ends}."


def _ends_of_many(curves: Sequence[Curve]) -> str:
    """Where more runs are drawn than can be told apart."""
    losses = [curve.loss[-1] for curve in curves]
    seen = [int(curve.images_seen[-1]) for curve in curves]
    after = grouped(min(seen)) + ("" if min(seen) == max(seen) else f" to {grouped(max(seen))}")
    ends = f"from {min(losses):.4g} to {max(losses):.4g}"
    return f"{len(curves)} runs, drawn alike; they ended at losses {ends} after {after} pictures."
