"""What the parts of claims.py decide: who is ahead of whom, paired over test pictures and seeds."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from claims_parts import PARTS, Claims, captions_of, real_pictures
from crossing import crossing_of_runs
from stablerep.evaluation.scores import Scores, summarise
from stablerep.workflows.compare_results import prefix_of, seen_as


def _matrix_differences(config: Claims) -> dict[str, Any]:
    """The claims: learning from painted pictures against learning from the real ones of the same captions."""
    folder = config.out / "matrix" / "same captions" / "scores"
    scores = [
        Scores.read(folder / f"{config.num_captions}-captions-seed-{seed}")
        for seed in config.seeds_of("matrix")
    ]
    measured = [record.encoder for record in scores[0].records]
    there = {
        arm
        for arm in itertools.chain(*PAIRS)
        if any(name.startswith(prefix_of(arm, config.num_captions)) for name in measured)
    }
    against = [
        {"ours": ours, "theirs": theirs, **summary}
        for ours, theirs in PAIRS
        if {ours, theirs} <= there
        for summary in _ahead(
            *([seen_as(one, prefix_of(arm, config.num_captions)) for one in scores] for arm in (ours, theirs))
        )
    ]
    return {"against": against}


def _reference_differences(config: Claims) -> dict[str, Any]:
    """Painted pictures of the matrix, where it was measured, against all real ones that the teacher learned from."""
    (cell,), (all_real,) = PARTS["matrix"](config), PARTS["reference"](config)
    folder = config.out / "reference" / str(all_real.value) / "scores"
    found = [newest(folder.glob(f"*-captions-seed-{seed}")) for seed in config.seeds_of("reference")]
    beside = [
        config.out / "matrix" / str(cell.value) / "scores" / f"{config.num_captions}-captions-seed-{seed}"
        for seed in config.seeds_of("reference")
    ]
    if not all(place.exists() for place in beside):
        return {}
    painted = [Scores.read(place) for place in beside]
    real = [Scores.read(place) for place in found]
    against = [
        {"ours": ours, "theirs": f"{theirs}, {all_real.value}", **summary}
        for ours in ("stablerep:painted", "stablerep-plus:painted")
        for theirs in all_real.arms
        for summary in _ahead(
            [seen_as(one, prefix_of(ours, config.num_captions)) for one in painted],
            [
                seen_as(one, prefix_of(theirs, int(place.name.partition("-")[0])))
                for one, place in zip(real, found, strict=True)
            ],
        )
    ]
    return {"against": against}


def newest(places: Iterable[Path]) -> Path:
    """That which was written last."""
    return max(places, key=lambda place: place.stat().st_mtime)


def _mix_differences(config: Claims) -> dict[str, Any]:
    """Every share of real pictures against painted ones alone."""
    cells = [(str(cell.value), arm) for cell in PARTS["mix"](config) for arm in cell.arms]
    without = next((cell for cell in cells if cell[0] == str(0.0)), None)
    return _between_cells(config, "mix", [(cell, without) for cell in cells if without and cell != without])


def _kept_differences(config: Claims) -> dict[str, Any]:
    """The best pictures against as many at random."""
    best = [cell for cell in PARTS["kept"](config) if str(cell.value).startswith("best ")]
    pairs = [
        ((str(cell.value), arm), (str(cell.value).replace("best", "random", 1), arm))
        for cell in best
        for arm in cell.arms
    ]
    return _between_cells(config, "kept", pairs)


def _weights_differences(config: Claims) -> dict[str, Any]:
    weighted, uniform = "match level", "uniform"
    arms = next(cell.arms for cell in PARTS["weights"](config) if cell.value == weighted)
    return _between_cells(config, "weights", [((weighted, arm), (uniform, arm)) for arm in arms])


Place = tuple[str, str]
"""The value of a cell, and one of its arms."""


def _between_cells(config: Claims, part: str, pairs: Iterable[tuple[Place, Place]]) -> dict[str, Any]:
    """How far the first of every pair is ahead of the second."""
    against = [
        {"ours": _called(part, *ours), "theirs": _called(part, *theirs), **summary}
        for ours, theirs in pairs
        for summary in _ahead(*(_of_cell(config, part, *place) for place in (ours, theirs)))
    ]
    return {"against": against}


def _called(part: str, value: str, arm: str) -> str:
    return f"{arm}, {value} real" if part == "mix" else f"{arm}, {value}"


def _of_cell(config: Claims, part: str, value: str, arm: str) -> list[Scores]:
    """What the runs of an arm named; their names say the cell, as those of the other cell are called alike."""
    folder, num = config.out / part / value / "scores", config.num_captions
    found = []
    for seed in config.seeds_of(part):
        scores = seen_as(Scores.read(folder / f"{num}-captions-seed-{seed}"), prefix_of(arm, num))
        name = f"{value}: {scores.run}"
        outcomes = [dataclasses.replace(one, encoder=name) for one in scores.of_the_run().values()]
        found.append(dataclasses.replace(scores, run=name, outcomes=tuple(outcomes)))
    return found


def _headline_differences(config: Claims) -> dict[str, Any]:
    """StableRep+ on n painted pictures against CLIP on real ones: paired over test pictures and seeds.

    ``needed``: how many real pictures CLIP needs to be level with it, per test.
    """
    theirs = {num: _scores(config, f"{num} real", num) for num in real_pictures(config)}
    against, needed = [], []
    for num in config.headline:
        ours = _scores(config, f"{num} painted", num)
        for times in config.times:
            real = round(times * num)
            against += [{"painted": num, "real": real, **summary} for summary in _ahead(ours, theirs[real])]
        needed += real_needed(num, ours, theirs)
    return {"against": against, "needed": needed}


def real_needed(
    painted: int, ours: Sequence[Scores], theirs: Mapping[int, Sequence[Scores]]
) -> list[dict[str, Any]]:
    """For every test the number of real pictures at which CLIP scores as StableRep+ does on so many painted ones."""
    measured = [one.of_the_run() for runs in (ours, *theirs.values()) for one in runs]
    found = []
    for test in measured[0]:
        if not all(test in outcomes for outcomes in measured):
            continue
        place = dict(zip(("benchmark", "test", "protocol"), test, strict=True))
        reached = dataclasses.asdict(crossing_of_runs(test, ours, theirs))
        found.append({"painted": painted, **place, **reached})
    return found


def _scores(config: Claims, value: str, num_pictures: int) -> list[Scores]:
    folder = config.out / "headline" / value / "scores"
    num = captions_of(num_pictures)
    return [Scores.read(folder / f"{num}-captions-seed-{seed}") for seed in config.seeds_of("headline")]


def _ahead(ours: list[Scores], theirs: list[Scores]) -> list[dict[str, Any]]:
    """For every test: ours, and how far it is ahead."""
    summaries = summarise(ours, against=theirs)
    return [json.loads(json.dumps(dataclasses.asdict(summary))) for summary in summaries]


PAIRS = (
    ("stablerep:painted", "simclr:real"),
    ("stablerep:painted", "clip:real"),
    ("stablerep:painted", "simclr:painted"),
    ("stablerep:painted", "clip:painted"),
    ("stablerep:painted", "supervised:real"),
    ("stablerep-plus:painted", "clip:real"),
    ("stablerep-plus:painted", "stablerep:painted"),
    ("stablerep-plus:both", "stablerep-plus:painted"),
    ("clip:painted", "clip:real"),
    ("simclr:painted", "simclr:real"),
)
"""Arms of the matrix whose differences are claims."""

DIFFERENCES: Mapping[str, Callable[[Claims], dict[str, Any]]] = {
    "matrix": _matrix_differences,
    "reference": _reference_differences,
    "mix": _mix_differences,
    "kept": _kept_differences,
    "weights": _weights_differences,
    "headline": _headline_differences,
}
