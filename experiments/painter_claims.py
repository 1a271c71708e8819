"""Do text-to-image models learn better from painted pictures? Same painter, captions and steps; what it sees differs.

    stablerep world fashion --out fashion
    stablerep train supervised --recipe fashion --data.images fashion/images.lance --out judge
    python experiments/painter_claims.py --world fashion --settings fashion --painter teacher-fashion \
        --teacher fashion --judge judge --out painter-claims

Arms: one real picture per caption; K painted ones; those of them that match their caption best; real and painted;
painted ones with hidden features aligned to an encoder (REPA), after every ``--alignment-block`` and with every
``--alignment-weight`` that is given; and painted ones with captions read by the text tower of an image-text run. All
train at a constant rate with averaged weights and are scored on validation captions at equal steps, with the same
noise. With ``--best-of N`` the last painter of every training paints N pictures per caption, and the one that matches
it best is judged beside all. Writes OUT/painter-claims.json and .png; what is there already is neither trained, painted
nor judged again, and is refused where it belongs to other settings.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from mistakes import in_one_sentence
from painter_arms import ARMS, Arm, chosen_arms
from painter_scores import (
    BEST_HEADER,
    BOTH,
    HEADER,
    PAINTED,
    REAL,
    Curves,
    Ends,
    Score,
    best_table_of,
    draw,
    real_needed,
    summarise,
    summarise_best,
    table_of,
)
from stablerep import config as config_module
from stablerep.audit.match import MatchAuditConfig, audit_match
from stablerep.captions.worlds import world_name
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.evaluation.painting import PainterConfig, evaluate_painter
from stablerep.features import untrained_encoder
from stablerep.generation.execute import GenerateConfig, generate
from stablerep.generation.folders import find_teacher
from stablerep.learning.data import DataConfig, ViewSource
from stablerep.learning.methods import METHODS, train
from stablerep.models.encoder import load_encoder, save_encoder
from stablerep.run import provenance, write_text
from stablerep.workflows.recipe import Recipe
from stored import measured_once
from usable import usable_real

TRAIN = "split = 'train'"


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
    num_captions: tuple[int | Literal["all"], ...] = (250, 1000, "all")
    num_images: int = 4
    num_steps: int = 1000
    num_points: int = 20
    """Scores along a training."""
    encoder_steps: int = 500
    num_judged: int = 200
    """Validation captions that every score along a training paints, twice each."""
    num_images_at_end: int | None = None
    """Pictures of every validation caption by which painters are compared at the end of their training; where not
    given, by the last score of their curve."""
    num_train: int | None = None
    """Real pictures that train the judge's probe, anew for every score; all where not given."""
    alignment_block: tuple[int, ...] = (3,)
    alignment_weight: tuple[float, ...] = (0.5,)
    best_of: int = 1
    """Pictures of each validation caption of which the best by match is judged, at the end of every training."""
    matcher: str | None = None
    """Image-text run that ranks them, best one that saw no painted picture; the experiment's own CLIP, which learned
    from the real ones, where not given."""
    seeds: tuple[int, ...] = (0, 1, 2)


def main(config: Config) -> None:
    """Train and score every arm at every size, then write table and figure."""
    lab = _Lab(config)
    for num in lab.sizes:
        lab.check_same_captions(num)
    curves: dict[int, Curves] = {
        num: {name: [lab.curve(name, num, seed) for seed in config.seeds] for name in lab.arms}
        for num in lab.sizes
    }
    ends: dict[int, Ends] = {
        num: {name: [lab.end(name, num, seed) for seed in config.seeds] for name in lab.arms}
        for num in lab.sizes
    }
    results = [
        summarise(name, num, curves[num], ends[num], arm.against)
        for num in lab.sizes
        for name, arm in lab.arms.items()
    ]
    best = [
        summarise_best(name, num, [lab.best_of(name, num, seed) for seed in config.seeds])
        for num in lab.sizes
        for name in lab.arms
        if config.best_of > 1
    ]
    content = {
        "config": json.loads(json.dumps(dataclasses.asdict(config), default=str)),
        "provenance": provenance(),
        "results": results,
        "real_needed": real_needed(ends),
        "best_of": best,
    }
    write_text(config.out / "painter-claims.json", json.dumps(content, indent=1) + "\n")
    draw(results, config.out / "painter-claims.png")
    lab.console.table(str(config.out), HEADER, table_of(results))
    if best:
        lab.console.table(f"best of {config.best_of}", BEST_HEADER, best_table_of(best))


