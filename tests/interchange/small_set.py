"""A small image table with everything that must survive: failures, extra columns, odd names, three kinds of files."""

import io
import math
import tarfile
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from PIL import Image

from stablerep.interchange.tables import CAPTIONS, IMAGES
from stablerep.store import OK, REAL, CaptionTable, ImageTable, caption_id

TEXTS = [
    "a red apple",
    "zwei Häuser, im Nebel",
    'a sign that says "no, never"',
    "a café at night",
    "nobody painted this",
]
ORIGIN = "icons-0123abcd"
SETTINGS = {
    "pipeline": "PixArtAlphaPipeline",
    "guidance_scale": 2.0,
    "scheduler": {"class": "DDIMScheduler", "steps_offset": 1},
    "num_inference_steps": 50,
}


def picture(seed: int, kind: str = "JPEG", size: int = 24, mode: str = "RGB", **options: Any) -> bytes:
    """An encoded picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size + 4, len(mode)), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels if len(mode) > 1 else pixels[..., 0], mode).save(buffer, kind, **options)
    return buffer.getvalue()


def rows() -> list[dict[str, Any]]:
    """Image rows: two origins, a failure, three kinds of files."""
    kinds = ["JPEG", "PNG", "WEBP"]
    painted = [
        {
            "origin": ORIGIN, "caption_id": caption_id(text), "image_index": index, "seed": 2**62 + index,
            "image": picture(10 * number + index, kinds[number % 3]), "width": 28, "height": 24, "status": OK,
            "style": "noto" if index else None, "split": "train", "label": ["apple", "a/b: ../c", None][number % 3],
        }
        for number, text in enumerate(TEXTS[:4])
        for index in range(3)
    ]  # fmt: skip
    painted[4] |= {
        "image": None,
        "width": None,
        "height": None,
        "status": "failed",
        "reason": "the picture is blank",
    }
    real = [
        {
            "origin": REAL, "caption_id": caption_id(TEXTS[0]), "image_index": index, "status": OK,
            "image": picture(100 + index), "width": 28, "height": 24, "licence": "CC0-1.0", "split": "test",
        }
        for index in range(2)
    ]  # fmt: skip
    return painted + real


def write(folder: Path) -> Path:
    """The tables in a folder, with score columns as audits write them."""
    captions = [
        {"id": caption_id(text), "text": text, "source": "test.txt", "group": f"g{number}", "concept": None}
        for number, text in enumerate(TEXTS)
    ]
    CaptionTable.open_or_create(folder / CAPTIONS).append(captions)
    table = ImageTable.open_or_create(folder / IMAGES)
    content = rows()
    table.append(content)
    table.register_origin(ORIGIN, SETTINGS)
    table = table.reload()
    num = len(table)
    scores = np.linspace(-1, 1, num).astype(np.float32)
    scores[2] = math.nan
    scores[3] = math.inf
    columns = {
        "match": pa.array(scores),
        "keep": pa.array([None if index == 5 else index % 2 == 0 for index in range(num)]),
        "vector": pa.array([[0.1 * index, -1.0] for index in range(num)], pa.list_(pa.float32(), 2)),
        "count": pa.array([index if index % 3 else None for index in range(num)], pa.int64()),
    }
    table.write_columns(np.arange(num), columns)
    return folder


def content(folder: Path) -> tuple[dict[Any, Any], dict[Any, Any], dict[str, Any], pa.Schema]:
    """All that tables hold: image rows by identity, captions by id, settings of origins, types of columns."""
    images = lance.dataset(str(folder / IMAGES))
    by_identity = {}
    for row in images.to_table().to_pylist():
        plain = {name: repr(value) if isinstance(value, float) else value for name, value in row.items()}
        by_identity[row["origin"], row["caption_id"], row["image_index"]] = plain
    captions = lance.dataset(str(folder / CAPTIONS)).to_table().to_pylist()
    settings = ImageTable.open(folder / IMAGES).origins()
    return by_identity, {row["id"]: row for row in captions}, settings, images.schema


def pixels(image: bytes) -> np.ndarray:
    """The picture decoded."""
    with Image.open(io.BytesIO(image)) as opened:
        return np.array(opened.convert("RGBA"))


def archive(path: Path, members: dict[str, bytes]) -> Path:
    """A tar file of members in memory, each a name and what it holds."""
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path
