"""The main job in one command: captions -> pictures -> encoder -> measured on real pictures -> report."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stablerep import config as config_module
from stablerep.captions.worlds import WorldConfig, write_world
from stablerep.console import Console
from stablerep.evaluation.protocols import EvaluateConfig, evaluate
from stablerep.evaluation.scores import Scores
from stablerep.generation.execute import GenerateConfig, generate
from stablerep.learning.methods import METHODS, train
from stablerep.report import ReportConfig, write_report

_RECIPE = "icons"


@dataclass(frozen=True, kw_only=True)
class QuickstartConfig:
    """Sizes of the quickstart; the defaults end within a quarter of an hour on two cores."""

    out: Path = Path("quickstart")
    """Project folder; a stopped quickstart goes on from what is there."""
    num_captions: int = 500
    """Captions to paint and to learn from."""
    num_images: int = 4
    """Pictures painted per caption (K)."""
    num_steps: int = 250
    """Training steps of each encoder."""
    seed: int = 0
    """Determines noise, order of the data and initial weights."""


@dataclass(frozen=True, kw_only=True)
class QuickstartSummary:
    """Where everything is, and the scores."""

    report: Path
    scores: Scores
    seconds: float

    def show(self, console: Console) -> None:
        """The score table, then the path of the report."""
        self.scores.show(console)
        console.table("", ("", ""), [("report", str(self.report)), ("seconds", f"{self.seconds:.0f}")])

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return {"report": str(self.report), "seconds": self.seconds, "scores": self.scores.to_json()}


def quickstart(
    config: QuickstartConfig,
    *,
    console: Console = Console(quiet=True),  # noqa: B008
) -> QuickstartSummary:
    """Paint pictures, train StableRep on them and SimCLR on real ones, measure both, and write the report.

    Both learners get the same captions, steps and number of views; the encoders are measured on real pictures that neither
    they nor the teacher saw. Every stage goes on from what a stopped run left.
    """
    begin = time.monotonic()
    world = config.out / "world"
    console.say("1/5  the world `icons`: real pictures with captions, split by what they show")
    write_world(WorldConfig(name="icons", out=world))
    console.say(f"2/5  the teacher paints {config.num_images} pictures for each of {config.num_captions} training captions")
    painting = {"captions": world / "captions.lance", "out": config.out / "images.lance", "limit": config.num_captions}
    generate(
        _configure(GenerateConfig, ("generate",), painting | {"num_images": config.num_images, "seed": config.seed}),
        console=console,
    )
    console.say("3/5  StableRep learns from the painted pictures alone; SimCLR, beside it, from the real ones")
    painted = _train(config, "stablerep", "stablerep", config.out / "images.lance", console)
    real = _train(config, "simclr", "simclr-real", world / "images.lance", console)
    console.say("4/5  both are measured on real pictures that nobody trained on")
    measuring = {"run": painted, "also": (real,), "world": world, "seed": config.seed}
    scores = evaluate(_configure(EvaluateConfig, ("evaluate",), measuring), console=console)
    console.say("5/5  the report")
    report = write_report(
        ReportConfig(folders=(config.out,), world=world, out=config.out / "report" / "index.html"), console=console
    )
    return QuickstartSummary(report=report, scores=scores, seconds=time.monotonic() - begin)


def _train(config: QuickstartConfig, method: str, name: str, images: Path, console: Console) -> Path:
    settings = {
        "out": config.out / "runs" / name,
        "num_steps": config.num_steps,
        "seed": config.seed,
        "data": {"images": [images], "num_captions": config.num_captions},
    }
    return train(method, _configure(METHODS[method].config, ("train", method), settings), console=console).run


def _configure(config_class: type[Any], command: tuple[str, ...], settings: Mapping[str, Any]) -> Any:
    """The recipe of the world, with the quickstart's sizes over it."""
    table = config_module.recipe_table(config_module.read_recipe(_RECIPE), command, _RECIPE)
    return config_module.build(config_class, table, settings, origin="quickstart")