class _Lab:
    """Names what the experiment makes, and makes what is missing."""

    def __init__(self, config: Config) -> None:
        self.config, self.console = config, Console()
        if config.num_points < 1 or config.num_steps % config.num_points:
            raise UserError(
                f"num_steps {config.num_steps} must be a multiple of num_points {config.num_points}, so that the last "
                "score is of the painter at the end"
            )
        self.arms = chosen_arms(config.arms, config.alignment_block, config.alignment_weight)
        self.captions, self.real = config.world / "captions.lance", config.world / "images.lance"
        self.benchmark = "fashion" if world_name(config.world) == "fashion" else "icons"
        self.recipe, self.painters = (
            Recipe.read(name, "painter claims") for name in (config.settings, config.painter)
        )
        there = len(usable_real(config.world, self.recipe.tables))
        self.sizes = [there if num == "all" else num for num in config.num_captions]
        if max(self.sizes) > there or len(set(self.sizes)) < len(self.sizes):
            raise UserError(
                f"num_captions {config.num_captions}: give different numbers, none above the {there} captions of "
                f"{config.world} that have a real picture to learn from"
            )

    def check_same_captions(self, num: int) -> None:
        """``UserError`` where filters and failures take captions from one arm and not from another."""
        chosen = {}
        for name, arm in self.arms.items():
            command = ("train", "text-to-image", "data")
            data = self.painters.configure(DataConfig, command, self._data(arm, num))
            chosen[name] = set(ViewSource(data, seed=self.config.seeds[0]).caption_ids)
        (first, captions), *others = chosen.items()
        for name, theirs in others:
            if theirs != captions:
                raise UserError(
                    f"{first} and {name} would learn from different captions ({len(theirs ^ captions)} of {num} are "
                    "in one of them only); let the recipes (--settings, --painter) choose the same ones"
                )

    def curve(self, name: str, num: int, seed: int) -> list[Score]:
        """Scores of one arm at one size along one training."""
        arm, every = self.arms[name], self.config.num_steps // self.config.num_points
        folder = self._folder(name, num, seed)
        vae = find_teacher(self.config.teacher, download=False) / "vae"
        method: dict[str, Any] = {"autoencoder": vae}
        if arm.align:
            method["alignment"] = {
                "encoder": self._encoder(arm.align, num, seed),
                "block": arm.block,
                "weight": arm.weight,
            }
        if arm.text:
            method["text_from"] = self._encoder(arm.text, num, seed)
        self._train(
            "text-to-image",
            self.painters,
            {
                "out": folder / "run",
                "num_steps": self.config.num_steps,
                "export_every": every,
                "save_every": every,
                "seed": seed,
                "data": self._data(arm, num),
                "optim": {"schedule": "constant"},
                "method": method,
            },
        )
        return [self._score(folder, step, seed) for step in range(every, self.config.num_steps + 1, every)]

    def end(self, name: str, num: int, seed: int) -> Score:
        """Score of one painter after its training, by which it is compared."""
        folder, step, each = (
            self._folder(name, num, seed),
            self.config.num_steps,
            self.config.num_images_at_end,
        )
        if each is None:
            return self._score(folder, step, seed)
        place = f"end-{each}"  # all pictures of a table are judged, so another number has another one
        judged_by = {**self._judged_by("num_images_at_end"), "num_judged": None}
        found = measured_once(
            folder / f"{place}.json",
            judged_by,
            lambda: dataclasses.asdict(
                self._judge(self._paint(folder, step, seed, place, each, limit=None), folder, step, place)
            ),
        )
        return config_module.build(Score, found, origin=str(folder))

    def best_of(self, name: str, num: int, seed: int) -> dict[str, Score]:
        """Scores of ``best_of`` pictures of each caption by the painter at the end of a training: all, and the best."""
        folder = self._folder(name, num, seed)
        path = folder / f"best-of-{self.config.best_of}.json"
        found = measured_once(path, self._judged_by("matcher"), lambda: self._ranked(folder, seed))
        return {kind: config_module.build(Score, one, origin=str(folder)) for kind, one in found.items()}

    def _ranked(self, folder: Path, seed: int) -> dict[str, Any]:
        step, place = self.config.num_steps, f"best-of-{self.config.best_of}"
        painted = self._paint(folder, step, seed, place, self.config.best_of, self.config.num_judged)
        matcher = self.config.matcher or str(self._matcher())
        audit_match(
            MatchAuditConfig(images=painted, captions=self.captions, encoder=matcher), console=self.console
        )
        return {
            "all": dataclasses.asdict(self._judge(painted, folder, step, place)),
            "best": dataclasses.asdict(self._judge(painted, folder, step, f"{place}-best", "match_rank = 0")),
        }

    def _judged_by(self, *further: str) -> dict[str, Any]:
        """Settings that a score belongs to."""
        names = ("world", "settings", "judge", "num_judged", "num_train", *further)
        return {name: getattr(self.config, name) for name in names}

    def _folder(self, name: str, num: int, seed: int) -> Path:
        return self.config.out / f"{num}-captions" / _plain(name) / f"seed-{seed}"

    def _score(self, folder: Path, step: int, seed: int) -> Score:
        """Paint validation captions with the painter of one step, with the same noise for all, and judge them."""
        place = f"step-{step}"
        found = measured_once(
            folder / f"{place}.json",
            self._judged_by(),
            lambda: dataclasses.asdict(
                self._judge(
                    self._paint(folder, step, seed, place, 2, self.config.num_judged), folder, step, place
                )
            ),
        )
        return config_module.build(Score, found, origin=str(folder))

    def _paint(
        self, folder: Path, step: int, seed: int, place: str, num_images: int, limit: int | None
    ) -> Path:
        """Pictures of the first validation captions, or of all, by the painter of one step."""
        painted = folder / place / "images.lance"
        painting = {
            "captions": self.captions,
            "teacher": str(folder / "run" / "exports" / f"step-{step}" / "teacher"),
            "out": painted,
            "where": "split = 'validation'",
            "limit": limit,
            "num_images": num_images,
            "seed": seed,
        }
        generate(self.recipe.configure(GenerateConfig, ("generate",), painting), console=self.console)
        return painted

    def _judge(self, painted: Path, folder: Path, step: int, place: str, where: str | None = None) -> Score:
        """What the judge says of the pictures that a filter lets through."""
        # All scores lie in one folder, where the features of the judge's own pictures are computed once.
        name = f"{'-'.join(folder.relative_to(self.config.out).parts)}-{place}"
        out = self.config.out / "scores" / f"{name}.json"
        scores = evaluate_painter(
            PainterConfig(
                images=painted,
                world=self.config.world,
                benchmark=self.benchmark,  # type: ignore[arg-type]
                judge=self.config.judge,
                num_train=self.config.num_train,
                where=where,
                split="validation",
                search_copies=False,
                out=out,
            )
        )
        kid = scores.distances[0].kid if scores.distances else None
        return Score(
            step,
            scores.fidelity.mean_per_class.value,
            kid.mean if kid else None,
            kid.floor_95 if kid else None,
            out.with_name(f"{name}-named.parquet"),
        )

    def _data(self, arm: Arm, num: int) -> dict[str, Any]:
        """Settings of the data of an arm: one real picture of each caption, its painted ones, or both."""
        half = max(1, self.config.num_images // 2)
        tables = {
            REAL: lambda: [self.real],
            PAINTED: lambda: [self._painted()],
            BOTH: lambda: [self._painted(), self.real],
        }
        return {
            "images": tables[arm.source](),
            "captions": self.captions,
            "num_captions": num,
            "where": f"{TRAIN} AND match_rank < {half}" if arm.best_half else TRAIN,
            "origin": "any",
            "num_real": 1,
            "num_painted": self.config.num_images,
        }

    def _painted(self) -> Path:
        """The teacher's pictures of all captions that any arm learns from, each matched with its caption."""
        table, most = self.config.out / "painted.lance", max(self.sizes)
        names = ("world", "settings", "teacher", "num_images", "encoder_steps")
        settings = {name: getattr(self.config, name) for name in names}
        marker = self.config.out / f"painted-{most}.json"  # more captions may be asked for later
        measured_once(marker, settings, lambda: self._paint_and_match(table, most))
        return table

    def _paint_and_match(self, table: Path, num_captions: int) -> dict[str, Any]:
        painting = {
            "captions": self.captions,
            "teacher": self.config.teacher,
            "out": table,
            "limit": num_captions,
            "num_images": self.config.num_images,
        }
        generate(self.recipe.configure(GenerateConfig, ("generate",), painting), console=self.console)
        matching = MatchAuditConfig(images=table, captions=self.captions, encoder=str(self._matcher()))
        return {"num_pictures": audit_match(matching, console=self.console).num_pictures}

    def _matcher(self) -> Path:
        """A CLIP that learned from the real pictures."""
        data = {"images": [self.real], "captions": self.captions}
        settings = {"out": self.config.out / "matcher", "num_steps": self.config.encoder_steps, "data": data}
        return self._train("clip", self.recipe, settings)

    def _encoder(self, kind: str, num: int, seed: int) -> Path:
        """A run on the painted pictures of these captions, to align to or to read with; or one before its training."""
        folder = self.config.out / f"{num}-captions" / "encoders" / f"{kind}-{seed}"
        if kind != "untrained":
            settings = {"out": folder, "num_steps": self.config.encoder_steps, "seed": seed}
            data = {"data": self._data(ARMS[PAINTED], num)}
            return self._train(kind, self.recipe, settings | data)
        like = load_encoder(self._encoder("stablerep", num, seed))
        save_encoder(untrained_encoder(like.config, seed), folder)
        return folder

    def _train(self, method: str, recipe: Recipe, settings: Mapping[str, Any]) -> Path:
        made = recipe.configure(METHODS[method].config, ("train", method), settings)
        return train(method, made, console=self.console).run


def _plain(name: str) -> str:
    """The name of an arm as the name of a folder."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower())


if __name__ == "__main__":
    with in_one_sentence():
        main(tyro.cli(Config, description=__doc__))
