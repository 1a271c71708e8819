"""The rows of tables: held against their keys, their fingerprints, their pictures and one another."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stablerep.decoding import decode_image, image_size
from stablerep.doctor.finding import Finding
from stablerep.generation.teacher import origin_name
from stablerep.storage import reading, writing
from stablerep.store import OK, REAL, CaptionTable, ImageTable, caption_id

_BATCH = 256
_UNREADABLE = (OSError, SyntaxError, ValueError)


def examine_captions(table: CaptionTable) -> Iterator[Finding]:
    """Captions whose identity is not that of their text, and captions that are there twice."""
    wrong = 0
    for batch in table.scan(["id", "text"]):
        pairs = zip(batch["id"].to_pylist(), batch["text"].to_pylist(), strict=True)
        wrong += sum(identity != caption_id(text) for identity, text in pairs)
    if wrong:
        yield Finding(
            path=table.path,
            severity="broken",
            what=f"{wrong} captions have an id that is not the hash of their text",
            remedy="import them again into a new table; equal captions are not recognised here",
        )
    yield from _doubles(table, ["id"])


def examine_images(table: ImageTable, *, decode: bool) -> Iterator[Finding]:
    """Rows held against their keys, their origins' settings and their pictures."""
    yield from _doubles(table, ["origin", "caption_id", "image_index"])
    rows = table.read(["origin", "caption_id", "image_index", "status", "reason"])
    yield from _origins(table, rows)
    yield from _failures(table, rows)
    yield from _missing(table, rows)
    yield from _pictures(table, decode)


def examine_together(images: ImageTable, captions: Sequence[CaptionTable]) -> Iterator[Finding]:
    """Pictures of captions that none of the tables beside them holds."""
    known = pa.concat_tables([table.read(["id"]) for table in captions])["id"]
    asked = pc.unique(images.read(["caption_id"])["caption_id"])
    strangers = len(asked) - pc.sum(pc.is_in(asked, known)).as_py() if len(asked) else 0
    if strangers:
        yield Finding(
            path=images.path,
            severity="note",
            what=f"pictures of {strangers} captions that {', '.join(table.path for table in captions)} does not hold",
            remedy="name their caption table too, or keep in mind that methods that read texts refuse these pictures",
        )


def _doubles(table: CaptionTable | ImageTable, keys: Sequence[str]) -> Iterator[Finding]:
    with reading(table.path):
        rows = table.dataset.to_table(columns=list(keys), with_row_id=True)
    grouped = rows.group_by(list(keys)).aggregate([("_rowid", "min"), ("_rowid", "count")])
    num_doubles = len(rows) - len(grouped)
    if not num_doubles:
        return
    kept = pa.array(grouped["_rowid_min"]).cast(pa.uint64()) if len(grouped) else pa.array([], pa.uint64())
    extra = rows.filter(pc.invert(pc.is_in(rows["_rowid"], kept)))["_rowid"].to_pylist()
    yield Finding(
        path=table.path,
        severity="broken",
        what=f"{num_doubles} rows repeat the key ({', '.join(keys)}) of another row",
        remedy="--repair keeps the first of each and removes the others",
        repair=_removal(table, extra),
    )


def _removal(table: CaptionTable | ImageTable, row_ids: Sequence[int]) -> Callable[[], str]:
    def remove() -> str:
        # A row id is an address that is never given again: one that a compaction moved away matches nothing.
        with writing(table.path):
            before = len(table.reload())
            for start in range(0, len(row_ids), 10_000):
                part = ", ".join(map(str, row_ids[start : start + 10_000]))
                table.reload().dataset.delete(f"_rowid IN ({part})")
        return f"{before - len(table.reload())} rows removed"

    return remove


def _origins(table: ImageTable, rows: pa.Table) -> Iterator[Finding]:
    known = table.origins()
    for origin, count in Counter(rows["origin"].to_pylist()).items():
        if origin == REAL:
            continue
        if origin not in known:
            yield Finding(
                path=table.path,
                severity="broken",
                what=f"{count} rows of {origin}, of whose settings the table knows nothing",
                remedy="do not add to them: nobody can tell with which settings they were painted",
            )
        # What the official code was asked is not known: its folders stand in place of settings.
        elif (
            "folders" not in known[origin] and origin_name(origin.rpartition("-")[0], known[origin]) != origin
        ):
            yield Finding(
                path=table.path,
                severity="broken",
                what=f"the settings recorded for {origin} are not those that its name was made from",
                remedy="do not add to them: the record was changed after the first picture was painted",
            )


def _failures(table: ImageTable, rows: pa.Table) -> Iterator[Finding]:
    failed = rows.filter(pc.not_equal(rows["status"], OK))
    if len(failed):
        reasons = Counter(str(reason) for reason in failed["reason"].to_pylist())
        listed = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
        yield Finding(
            path=table.path,
            severity="note",
            what=f"{len(failed)} rows hold a failure instead of a picture ({listed})",
            remedy="nothing: training leaves them out, and the same seed would fail again",
        )


def _missing(table: ImageTable, rows: pa.Table) -> Iterator[Finding]:
    """Pictures that a painted origin has of some captions and not of others."""
    for origin in table.origins():
        own = rows.filter(pc.equal(rows["origin"], origin))
        if not len(own):
            continue
        num_captions, num_images = (
            pc.count_distinct(own["caption_id"]).as_py(),
            pc.max(own["image_index"]).as_py() + 1,
        )
        missing = num_captions * num_images - len(own)
        if missing > 0:
            yield Finding(
                path=table.path,
                severity="note",
                what=f"{missing} of {num_captions * num_images} pictures of {origin} are not there ({num_captions} "
                f"captions, {num_images} images of each)",
                remedy="the command that painted the others paints them; none is missing where --repaint added some",
            )


def _pictures(table: ImageTable, decode: bool) -> Iterator[Finding]:
    """Rows that say ok and hold no picture: by the header of each, or by decoding it."""
    unreadable: list[dict[str, Any]] = []
    columns = ["origin", "caption_id", "image_index", "image"]
    for batch in table.scan(columns, filter=f"status = '{OK}'", with_row_id=True, batch_size=_BATCH):
        for row in batch.to_pylist():
            if not _is_readable(row.pop("image"), decode):
                unreadable.append(row)
    painted = [row["_rowid"] for row in unreadable if row["origin"] != REAL]
    for rows, what, remedy, repair in (
        (
            [row for row in unreadable if row["origin"] != REAL],
            "painted pictures cannot be read",
            "--repair removes their rows, and the command that painted them paints them again",
            _removal(table, painted),
        ),
        (
            [row for row in unreadable if row["origin"] == REAL],
            "real pictures cannot be read",
            "get them again",
            None,
        ),
    ):
        if rows:
            first = f"{rows[0]['caption_id']}, image {rows[0]['image_index']}"
            yield Finding(
                path=table.path,
                severity="broken",
                what=f"{len(rows)} {what}, the first of caption {first}",
                remedy=remedy,
                repair=repair,
            )


def _is_readable(encoded: bytes | None, decode: bool) -> bool:
    if not encoded:
        return False
    try:
        (decode_image if decode else image_size)(encoded)
    except _UNREADABLE:
        return False
    return True
