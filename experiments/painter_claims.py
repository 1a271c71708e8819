"""Do text-to-image models learn better from painted pictures? Same painter, captions and steps; what it sees differs.

    stablerep world fashion --out fashion
    stablerep train supervised --recipe fashion --data.images fashion/images.lance --out judge
    python experiments/painter_claims.py --world fashion --settings fashion --painter teacher-fashion \
        --teacher fashion --judge judge --out painter-claims

Arms: one real picture per caption; K painted ones; those of them that match their caption best; real and painted; and
painted ones with hidden features aligned to an encoder (REPA). All train at a constant rate with averaged weights and
are scored on validation captions at equal steps, with the same noise. Writes OUT/painter-claims.json and .png; what
is there already is neither trained, painted nor judged again.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import tyro
from matplotlib.figure import Figure

from stablerep import config as config_module
from stablerep.audit.match import MatchAuditConfig, audit_match
from stablerep.captions.worlds import world_name
from stablerep.console import Console
from stablerep.evaluation.intervals import GroupBootstrap, over_seeds
from stablerep.evaluation.painting import PainterConfig, evaluate_painter
from stablerep.features import untrained_encoder
from stablerep.generation.execute import GenerateConfig, generate
from stablerep.generation.folders import find_teacher
from stablerep.learning.methods import METHODS, train
from stablerep.models.encoder import load_encoder, save_encoder
from stablerep.run import provenance, write_atomically, write_text

ONE_REAL = "(origin != 'real' OR image_index = 0)"
BEST_HALF = "(origin = 'real' OR match_rank < {half})"


@dataclass(frozen=True)
class Arm:
    """What a painter learns from, and the encoder it is aligned to."""

    source: str
    """real, painted or both."""
    where: str = ONE_REAL
    align: str | None = None
    """stablerep, simclr or untrained."""


ARMS: dict[str, Arm] = {
    "real": Arm("real"),
    "painted": Arm("painted"),
    "painted, best half": Arm("painted", BEST_HALF),
    "both": Arm("both"),
    "painted + StableRep": Arm("painted", align="stablerep"),
    "painted + SimCLR": Arm("painted", align="simclr"),
    "painted + untrained": Arm("painted", align="untrained"),
    "both + StableRep": Arm("both", align="stablerep"),
    "both + SimCLR": Arm("both", align="simclr"),
    "both + untrained": Arm("both", align="untrained"),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes of the experiment."""

    world: Path
    settings: str
    """Recipe of the world: how to paint and how encoders train."""
    painter: str
    """Recipe of the painter."""
    teacher: str
    """Who paints the painted pictures; it learned from all real training pictures."""
    judge: str
    out: Path
    arms: tuple[str, ...] = tuple(ARMS)
    num_captions: tuple[int, ...] = (250, 1000)
    num_images: int = 4
    num_steps: int = 1000
    num_points: int = 20
    """Scores along a training."""
    encoder_steps: int = 500
    num_judged: int = 200
    """Validation captions that every score paints, twice each."""
    alignment_block: int = 3
    alignment_weight: float = 0.5
    seeds: tuple[int, ...] = (0, 1, 2)


def main(config: Config) -> None:
    """Train and score every arm at every size, then write table and figure."""
    unknown = sorted(set(config.arms) - ARMS.keys())
    if unknown:
        raise SystemExit(f"unknown arm {unknown[0]!r}; there are: {', '.join(ARMS)}")
    lab = _Lab(config)
    results = []
    for num in config.num_captions:
        curves = {name: [lab.curve(name, num, seed) for seed in config.seeds] for name in config.arms}
        results += [_summarise(config, name, num, curves) for name in config.arms]
    content = {
        "config": json.loads(json.dumps(dataclasses.asdict(config), default=str)),
        "provenance": provenance(),
        "results": results,
    }
    write_text(config.out / "painter-claims.json", json.dumps(content, indent=1) + "\n")
    _draw(results, config.out / "painter-claims.png")


