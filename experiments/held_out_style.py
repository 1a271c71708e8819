"""Does an encoder that saw painted pictures only recognise real ones by artists it never saw?

StableRep on painted pictures against SimCLR on the real pictures of the same captions, with as many steps and views,
over several seeds; raw pixels and the untrained encoder beside them. Every stage goes on where it was stopped:

    python experiments/held_out_style.py --out runs/held-out-style

writes OUT/summary.json and prints the table that docs/results.md quotes.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from stablerep import config as config_module
from stablerep.captions.worlds import WorldConfig, write_world
from stablerep.console import Console
from stablerep.evaluation.protocols import EvaluateConfig, evaluate
from stablerep.evaluation.scores import Scores, Summary, summarise
from stablerep.generation.execute import GenerateConfig, generate
from stablerep.learning.methods import METHODS, train
from stablerep.run import write_text

_RECIPE = "icons"
STABLEREP, SIMCLR, UNTRAINED, RAW = "StableRep, painted", "SimCLR, real", "untrained encoder", "raw pixels"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Sizes of the experiment."""

    out: Path
    """Where everything goes."""
    num_captions: int = 1000
    """Captions, each with its real pictures and its painted ones."""
    num_images: int = 4
    """Pictures painted per caption (K)."""
    num_steps: int = 300
    """Training steps of each encoder."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of weights, order and views."""


def main(experiment: Experiment) -> None:
    """Run what is missing, then print and write the summary."""
    console = Console()
    world = experiment.out / "world"
    write_world(WorldConfig(name="icons", out=world))
    painted = experiment.out / "images.lance"
    paint = {"captions": world / "captions.lance", "out": painted, "limit": experiment.num_captions}
    generate(
        _configure(GenerateConfig, ("generate",), paint | {"num_images": experiment.num_images}),
        console=console,
    )
    scores = [_one_seed(experiment, seed, world, painted, console) for seed in experiment.seeds]
    ours = _named(scores, "stablerep")
    rows = {
        STABLEREP: summarise(ours),
        SIMCLR: summarise(_named(scores, "simclr"), against=ours),
        UNTRAINED: summarise(_named(scores, UNTRAINED), against=ours),
        RAW: summarise(_named(scores[:1], RAW), against=ours),
    }
    _show(rows, console)
    content = {
        name: [dataclasses.asdict(summary) for summary in summaries] for name, summaries in rows.items()
    }
    result = {
        "experiment": config_module.to_dict(experiment),
        "provenance": scores[0].provenance,
        "rows": content,
    }
    write_text(experiment.out / "summary.json", json.dumps(result, indent=2) + "\n")


def _one_seed(experiment: Experiment, seed: int, world: Path, painted: Path, console: Console) -> Scores:
    runs = experiment.out / "runs"
    sources = {"stablerep": painted, "simclr": world / "images.lance"}
    for method, images in sources.items():
        settings = {
            "out": runs / f"{method}-{seed}",
            "num_steps": experiment.num_steps,
            "seed": seed,
            "data": {"images": [images], "num_captions": experiment.num_captions},
        }
        train(method, _configure(METHODS[method].config, ("train", method), settings), console=console)
    measuring = {
        "run": runs / f"stablerep-{seed}",
        "also": [runs / f"simclr-{seed}"],
        "world": world,
        "seed": seed,
    }
    return evaluate(_configure(EvaluateConfig, ("evaluate",), measuring), console=console)


def _named(scores: Sequence[Scores], encoder: str) -> list[Scores]:
    """The same evaluations, seen as those of another encoder of their tables."""
    chosen = []
    for one in scores:
        names = {record.encoder for record in one.records}
        chosen.append(dataclasses.replace(one, run=next(name for name in names if name.startswith(encoder))))
    return chosen


def _show(rows: Mapping[str, Sequence[Summary]], console: Console) -> None:
    keys = [(summary.benchmark, summary.test, summary.protocol) for summary in rows[STABLEREP]]
    for key in keys:
        lines = []
        for name, summaries in rows.items():
            summary = next(s for s in summaries if (s.benchmark, s.test, s.protocol) == key)
            ahead = "" if summary.ahead is None else summary.ahead.in_percent(sign=True)
            lines.append((name, summary.mean_per_class.in_percent(), ahead))
        console.table(f"{key[0]}: {key[1]}, {key[2]}", ("encoder", "per class, %", "minus StableRep"), lines)


def _configure(config_class: type[Any], command: tuple[str, ...], settings: Mapping[str, Any]) -> Any:
    table = config_module.recipe_table(config_module.read_recipe(_RECIPE), command, _RECIPE)
    return config_module.build(config_class, table, settings, origin="held_out_style")


if __name__ == "__main__":
    main(tyro.cli(Experiment, description=__doc__))
