"""What ``import stablerep`` offers: the commands as functions, with the options of the command line as keywords."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stablerep import config as config_module
from stablerep.evaluation.protocols import EvaluateConfig, Scores
from stablerep.evaluation.protocols import evaluate as _evaluate
from stablerep.generation.execute import GenerateConfig, GenerateSummary
from stablerep.generation.execute import generate as _generate
from stablerep.learning.methods import METHODS
from stablerep.learning.methods import train as _train
from stablerep.learning.trainer import TrainSummary
from stablerep.models.encoder import load_encoder

__all__ = ["evaluate", "generate", "load_encoder", "train"]


def generate(captions: str | Path, *, recipe: str | None = None, **settings: Any) -> GenerateSummary:
    """Paint the captions of a caption table; ``settings`` are the fields of ``GenerateConfig``.

    Raises ``UserError`` for wrong settings, naming all of them.
    """
    values = _values(recipe, ("generate",), settings | {"captions": captions})
    return _generate(config_module.build(GenerateConfig, *values, origin="stablerep.generate"))


def train(method: str, *, recipe: str | None = None, **settings: Any) -> TrainSummary:
    """Train a method by name; ``settings`` are the fields of its configuration, nested ones as dictionaries:
    ``train("stablerep", recipe="icons", out="runs/a", data={"images": ["images.lance"]})``."""
    config_class = METHODS[method].config if method in METHODS else METHODS["stablerep"].config
    values = _values(recipe, ("train", method), settings)
    return _train(method, config_module.build(config_class, *values, origin=f"stablerep.train({method!r})"))


def evaluate(run: str | Path, *, recipe: str | None = None, **settings: Any) -> Scores:
    """Measure the encoder of a run on real images; ``settings`` are the fields of ``EvaluateConfig``."""
    values = _values(recipe, ("evaluate",), settings | {"run": run})
    return _evaluate(config_module.build(EvaluateConfig, *values, origin="stablerep.evaluate"))


def _values(
    recipe: str | None, command: tuple[str, ...], settings: Mapping[str, Any]
) -> list[Mapping[str, Any]]:
    if recipe is None:
        return [settings]
    return [config_module.recipe_table(config_module.read_recipe(recipe), command, recipe), settings]
