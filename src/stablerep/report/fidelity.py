"""What was measured of a painter, in a few sentences per painter-scores.json."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stablerep.errors import UserError
from stablerep.evaluation.intervals import Interval
from stablerep.report.reading import Project
from stablerep.report.scores import in_percent, percent
from stablerep.report.settings import grouped
from stablerep.run import read_json

_FILE = "painter-scores.json"
_NUM_WEAKEST = 5


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """What a judge, trained on real pictures, sees in the pictures of one origin, and how like real ones they are."""

    origin: str
    sentences: tuple[str, ...]
    weakest: str


def read_fidelity(project: Project) -> list[Fidelity]:
    """The painter scores beside the image tables, in the given folders and in the runs."""
    tables, runs = (Path(table.path).parent for table in project.images), (run.path for run in project.runs)
    folders = dict.fromkeys([*tables, *project.folders, *runs])
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
    judge = Interval.read(fidelity["judge"])
    weakest = sorted(fidelity["per_class"].items(), key=lambda item: (item[1], item[0]))[:_NUM_WEAKEST]
    listed = ", ".join(f"{name} ({in_percent(share)})" for name, share in weakest)
    ratio = fidelity["of_judge"]
    beside = f", so that paintings reach {_range(Interval.read(ratio))} of that" if ratio else ""
    return Fidelity(
        origin=stored["origin"],
        sentences=(
            f"Prompt fidelity: a judge trained on real pictures ({stored['judge']}) names {_range(reached)} of "
            f"{grouped(fidelity['num_pictures'])} painted pictures as their captions ask, mean over classes; with the "
            f"captions shuffled {in_percent(fidelity['shuffled'])}. {_captions(stored)}{_chosen(stored)}"
            f"Of real test pictures of these classes it names {in_percent(judge.value)}{beside}.",
            *map(_distance, stored["distances"]),
            *([_near_copies(stored["near_copies"])] if stored["near_copies"] else []),
        ),
        weakest=f"Where {stored['origin']} follows its captions least: {listed}.",
    )


def _range(share: Interval) -> str:
    return f"{in_percent(share.value)} ({percent(share.low)} to {percent(share.high)})"


def _captions(stored: dict[str, Any]) -> str:
    """Which captions were judged, where it is not all."""
    if stored["split"] == "all" and not stored["seen_words"]:
        return ""
    of_split = "" if stored["split"] == "all" else f" of the {stored['split']} split"
    made_of = (
        f", {grouped(stored['num_captions_left_out'])} left out for a word that no training caption has"
        if stored["seen_words"]
        else ""
    )
    return f"Judged were {grouped(stored['fidelity']['num_captions'])} captions{of_split}{made_of}. "


def _chosen(stored: dict[str, Any]) -> str:
    """Which of the pictures were judged, where a filter or a mask chose them."""
    where, keep = stored.get("where"), stored.get("keep")
    by = " and ".join([*([f"{keep} = true"] if keep else []), *([where] if where else [])])
    return f"Only pictures with {by} were judged, {grouped(stored['num_left_out'])} left out. " if by else ""


def _distance(stored: dict[str, Any]) -> str:
    kid, cover, real = stored["kid"], stored["cover"], stored["real_cover"]
    return (
        f"Distance to real pictures of the same captions ({stored['encoder']}, {grouped(stored['num_pictures'])} of "
        f"each): KID {kid['mean']:.3g} \u00b1 {kid['standard_error']:.1g}; between real pictures 95\u00a0% of the "
        f"values stay below {kid['floor_95']:.3g}. "
        f"Precision {in_percent(cover['precision'])} and recall {in_percent(cover['recall'])}, between real pictures "
        f"{in_percent(real['precision'])} and {in_percent(real['recall'])}; density {cover['density']:.2f} and "
        f"coverage {cover['coverage']:.2f}, between real pictures {real['density']:.2f} and {real['coverage']:.2f}."
    )


def _near_copies(stored: dict[str, Any]) -> str:
    found = ", ".join(f"{in_percent(share)} {name}" for name, share in stored["found"].items())
    return (
        f"Near-copies: {_range(Interval.read(stored['share']))} of {grouped(stored['num_painted'])} painted pictures "
        f"lie above the threshold, which {in_percent(stored['false_alarms'])} of {grouped(stored['num_validation'])} "
        f"real validation pictures exceed without being copies. Of copies planted for the test it finds: {found}."
    )
