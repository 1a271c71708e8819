"""Tables of captions and painted pictures as audits find them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pictures_with_defects import png
from PIL import Image

from stablerep.store import OK, CaptionTable, ImageTable, caption_id

ORIGIN = "teacher-a"


def write_captions(path: Path, texts: Sequence[str], **more: Any) -> Path:
    """One group for each text."""
    CaptionTable.open_or_create(path).append(
        {"id": caption_id(text), "text": text, "source": "test", "group": f"group of {text}", **more}
        for text in texts
    )
    return path


def image_row(text: str, index: int, picture: Image.Image | bytes | None, **more: Any) -> dict[str, Any]:
    encoded = png(picture) if isinstance(picture, Image.Image) else picture
    width, height = picture.size if isinstance(picture, Image.Image) else (None, None)
    return {
        "origin": ORIGIN,
        "caption_id": caption_id(text),
        "image_index": index,
        "image": encoded,
        "width": width,
        "height": height,
        "status": OK,
        **more,
    }


def write_images(path: Path, rows: Sequence[dict[str, Any]]) -> ImageTable:
    ImageTable.open_or_create(path).append(rows)
    return ImageTable.open(path)


def columns(path: Path, *names: str) -> list[tuple[Any, ...]]:
    """The values of some columns, row by row, in the order of caption and image index."""
    table = ImageTable.open(path).read(list(dict.fromkeys(["caption_id", "image_index", *names])))
    rows = sorted(table.to_pylist(), key=lambda row: (row["caption_id"], row["image_index"]))
    return [tuple(row[name] for name in names) for row in rows]
