"""Image-text models of a few weights: drawn at random, or with pictures laid on the texts of their labels."""

from pathlib import Path

import torch
from tiny_icons import COLOURS, TINY, captions, drawing

from stablerep.decoding import decode_image
from stablerep.features import untrained_encoder
from stablerep.models.joint import ImageText, LinearProjection, save_image_text
from stablerep.models.text import LearnedVocabulary, TextConfig, TextTower, train_tokenizer

SMALL = TextConfig(width=24, depth=1, num_heads=3, num_tokens=16, vocabulary=96, joint_width=16)


def random_model(seed: int = 0) -> ImageText:
    """Towers that know nothing of one another."""
    texts = [str(caption["text"]) for caption in captions()]
    torch.manual_seed(seed)
    vocabulary = LearnedVocabulary(train_tokenizer(texts, 96))
    return ImageText(untrained_encoder(TINY, seed), TextTower(SMALL, vocabulary)).eval()


def aligned_model(seed: int = 0) -> ImageText:
    """The projection of pictures is solved for the text of their label, so that zero-shot is known to be right."""
    model = random_model(seed)
    labels = [label for label in COLOURS for _ in range(40)]
    pictures = [decode_image(drawing(label, 7000 + place)) for place, label in enumerate(labels)]
    with torch.no_grad():
        features = model.encoder(torch.stack(pictures).float() / 255)
        texts = model.encode_texts([f"a {label}" for label in labels])
        texts = texts - texts.mean(0)  # what random texts share would drown what tells them apart
        solved = torch.linalg.lstsq(features.double(), texts.double()).solution
        assert isinstance(model.image_projection, LinearProjection)
        model.image_projection.weight.copy_(solved.T.float())
    return model


def joint_run(folder: Path, model: ImageText) -> Path:
    """A run folder with this model."""
    save_image_text(model, folder)
    return folder
