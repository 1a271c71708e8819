"""What a protocol is: it measures one encoder on one benchmark, and says what was chosen on which split."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from stablerep import runtime
from stablerep.console import Console
from stablerep.evaluation.benchmarks import BenchmarkData
from stablerep.evaluation.scores import Kind, Measurement
from stablerep.features import Extraction, FrozenEncoder, extract_with
from stablerep.models.encoder import Resize
from stablerep.models.joint import ImageText, NoTextTowerError, load_image_text

NOTHING = "nothing"


class NotMeasurableError(Exception):
    """A protocol does not apply to this encoder or benchmark; a sentence that is reported, never a score of zero."""


@dataclass(frozen=True)
class Subject:
    """An encoder under measurement; ``path`` is its run, None for a baseline."""

    name: str
    kind: Kind
    encoder: FrozenEncoder
    path: Path | None = None

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the encoder, whose weights are hashed once."""
        return self.encoder.fingerprint


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What every protocol may use: features from the cache, the device, seeds, the bootstrap."""

    cache: Path
    batch_size: int
    precision: runtime.Precision
    device: str
    seed: int
    num_bootstrap: int
    console: Console
    download: bool = False
    """Whether weights that are only named may be fetched."""
    resize: Resize = "squash"
    """How pictures become square."""
    protocols: tuple[str, ...] = ()
    """All that is measured, so that what two protocols share can be done once."""
    trained: dict[tuple[str, ...], Any] = field(default_factory=dict)
    """What one protocol trained for another that comes later, until that one takes it."""

    def features(self, encoder: FrozenEncoder, images: Sequence[bytes]) -> np.ndarray:
        """Features (M, D) of encoded images, computed once."""
        return extract_with(encoder, images, self.matching, console=self.console)

    def joint(self, subject: Subject) -> ImageText:
        """The image-text model of a run; ``NotMeasurableError`` where it has none."""
        if subject.path is None:
            raise NotMeasurableError(f"{subject.name} has no text tower")
        try:
            return load_image_text(subject.path, runtime.pick_device(self.device), download=self.download)
        except NoTextTowerError as error:
            raise NotMeasurableError(str(error)) from error

    @property
    def matching(self) -> Extraction:
        """How features, and vectors of images and texts, are computed."""
        return Extraction(
            batch_size=self.batch_size, precision=self.precision, cache=self.cache, resize=self.resize
        )


@dataclass(frozen=True, kw_only=True)
class Classified:
    """What a classifier named in every test, and how it was chosen."""

    predicted: Mapping[str, np.ndarray]
    """Test -> class numbers (M,), in data order."""
    chosen: Mapping[str, float] = field(default_factory=dict)
    chosen_on: str = NOTHING
    validation_accuracy: float | None = None
    note: str = ""
    used: Mapping[str, Any] = field(default_factory=dict)
    """What was settled for this benchmark, where the settings leave it open; it stands in the scores with them."""
    official: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Test -> a number that official code selects on the test itself."""


Measured = Classified | list[Measurement]


class Measure(Protocol):
    """A protocol with its settings."""

    @property
    def benchmarks(self) -> Mapping[str, Callable[[BenchmarkData], Any]]:
        """The data that it can measure on, by name, and how they are loaded."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything that determines the result beside encoder and data; it stands in the scores."""

    @property
    def trains_baselines(self) -> bool:
        """Whether raw pixels and an untrained encoder can be measured as well."""

    def measure(self, subject: Subject, data: Any, tools: Tools) -> Measured:
        """Measure one encoder. Raises ``NotMeasurableError`` where the protocol does not apply."""


def described(subject: Subject, benchmark: str, test: str, protocol: str) -> dict[str, Any]:
    """The fields that every ``Measurement`` of a subject begins with."""
    return {
        "benchmark": benchmark,
        "test": test,
        "encoder": subject.name,
        "kind": subject.kind,
        "fingerprint": subject.fingerprint,
        "protocol": protocol,
    }
