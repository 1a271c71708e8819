"""The circle closed: a painter's pictures train an encoder, the encoder helps to train the next painter, and again.

Every turn is measured alike, so that collapse (less diverse pictures, a smaller rank of features, more copies) shows as
well as progress. Every stage goes on where a stopped circle left it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from stablerep import config as config_module
from stablerep import runtime
from stablerep.audit.attributes import attributes_text, read_attributes
from stablerep.audit.bias import BiasAuditConfig, audit_bias
from stablerep.captions.worlds import WORLDS, WorldConfig, world_name, write_world
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.evaluation.benchmarks import is_benchmark
from stablerep.evaluation.geometry import Geometry, measure_geometry
from stablerep.evaluation.intervals import Interval
from stablerep.evaluation.near_copies import NearCopyConfig
from stablerep.evaluation.painting import PainterConfig, evaluate_painter
from stablerep.evaluation.protocols import EvaluateConfig, evaluate
from stablerep.features import TableImages, extract
from stablerep.generation.execute import GenerateConfig, generate
from stablerep.generation.folders import find_teacher
from stablerep.generation.wanted import read_captions
from stablerep.learning.methods import METHODS, train
from stablerep.learning.trainer import TrainConfig
from stablerep.models.encoder import load_encoder
from stablerep.report.turns import draw_turns
from stablerep.run import provenance, read_json, write_text
from stablerep.store import OK, ImageTable
from stablerep.workflows.circle_turns import Circle, Turn, keep_turn, shares_of, stored_turn, turn_of
from stablerep.workflows.conditions import captions_to_paint, usable_captions
from stablerep.workflows.recipe import Recipe


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
    """The first painter: a shipped teacher by name, a folder that `train text-to-image` exported, or its hub id."""
    download: bool = False
    """Fetch a first painter given by its hub id if it is not in the local cache yet."""
    num_turns: int = 2
    """Painters that are trained after the first one."""
    num_captions: int = 500
    """Captions to paint and to learn from."""
    num_images: int = 4
    """Pictures painted per caption (K)."""
    encoder_steps: int = 1000
    """Steps of the encoder of every turn."""
    painter_steps: int = 2000
    """Steps of the painter of every turn."""
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
    copies: NearCopyConfig = field(default_factory=NearCopyConfig)
    """Settings of that search, such as of how many pictures."""
    attributes: Path | None = None
    """Attributes file as `audit bias` takes it, by a shipped name (icons) or its path: shares of the values in the
    pictures are followed over the turns. The judge reads them."""
    seed: int = 0
    """Determines which captions are painted, the pictures, and all training."""

    def __post_init__(self) -> None:
        for name in ("num_captions", "num_images", "encoder_steps", "painter_steps", "judge_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_turns < 0 or self.alignment < 0:
            raise ValueError("num_turns and alignment must not be negative")


def circle(config: CircleConfig, *, console: Console = Console(quiet=True)) -> Circle:  # noqa: B008
    """Paint, train, measure and go round again; writes circle.json and circle.png.

    Raises ``UserError`` as the single commands do, and for a recipe that does not measure by a linear probe.
    """
    runtime.require_one_process()
    chain = _Chain(config, console)
    turns: list[Turn] = []
    for number in range(config.num_turns + 1):
        console.say(f"turn {number}: painter {chain.painter(number)}")
        turns.append(chain.measure(number))
        if number < config.num_turns:
            chain.train_painter(number + 1)
    found = Circle(path=config.out / "circle.json", figure=config.out / "circle.png", turns=tuple(turns))
    draw_turns(found.curves, found.figure)
    content = {"config": config_module.to_dict(config), "provenance": provenance(), **found.to_json()}
    write_text(found.path, json.dumps(content, indent=2) + "\n")
    console.say(f"{found.path}, {found.figure}")
    return found


class _Chain:
    """Names the folders of the turns and fills those that are empty."""

    def __init__(self, config: CircleConfig, console: Console) -> None:
        self.config, self.console = config, console
        self.recipe, self.painters = (
            Recipe.read(name, "circle") for name in (config.settings, config.painter)
        )
        self.world = config.out / "world" if config.world in WORLDS else Path(config.world)
        if config.world in WORLDS:
            write_world(WorldConfig(name=cast(Any, config.world), out=self.world), console=console)
        self.captions, self.real = self.world / "captions.lance", self.world / "images.lance"
        self._check()
        self.judge = self._train_judge()

    def folder(self, number: int) -> Path:
        return self.config.out / f"turn-{number}"

    def painter(self, number: int) -> str:
        """The painter of a turn, as ``generate`` takes it."""
        return str(self.folder(number) / "painter" / "teacher") if number else self.config.teacher

    def measure(self, number: int) -> Turn:
        """The pictures of a turn, the encoder that learns from them, and what both are worth.

        A turn that was measured before is not measured again, as long as nothing changed that determined it.
        """
        images, run = self._paint(number), self._train_encoder(number)
        is_fashion = world_name(self.world) == "fashion"
        evaluating = self.recipe.configure(
            EvaluateConfig, ("evaluate",), {"run": run, "fashion" if is_fashion else "world": self.world}
        )
        judging = PainterConfig(
            images=images,
            world=self.world,
            benchmark="fashion" if is_fashion else "icons",
            judge=str(self.judge),
            split="train",
            search_copies=self.config.search_copies,
            copies=self.config.copies,
            seed=self.config.seed,
        )
        kept = self.folder(number) / "turn.json"
        inputs = self._inputs(images, run, evaluating, judging)
        turn = stored_turn(kept, inputs)
        if turn is None:
            shares = self._shares(images)
            turn = turn_of(
                number,
                evaluate(evaluating, console=self.console),
                evaluate_painter(judging, console=self.console),
                self._geometry(images),
                shares,
            )
            keep_turn(kept, inputs, turn)
        return turn

    def train_painter(self, number: int) -> None:
        """The painter of a turn learns from the pictures of the one before, aligned to the encoder they trained."""
        settings = self._learning(number)
        if self.config.alignment:
            settings["method"]["alignment"] = {
                "encoder": self.folder(number - 1) / "stablerep",
                "weight": self.config.alignment,
            }
        self._train("text-to-image", settings, self.painters)

    def _learning(self, number: int) -> dict[str, Any]:
        """How the painter of a turn is trained, but for its alignment."""
        config, before = self.config, number - 1
        images = [self.folder(before) / "images.lance"]
        method = {"autoencoder": find_teacher(config.teacher) / "vae"}
        if not config.begin_anew:
            method["start_from"] = find_teacher(self.painter(before))
        return {
            "out": self.folder(number) / "painter",
            "num_steps": config.painter_steps,
            "seed": config.seed,
            "data": {
                "images": images if config.learn_from == "painted" else [*images, self.real],
                "origin": "any",
                "captions": self.captions,
                "num_captions": config.num_captions,
                "num_painted": config.num_images,
            },
            "method": method,
        }

    def _check(self) -> None:
        """Refuse what would show only after hours of painting and training."""
        world_name(self.world)
        evaluating = self.recipe.configure(EvaluateConfig, ("evaluate",), {"run": self.config.out})
        if "linear" not in evaluating.protocols or not any(map(is_benchmark, evaluating.benchmarks)):
            raise UserError(
                f"recipe {self.config.settings}: a circle follows the linear probe, and [evaluate] measures by "
                f"{', '.join(evaluating.protocols)} on {', '.join(evaluating.benchmarks)}; add linear, and the world's "
                "own benchmark"
            )
        captions_to_paint(self._painting(0), self.config.num_captions)
        find_teacher(self.config.teacher, download=self.config.download)  # from then on it is in the cache
        if self.config.attributes is not None:
            read_attributes(self.config.attributes)
        self._check_training()

    def _check_training(self) -> None:
        """Refuse batches that the captions do not fill, and a painter's recipe that does not fit the first painter."""
        self._check_batch("stablerep", self._configure("stablerep", self._seeing(0), self.recipe))
        if self.config.num_turns:
            made = self._configure("text-to-image", self._learning(1), self.painters)
            self._check_batch("text-to-image", made)
            METHODS["text-to-image"].build(made)  # with the weights that it will go on from

    def _check_batch(self, method: str, made: TrainConfig) -> None:
        painted = read_captions(self._painting(0))
        groups = {painted.facts[caption]["group"] or caption for caption, _ in painted}
        counts = {"captions": len(painted), "groups of captions": len(groups)}
        counted = "groups of captions" if made.data.one_per_group else "captions"
        if counts[counted] < made.data.captions_per_batch:
            raise UserError(
                f"{counts[counted]} {counted} are to be painted, fewer than one batch of {method}, which takes "
                f"{made.data.captions_per_batch}; raise num_captions (--num-captions), or lower "
                "data.captions_per_batch in the recipe"
            )

    def _painting(self, number: int) -> GenerateConfig:
        settings = {
            "captions": self.captions,
            "out": self.folder(number) / "images.lance",
            "teacher": self.painter(number),
            "limit": self.config.num_captions,
            "num_images": self.config.num_images,
            "seed": self.config.seed,
        }
        return self.recipe.configure(GenerateConfig, ("generate",), settings)

    def _paint(self, number: int) -> Path:
        return generate(self._painting(number), console=self.console).path

    def _seeing(self, number: int) -> dict[str, Any]:
        """How the encoder of a turn is trained."""
        return {
            "out": self.folder(number) / "stablerep",
            "num_steps": self.config.encoder_steps,
            "seed": self.config.seed,
            "data": {
                "images": [self.folder(number) / "images.lance"],
                "num_captions": self.config.num_captions,
                "num_painted": self.config.num_images,
            },
        }

    def _train_encoder(self, number: int) -> Path:
        return self._train("stablerep", self._seeing(number), self.recipe)

    def _train_judge(self) -> Path:
        settings = {
            "out": self.config.out / "judge",
            "num_steps": self.config.judge_steps,
            "seed": self.config.seed,
            "data": {"images": [self.real]},
        }
        return self._train("supervised", settings, self.recipe)

    def _configure(self, method: str, settings: Mapping[str, Any], recipe: Recipe) -> TrainConfig:
        return recipe.configure(METHODS[method].config, ("train", method), settings)

    def _train(self, method: str, settings: Mapping[str, Any], recipe: Recipe) -> Path:
        """Train on as many captions as are asked for, or as are left where all paintings of some failed."""
        made = self._configure(method, settings, recipe)
        data = made.data
        if data.num_captions is not None:
            num = min(data.num_captions, len(usable_captions(data)))
            made = dataclasses.replace(made, data=dataclasses.replace(data, num_captions=num))
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

    def _shares(self, images: Path) -> dict[str, Interval]:
        """What the pictures show of the attributes that are followed; nothing where the judge reads none of them."""
        if self.config.attributes is None:
            return {}
        asked = BiasAuditConfig(
            images=images,
            captions=self.captions,
            attributes=self.config.attributes,
            reference=self.real,
            encoder=str(self.judge),
            seed=self.config.seed,
        )
        try:
            audit_bias(asked, console=self.console)
        except UserError as error:  # all else that is measured of the turn does not depend on it
            self.console.say(f"the attributes of {images} are not followed: {error}")
            return {}
        return shares_of(images.with_name("bias.json"))

    def _inputs(
        self, images: Path, run: Path, evaluating: EvaluateConfig, judging: PainterConfig
    ) -> dict[str, Any]:
        """Everything that determines what is measured of a turn."""
        attributes = self.config.attributes
        rows = ImageTable.open(images).read(["origin", "caption_id", "image_index", "status"]).to_pylist()
        pictures = "\n".join(sorted("\x1f".join(map(str, row.values())) for row in rows))
        return {
            "evaluate": config_module.to_dict(evaluating),
            "painter": config_module.to_dict(judging),
            "attributes": None if attributes is None else attributes_text(attributes),
            "world": read_json(self.world / "world.json"),
            "pictures": hashlib.sha256(pictures.encode()).hexdigest(),
            "encoder": load_encoder(run).fingerprint,
            "judge": load_encoder(self.judge).fingerprint,
            "versions": provenance()["versions"],
        }
