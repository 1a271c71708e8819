"""The circle closed: a painter's pictures train an encoder, the encoder helps to train the next painter, and again.

Every turn is measured alike, so that collapse (less diverse pictures, a smaller rank of features, more copies) shows as
well as progress. Every stage goes on where a stopped circle left it.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, cast

import numpy as np

from stablerep import config as config_module
from stablerep.captions.worlds import WORLDS, WorldConfig, world_name, write_world
from stablerep.console import Console
from stablerep.evaluation.geometry import Geometry, measure_geometry
from stablerep.evaluation.intervals import Interval
from stablerep.evaluation.painting import PainterConfig, PainterScores, evaluate_painter
from stablerep.evaluation.protocols import EvaluateConfig, evaluate
from stablerep.evaluation.scores import Scores
from stablerep.features import TableImages, extract
from stablerep.generation.execute import GenerateConfig, generate
from stablerep.generation.folders import find_teacher
from stablerep.learning.methods import METHODS, train
from stablerep.models.encoder import load_encoder
from stablerep.report.turns import draw_turns
from stablerep.run import provenance, write_text
from stablerep.store import OK, ImageTable

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class CircleConfig:
    """Painter -> pictures -> StableRep -> next painter, for some turns, each measured on real pictures."""

    out: Path = Path("circle")
    """Folder of the circle; a stopped one goes on from what is there, and turns may be added."""
    world: str = "icons"
    """Captions and real pictures: the name of an embedded world, or a folder that `stablerep world` wrote."""
    settings: str = "icons"
    """Recipe, by name or path, that says how to paint, how encoders and the judge train, and on what is measured."""
    painter: str = "teacher-icons"
    """Recipe that says how a painter trains."""
    teacher: str = "icons"
    """The first painter: a shipped teacher by name, or a folder that `train text-to-image` exported."""
    num_turns: int = 2
    """Painters that are trained after the first one."""
    num_captions: int = 500
    """Captions to paint and to learn from."""
    num_images: int = 4
    """Pictures painted per caption (K)."""
    encoder_steps: int = 1000
    painter_steps: int = 2000
    judge_steps: int = 400
    """Steps of the classifier that judges the pictures; it learns from real ones, and no painter is aligned to it."""
    learn_from: Literal["painted", "both"] = "painted"
    """What the next painter learns from: the pictures of the one before, or those and the real ones."""
    begin_anew: bool = False
    """Let every painter begin with random weights, instead of going on from the one before."""
    alignment: float = 0.5
    """How strongly the next painter is aligned to the encoder; 0 for not at all."""
    search_copies: bool = True
    """Search the real training pictures for near-copies, which takes the longest of the measuring."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_captions", "num_images", "encoder_steps", "painter_steps", "judge_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_turns < 0 or self.alignment < 0:
            raise ValueError("num_turns and alignment must not be negative")


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one painter, and the encoder that learned from it, reached."""

    number: int
    painter: str
    encoder: Mapping[str, Interval]
    """Mean per-class accuracy of the linear probe, by test."""
    fidelity: Interval
    """Prompt fidelity of the painter's pictures."""
    kid: float | None
    kid_floor: float | None
    recall: float | None
    coverage: float | None
    near_copies: Interval | None
    pictures: Geometry
    """How its pictures lie in the features of the judge."""


@dataclass(frozen=True, kw_only=True)
class Circle:
    """All turns; ``circle.json`` holds the same."""

    path: Path
    figure: Path
    turns: tuple[Turn, ...]

    HEADER: ClassVar[tuple[str, ...]] = (
        "turn",
        "probe, %",
        "fidelity, %",
        "KID",
        "recall",
        "copies, %",
        "rank",
    )

    def rows(self) -> list[list[str]]:
        """One line per turn under ``HEADER``; the probe is that of the first test."""
        return [
            [
                str(turn.number),
                next(iter(turn.encoder.values())).in_percent(),
                turn.fidelity.in_percent(),
                _number(turn.kid, ".4f"),
                _number(turn.recall, ".2f"),
                "" if turn.near_copies is None else f"{100 * turn.near_copies.value:.1f}",
                f"{turn.pictures.effective_rank:.1f}",
            ]
            for turn in self.turns
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"figure": str(self.figure), "turns": [dataclasses.asdict(turn) for turn in self.turns]}


