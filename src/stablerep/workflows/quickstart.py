"""The main job in one command: captions -> pictures -> encoder -> measured on real pictures -> report."""

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stablerep.captions.worlds import WorldConfig, write_world
from stablerep.console import Console
from stablerep.evaluation.protocols import EvaluateConfig, evaluate
from stablerep.evaluation.scores import Scores
from stablerep.generation.execute import GenerateConfig, generate
from stablerep.generation.folders import find_teacher
from stablerep.generation.teacher import TEACHERS
from stablerep.learning.data import DataConfig
from stablerep.learning.methods import METHODS, train
from stablerep.learning.trainer import TrainConfig
from stablerep.report import ReportConfig, write_report
from stablerep.workflows.conditions import captions_to_paint
from stablerep.workflows.recipe import Recipe

_RECIPE = "icons"


@dataclass(frozen=True, kw_only=True)
class QuickstartConfig:
    """Sizes of the quickstart; the defaults take six minutes on two cores with AMX, half an hour or more with AVX2."""

    out: Path = Path("quickstart")
    """Project folder; a stopped quickstart goes on from what is there."""
    teacher: str = "icons"
    """Who paints: a shipped teacher by name, the path of a diffusers folder, or a hub id."""
    download: bool = False
    """Fetch a teacher given by its hub id if it is not in the local cache yet."""
    num_captions: int = 500
    """Captions to paint and to learn from."""
    num_images: int = 4
    """Pictures painted per caption (K)."""
    num_steps: int = 250
    """Training steps of each encoder."""
    seed: int = 0
    """Determines noise, order of the data and initial weights."""

    def __post_init__(self) -> None:
        for name, least in (("num_captions", 8), ("num_images", 2), ("num_steps", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class QuickstartSummary:
    """Where everything is, and the scores."""

    report: Path
    scores: Scores
    seconds: float

    def show(self, console: Console) -> None:
        """The score table, then the path of the report."""
        console.show(self.scores)
        console.facts({"report": self.report, "seconds": self.seconds})

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return {"report": self.report, "seconds": self.seconds, "scores": self.scores.to_json()}


def quickstart(
    config: QuickstartConfig,
    *,
    console: Console = Console(quiet=True),  # noqa: B008
) -> QuickstartSummary:
    """Paint pictures, train StableRep on them and SimCLR on real ones, measure both, and write the report.

    Both learners get the same captions, the same number of steps and of views; the encoders are measured on real
    pictures that neither they nor the teacher saw. Every stage goes on from what a stopped run left.
    """
    begin = time.monotonic()
    if config.teacher not in TEACHERS:
        find_teacher(config.teacher, download=config.download)  # before anything is written
    world, painted = config.out / "world", config.out / "images.lance"
    console.say("1/5  the world icons: real pictures with captions, split by what they show")
    write_world(WorldConfig(name="icons", out=world))
    console.say(f"2/5  {config.num_images} pictures are painted for each of {config.num_captions} captions")
    painter = {"teacher": config.teacher, "download": config.download}
    painting = {"captions": world / "captions.lance", "out": painted, **painter}
    sizes = {"limit": config.num_captions, "num_images": config.num_images, "seed": config.seed}
    recipe = Recipe.read(_RECIPE, "quickstart")
    generating = recipe.configure(GenerateConfig, ("generate",), painting | sizes)
    captions_to_paint(generating, config.num_captions)
    generate(generating, console=console)
    console.say(
        "3/5  StableRep learns from the painted pictures alone; SimCLR, beside it, from the real ones"
    )
    learning = {"images": [painted], "num_painted": config.num_images}
    ours = config.out / "runs" / "stablerep"
    real = config.out / "runs" / "simclr-real"
    for method, run, data in (
        ("stablerep", ours, learning),
        ("simclr", real, {"images": [world / "images.lance"]}),
    ):
        train(method, _training(config, recipe, method, run, data), console=console)
    console.say("4/5  both are measured on real pictures that nobody trained on")
    measuring = {"run": ours, "also": (real,), "world": world, "seed": config.seed}
    scores = evaluate(recipe.configure(EvaluateConfig, ("evaluate",), measuring), console=console)
    console.say("5/5  the report")
    page = config.out / "report" / "index.html"
    report = write_report(ReportConfig(folders=(config.out,), world=world, out=page), console=console)
    return QuickstartSummary(report=report, scores=scores, seconds=time.monotonic() - begin)


def _training(
    config: QuickstartConfig, recipe: Recipe, method: str, run: Path, data: Mapping[str, Any]
) -> TrainConfig:
    settings = {
        "out": run,
        "num_steps": config.num_steps,
        "seed": config.seed,
        "data": {**data, "num_captions": config.num_captions},
    }
    asked = recipe.configure(METHODS[method].config, ("train", method), settings)
    return dataclasses.replace(asked, data=_fitted(asked.data, config))


def _fitted(data: DataConfig, config: QuickstartConfig) -> DataConfig:
    """Batches that few captions or pictures can fill, with as many views for either method."""
    images_per_caption = min(data.images_per_caption, config.num_images)
    views = data.captions_per_batch * data.images_per_caption * data.crops_per_image
    views = min(views, 2 * config.num_captions)  # SimCLR's two of each caption
    return dataclasses.replace(
        data,
        images_per_caption=images_per_caption,
        captions_per_batch=views // (images_per_caption * data.crops_per_image),
    )
