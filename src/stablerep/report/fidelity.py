"""How faithfully a painter follows its captions, in one sentence per painter-scores.json."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stablerep.errors import UserError
from stablerep.evaluation.intervals import Interval
from stablerep.report.reading import Project, read_json
from stablerep.report.scores import in_percent, percent
from stablerep.report.settings import grouped

_FILE = "painter-scores.json"
_NUM_WEAKEST = 5


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """What a judge, trained on real pictures, sees in the pictures of one origin."""

    origin: str
    sentence: str
    weakest: str


def read_fidelity(project: Project) -> list[Fidelity]:
    """The painter scores beside the image tables and in the given folders."""
    folders = dict.fromkeys([*(Path(table.path).parent for table in project.images), *project.folders])
    paths = {(folder / _FILE).resolve(): folder / _FILE for folder in folders if (folder / _FILE).exists()}
    return [_read(path) for path in paths.values()]


def _read(path: Path) -> Fidelity:
    stored = read_json(path)
    try:
        return _described(stored)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path} does not hold painter scores ({error!r}); evaluate the painter again"
        ) from error


def _described(stored: dict[str, Any]) -> Fidelity:
    fidelity = stored["fidelity"]
    reached = Interval.read(fidelity["mean_per_class"])
    judge = Interval.read(stored["judge_test"])
    weakest = sorted(fidelity["per_class"].items(), key=lambda item: (item[1], item[0]))[:_NUM_WEAKEST]
    listed = ", ".join(f"{name} ({in_percent(share)})" for name, share in weakest)
    return Fidelity(
        origin=stored["origin"],
        sentence=(
            f"Prompt fidelity: a judge trained on real pictures ({stored['judge']}) names {in_percent(reached.value)} "
            f"({percent(reached.low)} to {percent(reached.high)}) of {grouped(fidelity['num_pictures'])} painted "
            "pictures as their captions ask, mean over classes; with the captions shuffled "
            f"{in_percent(fidelity['shuffled'])}. Of real test pictures it names {in_percent(judge.value)}."
        ),
        weakest=f"Where {stored['origin']} follows its captions least: {listed}.",
    )
