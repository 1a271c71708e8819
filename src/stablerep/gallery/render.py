"""What was found as HTML. Whatever comes from a table or a reader is escaped by the templates."""

import base64
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2
import numpy as np

from stablerep.gallery.columns import NONE, ChoiceColumn, Column, NumberColumn
from stablerep.gallery.index import Key
from stablerep.gallery.marks import marks_of
from stablerep.gallery.painting import Painting
from stablerep.gallery.pairs import COPY_VERDICT, NO_COPY, CopyPair, Pair, Place
from stablerep.gallery.projection import ATLAS_COLUMNS, TILE, Map
from stablerep.gallery.query import Page
from stablerep.gallery.session import Gallery, Shown

MOST_PER_LANE = 24
_SIDE = 256


@dataclass(frozen=True)
class Tile:
    """One picture to click on."""

    place: str
    src: str | None
    label: str
    mark: str | None
    reason: str = ""
    note: str = ""


def resource(name: str) -> str:
    """A file of this folder."""
    return (resources.files("stablerep.gallery") / name).read_text(encoding="utf-8")


@functools.cache
def _macros() -> Any:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(resource("results.html.j2")).module


def tiles(gallery: Gallery, table: int, rows: np.ndarray, notes: Sequence[str] = ()) -> list[Tile]:
    """Some rows of one of the tables."""
    index = gallery.tables[table]
    marks = marks_of(index, rows)
    made = []
    for number, (row, mark) in enumerate(zip(rows.tolist(), marks, strict=True)):
        has_picture = bool(index.has_picture[row])
        src = f"/gallery/picture/{table}/{row}?side={_SIDE}&v={index.token}" if has_picture else None
        reason = "" if has_picture else _reason(gallery, Place(table, row))
        note = notes[number] if notes else ""
        name = f"image {index.image_index[row]} of {index.text(index.caption[row])}"
        said = (name, index.origins[index.origin[row]], reason, note, f"marked {mark}" if mark else "")
        label = ", ".join(part for part in said if part)
        made.append(Tile(f"{table}/{row}", src, label, mark, reason, note))
    return made


def _reason(gallery: Gallery, place: Place) -> str:
    known = gallery.tables[place.table].details([place.position])[0]
    return f"failed: {known.get('reason', 'no reason is recorded')}"


def results(gallery: Gallery, shown: Shown, sort: str) -> str:
    """A page of captions with their pictures, or of pictures alone."""
    column = gallery.main.column(sort)
    content: dict[str, Any] = {
        "summary": _summary(gallery, shown),
        "page": shown.page,
        "cards": [],
        "tiles": [],
    }
    content["hint"] = _hint(shown)
    content["awaited"] = not shown.num_pictures and shown.num_unseen > 0
    if shown.view == "pictures":
        rows = shown.groups[0].rows
        content["tiles"] = tiles(gallery, 0, rows, _values(column, rows))
    else:
        content["cards"] = [_card(gallery, group.caption, group.rows, column) for group in shown.groups]
    return str(_macros().found(content))


def _card(gallery: Gallery, caption: int, rows: np.ndarray, column: Column | None) -> dict[str, Any]:
    index = gallery.main
    lanes = []
    for code in dict.fromkeys(index.origin[rows].tolist()):
        inside = rows[index.origin[rows] == code]
        first = inside[:MOST_PER_LANE]
        lanes.append(
            {
                "name": index.origins[code],
                "named": len(index.origins) > 1,
                "tiles": tiles(gallery, 0, first, _values(column, first)),
                "more": len(inside) - len(first),
            }
        )
    total = len(index.rows_of(index.caption_ids[caption]))
    facts = f"{len(rows)} of {total} pictures" if len(rows) < total else ""
    return {"text": index.text(caption), "lanes": lanes, "facts": facts}


def _values(column: Column | None, rows: np.ndarray) -> list[str]:
    """What pictures were sorted by, to stand on them."""
    if column is None:
        return [""] * len(rows)
    if isinstance(column, NumberColumn):
        return ["" if np.isnan(value) else f"{value:.3g}" for value in column.values[rows]]
    return [column.choices[code] for code in column.codes[rows]]


def _hint(shown: Shown) -> tuple[str, str]:
    """Why nothing is there, and what helps."""
    if shown.num_unseen:
        return (
            "None of them was looked at yet",
            "They appear here as soon as the encoder has seen the first ones.",
        )
    if shown.how is None:
        return "Nothing passes the filters", "Take one of them away."
    away = "take a filter away, or " if shown.is_filtered else ""
    return "Nothing matches", f"{away}search for fewer or other words.".capitalize()


