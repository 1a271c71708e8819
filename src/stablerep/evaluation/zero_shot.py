"""Zero-shot classification: a class is what its name means in some templates.

Shapes: M images, C classes, E width of the joint space.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stablerep.evaluation.benchmarks import BENCHMARKS, Benchmark
from stablerep.evaluation.contract import Classified, NotMeasurableError, Subject, Tools
from stablerep.match import image_vectors, zero_shot_weights

TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "icons": ("a {}", "a picture of a {}", "a drawing of a {}", "a simple drawing of a {}", "{}"),
    "fashion": ("a {}", "a photo of a {}", "a picture showing a {}", "{}"),
    "digits": ('a photo of the number: "{}".',),
    "aircraft": ("a photo of a {}, a type of aircraft.",),
    "dtd": ("a photo of a {} texture.", "a photo of a {} pattern."),
    "flowers": ("a photo of a {}, a type of flower.",),
    "pets": ("a photo of a {}, a type of pet.",),
    "food101": ("a photo of {}, a type of food.",),
    "fairface-race": ("a photo of a {} person.", "a photo of the face of a {} person."),
    "fairface-gender": ("a photo of a {} person.", "a photo of the face of a {} person."),
    "fairface-age": ("a photo of a person aged {}.",),
}
"""Templates by benchmark; those of public data sets are CLIP's."""
ANY = ("a photo of a {}.",)


@dataclass(frozen=True, kw_only=True)
class ZeroShotConfig:
    """Settings of the protocol `zero-shot`."""

    templates: tuple[str, ...] = ()
    """Sentences with {} where the name of the class goes; those known for the benchmark where none is given."""


@dataclass(frozen=True)
class ZeroShot:
    """The class whose name, in templates, lies nearest to the picture (Radford et al. 2021); nothing is trained."""

    config: ZeroShotConfig

    benchmarks = BENCHMARKS
    trains_baselines = False

    @property
    def settings(self) -> Mapping[str, Any]:
        """The templates that were asked for; where none were, those of the benchmark take their place in the scores."""
        return {"templates": list(self.config.templates)}

    def measure(self, subject: Subject, data: Benchmark, tools: Tools) -> Classified:
        """Name every test picture."""
        if data.several:
            raise NotMeasurableError(f"{data.name}: pictures have several classes, one name is asked for")
        model = tools.joint(subject)
        templates = self.config.templates or TEMPLATES.get(data.name, ANY)
        weights = zero_shot_weights(model, data.names or data.classes, templates, tools.matching)
        predicted = {}
        for name, split in data.tests.items():
            vectors = image_vectors(model, split.images, tools.matching, console=tools.console)
            predicted[name] = (vectors @ weights.T).argmax(1)
        return Classified(predicted=predicted, used={"templates": list(templates)})
