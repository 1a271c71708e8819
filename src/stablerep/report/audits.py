"""What the audits found: verdicts, measured facts, histograms of their columns, shares and the worst pictures."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stablerep.audit.record import FILE, REFERENCE
from stablerep.errors import UserError
from stablerep.report.bias import read_shares
from stablerep.report.drawing import ResponsiveFigure
from stablerep.report.figures import Panel, histogram_figure, series_key
from stablerep.report.pictures import Picture, to_picture
from stablerep.report.reading import Project
from stablerep.report.scores import in_percent
from stablerep.report.settings import Section, grouped, sections
from stablerep.report.trends import Trend
from stablerep.row_keys import literal
from stablerep.run import read_json
from stablerep.store import ImageTable

_NUM_WORST = 12
_SHARES = "bias.json"

Key = tuple[str, str, int]
"""Origin, caption id and image index."""


@dataclass(frozen=True, kw_only=True)
class WorstPicture:
    """A picture among the worst, and why."""

    picture: Picture
    caption: str
    reason: str
    beside: Picture | None = None
    """The picture that it repeats or is most like."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What one audit found in one table."""

    title: str
    sentence: str
    facts: tuple[Section, ...]
    shares: tuple[Trend, ...]
    """Of audit bias: a part for each attribute."""
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
    paths = {(folder / FILE).resolve(): folder / FILE for folder in folders if (folder / FILE).exists()}
    return [_read(path, number, project) for number, path in enumerate(paths.values())]


def _read(path: Path, number: int, project: Project) -> Audits:
    stored = read_json(path)
    try:
        table = ImageTable.open(path.parent / stored["images"])
        return Audits(
            sentence=_mask(stored["images"], stored["keep"]),
            audits=tuple(
                _audit(found, table, project, _Place(path, f"audit-{number}-{name}"))
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


@dataclass(frozen=True)
class _Place:
    """Where an audit was read, and where it goes on the page."""

    path: Path
    """The audit.json."""
    identity: str
    """What the ids of its figures begin with."""


def _audit(found: Mapping[str, Any], table: ImageTable, project: Project, place: _Place) -> Audit:
    name, identity = found["audit"], place.identity
    panels = _panels(table, name, found["columns"])
    share = in_percent(found["num_rejected"] / max(found["num_pictures"], 1))
    shares, is_drawn = _shares(name, place)
    examples = found["worst"][:_NUM_WORST]
    originals, remark = _originals(found["facts"].get(REFERENCE), examples, place.path)
    return Audit(
        title=name,
        sentence=(
            f"{grouped(found['num_rejected'])} of {grouped(found['num_pictures'])} pictures ({share}) are rejected by "
            f"audit {name}.{remark}"
        ),
        facts=sections(
            {
                key: _rounded(value)
                for key, value in found["facts"].items()
                if value is not None and key not in is_drawn
            }
        ),
        shares=shares,
        keys=((series_key(identity, 0), "fine"), (series_key(identity, 1), "rejected")) if panels else (),
        figure=histogram_figure(panels, identity) if panels else None,
        worst=_worst(examples, originals, table, project),
    )


def _shares(name: str, place: _Place) -> tuple[tuple[Trend, ...], Collection[str]]:
    """What audit bias found, as far as its file is still there, and the facts that then need no line of their own."""
    path = place.path.with_name(_SHARES)
    return read_shares(path, place.identity) if name == "bias" and path.exists() else ((), ())


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


def _key(example: Mapping[str, Any]) -> Key:
    return example["origin"], example["caption_id"], example["image_index"]


def _key_beside(example: Mapping[str, Any]) -> Key | None:
    """That of the picture that one repeats or is most like, where the audit names one."""
    if not example.get("of"):
        return None
    origin, caption, index = example["of"].rsplit("/", 2)
    return origin, caption, int(index)


def _images(table: ImageTable, keys: Collection[Key]) -> dict[Key, bytes | None]:
    """Encoded pictures, as far as the table has them."""
    any_of_them = " OR ".join(
        f"(origin = {literal(origin)} AND caption_id = {literal(caption)} AND image_index = {index})"
        for origin, caption, index in sorted(keys)
    )
    rows = table.read(["origin", "caption_id", "image_index", "image"], any_of_them).to_pylist()
    return {_key(row): row["image"] for row in rows}


def _originals(
    named: str | None, examples: Sequence[Mapping[str, Any]], path: Path
) -> tuple[dict[Key, bytes | None] | None, str]:
    """The pictures that others repeat, and a sentence about them; none where their table cannot be read any more."""
    keys = {key for key in map(_key_beside, examples) if key is not None}
    if not keys:
        return None, ""
    if named is None:
        return None, f" Which table the real pictures beside them are in, {path} does not say."
    places = (Path(named), path.parent / named)  # the audit may have run in another folder
    try:
        place = next((place for place in places if ImageTable.exists(place)), places[0])
        return _images(
            ImageTable.open(place), keys
        ), " On the left the painted picture, on the right the real one."
    except UserError as error:
        return None, f" The real pictures beside them cannot be shown: {error}."


def _worst(
    examples: Sequence[Mapping[str, Any]],
    originals: Mapping[Key, bytes | None] | None,
    table: ImageTable,
    project: Project,
) -> tuple[WorstPicture, ...]:
    if not examples:
        return ()
    images = _images(table, {_key(example) for example in examples})
    beside = [_key_beside(example) for example in examples]
    texts = project.texts(
        sorted({example["caption_id"] for example in examples} | {key[1] for key in beside if key})
    )

    def caption_of(identity: str) -> str:
        return texts.get(identity, f"caption {identity}")

    shown = []
    for example, other in zip(examples, beside, strict=True):
        caption = example["text"] or caption_of(example["caption_id"])
        painted = to_picture(
            images.get(_key(example)), f"painted picture {example['image_index']} of “{caption}”"
        )
        original = (
            to_picture(originals.get(other), f"{other[0]} picture {other[2]} of “{caption_of(other[1])}”")
            if originals is not None and other is not None
            else None
        )
        shown.append(
            WorstPicture(picture=painted, caption=caption, reason=_why(example, texts), beside=original)
        )
    return tuple(shown)


def _why(example: Mapping[str, Any], texts: Mapping[str, str]) -> str:
    """What is wrong with a picture; where another one is beside it, that one by its caption."""
    said = str(example["reason"] or _score(example))
    beside = _key_beside(example)
    if beside is None:
        return said
    origin, caption, index = beside
    return f"{said}, beside “{texts.get(caption, f'caption {caption}')}” ({origin}, image {index})"


def _score(example: Mapping[str, Any]) -> str:
    return "not rejected" if example["score"] is None else f"score {example['score']:.3g}, not rejected"
