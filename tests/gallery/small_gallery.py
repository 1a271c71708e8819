"""A small table: two painters and real pictures, scores, a failure, copies, and a caption that attacks."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from stablerep.console import Console
from stablerep.gallery.serve import GalleryConfig, open_gallery
from stablerep.gallery.session import Gallery
from stablerep.store import OK, REAL, CaptionTable, ImageTable, caption_id

ATTACK = "<img src=x onerror=\"document.title='owned'\"> ${document.title='owned'} {{constructor}} `red"
COLOURS = {
    "a red square": (220, 30, 30),
    "a dark red square": (160, 20, 20),
    "a blue square": (30, 60, 220),
    ATTACK: (90, 200, 90),
}
TEXTS = tuple(COLOURS)
PAINTER, EDITED = "tiny-000000000001", "tiny-edited-000000000002"


def picture(colour: tuple[int, int, int], shift: int = 0) -> bytes:
    """A square of a colour on white, moved a little."""
    pixels = np.full((32, 32, 3), 255, dtype=np.uint8)
    pixels[6 + shift : 22 + shift, 6:22] = colour
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def rows() -> list[dict[str, Any]]:
    """Two pictures per caption and painter, one real picture per caption; the last painted one is a failure."""
    found: list[dict[str, Any]] = []
    for text, colour in COLOURS.items():
        base = {"caption_id": caption_id(text), "width": 32, "height": 32, "status": OK}
        for number, origin in enumerate((PAINTER, EDITED)):
            for index in range(2):
                image = picture(colour, shift=index + 3 * number)
                found.append(
                    {**base, "origin": origin, "image_index": index, "seed": 100 + index, "image": image}
                )
        found.append(
            {**base, "origin": REAL, "image_index": 0, "image": picture(colour, 8), "split": "train"}
        )
    found[-2] |= {
        "status": "failed",
        "reason": "the picture is blank",
        "image": None,
        "width": None,
        "height": None,
    }
    return found


def write_tables(folder: Path) -> tuple[Path, Path]:
    """Images with audit columns, and captions."""
    images, captions = folder / "images.lance", folder / "captions.lance"
    CaptionTable.open_or_create(captions).append(
        [{"id": caption_id(text), "text": text, "source": "test", "group": text} for text in TEXTS]
    )
    table = ImageTable.open_or_create(images)
    table.append(rows()[:10])
    table.append(rows()[10:])  # two fragments
    table = table.reload()
    count = len(table)
    copy_of = [None] * count
    copy_of[0] = f"{REAL}/{caption_id(TEXTS[0])}/0"  # type: ignore[call-overload]
    copy_of[5] = "real/of another table/3"  # type: ignore[call-overload]
    table.write_columns(
        range(count),
        {
            "match": pa.array([None if row == 3 else row / count for row in range(count)], pa.float32()),
            "sharp": pa.array([row % 2 == 0 for row in range(count)]),
            "concern": pa.array(["text" if row % 5 == 0 else None for row in range(count)]),
            "copy_of": pa.array(copy_of, pa.string()),
            "copy_score": pa.array(
                [0.98 if row == 0 else 0.91 if row == 5 else None for row in range(count)]
            ),
            "copy_verdict": pa.array(["copy" if row in (0, 5) else None for row in range(count)]),
        },
    )
    return images, captions


def open_small(folder: Path, **more: Any) -> Gallery:
    """The gallery over these tables."""
    images, captions = write_tables(folder)
    return open_gallery(GalleryConfig(images=images, captions=captions, **more), console=Console(quiet=True))
