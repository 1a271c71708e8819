"""What ``import stablerep`` offers: the commands as functions, with the options of the command line as keywords."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from stablerep import config as config_module
from stablerep.cli import recipe_settings
from stablerep.errors import UserError
from stablerep.evaluation.protocols import EvaluateConfig
from stablerep.evaluation.protocols import evaluate as _evaluate
from stablerep.evaluation.scores import Scores
from stablerep.generation.execute import GenerateConfig, GenerateSummary
from stablerep.generation.execute import generate as _generate
from stablerep.learning.methods import METHODS
from stablerep.learning.methods import train as _train
from stablerep.learning.trainer import TrainSummary
from stablerep.models.encoder import load_encoder

__all__ = ["evaluate", "generate", "load_encoder", "train"]

T = TypeVar("T")


def generate(captions: str | Path, *, recipe: str | None = None, **settings: Any) -> GenerateSummary:
    """Paint the captions of a caption table; ``settings`` are the fields of ``GenerateConfig``.

    Raises ``UserError`` for wrong settings, naming all of them.
    """
    return _generate(_build(GenerateConfig, ("generate",), recipe, settings | {"captions": captions}))


def train(method: str, /, *, recipe: str | None = None, **settings: Any) -> TrainSummary:
    """Train a method by name; ``settings`` are the fields of its configuration, nested ones as dictionaries:
    ``train("stablerep", recipe="icons", out="runs/a", data={"images": ["images.lance"]}, method={"head_out": 64})``.

    Raises ``UserError`` for an unknown method and for wrong settings, naming all of them.
    """
    if method not in METHODS:
        raise UserError(f"unknown method {method!r}; there are: {', '.join(METHODS)}")
    return _train(method, _build(METHODS[method].config, ("train", method), recipe, settings))


def evaluate(run: str | Path, *, recipe: str | None = None, **settings: Any) -> Scores:
    """Measure the encoder of a run on real images; ``settings`` are the fields of ``EvaluateConfig``.

    Raises ``UserError`` for wrong settings, naming all of them.
    """
    return _evaluate(_build(EvaluateConfig, ("evaluate",), recipe, settings | {"run": run}))


def _build(
    config_class: type[T], words: tuple[str, ...], recipe: str | None, settings: Mapping[str, Any]
) -> T:
    """The class's defaults, the recipe over them, the keywords over both."""
    overlay = {} if recipe is None else recipe_settings(words, recipe)
    origin = f"stablerep.{words[0]}" + (f" with recipe {recipe}" if recipe else "")
    return config_module.build(config_class, overlay, settings, origin=origin)
