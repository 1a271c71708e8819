"""What the curves of painter_claims.py say: differences, steps and pictures that are needed, and the figure."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from crossing import crossing
from stablerep.evaluation.intervals import METRICS, Accuracies, GroupBootstrap, Interval, over_seeds
from stablerep.run import write_atomically

REAL, PAINTED, BOTH = "real", "painted", "both"
_METRIC = "mean_per_class"
_LABELS = {
    "fidelity": "prompt fidelity on validation captions, %",
    "kid": "KID to real pictures of validation captions",
}


@dataclass(frozen=True)
class Score:
    """Of a painter after so many steps."""

    step: int
    fidelity: float
    kid: float | None
    kid_floor: float | None
    named: Path
    """What the judge named every picture."""


Curves = Mapping[str, Sequence[Sequence[Score]]]
"""By arm, for every seed, the scores along a training."""

Ends = Mapping[str, Sequence[Score]]
"""By arm, for every seed, the score of the painter that is compared."""


def summarise(name: str, num: int, curves: Curves, ends: Ends, against: Sequence[str]) -> dict[str, Any]:
    """Curve of an arm, its end beside that of others, and how soon it was as good as they and the real arm at the end.

    The latter is a share of all steps, by the curves alone, whose scores are of equal samples: 0.4 where the arm needs
    two fifths of them; None where it never is.
    """
    mine, end = curves[name], ends[name]
    others = [other for other in against if other in curves]
    references = dict.fromkeys(other for other in (REAL, *others) if other in curves)
    return {
        "arm": name,
        "num_captions": num,
        "steps": [score.step for score in mine[0]],
        "fidelity": [[score.fidelity for score in run] for run in mine],
        "kid": [[score.kid for score in run] for run in mine],
        "kid_floor": mine[0][-1].kid_floor,
        "final_fidelity": final(end),
        "final_fidelities": [score.fidelity for score in end],
        "final_kids": [score.kid for score in end],
        "final_kid_floor": end[0].kid_floor,
        "ahead_of": {other: _in_plain(_ahead(end, ends[other])) for other in others},
        "share_of_steps_to_end_of": {
            other: share_of_steps(mine, final([run[-1] for run in curves[other]])) for other in references
        },
    }


HEADER = (
    "arm", "captions", "fidelity at the end, %", "ahead, points", "steps to the end of, %",
    "KID at the end (real against real)",
)  # fmt: skip


def table_of(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Rows under ``HEADER`` of what ``summarise`` found."""
    rows: list[tuple[str, ...]] = []
    for result in results:
        ahead = [
            f"{Interval.read(one).in_percent(sign=True)} of {other}"
            for other, one in result["ahead_of"].items()
        ]
        shares = [
            f"{100 * share:.0f} of {other}"
            for other, share in result["share_of_steps_to_end_of"].items()
            if share is not None
        ]
        rows.append(
            (
                result["arm"],
                f"{result['num_captions']:,}",
                f"{100 * result['final_fidelity']:.1f}",
                ", ".join(ahead),
                ", ".join(shares),
                _final_kid(result),
            )
        )
    return rows


def _final_kid(result: Mapping[str, Any]) -> str:
    """Mean over seeds, and 95 % of what real pictures have to one another; empty where one was not measured."""
    kids = result["final_kids"]
    return "" if None in kids else f"{np.mean(kids):.2g} ({result['final_kid_floor']:.2g})"


BEST_HEADER = ("arm", "captions", "all, %", "best by match, %", "ahead, points")


def summarise_best(name: str, num: int, runs: Sequence[Mapping[str, Score]]) -> dict[str, Any]:
    """Fidelity of all pictures of each caption beside that of the best of them, both by the same painters."""
    best, everything = ([run[kind] for run in runs] for kind in ("best", "all"))
    return {
        "arm": name,
        "num_captions": num,
        "all": final(everything),
        "best": final(best),
        "ahead": _in_plain(_ahead(best, everything)),
    }


