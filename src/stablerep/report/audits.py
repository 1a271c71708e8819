"""What the audits found: verdicts, measured facts, histograms of their columns and the worst pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stablerep.errors import UserError
from stablerep.report.drawing import ResponsiveFigure
from stablerep.report.figures import Panel, histogram_figure, series_key
from stablerep.report.pictures import Picture, to_picture
from stablerep.report.reading import Project, quoted
from stablerep.report.scores import in_percent
from stablerep.report.settings import Section, grouped, sections
from stablerep.run import read_json
from stablerep.store import ImageTable

_FILE = "audit.json"
_NUM_WORST = 12


@dataclass(frozen=True, kw_only=True)
class WorstPicture:
    """A picture among the worst, and why."""

    picture: Picture
    caption: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What one audit found in one table."""

    title: str
    sentence: str
    facts: tuple[Section, ...]
    keys: tuple[tuple[str, str], ...]
    """Sample of the colour, what it stands for."""
    figure: ResponsiveFigure | None
    worst: tuple[WorstPicture, ...]


@dataclass(frozen=True, kw_only=True)
class Audits:
    """The audits of one table, and the mask that follows from them."""

    sentence: str
    audits: tuple[Audit, ...]


def read_audits(project: Project) -> list[Audits]:
    """The audit.json files beside the image tables and in the given folders, each once.

    Raises ``UserError`` where one holds something else.
    """
    folders = dict.fromkeys([*(Path(table.path).parent for table in project.images), *project.folders])
    paths = {(folder / _FILE).resolve(): folder / _FILE for folder in folders if (folder / _FILE).exists()}
    return [_read(path, number, project) for number, path in enumerate(paths.values())]


def _read(path: Path, number: int, project: Project) -> Audits:
    stored = read_json(path)
    try:
        table = ImageTable.open(path.parent / stored["images"])
        return Audits(
            sentence=_mask(stored["images"], stored["keep"]),
            audits=tuple(
                _audit(found, table, project, f"audit-{number}-{name}")
                for name, found in stored["audits"].items()
            ),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} does not hold audits ({error!r}); run the audits again") from error


def _mask(name: str, keep: Mapping[str, Any]) -> str:
    total = keep["num_kept"] + keep["num_rejected"]
    unknown = f"; {grouped(keep['num_unknown'])} rows have no verdict" if keep["num_unknown"] else ""
    return (
        f"Of {grouped(total)} audited pictures in {name} the mask keeps {grouped(keep['num_kept'])} "
        f"({in_percent(keep['num_kept'] / max(total, 1))}) and rejects {grouped(keep['num_rejected'])}{unknown}. "
        "Nothing was deleted."
    )


def _audit(found: Mapping[str, Any], table: ImageTable, project: Project, identity: str) -> Audit:
    name = found["audit"]
    panels = _panels(table, name, found["columns"])
    share = in_percent(found["num_rejected"] / max(found["num_pictures"], 1))
    return Audit(
        title=name,
        sentence=(
            f"{grouped(found['num_rejected'])} of {grouped(found['num_pictures'])} pictures ({share}) are rejected by "
            f"audit {name}."
        ),
        facts=sections({key: _rounded(value) for key, value in found["facts"].items() if value is not None}),
        keys=((series_key(identity, 0), "fine"), (series_key(identity, 1), "rejected")) if panels else (),
        figure=histogram_figure(panels, identity) if panels else None,
        worst=_worst(found["worst"][:_NUM_WORST], table, project),
    )


def _rounded(value: Any) -> Any:
    """Measured numbers to three digits, whatever holds them."""
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    return float(f"{value:.3g}") if isinstance(value, float) else value


def _panels(table: ImageTable, name: str, columns: Sequence[str]) -> list[Panel]:
    """The columns of numbers that an audit wrote, as far as the table still has them."""
    schema = table.dataset.schema
    there = [
        column
        for column in columns
        if column in schema.names
        and (
            pa.types.is_floating(schema.field(column).type) or pa.types.is_integer(schema.field(column).type)
        )
    ]
    verdict = f"{name}_ok"
    if not there or verdict not in schema.names:
        return []
    rows = table.read([*there, verdict], f"{verdict} IS NOT NULL")
    panels = []
    for column in there:
        fine, rejected = (
            _numbers(rows.filter(pc.equal(rows[verdict], value))[column]) for value in (True, False)
        )
        if len(fine) + len(rejected):
            panels.append(Panel(name=column.replace("_", " "), fine=fine, rejected=rejected))
    return panels


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    values = column.drop_null().to_numpy().astype(np.float64)
    finite: np.ndarray = values[np.isfinite(values)]
    return finite


def _worst(
    examples: Sequence[Mapping[str, Any]], table: ImageTable, project: Project
) -> tuple[WorstPicture, ...]:
    if not examples:
        return ()
    ids = sorted({example["caption_id"] for example in examples})
    others = {example["of"].rsplit("/", 2)[1] for example in examples if example.get("of")}
    rows = table.read(["origin", "caption_id", "image_index", "image"], f"caption_id IN {quoted(ids)}")
    keys = zip(*(rows[name].to_pylist() for name in ("origin", "caption_id", "image_index")), strict=True)
    places = {key: place for place, key in enumerate(keys)}
    texts = project.texts(sorted({*ids, *others}))
    shown = []
    for example in examples:
        place = places.get((example["origin"], example["caption_id"], example["image_index"]))
        caption = example["text"] or texts.get(example["caption_id"], f"caption {example['caption_id']}")
        image = None if place is None else rows["image"][place].as_py()
        picture = to_picture(image, f"painted picture {example['image_index']} of “{caption}”")
        shown.append(WorstPicture(picture=picture, caption=caption, reason=_why(example, texts)))
    return tuple(shown)


def _why(example: Mapping[str, Any], texts: Mapping[str, str]) -> str:
    """What is wrong with a picture; where another one is beside it, that one by its caption."""
    said = str(example["reason"] or _score(example))
    if not example.get("of"):
        return said
    origin, caption, index = example["of"].rsplit("/", 2)
    return f"{said}, beside “{texts.get(caption, f'caption {caption}')}” ({origin}, image {index})"


def _score(example: Mapping[str, Any]) -> str:
    return "not rejected" if example["score"] is None else f"score {example['score']:.3g}, not rejected"