def circle(config: CircleConfig, *, console: Console = Console(quiet=True)) -> Circle:  # noqa: B008
    """Paint, train, measure and go round again; writes circle.json and circle.png.

    Raises ``UserError`` as the single commands do.
    """
    chain = _Chain(config, console)
    turns = []
    for number in range(config.num_turns + 1):
        console.say(f"turn {number}: painter {chain.painter(number)}")
        turns.append(chain.measure(number))
        if number < config.num_turns:
            chain.train_painter(number + 1)
    found = Circle(
        path=config.out / "circle.json",
        figure=draw_turns(_curves(turns), config.out / "circle.png"),
        turns=tuple(turns),
    )
    content = {"config": config_module.to_dict(config), "provenance": provenance(), **found.to_json()}
    write_text(found.path, json.dumps(content, indent=2) + "\n")
    console.say(f"{found.path}, {found.figure}")
    return found


class _Chain:
    """Names the folders of the turns and fills those that are empty."""

    def __init__(self, config: CircleConfig, console: Console) -> None:
        self.config, self.console = config, console
        self.world = config.out / "world" if config.world in WORLDS else Path(config.world)
        if config.world in WORLDS:
            write_world(WorldConfig(name=cast(Any, config.world), out=self.world), console=console)
        self.captions, self.real = self.world / "captions.lance", self.world / "images.lance"
        self.judge = self._train_judge()

    def folder(self, number: int) -> Path:
        return self.config.out / f"turn-{number}"

    def painter(self, number: int) -> str:
        """The painter of a turn, as ``generate`` takes it."""
        return str(self.folder(number) / "painter" / "teacher") if number else self.config.teacher

    def measure(self, number: int) -> Turn:
        """The pictures of a turn, the encoder that learns from them, and what both are worth."""
        images, run = self._paint(number), self._train_encoder(number)
        place = "fashion" if world_name(self.world) == "fashion" else "world"
        scores = evaluate(
            self._configure(EvaluateConfig, ("evaluate",), {"run": run, place: self.world}),
            console=self.console,
        )
        painting = evaluate_painter(
            PainterConfig(
                images=images,
                world=self.world,
                benchmark="fashion" if place == "fashion" else "icons",
                judge=str(self.judge),
                split="train",
                search_copies=self.config.search_copies,
                seed=self.config.seed,
            ),
            console=self.console,
        )
        return _turn(number, scores, painting, self._geometry(images))

    def train_painter(self, number: int) -> None:
        """The painter of a turn learns from the pictures of the one before, aligned to the encoder they trained."""
        config, before = self.config, number - 1
        images = [self.folder(before) / "images.lance"]
        predecessor = find_teacher(self.painter(before), download=False)
        method: dict[str, Any] = {"autoencoder": find_teacher(config.teacher, download=False) / "vae"}
        if not config.begin_anew:
            method["start_from"] = predecessor
        if config.alignment:
            method["alignment"] = {
                "encoder": self.folder(before) / "stablerep",
                "weight": config.alignment,
            }
        settings = {
            "out": self.folder(number) / "painter",
            "num_steps": config.painter_steps,
            "seed": config.seed,
            "data": {
                "images": images if config.learn_from == "painted" else [*images, self.real],
                "origin": "any",
                "captions": self.captions,
                "num_captions": config.num_captions,
            },
            "method": method,
        }
        self._train("text-to-image", settings, config.painter)

    def _paint(self, number: int) -> Path:
        out = self.folder(number) / "images.lance"
        painting = {
            "captions": self.captions,
            "out": out,
            "teacher": self.painter(number),
            "limit": self.config.num_captions,
            "num_images": self.config.num_images,
            "seed": self.config.seed,
        }
        generate(self._configure(GenerateConfig, ("generate",), painting), console=self.console)
        return out

    def _train_encoder(self, number: int) -> Path:
        settings = {
            "out": self.folder(number) / "stablerep",
            "num_steps": self.config.encoder_steps,
            "seed": self.config.seed,
            "data": {
                "images": [self.folder(number) / "images.lance"],
                "num_captions": self.config.num_captions,
            },
        }
        return self._train("stablerep", settings, self.config.settings)

    def _train_judge(self) -> Path:
        settings = {
            "out": self.config.out / "judge",
            "num_steps": self.config.judge_steps,
            "seed": self.config.seed,
            "data": {"images": [self.real]},
        }
        return self._train("supervised", settings, self.config.settings)

    def _train(self, method: str, settings: Mapping[str, Any], recipe: str) -> Path:
        made = self._configure(METHODS[method].config, ("train", method), settings, recipe)
        return train(method, made, console=self.console).run

    def _geometry(self, images: Path) -> Geometry:
        """Of painted pictures in the judge's features: a caption is a concept, and a style the hand it asked for."""
        table = ImageTable.open(images)
        rows = table.read(["caption_id", "style", "status"])
        good = np.flatnonzero(np.array(rows["status"].to_pylist()) == OK)
        captions, styles = (
            np.array([value or "" for value in rows[name].to_pylist()]) for name in ("caption_id", "style")
        )
        features = extract(
            load_encoder(self.judge),
            TableImages(table, good),
            cache=images.parent / "features",
            console=self.console,
        )
        return measure_geometry(features, captions[good], styles[good])

    def _configure(
        self,
        config_class: type[T],
        command: tuple[str, ...],
        settings: Mapping[str, Any],
        recipe: str | None = None,
    ) -> T:
        name = recipe or self.config.settings
        table = config_module.recipe_table(config_module.read_recipe(name), command, name)
        return config_module.build(config_class, table, settings, origin="circle")


