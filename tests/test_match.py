"""Pairs of images and texts, and zero-shot classes, measured with a model that has just been drawn."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stablerep.decoding import decode_image
from stablerep.errors import UserError
from stablerep.match import Extraction, image_vectors, text_vectors, zero_shot_weights
from stablerep.models.encoder import Encoder, EncoderConfig
from stablerep.models.joint import ImageText
from stablerep.models.text import LearnedVocabulary, TextConfig, TextTower, train_tokenizer

TEXTS = ["a red square", "a blue sky", "a red square", "snow"]
CONFIG = Extraction(batch_size=2)


@pytest.fixture
def model() -> ImageText:
    torch.manual_seed(0)
    encoder = EncoderConfig(
        architecture="vit_tiny_patch16_224", image_size=16, patch_size=8, width=24, depth=1, num_heads=3
    )
    text = TextConfig(width=24, depth=1, num_heads=3, num_tokens=16, vocabulary=64, joint_width=8)
    vocabulary = LearnedVocabulary(train_tokenizer(TEXTS, 64))
    return ImageText(Encoder(encoder), TextTower(text, vocabulary)).eval()


def pictures() -> list[bytes]:
    encoded = []
    for colour in ("red", "blue", "red", "white"):
        buffer = io.BytesIO()
        Image.new("RGB", (20, 16), colour).save(buffer, format="PNG")
        encoded.append(buffer.getvalue())
    return encoded


def test_a_pair_has_the_cosine_of_its_image_and_text(model: ImageText) -> None:
    images = torch.stack([decode_image(picture) for picture in pictures()]).float() / 255
    with torch.no_grad():
        expected = (model.encode_images(images) * model.encode_texts(TEXTS)).sum(1).numpy()
    matches = (image_vectors(model, pictures(), CONFIG) * text_vectors(model, TEXTS, CONFIG)).sum(1)
    assert matches.shape == (4,)
    np.testing.assert_allclose(matches, expected, atol=1e-5)
    assert matches[0] == pytest.approx(matches[2])
    assert len({round(float(match), 4) for match in matches}) == 3


def test_features_behind_vectors_are_cached_by_encoder_and_content(model: ImageText, tmp_path: Path) -> None:
    config = Extraction(cache=tmp_path)
    first = image_vectors(model, pictures(), config)
    assert np.array_equal(image_vectors(model, pictures(), config), first)
    assert len(list(tmp_path.iterdir())) == 1
    with torch.no_grad():
        model.get_parameter("image_projection.weight")[0] *= 2
    assert not np.allclose(image_vectors(model, pictures(), config), first)
    assert len(list(tmp_path.iterdir())) == 1, "the projection is not cached"
    with torch.no_grad():
        model.encoder.get_parameter("backbone.norm.weight")[0] *= 2
    other = image_vectors(model, pictures(), config)
    assert len(list(tmp_path.iterdir())) == 2
    assert np.array_equal(other, image_vectors(model, pictures(), Extraction()))


def test_a_class_is_the_mean_direction_of_its_templates(model: ImageText) -> None:
    templates = ["a {}", "{} and more {}"]
    weights = zero_shot_weights(model, ["red square", "snow"], templates, CONFIG)
    texts = ["a red square", "red square and more red square", "a snow", "snow and more snow"]
    vectors = text_vectors(model, texts, CONFIG)
    for row, (first, second) in zip(weights, (vectors[:2], vectors[2:]), strict=True):
        np.testing.assert_allclose(row, (first + second) / np.linalg.norm(first + second), atol=1e-6)


@pytest.mark.parametrize(
    ("classes", "templates", "what"),
    [
        (["snow"], ["a {}", "a photo"], "template 'a photo' has no {}"),
        ([], ["a {}"], "at least one class"),
        (["snow"], [], "at least one class and one template"),
    ],
)
def test_classes_without_words_are_refused(
    model: ImageText, classes: list[str], templates: list[str], what: str
) -> None:
    with pytest.raises(UserError, match=what):
        zero_shot_weights(model, classes, templates, CONFIG)