def _summary(gallery: Gallery, shown: Shown) -> str:
    if not shown.num_pictures:
        return f"No picture: {shown.how}" if shown.how else "No picture"
    found = f"{_counted(shown.num_pictures, 'picture')} of {_counted(shown.num_captions, 'caption')}"
    if shown.num_pictures == len(gallery.main):
        return f"All {found}"
    passed = "passes" if shown.num_pictures == 1 else "pass"
    return f"{found}: {shown.how}" if shown.how else f"{found} {passed} the filters"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def comparison(
    gallery: Gallery, rows: list[list[Pair]], page: Page, names: tuple[str, str], total: int
) -> str:
    """Captions with the pictures of two origins, one above the other."""
    same = [pair.same_seed for row in rows for pair in row if pair.left and pair.right]
    content = [
        {
            "text": _caption_text(gallery, row[0].caption_id),
            "pairs": [
                {"left": _tile(gallery, pair.left), "right": _tile(gallery, pair.right)} for pair in row
            ],
        }
        for row in rows
        if row
    ]
    noise = " Above and below were painted from the same noise." if same and all(same) else ""
    summary = f"{_counted(total, 'caption')} {'has' if total == 1 else 'have'} pictures of both.{noise}"
    return str(_macros().compared(content, page, *names, summary))


def copies(gallery: Gallery, found: list[CopyPair], page: Page, total: int) -> str:
    """Pictures beside what they repeat."""
    content = []
    for pair in found:
        index = gallery.tables[0]
        facts = [f"score {pair.score:.3f}"] if pair.score is not None else []
        is_copy = pair.verdict != NO_COPY
        facts += [pair.verdict if is_copy else "no copy"] if pair.verdict else []
        content.append(
            {
                "shown": _tile(gallery, pair.copy),
                "original": _tile(gallery, pair.found),
                "text": index.text(index.caption[pair.copy.position]),
                "of": f"{'repeats' if is_copy else 'is most like'} {_named(gallery, pair.original)}",
                "facts": " · ".join(facts),
            }
        )
    return str(_macros().copied(content, page, _copies_summary(gallery, total)))


def _named(gallery: Gallery, key: Key) -> str:
    return f"image {key.image_index} of {_caption_text(gallery, key.caption_id)!r}, {key.origin}"


def _copies_summary(gallery: Gallery, total: int) -> str:
    column = gallery.main.column(COPY_VERDICT)
    if not isinstance(column, ChoiceColumn) or NO_COPY not in column.choices:
        return f"{total:,} pictures repeat another, the most similar first"
    counts = dict(zip(column.choices, column.counts().tolist(), strict=True))
    num_copies = sum(counts.values()) - counts[NO_COPY] - counts.get(NONE, 0)
    return (
        f"{_counted(total, 'picture')} beside the one that each is most like, the most similar first. "
        f"Of the whole table {num_copies:,} repeat another."
    )


def paintings(done: Sequence[Painting], seconds: float, teacher: str) -> str:
    """What was just painted; these pictures are in no table."""
    content = [
        {"src": data_address(picture.png, "image/png"), "prompt": picture.prompt, "reason": picture.reason}
        for picture in done
    ]
    cut = ", which reads only the beginning of so long a prompt" if any(one.is_cut for one in done) else ""
    summary = f"{_counted(len(done), 'picture')} in {seconds:.1f} s by {teacher}{cut}"
    return str(_macros().painted(content, summary))


def header(gallery: Gallery) -> str:
    """The head of the page: which table this is."""
    index = gallery.main
    others = ", ".join(table.name for table in gallery.tables[1:])
    facts = f"{_counted(len(index), 'picture')} · {_counted(index.num_captions, 'caption')}" + (
        f" · beside {others}" if others else ""
    )
    return str(_macros().header(index.name, facts, gallery.num_marked()))


def drawn(gallery: Gallery, found: Map, atlas: str) -> dict[str, Any]:
    """A map as plain values for the browser."""
    index = gallery.main
    names = {"umap": "UMAP", "t-sne": "t-SNE", "pca": "PCA"}
    of = "" if len(found.rows) == found.num_chosen else f" of {found.num_chosen:,} found"
    return {
        "atlas": f"/gallery/atlas/{atlas}",
        "tile": TILE,
        "across": ATLAS_COLUMNS,
        "places": [[round(float(x), 4), round(float(y), 4)] for x, y in found.places],
        "rows": found.rows.tolist(),
        "origins": index.origins,
        "origin": index.origin[found.rows].tolist(),
        "token": index.token,
        "sentence": f"{len(found.rows):,} pictures{of}, laid out by {names[found.how]} of {gallery.looker.name}",
    }


def note(title: str, text: str) -> str:
    """A place where there is nothing to show, and why."""
    return str(_macros().empty(title, text))


def data_address(content: bytes | None, kind: str) -> str | None:
    """Content as an address that needs no request."""
    return None if content is None else f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _tile(gallery: Gallery, place: Place | None) -> Tile | None:
    return None if place is None else tiles(gallery, place.table, np.array([place.position]))[0]


def _caption_text(gallery: Gallery, caption_id: str) -> str:
    for index in gallery.tables:
        text = index.text_of(caption_id)
        if text is not None:
            return text
    return f"caption {caption_id}"