def _turn(number: int, scores: Scores, painting: PainterScores, pictures: Geometry) -> Turn:
    probe = {
        f"{record.benchmark}: {record.test}": record.mean_per_class
        for record in scores.records
        if record.kind == "run" and record.protocol == "linear"
    }
    distances = painting.distances[0] if painting.distances else None
    return Turn(
        number=number,
        painter=painting.origin,
        encoder=probe,
        fidelity=painting.fidelity.mean_per_class,
        kid=distances.kid.mean if distances else None,
        kid_floor=distances.kid.floor_95 if distances else None,
        recall=distances.cover.recall if distances else None,
        coverage=distances.cover.coverage if distances else None,
        near_copies=painting.near_copies.share if painting.near_copies else None,
        pictures=pictures,
    )


def _curves(turns: list[Turn]) -> dict[str, list[tuple[float, float, float] | None]]:
    """What is drawn: for each panel a value with its interval by turn."""
    curves: dict[str, list[tuple[float, float, float] | None]] = {}
    for test in turns[0].encoder:
        curves[f"linear probe, %\n{test}"] = [_in_percent(turn.encoder[test]) for turn in turns]
    curves["prompt fidelity, %"] = [_in_percent(turn.fidelity) for turn in turns]
    curves["near-copies, %"] = [_in_percent(turn.near_copies) for turn in turns]
    for name in ("kid", "recall", "coverage"):
        curves[name.upper() if name == "kid" else name] = [_alone(getattr(turn, name)) for turn in turns]
    curves["effective rank of pictures"] = [_alone(turn.pictures.effective_rank) for turn in turns]
    return {name: curve for name, curve in curves.items() if any(point is not None for point in curve)}


def _in_percent(interval: Interval | None) -> tuple[float, float, float] | None:
    return None if interval is None else (100 * interval.value, 100 * interval.low, 100 * interval.high)


def _alone(value: float | None) -> tuple[float, float, float] | None:
    return None if value is None else (value, value, value)


def _number(value: float | None, spec: str) -> str:
    return "" if value is None else f"{value:{spec}}"