@dataclass(frozen=True)
class _Score:
    step: int
    fidelity: float
    kid: float | None
    kid_floor: float | None
    named: Path


class _Lab:
    """Names what the experiment makes, and makes what is missing."""

    def __init__(self, config: Config) -> None:
        self.config, self.console = config, Console()
        self.captions, self.real = config.world / "captions.lance", config.world / "images.lance"
        self.benchmark = "fashion" if world_name(config.world) == "fashion" else "icons"
        self.recipes = {name: config_module.read_recipe(name) for name in {config.settings, config.painter}}

    def curve(self, name: str, num: int, seed: int) -> list[_Score]:
        """Scores of one arm at one size along one training."""
        arm, every = ARMS[name], self.config.num_steps // self.config.num_points
        folder = self.config.out / f"{num}-captions" / _plain(name) / f"seed-{seed}"
        vae = find_teacher(self.config.teacher, download=False) / "vae"
        method: dict[str, Any] = {"autoencoder": vae}
        if arm.align:
            method["alignment"] = {
                "encoder": self._encoder(arm.align, num, seed),
                "block": self.config.alignment_block,
                "weight": self.config.alignment_weight,
            }
        half = max(1, self.config.num_images // 2)
        self._train(
            "text-to-image",
            self.config.painter,
            {
                "out": folder / "run",
                "num_steps": self.config.num_steps,
                "export_every": every,
                "save_every": every,
                "seed": seed,
                "data": self._data(arm.source, num)
                | {"where": f"split = 'train' AND {arm.where.format(half=half)}", "origin": "any"},
                "optim": {"schedule": "constant"},
                "method": method,
            },
        )
        steps = range(every, every * self.config.num_points + 1, every)
        return [self._score(folder, step, seed) for step in steps]

    def _score(self, folder: Path, step: int, seed: int) -> _Score:
        """Paint validation captions with the painter of one step, with the same noise for all, and judge them."""
        out = folder / f"step-{step}"
        painting = {
            "captions": self.captions,
            "teacher": str(folder / "run" / "exports" / f"step-{step}" / "teacher"),
            "out": out / "images.lance",
            "where": "split = 'validation'",
            "limit": self.config.num_judged,
            "num_images": 2,
            "seed": seed,
        }
        generate(self._configured(GenerateConfig, ("generate",), painting), console=self.console)
        scores = evaluate_painter(
            PainterConfig(
                images=out / "images.lance",
                world=self.config.world,
                benchmark=self.benchmark,  # type: ignore[arg-type]
                judge=self.config.judge,
                split="validation",
                search_copies=False,
            )
        )
        kid = scores.distances[0].kid if scores.distances else None
        return _Score(
            step,
            scores.fidelity.mean_per_class.value,
            kid.mean if kid else None,
            kid.floor_95 if kid else None,
            out / "painter-scores-named.parquet",
        )

    def _data(self, source: str, num: int) -> dict[str, Any]:
        tables = {"real": [self.real], "painted": [self._painted()], "both": [self._painted(), self.real]}
        return {"images": tables[source], "captions": self.captions, "num_captions": num}

    def _painted(self) -> Path:
        """The teacher's pictures of all captions that any arm learns from, each matched with its caption."""
        table = self.config.out / "painted.lance"
        marker = self.config.out / "matched.json"
        if marker.exists():
            return table
        painting = {
            "captions": self.captions,
            "teacher": self.config.teacher,
            "out": table,
            "limit": max(self.config.num_captions),
            "num_images": self.config.num_images,
        }
        generate(self._configured(GenerateConfig, ("generate",), painting), console=self.console)
        data = {"images": [self.real], "captions": self.captions}
        matcher = self.config.out / "matcher"
        steps = self.config.encoder_steps
        self._train("clip", self.config.settings, {"out": matcher, "num_steps": steps, "data": data})
        audit_match(
            MatchAuditConfig(images=table, captions=self.captions, encoder=str(matcher), out=marker),
            console=self.console,
        )
        return table

    def _encoder(self, kind: str, num: int, seed: int) -> Path:
        """The encoder to align to: trained on the painted pictures of these captions, or as it was before training."""
        folder = self.config.out / f"{num}-captions" / "encoders" / f"{kind}-{seed}"
        method = "stablerep" if kind == "untrained" else kind
        if kind != "untrained":
            settings = {"out": folder, "num_steps": self.config.encoder_steps, "seed": seed}
            return self._train(method, self.config.settings, settings | {"data": self._data("painted", num)})
        like = load_encoder(self._encoder("stablerep", num, seed))
        save_encoder(untrained_encoder(like.config, seed), folder)
        return folder

    def _train(self, method: str, recipe: str, settings: Mapping[str, Any]) -> Path:
        made = self._configured(METHODS[method].config, ("train", method), settings, recipe)
        return train(method, made, console=self.console).run

    def _configured(
        self, kind: type[Any], command: tuple[str, ...], settings: Mapping[str, Any], recipe: str = ""
    ) -> Any:
        name = recipe or self.config.settings
        table = config_module.recipe_table(self.recipes[name], command, name)
        return config_module.build(kind, table, settings, origin="painter claims")


def _plain(name: str) -> str:
    """The name of an arm as the name of a folder."""
    return re.sub(r"[^a-z]+", "-", name.lower())


def _summarise(
    config: Config, name: str, num: int, curves: Mapping[str, Sequence[Sequence[_Score]]]
) -> dict[str, Any]:
    """Curve of an arm, its end beside the end of the first arm, and the step at which it was as good as that."""
    first = config.arms[0]
    mine, theirs = curves[name], curves[first]
    ends = [[run[-1].named for run in runs] for runs in (mine, theirs)]
    means = [float(np.mean([run[place].fidelity for run in mine])) for place in range(config.num_points)]
    target = float(np.mean([run[-1].fidelity for run in theirs]))
    reached = [score.step for score, mean in zip(mine[0], means, strict=True) if mean >= target]
    ahead = None if name == first else dataclasses.asdict(_ahead(*ends))
    return {
        "arm": name,
        "num_captions": num,
        "steps": [score.step for score in mine[0]],
        "fidelity": [[score.fidelity for score in run] for run in mine],
        "kid": [[score.kid for score in run] for run in mine],
        "kid_floor": mine[0][-1].kid_floor,
        "final_fidelity": means[-1],
        "ahead_of_first": ahead,
        "steps_to_end_of_first": reached[0] if reached else None,
    }


def _ahead(mine: Sequence[Path], theirs: Sequence[Path]) -> Any:
    """Paired difference in fidelity, over validation captions and seeds."""
    sides = []
    for number, paths in enumerate((mine, theirs)):
        tables = [pq.read_table(path) for path in paths]
        accuracies = []
        for table in tables:
            labels, named, groups = (
                np.array(table[column].to_pylist()) for column in ("label", "named", "caption_id")
            )
            bootstrap = GroupBootstrap(labels, groups, num=1000, seed=0)
            accuracies.append(bootstrap.accuracies(labels == named))
        sides.append(over_seeds(accuracies, number))
    return sides[0].ahead_of(sides[1], "mean_per_class")


def _draw(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Fidelity against steps, a panel per number of captions, a line per arm."""
    sizes = list(dict.fromkeys(result["num_captions"] for result in results))
    figure = Figure(figsize=(4.6 * len(sizes), 3.6), layout="constrained")
    grid = figure.subplots(1, len(sizes), squeeze=False)[0]
    for axes, size in zip(grid, sizes, strict=True):
        for result in results:
            if result["num_captions"] == size:
                curve = 100 * np.array(result["fidelity"])
                axes.plot(result["steps"], curve.mean(0), label=result["arm"], linewidth=1.4)
        axes.set_title(f"{size:,} captions", fontsize=9, loc="left")
        axes.set_xlabel("steps", fontsize=8)
        axes.set_ylabel("prompt fidelity on validation captions, %", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    grid[-1].legend(fontsize=7, frameon=False)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
