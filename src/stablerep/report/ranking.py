"""The best, the median and the worst pictures of a painter, by how well each shows what its caption asked for."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stablerep.report.pictures import Picture, to_picture
from stablerep.report.reading import Project
from stablerep.report.settings import grouped
from stablerep.store import OK, REAL, ImageTable

COLUMN = "match"
"""What ``stablerep audit match`` writes: the cosine of picture and caption in an image-text encoder."""
NUM_SHOWN = 8
"""Pictures in a row, at most."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One picture with its caption and its match."""

    picture: Picture
    caption: str
    match: float


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Pictures of one origin by match, in three rows of equally many."""

    origin: str
    sentence: str
    rows: tuple[tuple[str, tuple[Ranked, ...]], ...]
    """Name of the row, its pictures in falling order of match."""


def find_rankings(project: Project) -> list[Ranking]:
    """One ranking per table and painted origin that have prompt matches."""
    return [
        _ranking(project, table, origin, rows)
        for table in project.images
        if COLUMN in table.dataset.schema.names
        for origin, rows in _by_origin(table).items()
    ]


def _by_origin(table: ImageTable) -> dict[str, pa.Table]:
    """Rows with a finite match, by painted origin, the best first; ties are broken by identity."""
    rows = table.read(["origin", "caption_id", "image_index", "status", COLUMN])
    rows = rows.append_column("position", pa.array(np.arange(len(rows))))
    is_judged = (pc.field("origin") != REAL) & (pc.field("status") == OK) & pc.is_finite(pc.field(COLUMN))
    rows = rows.filter(is_judged).sort_by(
        [(COLUMN, "descending"), ("caption_id", "ascending"), ("image_index", "ascending")]
    )
    return {
        origin: rows.filter(pc.field("origin") == origin) for origin in rows["origin"].unique().to_pylist()
    }


def _ranking(project: Project, table: ImageTable, origin: str, rows: pa.Table) -> Ranking:
    num = len(rows)
    shown = min(NUM_SHOWN, max(1, num // 3))  # no picture stands in two rows
    begins = {"best": 0, "median": (num - shown) // 2, "worst": num - shown}
    parts = {name: rows.slice(begin, shown) for name, begin in begins.items()}
    match = rows[COLUMN].to_numpy()
    return Ranking(
        origin=origin,
        sentence=(
            f"{grouped(num)} pictures by prompt match, the cosine of picture and caption in the encoder of the audit; "
            f"the median is {np.median(match):.2f}, 95\u00a0% lie between {np.quantile(match, 0.025):.2f} and "
            f"{np.quantile(match, 0.975):.2f}. A high match is no proof: the encoder errs as well."
        ),
        rows=tuple((name, _pictures(project, table, part)) for name, part in parts.items() if len(part)),
    )


def _pictures(project: Project, table: ImageTable, rows: pa.Table) -> tuple[Ranked, ...]:
    texts = project.texts(rows["caption_id"].unique().to_pylist())
    images = table.take_images(rows["position"].to_pylist())
    found = []
    for row, image in zip(rows.to_pylist(), images, strict=True):
        caption = texts.get(row["caption_id"], f"caption {row['caption_id']}")
        picture = to_picture(image, f"painted picture {row['image_index']} of “{caption}”")
        found.append(Ranked(picture=picture, caption=caption, match=row[COLUMN]))
    return tuple(found)
