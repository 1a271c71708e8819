"""The encoder that ships: it loads by its name, its card tells the truth, and it knows more than an untrained one."""

import json
from importlib import resources

import numpy as np
import pytest

from stablerep.captions.icons import icons_material
from stablerep.evaluation.pictures import as_png
from stablerep.features import FrozenEncoder, extract, untrained_encoder
from stablerep.models.encoder import DESCRIPTION, Encoder, load_encoder
from stablerep.probes import Labelled, ProbeConfig, fit_knn

FOLDER = resources.files("stablerep") / "assets" / "encoders" / "icons"
TRAINING_STYLES = ("noto", "twemoji", "clipart")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("icons")


def validation_accuracy(encoder: FrozenEncoder, num: tuple[int, int]) -> float:
    """Of k-NN on some real drawings of the training split, which validation chooses and scores."""
    pictures = [one for one in icons_material().pictures if one.style in TRAINING_STYLES]
    classes = sorted({one.label for one in pictures})
    sides = []
    for split, most in zip(("train", "validation"), num, strict=True):
        chosen = sorted((one for one in pictures if one.split == split), key=lambda one: one.caption_id)[
            :most
        ]
        features = extract(encoder, [as_png(one.draw()) for one in chosen])
        sides.append(Labelled(features, np.array([classes.index(one.label) for one in chosen])))
    return fit_knn(*sides, len(classes), ProbeConfig()).validation_accuracy


def test_it_is_what_its_description_says(encoder: Encoder) -> None:
    stated = json.loads((FOLDER / DESCRIPTION).read_text())
    assert encoder.fingerprint == stated["fingerprint"]
    assert f"{encoder.dim} features" in (FOLDER / "README.md").read_text()


@pytest.mark.slow
def test_it_knows_more_than_an_untrained_one(encoder: Encoder) -> None:
    trained, untrained = (
        validation_accuracy(one, (900, 300)) for one in (encoder, untrained_encoder(encoder.config))
    )
    assert trained > untrained + 0.03
