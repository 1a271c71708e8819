"""The encoder that ships: it loads by its name, its card tells the truth, and it knows more than an untrained one."""

import json
from importlib import resources

import numpy as np
import pytest

from stablerep.captions.icons import icons_material
from stablerep.evaluation.pictures import as_png
from stablerep.features import FrozenEncoder, extract, untrained_encoder
from stablerep.models.encoder import DESCRIPTION, Encoder, load_encoder

FOLDER = resources.files("stablerep") / "assets" / "encoders" / "icons"
HANDS = ("noto", "twemoji")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("icons")


def by_two_hands(num: int) -> list[list[bytes]]:
    """Drawings of so many concepts that no training has seen, the same ones by each of two hands, as PNG."""
    unseen = [one for one in icons_material().pictures if one.split == "validation"]
    drawn = [{one.caption_id: one for one in unseen if one.style == style} for style in HANDS]
    concepts = sorted(drawn[0].keys() & drawn[1].keys())[:num]
    assert len(concepts) == num
    return [[as_png(hand[concept].draw()) for concept in concepts] for hand in drawn]


def share_that_is_found(encoder: FrozenEncoder, drawings: list[list[bytes]]) -> float:
    """Of the drawings by one hand those whose nearest one by the other is of the same concept."""
    ours, theirs = (
        features / np.linalg.norm(features, axis=1, keepdims=True)
        for features in (extract(encoder, pictures) for pictures in drawings)
    )
    return float(((ours @ theirs.T).argmax(1) == np.arange(len(ours))).mean())


def test_it_is_what_its_description_says(encoder: Encoder) -> None:
    stated = json.loads((FOLDER / DESCRIPTION).read_text())
    assert encoder.fingerprint == stated["fingerprint"]
    assert f"{encoder.dim} features" in (FOLDER / "README.md").read_text()


@pytest.mark.slow
def test_it_knows_more_than_an_untrained_one(encoder: Encoder) -> None:
    drawings = by_two_hands(100)
    trained, untrained = (
        share_that_is_found(one, drawings) for one in (encoder, untrained_encoder(encoder.config))
    )
    assert trained > untrained + 0.15
