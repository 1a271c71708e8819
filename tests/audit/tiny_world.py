"""Discs of one colour on another, captions that say so, and a CLIP that has learned to read them in seconds."""

import itertools
from pathlib import Path

import numpy as np
import torch
from painted_table import image_row, write_captions, write_images
from PIL import Image, ImageDraw

from stablerep.config import build
from stablerep.learning.methods import METHODS, train

COLOURS = {
    "red": (210, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 70, 210),
    "yellow": (230, 210, 40),
    "black": (25, 25, 25),
    "white": (235, 235, 235),
}
PAIRS = tuple(itertools.permutations(COLOURS, 2))
TEXTS = tuple(f"a {disc} disc on {ground}" for disc, ground in PAIRS)
SIDE = 16


def picture(number: int, seed: int) -> Image.Image:
    """A disc of the colours of caption ``number``, somewhere, with noise."""
    rng = np.random.default_rng((number, seed))
    disc, ground = PAIRS[number]
    drawn = Image.new("RGB", (SIDE, SIDE), COLOURS[ground])
    x, y = (int(v) for v in rng.integers(0, 6, 2))
    ImageDraw.Draw(drawn).ellipse((x, y, x + 10, y + 10), fill=COLOURS[disc])
    noisy = np.asarray(drawn) + rng.normal(0, 20, (SIDE, SIDE, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def write_world(folder: Path) -> Path:
    """Captions and real pictures, four of each."""
    write_captions(folder / "captions.lance", TEXTS)
    rows = [
        image_row(text, index, picture(number, index), origin="real", split="train", group=f"group of {text}")
        for number, text in enumerate(TEXTS)
        for index in range(4)
    ]
    write_images(folder / "images.lance", rows)
    return folder


def train_clip(world: Path, out: Path) -> Path:
    """A run that has learned which caption belongs to which picture."""
    torch.set_num_threads(1)
    encoder = {
        "architecture": "vit_tiny_patch16_224",
        "image_size": SIDE,
        "patch_size": 8,
        "width": 48,
        "depth": 2,
        "num_heads": 3,
    }
    text = {"width": 32, "depth": 1, "num_heads": 2, "num_tokens": 10, "vocabulary": 64, "joint_width": 24}
    settings = {
        "out": out,
        "data": {
            "images": [world / "images.lance"],
            "captions": world / "captions.lance",
            "captions_per_batch": 30,
            "images_per_caption": 1,
            "view": {"image_size": SIDE, "augmentation": "none"},
        },
        "optim": {"lr": 3e-3},
        "num_steps": 150,
        "precision": "float32",
        "compile": False,
        "device": "cpu",
        "save_every": 150,
        "method": {"encoder": encoder, "text": text},
    }
    train("clip", build(METHODS["clip"].config, settings, origin="test"))
    return out
