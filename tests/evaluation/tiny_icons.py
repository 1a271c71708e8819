"""A tiny world in the shape of icons: subjects that differ in colour, styles that differ in texture."""

import dataclasses
import io
from pathlib import Path

import numpy as np
from PIL import Image

from stablerep.models.encoder import EncoderConfig
from stablerep.probes import ProbeConfig
from stablerep.store import OK, REAL, CaptionTable, ImageTable, caption_id

COLOURS = {"apple": (220, 40, 40), "pear": (60, 200, 60), "plum": (70, 60, 200)}
STYLES = ("noto", "twemoji", "clipart", "fluent")
CONCEPTS_PER_LABEL = 12
TINY = EncoderConfig(
    architecture="vit_tiny_patch16_224", image_size=16, patch_size=8, width=32, depth=1, num_heads=2
)
QUICK_PROBE = ProbeConfig(linear=dataclasses.replace(ProbeConfig().linear, num_l2=3, max_iterations=20))
"""A short path to a linear probe, for tests that do not look at the probe itself."""


def split_of(concept: int) -> str:
    return "train" if concept < 7 else "validation" if concept < 9 else "test"


def drawing(label: str, seed: int) -> bytes:
    """Noise around the colour of the label, 16 x 16."""
    noise = np.random.default_rng(seed).normal(0, 45, (16, 16, 3)) + np.random.default_rng(seed + 1).normal(
        0, 25, 3
    )
    buffer = io.BytesIO()
    Image.fromarray(np.clip(COLOURS[label] + noise, 0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def captions() -> list[dict[str, object]]:
    return [
        {
            "id": caption_id(f"{label} number {concept}"),
            "text": f"{label} number {concept}",
            "source": "tiny",
            "group": f"{label}/{concept // 2}" if concept < 6 else f"{label}/{concept}",
            "concept": f"{label}/{concept}",
            "template": "primary",
            "split": split_of(concept),
            "label": label,
        }
        for label in COLOURS
        for concept in range(CONCEPTS_PER_LABEL)
    ]


def image_row(caption: dict[str, object], index: int, image: bytes, **more: object) -> dict[str, object]:
    return {
        "origin": REAL,
        "caption_id": caption["id"],
        "image_index": index,
        "image": image,
        "width": 16,
        "height": 16,
        "status": OK,
        "group": caption["group"],
        "split": caption["split"],
        "label": caption["label"],
        **more,
    }


def real_rows() -> list[dict[str, object]]:
    return [
        image_row(caption, index, drawing(str(caption["label"]), 1000 * row + 10 * index), style=style)
        for row, caption in enumerate(captions())
        for index, style in enumerate(STYLES)
    ]


def write_tables(folder: Path, images: list[dict[str, object]]) -> Path:
    CaptionTable.open_or_create(folder / "captions.lance").append(captions())
    ImageTable.open_or_create(folder / "images.lance").append(images)
    return folder
