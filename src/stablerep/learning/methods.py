"""The methods by name: adding one is one entry here."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.learning.autoencoder import Autoencoder, AutoencoderConfig
from stablerep.learning.contrastive import Contrastive, ContrastiveConfig
from stablerep.learning.method import Method
from stablerep.learning.text_to_image import TextToImage, TextToImageConfig
from stablerep.learning.trainer import TrainConfig, TrainSummary, run_training
from stablerep.store import CaptionTable


@dataclass(frozen=True, kw_only=True)
class StableRepConfig(TrainConfig):
    """StableRep: all images of a caption are positives of each other (Tian et al. 2023)."""

    method: ContrastiveConfig = field(default_factory=ContrastiveConfig)


@dataclass(frozen=True, kw_only=True)
class SimCLRConfig(TrainConfig):
    """SimCLR: two crops of one image are positives of each other (Chen et al. 2020)."""

    method: ContrastiveConfig = field(default_factory=lambda: ContrastiveConfig(positives="image"))


@dataclass(frozen=True, kw_only=True)
class AutoencoderTrainConfig(TrainConfig):
    """The picture autoencoder that a latent painter needs."""

    method: AutoencoderConfig = field(default_factory=AutoencoderConfig)


@dataclass(frozen=True, kw_only=True)
class TextToImageTrainConfig(TrainConfig):
    """A small text-to-image painter, exported as a stock diffusers folder."""

    method: TextToImageConfig


@dataclass(frozen=True)
class MethodEntry:
    """The configuration class of a method and how the method is built from a configuration."""

    config: type[TrainConfig]
    build: Callable[[Any], Method]


def _build_painter(config: TextToImageTrainConfig) -> Method:
    if config.data.captions is None:
        raise UserError("text-to-image reads text: give the caption table (data.captions)")
    rows = CaptionTable.open(config.data.captions).read(["text"], config.method.vocabulary_from)
    return TextToImage(config.method, rows["text"].to_pylist())


METHODS: dict[str, MethodEntry] = {
    "stablerep": MethodEntry(StableRepConfig, lambda config: Contrastive(config.method)),
    "simclr": MethodEntry(SimCLRConfig, lambda config: Contrastive(config.method)),
    "autoencoder": MethodEntry(AutoencoderTrainConfig, lambda config: Autoencoder(config.method)),
    "text-to-image": MethodEntry(TextToImageTrainConfig, _build_painter),
}


def train(method: str, config: TrainConfig, *, console: Console | None = None) -> TrainSummary:
    """Train a method by name and export what it learned into the run folder ``config.out``.

    Raises ``UserError`` for an unknown method, unusable data, or a folder that holds another run.
    """
    if method not in METHODS:
        raise UserError(f"unknown method {method!r}; there are: {', '.join(METHODS)}")
    entry = METHODS[method]
    if not isinstance(config, entry.config):
        raise UserError(f"method {method} takes a {entry.config.__name__}, got a {type(config).__name__}")
    return run_training(config, method, lambda: entry.build(config), console=console or Console(quiet=True))