def best_table_of(found: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Rows under ``BEST_HEADER`` of what ``summarise_best`` found."""
    return [
        (
            one["arm"],
            f"{one['num_captions']:,}",
            f"{100 * one['all']:.1f}",
            f"{100 * one['best']:.1f}",
            Interval.read(one["ahead"]).in_percent(sign=True),
        )
        for one in found
    ]


def final(ends: Sequence[Score]) -> float:
    """Mean fidelity over the seeds."""
    return float(np.mean([score.fidelity for score in ends]))


def share_of_steps(runs: Sequence[Sequence[Score]], target: float) -> float | None:
    """The first step at which the mean over seeds reaches ``target``, over all steps; None where it never does."""
    steps = [score.step for score in runs[0]]
    means = np.mean([[score.fidelity for score in run] for run in runs], axis=0)
    reached = np.flatnonzero(means >= target)
    return steps[int(reached[0])] / steps[-1] if len(reached) else None


def real_needed(ends: Mapping[int, Ends]) -> list[dict[str, Any]]:
    """For every size: with how many real pictures, one of each caption, painters are as good as with both kinds."""
    if not all({REAL, BOTH} <= one.keys() for one in ends.values()):
        return []
    real = {num: final(one[REAL]) for num, one in ends.items()}
    return [
        {"num_captions": num, **dataclasses.asdict(crossing(final(one[BOTH]), real))}
        for num, one in ends.items()
    ]


def _ahead(mine: Sequence[Score], theirs: Sequence[Score]) -> Interval:
    """Difference in fidelity over the captions of which all painters have pictures, paired over captions and seeds.

    What two painters of one seed share is theirs on both sides: first weights, order of captions, levels, and the noise
    that they paint from. So the differences of the seeds are what is drawn.
    """
    tables = [pq.read_table(score.named) for score in (*mine, *theirs)]
    shared = set.intersection(*(set(table["caption_id"].to_pylist()) for table in tables))
    found = [_accuracies(table, sorted(shared)) for table in tables]
    differences = [
        _minus(one, other) for one, other in zip(found[: len(mine)], found[len(mine) :], strict=True)
    ]
    nothing = _minus(found[0], found[0])
    return over_seeds(differences, 0).ahead_of(nothing, _METRIC)


def _accuracies(named: pa.Table, captions: Sequence[str]) -> Accuracies:
    """Of what the judge named the pictures of these captions, under draws of them that depend on nothing else."""
    rows = named.filter(pc.is_in(named["caption_id"], pa.array(captions)))
    labels, names, groups = (
        np.array(rows[column].to_pylist()) for column in ("label", "named", "caption_id")
    )
    return GroupBootstrap(labels, groups, num=1000, seed=0).accuracies(labels == names)


def _minus(one: Accuracies, other: Accuracies) -> Accuracies:
    return Accuracies(
        value={name: one.value[name] - other.value[name] for name in METRICS},
        replicates={name: one.replicates[name] - other.replicates[name] for name in METRICS},
        num_groups=one.num_groups,
    )


def _in_plain(interval: Interval) -> dict[str, float]:
    plain: dict[str, float] = dataclasses.asdict(interval)
    return plain


def draw(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Fidelity and, where it was measured, KID against steps: a column per number of captions, a line per arm."""
    sizes = list(dict.fromkeys(result["num_captions"] for result in results))
    has_kid = all(kid is not None for result in results for run in result["kid"] for kid in run)
    rows = ("fidelity", "kid") if has_kid else ("fidelity",)
    figure = Figure(figsize=(4.6 * len(sizes), 3.6 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(sizes), squeeze=False)
    for axes, (measure, size) in zip(grid.flat, itertools.product(rows, sizes), strict=True):
        mine = [result for result in results if result["num_captions"] == size]
        for result in mine:
            scale = 100 if measure == "fidelity" else 1
            curve = scale * np.array(result[measure]).mean(0)
            axes.plot(result["steps"], curve, label=result["arm"], linewidth=1.4)
        if measure == "kid":
            axes.axhline(mine[0]["kid_floor"], linestyle=":", color="grey", label="real against real, 95 %")
        axes.set_title(f"{size:,} captions", fontsize=9, loc="left")
        axes.set_xlabel("steps", fontsize=8)
        axes.set_ylabel(_LABELS[measure], fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    grid[-1, -1].legend(fontsize=7, frameon=False)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150))
