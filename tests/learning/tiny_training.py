"""Real tables with small pictures, and a configuration of every method that trains on them in a second."""

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stablerep.config import build
from stablerep.decoding import decode_image
from stablerep.learning.autoencoder import Autoencoder, AutoencoderConfig
from stablerep.learning.data import DataConfig, identity_of
from stablerep.learning.methods import METHODS
from stablerep.learning.text_to_image import TextToImage, TextToImageConfig
from stablerep.learning.trainer import TrainConfig
from stablerep.store import OK, CaptionTable, ImageTable, caption_id

NUM_CAPTIONS = 12
SIZE = 16

Rows = Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class World:
    """Where the tables, an untrained autoencoder and an untrained painter are."""

    captions: Path
    images: Path
    autoencoder: Path
    painter: Path


def text(number: int, variant: int = 0) -> str:
    """The caption of a concept, or another text for it."""
    return f"a drawing of thing {number}" if variant == 0 else f"thing {number} seen another way, {variant}"


def tokenize(texts: list[str]) -> Tensor:
    """Tokens from which a text can be told: its identity."""
    return torch.tensor([[identity_of(text)] for text in texts])


def png(number: int, size: int = SIZE) -> bytes:
    """A picture of its own for every number: smooth, so that there is something to learn."""
    generator = np.random.default_rng(number)
    coarse = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize((size, size), Image.Resampling.BILINEAR).save(buffer, format="PNG")
    return buffer.getvalue()


def decode_png(number: int) -> Tensor:
    """The picture as (3, H, W) in [0, 1]."""
    return decode_image(png(number)).float() / 255


def image_row(number: int, index: int, **changes: Any) -> dict[str, Any]:
    """Image ``index`` of caption ``number``."""
    row = {
        "origin": "teacher-a",
        "caption_id": caption_id(text(number)),
        "image_index": index,
        "image": png(100 * number + index),
        "status": OK,
        "style": "brush",
        "split": "train",
        "label": f"label {number % 3}",
    }
    return row | changes


def caption_rows(num_captions: int = NUM_CAPTIONS, num_variants: int = 2) -> list[dict[str, Any]]:
    """Concepts of one primary caption and its variants."""
    return [
        {
            "id": caption_id(text(number, variant)),
            "text": text(number, variant),
            "source": "test",
            "group": f"group {number}",
            "concept": f"concept {number}",
            "split": "train",
        }
        for number in range(num_captions)
        for variant in range(num_variants)
    ]


def write_images(path: Path, rows: Rows) -> Path:
    """An image table with these rows."""
    ImageTable.open_or_create(path).append(rows)
    return path


def write_captions(path: Path, rows: Rows) -> Path:
    """A caption table with these rows."""
    CaptionTable.open_or_create(path).append(rows)
    return path


def write_world(folder: Path) -> World:
    """Twelve captions of three pictures each, and what a painter needs."""
    torch.manual_seed(0)
    autoencoder = Autoencoder(autoencoder_config()).export(folder)
    return World(
        captions=write_captions(folder / "captions.lance", caption_rows()),
        images=write_images(
            folder / "images.lance",
            [image_row(number, index) for number in range(NUM_CAPTIONS) for index in range(3)],
        ),
        autoencoder=autoencoder,
        painter=painter_of(autoencoder).export(folder),
    )


def autoencoder_config() -> AutoencoderConfig:
    return AutoencoderConfig(image_size=SIZE, channels=(8, 16), num_groups=4)


def painter_of(autoencoder: Path) -> TextToImage:
    """An untrained painter of two styles."""
    settings = SETTINGS["text-to-image"]["method"] | {"autoencoder": autoencoder, "styles": ["ink", "brush"]}
    texts = [text(number, variant) for number in range(NUM_CAPTIONS) for variant in range(2)]
    return TextToImage(build(TextToImageConfig, settings, origin="test"), texts)


ENCODER = {
    "architecture": "vit_tiny_patch16_224",
    "image_size": SIZE,
    "patch_size": 8,
    "width": 24,
    "depth": 1,
    "num_heads": 3,
}
HEAD = {"head_hidden": 16, "head_out": 8}
TEXT = {"width": 16, "depth": 1, "num_heads": 2, "num_tokens": 8, "vocabulary": 64, "joint_width": 8}
SETTINGS: dict[str, dict[str, Any]] = {
    "stablerep": {
        "method": {"encoder": ENCODER | {"depth": 2, "drop_path": 0.3}, **HEAD},
        "data": {"images_per_caption": 2},
    },
    "stablerep-plus": {
        "method": {"encoder": ENCODER, "text": TEXT | {"projection": "mlp", "projection_hidden": 16}, **HEAD},
        "data": {"images_per_caption": 2},
    },
    "simclr": {"method": {"encoder": ENCODER, **HEAD}, "data": {"crops_per_image": 2}},
    "clip": {"method": {"encoder": ENCODER, "text": TEXT}},
    "supervised": {"method": {"encoder": ENCODER, **HEAD}},
    "autoencoder": {"method": {"image_size": SIZE, "channels": (8, 16), "num_groups": 4}},
    "text-to-image": {
        "method": {
            "vocabulary": 64,
            "num_tokens": 8,
            "width": 16,
            "depth": 1,
            "num_heads": 2,
            "text_width": 8,
            "text_depth": 1,
        },
    },
    "lora": {"method": {"rank": 2}},
    "distillation": {"method": {"num_inference_steps": 2, "substeps": 2}},
}


def data_config(*images: Path, **changes: Any) -> DataConfig:
    """Four captions of two images in a batch."""
    settings = {
        "images": images,
        "captions_per_batch": 4,
        "images_per_caption": 2,
        "view": {"image_size": SIZE},
    }
    return build(DataConfig, settings, changes, origin="test")


def train_config(method: str, world: World, out: Path, /, **changes: Any) -> TrainConfig:
    """Seven steps of four captions, three to an epoch, a checkpoint after every second."""
    settings = {
        "out": out,
        "data": {
            "images": [world.images],
            "captions": world.captions,
            "captions_per_batch": 4,
            "images_per_caption": 1,
            "view": {"image_size": SIZE},
        },
        "optim": {"lr": 3e-3},
        "num_steps": 7,
        "precision": "float32",
        "attention": "fused",  # runs in two folders are compared bit by bit: no timing may tell them apart
        "compile": False,
        "device": "cpu",
        "log_every": 1,
        "save_every": 2,
    }
    begins_with: dict[str, dict[str, Any]] = {
        "text-to-image": {"autoencoder": world.autoencoder},
        "lora": {"teacher": str(world.painter)},
        "distillation": {"teacher": str(world.painter)},
    }
    more = {"method": begins_with.get(method, {})}
    return build(METHODS[method].config, settings, SETTINGS[method], more, changes, origin="test")


def weights(run: Path) -> dict[str, Tensor]:
    """What the last checkpoint holds, by name."""
    state: dict[str, Tensor] = torch.load(run / "checkpoint.pt", weights_only=True)["method"]
    return state
