"""``stablerep audit captions``: captions that hold addresses, numbers or protected names. Flagged, never dropped."""

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from tyro.conf import Positional

from stablerep.audit.private import Found, ProtectedNames, private
from stablerep.audit.record import FILE as AUDIT_FILE
from stablerep.audit.record import AuditResult, audit_path, example, record, share_of
from stablerep.audit.rows import read_captions, read_rows
from stablerep.audit.verdicts import verdict_columns, write_verdicts
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.run import write_text
from stablerep.storage import file_beside, is_remote
from stablerep.store import CaptionTable

NAME = "captions"
FILE = "captions-audit.json"
_CHUNK = 100_000
_NUM_WORST = 24


@dataclass(frozen=True, kw_only=True)
class CaptionAuditConfig:
    """Find e-mail addresses, phone numbers, URLs, handles and protected names in captions.

    Writes the columns captions_ok and captions_reason into the caption table, so that `generate --where
    "captions_ok"` paints only what is fine, and a file with every place that was found. No caption is dropped.
    """

    captions: Positional[Path]
    """Table of captions (captions.lance)."""
    protected: Path | None = None
    """Text file of names that must not occur, one to a line; lines that begin with # are comments."""
    images: Path | None = None
    """Also give the verdict of its caption to every picture of this table, and renew its keep mask."""
    out: Path | None = None
    """Where to write what was found; captions-audit.json beside the caption table where not given. Beside it lies
    audit.json of ``images`` in an object store."""


@dataclass(frozen=True, kw_only=True)
class CaptionFindings:
    """What was found in a caption table."""

    captions: Path
    path: Path
    """The file with every place."""
    num_captions: int
    num_flagged: int
    by_kind: dict[str, int]
    """Captions by what was found in them."""
    num_protected_names: int
    """Names of the list."""
    seconds: float

    HEADER: ClassVar[tuple[str, ...]] = ("", "value")

    def rows(self) -> list[list[str]]:
        """The findings as rows of text under ``HEADER``."""
        return [
            ["captions read", f"{self.num_captions:,}"],
            ["captions flagged", share_of(self.num_flagged, self.num_captions)],
            *([f"with {kind}", f"{count:,}"] for kind, count in self.by_kind.items()),
            ["protected names looked for", f"{self.num_protected_names:,}"],
            ["every place", str(self.path)],
        ]


def audit_captions(config: CaptionAuditConfig, *, console: Console = Console(quiet=True)) -> CaptionFindings:  # noqa: B008
    """Search every caption, write columns and the file, and hand the verdicts on to ``images`` where it is given.

    Raises ``UserError`` where a table or the list of names cannot be read.
    """
    begin = time.monotonic()
    names = ProtectedNames(read_names(config.protected))
    table = CaptionTable.open(config.captions)
    path = config.out or file_beside(config.captions, FILE, "--out")
    in_images = None if config.images is None else _path_of_images(config.images, config.out)
    ids, places = _search(table, names, console)
    flagged = {ids[row]: found for row, found in enumerate(places) if found}
    reasons = [in_words(found) for found in places]
    table.write_columns(np.arange(len(ids)), verdict_columns(NAME, reasons))
    write_text(path, json.dumps(_document(config, len(ids), flagged), indent=2, ensure_ascii=False) + "\n")
    findings = CaptionFindings(
        captions=config.captions,
        path=path,
        num_captions=len(ids),
        num_flagged=len(flagged),
        by_kind=dict(Counter(kind for found in flagged.values() for kind in {one.kind for one in found})),
        num_protected_names=len(names),
        seconds=time.monotonic() - begin,
    )
    console.say(f"{len(flagged):,} of {len(ids):,} captions are flagged: {path}")
    if config.images is not None:
        judge_images(config.images, config.captions, in_images, console=console)
    return findings


def _path_of_images(images: Path, out: Path | None) -> Path:
    """Where the findings on pictures go: beside their table, or beside ``out`` where that lies in an object store."""
    return audit_path(images, out and out.with_name(AUDIT_FILE) if is_remote(images) else None)


def judge_images(
    images: Path, captions: Path, out: Path | None, *, where: str | None = None, console: Console
) -> AuditResult:
    """Give every picture the verdict of its caption, which ``audit_captions`` has written into the caption table.

    ``where`` is a filter of the pictures. Raises ``UserError`` where the captions were not audited, or pictures have
    other captions.
    """
    begin = time.monotonic()
    path = audit_path(images, out)
    rows = read_rows(images, where)
    texts = read_captions(captions, list(set(rows.captions)))
    table = CaptionTable.open(captions)
    table.field(f"{NAME}_ok")
    columns = table.read(["id", f"{NAME}_reason"], f"{NAME}_ok = false")
    against = dict(zip(columns["id"].to_pylist(), columns[f"{NAME}_reason"].to_pylist(), strict=True))
    reasons: list[str | None] = [against.get(one) for one in rows.captions]
    kept = write_verdicts(rows.table, rows.positions, NAME, reasons, {})
    rejected = [row for row, reason in enumerate(reasons) if reason is not None]
    result = AuditResult(
        audit=NAME,
        images=images,
        num_pictures=len(rows),
        num_rejected=len(rejected),
        columns=(),
        facts={"captions flagged": len({rows.captions[row] for row in rejected})},
        worst=tuple(
            example(rows, row, text=texts[rows.captions[row]].text, reason=reasons[row] or "")
            for row in rejected[:_NUM_WORST]
        ),
        kept=kept,
        seconds=time.monotonic() - begin,
    )
    record(path, result)
    console.say(f"captions of {len(rows):,} pictures: {path}")
    return result


def read_names(path: Path | None) -> list[str]:
    """The names of a list, without comments and empty lines; ``UserError`` where it cannot be read or is empty."""
    if path is None:
        return []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: the list of protected names cannot be read ({error}); give a UTF-8 text file"
        ) from error
    names = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not names:
        raise UserError(f"{path} holds no names; write one to a line")
    return names


def in_words(found: list[Found]) -> str | None:
    """What was found, without quoting addresses and numbers: columns travel further than the file does."""
    counts = Counter(one.kind for one in found)
    return ", ".join(kind if count == 1 else f"{count} x {kind}" for kind, count in counts.items()) or None


def _search(
    table: CaptionTable, names: ProtectedNames, console: Console
) -> tuple[list[str], list[list[Found]]]:
    """Ids of all captions, in the order of the table, and what was found in each."""
    columns: pa.Table = table.read(["id", "text"])
    ids, texts = (columns[name].to_pylist() for name in ("id", "text"))
    places: list[list[Found]] = []
    with console.progress("captions", len(ids), "captions") as progress:
        for start in range(0, len(texts), _CHUNK):
            chunk = texts[start : start + _CHUNK]
            places += [[*private(text), *names.found_in(text)] for text in chunk]
            progress.advance(len(chunk))
    return ids, places


def _document(
    config: CaptionAuditConfig, num_captions: int, flagged: dict[str, list[Found]]
) -> dict[str, Any]:
    return {
        "captions": config.captions.name,
        "protected": None if config.protected is None else config.protected.name,
        "num_captions": num_captions,
        "num_flagged": len(flagged),
        "flagged": [
            {"id": one, "found": [{"kind": place.kind, "text": place.text} for place in found]}
            for one, found in sorted(flagged.items())
        ],
    }
