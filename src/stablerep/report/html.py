"""The page: what it shows, and how that becomes one HTML file. Everything from outside is escaped by the template."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import jinja2
import markupsafe

from stablerep.report.audits import Audits
from stablerep.report.costs import Costs
from stablerep.report.drawing import ResponsiveFigure
from stablerep.report.fidelity import Fidelity
from stablerep.report.findings import Findings
from stablerep.report.measurements import MeasurementRow
from stablerep.report.neighbours import Neighbours
from stablerep.report.pictures import MOST_REAL, Grid
from stablerep.report.ranking import Ranking
from stablerep.report.scores import ScoreTable, percent
from stablerep.report.settings import Comparison, MethodSettings, Section, important
from stablerep.report.shortcomings import Shortcomings
from stablerep.report.trends import Trend

_MOST_NAMED = 4


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A painted origin and the settings that its fingerprint covers."""

    name: str
    sentence: str
    sections: tuple[Section, ...]


@dataclass(frozen=True, kw_only=True)
class TrainingPlot:
    """The curves of the runs of one method."""

    kind: str
    sentence: str
    keys: tuple[tuple[str, str], ...]
    """Sample of the line, name of the run."""
    figure: ResponsiveFigure


@dataclass(frozen=True, kw_only=True)
class Page:
    """All that one report says, in the order in which it says it."""

    project: str
    findings: Findings
    facts: tuple[tuple[str, str], ...]
    teachers: tuple[Teacher, ...]
    training_settings: Comparison
    methods: tuple[MethodSettings, ...]
    sizes: tuple[Trend, ...]
    concepts: tuple[Trend, ...]
    turns: tuple[Trend, ...]
    grids: tuple[Grid, ...]
    rankings: tuple[Ranking, ...]
    fidelity: tuple[Fidelity, ...]
    audits: tuple[Audits, ...]
    training: tuple[TrainingPlot, ...]
    scores: tuple[ScoreTable, ...]
    measurements: tuple[MeasurementRow, ...]
    neighbours: Neighbours
    shortcomings: tuple[Shortcomings, ...]
    costs: Costs
    costs_file: str
    provenance: Comparison
    credits: tuple[str, ...]
    version: str


def render(page: Page) -> str:
    """The page as HTML text that refers to nothing outside itself."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "percent": percent,
        "breakable": _breakable,
        "important": important,
        "named": _named,
        "num_entries": lambda sections: sum(len(section.entries) for section in sections),
    }
    template = environment.from_string(_resource("report.html.j2"))
    return template.render(page=page, most_real=MOST_REAL, style=_resource("report.css"))


def _named(names: Sequence[str]) -> str:
    """The names, or how many where they are many."""
    return ", ".join(names) if len(names) <= _MOST_NAMED else f"{len(names)} runs"


def _breakable(text: object) -> markupsafe.Markup:
    """A value that may break where a word begins within a name, and nowhere else: ``MultistepScheduler``."""
    parts = re.split(r"(?<=[a-z])(?=[A-Z])", str(text))
    return markupsafe.Markup("<wbr>").join(parts)


def _resource(name: str) -> str:
    return (resources.files("stablerep.report") / name).read_text(encoding="utf-8")
