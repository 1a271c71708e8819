"""Pictures and texts in the space of an image-text model, and classes described in words.

Shapes: M images or texts, C classes, P templates, E width of the joint space.
"""

from collections.abc import Sequence

import numpy as np
import torch

from stablerep import runtime
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.features import Extraction, extract_decodable, extract_with
from stablerep.models.joint import ImageText


def image_vectors(
    model: ImageText, images: Sequence[bytes], config: Extraction, *, console: Console | None = None
) -> np.ndarray:
    """Unit vectors (M, E) float32 of encoded images, row m being image m; errors as ``features.extract``.

    The features of the encoder are what is cached, so that whoever asks the encoder alone finds them there.
    """
    return _projected(model, extract_with(model.encoder, images, config, console=console), config)


def decodable_vectors(
    model: ImageText, images: Sequence[bytes], config: Extraction, *, console: Console | None = None
) -> tuple[np.ndarray, dict[int, str]]:
    """As ``image_vectors``, with NaN in the rows of images that cannot be decoded; and for each of them, why."""
    features, undecoded = extract_decodable(model.encoder, images, config, console=console)
    return _projected(model, features, config), undecoded


def _projected(model: ImageText, features: np.ndarray, config: Extraction) -> np.ndarray:
    """Unit vectors (M, E) of features of the encoder (M, D)."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            parts = [
                model.project_images(part[:, None].to(model.logit_scale.device))[:, 0].float().cpu()
                for part in torch.split(torch.from_numpy(features), config.batch_size)
            ]
    finally:
        model.train(was_training)
    return torch.cat(parts).numpy()


def text_vectors(model: ImageText, texts: Sequence[str], config: Extraction) -> np.ndarray:
    """Unit vectors (M, E) float32 of texts; equal texts are computed once."""
    distinct, places = np.unique(np.array(texts, dtype=object), return_inverse=True)
    device = model.logit_scale.device
    dtype = runtime.pick_precision(config.precision, device)
    parts = []
    with torch.inference_mode(), runtime.autocast(dtype, device):
        for start in range(0, len(distinct), config.batch_size):
            batch = model.encode_texts(distinct[start : start + config.batch_size].tolist())
            parts.append(batch.float().cpu().numpy())
    vectors: np.ndarray = np.concatenate(parts)[places]
    return vectors


def zero_shot_weights(
    model: ImageText, classes: Sequence[str], templates: Sequence[str], config: Extraction
) -> np.ndarray:
    """Weights (C, E) of a classifier of images that was only told the names of the classes.

    A class is the direction of the mean vector of its name in every template, such as "a photo of a {}" (Radford et
    al. 2021, section 3.1.4). The class of an image is the row with which its vector has the largest inner product.
    """
    without = [template for template in templates if "{}" not in template]
    if without or not templates or not classes:
        raise UserError(
            f"template {without[0]!r} has no {{}} where the name of the class goes"
            if without
            else "zero-shot classification needs at least one class and one template"
        )
    texts = [template.replace("{}", name) for name in classes for template in templates]
    vectors = text_vectors(model, texts, config).reshape(len(classes), len(templates), -1).mean(axis=1)
    weights: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return weights
