"""Pictures for the page: data URIs, and the grid that shows captions beside what was painted for them."""

import base64
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from stablerep.decoding import open_image
from stablerep.report.reading import IS_PAINTED, IS_REAL, Project, painted, quoted
from stablerep.runtime import seed_for
from stablerep.store import OK

_SHOWN_PIXELS = 64
_STORED_PIXELS = 2 * _SHOWN_PIXELS  # twice as many for fine screens
MOST_REAL = 4
"""Real pictures shown beside a caption, at most."""

_MIME_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One cell: a picture as data URI, or the reason why there is none."""

    source: str | None
    description: str
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class GridRow:
    """A caption with its real pictures and its painted ones, both by image index."""

    caption: str
    real: tuple[Picture, ...]
    painted: tuple[Picture, ...]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What one origin painted for a few captions."""

    origin: str
    num_captions: int
    rows: tuple[GridRow, ...]

    @property
    def num_real(self) -> int:
        """Most real pictures beside one caption."""
        return max((len(row.real) for row in self.rows), default=0)


@dataclass(frozen=True, kw_only=True)
class Painting:
    """How much one origin painted."""

    origin: str
    caption_ids: tuple[str, ...]
    num_painted: int
    failures: Mapping[str, tuple[str, ...]]
    """Reason -> caption ids, one per failed picture."""
    per_caption: tuple[int, int]
    """Fewest and most rows per caption, failures included."""

    @property
    def num_failed(self) -> int:
        """Failed pictures, for whatever reason."""
        return sum(len(ids) for ids in self.failures.values())


def count_paintings(project: Project) -> list[Painting]:
    """Painted and failed pictures of every origin but the real one, the largest first."""
    rows = project.image_columns(["status", "reason"], IS_PAINTED)
    paintings = [
        _count(origin, rows.filter(pc.field("origin") == origin))
        for origin in rows["origin"].unique().to_pylist()
    ]
    return sorted(paintings, key=lambda painting: (-painting.num_painted, painting.origin))


def choose(ids: Iterable[str], count: int, seed: int) -> list[str]:
    """``count`` of the ids by hash: neither their order nor what they show has a say."""
    return sorted(ids, key=lambda identity: (seed_for(seed, "report", identity), identity))[:count]


def caption_grid(project: Project, painting: Painting, num_captions: int, seed: int) -> Grid:
    """Captions chosen by hash, each with everything that was painted for it and its real pictures where known."""
    chosen = choose(painting.caption_ids, num_captions, seed)
    texts = {row["id"]: row for row in project.caption_rows(f"id IN {quoted(chosen)}")}
    columns = ["image", "status", "reason"]
    rows = project.image_columns(columns, f"{painted(painting.origin)} AND caption_id IN {quoted(chosen)}")
    pictures = _by_caption(rows)
    real = _real_pictures(project, chosen, texts)
    return Grid(
        origin=painting.origin,
        num_captions=len(painting.caption_ids),
        rows=tuple(
            _grid_row(
                texts.get(identity, {}).get("text", f"caption {identity}"), pictures[identity], real[identity]
            )
            for identity in chosen
        ),
    )


def to_picture(image: bytes | None, description: str, reason: str | None = None) -> Picture:
    """A cell from encoded bytes; bytes that no decoder understands become a cell that says so."""
    if reason is not None or image is None:
        return Picture(source=None, description=description, reason=reason or "no picture was stored")
    try:
        return Picture(source=data_uri(image), description=description)
    except (OSError, SyntaxError, ValueError) as error:
        return Picture(
            source=None, description=description, reason=f"the stored bytes cannot be read: {error}"
        )


def data_uri(image: bytes) -> str:
    """The bytes as a data URI, made smaller where they hold more pixels than the page shows."""
    with open_image(image) as opened:
        opened.load()
        if max(opened.size) <= _STORED_PIXELS and opened.format in _MIME_TYPES:
            mime_type = _MIME_TYPES[opened.format]
        else:
            image, mime_type = _smaller(opened), "image/webp"
    return f"data:{mime_type};base64,{base64.b64encode(image).decode('ascii')}"


def _smaller(opened: Image.Image) -> bytes:
    picture = opened.convert("RGBA" if "A" in opened.getbands() or "transparency" in opened.info else "RGB")
    picture.thumbnail((_STORED_PIXELS, _STORED_PIXELS), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=90)
    return file.getvalue()


def _count(origin: str, rows: pa.Table) -> Painting:
    per_caption = rows.group_by("caption_id").aggregate([([], "count_all")])
    failures: dict[str, list[str]] = defaultdict(list)
    for row in rows.filter(pc.field("status") != OK).to_pylist():
        failures[row["reason"] or "no reason was recorded"].append(row["caption_id"])
    fewest_most = pc.min_max(per_caption["count_all"]).as_py()
    return Painting(
        origin=origin,
        caption_ids=tuple(per_caption["caption_id"].to_pylist()),
        num_painted=len(rows) - sum(map(len, failures.values())),
        failures={reason: tuple(sorted(ids)) for reason, ids in sorted(failures.items())},
        per_caption=(fewest_most["min"], fewest_most["max"]),
    )


def _real_pictures(
    project: Project, chosen: Sequence[str], texts: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Real rows of each chosen caption; a wording without pictures of its own borrows those of its concept."""
    concepts = sorted({row["concept"] for row in texts.values() if row["concept"]})
    wordings: dict[str, list[str]] = defaultdict(list)
    if concepts:
        for row in project.caption_rows(f"concept IN {quoted(concepts)}"):
            wordings[row["concept"]].append(row["id"])
    relatives = {
        identity: {identity, *wordings.get(texts.get(identity, {}).get("concept") or "", [])}
        for identity in chosen
    }
    wanted = sorted(set().union(*relatives.values()))
    pictures = _by_caption(project.image_columns(["image"], f"{IS_REAL} AND caption_id IN {quoted(wanted)}"))
    return {
        identity: pictures[identity] or [row for relative in sorted(members) for row in pictures[relative]]
        for identity, members in relatives.items()
    }


def _by_caption(rows: pa.Table) -> dict[str, list[dict[str, Any]]]:
    grouped: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows.sort_by("image_index").to_pylist():
        grouped[row["caption_id"]].append(row)
    return grouped


def _grid_row(caption: str, rows: Sequence[Mapping[str, Any]], real: Sequence[Mapping[str, Any]]) -> GridRow:
    return GridRow(
        caption=caption,
        real=tuple(to_picture(row["image"], f"real picture of “{caption}”") for row in real[:MOST_REAL]),
        painted=tuple(
            to_picture(
                row["image"],
                f"painted picture {row['image_index']} of “{caption}”",
                None if row["status"] == OK else row["reason"] or "no reason was recorded",
            )
            for row in rows
        ),
    )
