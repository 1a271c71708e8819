"""The icons world: emoji of three hands and public-domain clip art, from the Parquet file in the package.

A picture belongs to a concept, a concept to a group, a group to one split. Concepts with an equal primary
caption share its row, and their pictures are numbered through.
"""

import functools
import hashlib
import io
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from stablerep.captions.material import CaptionRow, Material, Picture, running_numbers
from stablerep.errors import UserError
from stablerep.store import caption_id, normalise_text

SIZE = 64
_COLUMNS = (
    ["picture_id", "image", "style", "concept", "caption", "variants", "group", "label", "split", "licence"]
)  # fmt: skip


def icons_material(source: Path | None = None) -> Material:
    """Captions and pictures of the icons world, from ``source`` or the file that ships with the package."""
    if source is None:
        with resources.as_file(resources.files("stablerep") / "data" / "icons.parquet") as shipped:
            return _read(shipped)
    return _read(source)


def _read(path: Path) -> Material:
    try:
        content = path.read_bytes()
        table = pq.read_table(io.BytesIO(content))
    except OSError as error:
        raise UserError(f"icons file {path} cannot be read: {error.strerror or error}") from error
    except pa.ArrowException as error:
        raise UserError(f"icons file {path} is not readable as Parquet ({error})") from error
    missing = [name for name in _COLUMNS if name not in table.column_names]
    if missing:
        raise UserError(
            f"icons file {path} has no column {', '.join(missing)}; give a file with the icons columns"
        )
    rows = sorted(table.select(_COLUMNS).to_pylist(), key=lambda row: str(row["picture_id"]))
    return Material(
        captions=_captions(rows),
        pictures=_pictures(rows),
        digest=hashlib.blake2b(content, digest_size=16).hexdigest(),
        size=SIZE,
    )


def _captions(rows: list[dict[str, Any]]) -> list[CaptionRow]:
    """Primary captions first, then variants, so that of equal texts a primary wins."""
    concepts = {row["concept"]: row for row in reversed(rows)}
    ordered = [concepts[concept] for concept in sorted(concepts)]
    candidates = [_caption(row, row["caption"], "primary") for row in ordered]
    candidates += [
        _caption(row, text, f"variant-{number}")
        for row in ordered
        for number, text in enumerate(row["variants"] or [], start=1)
    ]
    captions: dict[str, CaptionRow] = {}
    for caption in candidates:
        captions.setdefault(str(caption["id"]), caption)
    return list(captions.values())


def _caption(row: dict[str, Any], text: str, template: str) -> CaptionRow:
    inherited = {name: row[name] for name in ("group", "concept", "split", "label")}
    return {
        "id": caption_id(text),
        "text": normalise_text(text),
        "source": "icons",
        "template": template,
        **inherited,
    }


def _pictures(rows: list[dict[str, Any]]) -> list[Picture]:
    ids = [caption_id(row["caption"]) for row in rows]
    return [
        Picture(
            caption_id=identity,
            image_index=index,
            draw=functools.partial(_on_white, row["image"]),
            **{name: row[name] for name in ("style", "split", "group", "label", "licence")},
        )
        for row, identity, index in zip(rows, ids, running_numbers(ids), strict=True)
    ]


def _on_white(content: bytes) -> Image.Image:
    # PIL would try all other formats before.
    picture = Image.open(io.BytesIO(content), formats=["WEBP", "PNG", "JPEG"]).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")
