"""A tiny world of six things in four manners, in the words that the tiny PixArt pipeline knows."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stablerep.store import OK, REAL, CaptionTable, ImageTable, caption_id

THINGS = {
    "cat": (220, 40, 40), "dog": (40, 60, 220), "sun": (240, 220, 40), "leaf": (40, 180, 60),
    "house": (150, 90, 40), "boat": (120, 120, 120),
}  # fmt: skip
MANNERS = {"red": "train", "blue": "train", "small": "validation", "round": "test"}
STYLES = ("noto", "fluent")


def captions() -> list[dict[str, Any]]:
    """24 captions, the manner decides the split."""
    return [
        {
            "id": caption_id(f"a {manner} {thing}"),
            "text": f"a {manner} {thing}",
            "source": "tiny",
            "group": f"{manner}/{thing}",
            "concept": f"{manner}/{thing}",
            "template": "primary",
            "split": split,
            "label": thing,
        }
        for thing in THINGS
        for manner, split in MANNERS.items()
    ]


def drawing(thing: str, seed: int) -> bytes:
    """Noise around the colour of the thing, 16 x 16."""
    noise = np.random.default_rng(seed).normal(0, 25, (16, 16, 3))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(THINGS[thing] + noise, 0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_world(folder: Path) -> Path:
    """Captions, real pictures, and the note that says which world it is."""
    CaptionTable.open_or_create(folder / "captions.lance").append(captions())
    ImageTable.open_or_create(folder / "images.lance").append(
        {
            "origin": REAL,
            "caption_id": caption["id"],
            "image_index": index,
            "image": drawing(caption["label"], 10 * number + index),
            "width": 16,
            "height": 16,
            "status": OK,
            "style": style,
            "group": caption["group"],
            "split": caption["split"],
            "label": caption["label"],
        }
        for number, caption in enumerate(captions())
        for index, style in enumerate(STYLES)
    )
    (folder / "world.json").write_text(json.dumps({"world": "icons"}))
    return folder
