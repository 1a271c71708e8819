"""Judging and encoding what a pipeline returns."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stablerep.generation.pictures import encode_picture, judge, stored_size
from stablerep.generation.settings import GenerateConfig


def _gradient() -> torch.Tensor:
    values = torch.linspace(0, 1, 3 * 8 * 8).view(1, 3, 8, 8)
    return values.clone()


def test_tensor_and_array_give_the_same_bytes() -> None:
    image = _gradient()
    from_array = judge(image.movedim(1, -1).numpy(), None)
    from_tensor = judge(image, None)
    assert torch.equal(from_array.pictures, from_tensor.pictures)
    assert from_tensor.reasons == [None]
    assert torch.equal(from_tensor.pictures, (image * 255).round().to(torch.uint8))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda image: image.mul_(0), "blank: every pixel is black"),
        (lambda image: image.fill_(0.5), "blank: every pixel is #808080"),
        (lambda image: image[..., 3, 3].fill_(float("nan")), "not finite"),
        (lambda image: image[..., 3, 3].fill_(float("inf")), "not finite"),
    ],
)
def test_only_the_spoilt_picture_fails(spoil: Any, reason: str) -> None:
    images = torch.cat([_gradient(), _gradient(), _gradient()])
    spoil(images[1:2])
    reasons = judge(images, None).reasons
    assert reasons[0] is None and reasons[2] is None
    assert reasons[1] is not None and reason in reasons[1]


def test_flag_of_the_safety_checker_comes_first() -> None:
    reasons = judge(torch.zeros(2, 3, 4, 4), [True, False]).reasons
    assert reasons[0] is not None and "safety checker" in reasons[0]
    assert reasons[1] is not None and "blank" in reasons[1]


def test_stored_size_follows_the_published_rule() -> None:
    assert stored_size(512, 512, None) == (256, 256)
    assert stored_size(1024, 768, None) == (341, 256)
    assert stored_size(64, 64, None) == (64, 64)
    assert stored_size(64, 64, 256) == (64, 64)  # never enlarged
    assert stored_size(64, 128, 32) == (32, 64)


@pytest.mark.parametrize(("format", "largest_error"), [("png", 0), ("jpeg", 12), ("webp", 24)])
def test_pictures_survive_their_encoding(format: Any, largest_error: int) -> None:
    picture = judge(_gradient(), None).pictures[0]
    encoded = encode_picture(picture, GenerateConfig(format=format))
    image = Image.open(io.BytesIO(encoded.data))
    assert image.format == format.upper() and image.size == (encoded.width, encoded.height) == (8, 8)
    difference = np.asarray(image.convert("RGB")).astype(int) - picture.movedim(0, -1).numpy().astype(int)
    assert np.abs(difference).max() <= largest_error


def test_resized_picture_is_the_mean_of_what_it_covers() -> None:
    picture = torch.zeros(3, 16, 16, dtype=torch.uint8)
    picture[:, :, ::2] = 255
    encoded = encode_picture(picture, GenerateConfig(format="png", size=4))
    small = np.asarray(Image.open(io.BytesIO(encoded.data)))
    assert small.shape == (4, 4, 3)
    assert np.abs(small[:, 1:-1].astype(int) - 127).max() <= 2  # without antialiasing it would be 0 or 255
