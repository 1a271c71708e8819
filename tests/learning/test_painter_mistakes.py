"""Painters that cannot be: folders without an autoencoder, and settings that do not fit."""

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_training import World, text, train_config

from stablerep.errors import UserError
from stablerep.learning.text_to_image import TextToImage, TextToImageConfig


def painter(world: World) -> TextToImage:
    config = train_config("text-to-image", world, Path("unused")).method  # type: ignore[attr-defined]
    return TextToImage(config, [text(0)])


def test_a_missing_autoencoder_is_named(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no autoencoder .*train autoencoder"):
        painter(replace(world, autoencoder=tmp_path))


def test_the_run_of_an_autoencoder_and_one_without_weights_are_named(world: World, tmp_path: Path) -> None:
    folder = shutil.copytree(world.autoencoder, tmp_path / "autoencoder")
    with pytest.raises(UserError, match=r"holds no autoencoder \(config\.json\); give .*autoencoder$"):
        painter(replace(world, autoencoder=tmp_path))
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match="autoencoder holds no AutoencoderKL that can be read"):
        painter(replace(world, autoencoder=folder))


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"width": 10, "num_heads": 4}, "num_heads 4 must divide width 10"),
        ({"num_heads": 0}, "num_heads must be positive, got 0"),
        ({"text_width": 6}, "text_width must be a multiple of 4"),
        ({"caption_dropout": 1.5}, r"caption_dropout must be in \[0, 1\]"),
        ({"ema_decay": math.nan}, r"ema_decay must be in \[0, 1\]"),
        ({"num_inference_steps": 1}, "num_inference_steps must be at least 2"),
        ({"guidance_scale": math.nan}, r"guidance_scale must be at least 1 \(none\)"),
        ({"batch_size": 0}, "batch_size must be positive"),
    ],
)
def test_values_that_do_not_fit_are_refused(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        TextToImageConfig(autoencoder=Path("x"), **settings)
