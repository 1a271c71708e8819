"""An audit of one's own: pictures without colour are rejected."""

import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import tyro

from stablerep.audit.everything import AUDITS, AuditAllConfig
from stablerep.audit.record import AuditResult, Example, audit_path, record
from stablerep.audit.rows import read_rows
from stablerep.audit.verdicts import write_verdicts
from stablerep.console import Console
from stablerep.decoding import decode_image
from stablerep.features import TableImages

NAME = "colour"


@dataclass(frozen=True, kw_only=True)
class ColourConfig:
    """Reject pictures that are (almost) grey; writes colour_score, colour_ok and colour_reason."""

    images: tyro.conf.Positional[Path]
    """Table of pictures."""
    least: float = 0.02
    """Mean spread between the channels of a pixel, in [0, 1], below which a picture counts as grey."""


def audit_colour(config: ColourConfig, *, console: Console = Console(quiet=True)) -> AuditResult:  # noqa: B008
    """Score every picture, write scores and verdicts, renew the keep mask, and add a part to audit.json."""
    begin = time.monotonic()
    rows = read_rows(config.images, None)
    scores = [spread(encoded) for encoded in TableImages(rows.table, rows.positions)]
    reasons = [f"grey: {score:.3f}" if score < config.least else None for score in scores]
    kept = write_verdicts(
        rows.table, rows.positions, NAME, reasons, {"colour_score": pa.array(scores, pa.float32())}
    )
    worst = [
        Example(
            origin=str(rows.origins[row]),
            caption_id=str(rows.captions[row]),
            image_index=int(rows.indices[row]),
            text=None,
            score=scores[row],
            reason=reasons[row] or "",
        )
        for row in sorted(range(len(rows)), key=scores.__getitem__)[:24]
    ]
    result = AuditResult(
        audit=NAME,
        images=config.images,
        num_pictures=len(rows),
        num_rejected=sum(reason is not None for reason in reasons),
        columns=("colour_score",),
        facts={"mean spread": sum(scores) / len(scores)},
        worst=tuple(worst),
        kept=kept,
        seconds=time.monotonic() - begin,
    )
    record(audit_path(config.images, None), result)
    console.say(f"{result.num_rejected} of {len(rows)} pictures are grey")
    return result


def spread(encoded: bytes) -> float:
    """Largest less smallest channel, as a mean over the pixels, in [0, 1]."""
    picture = decode_image(encoded).float() / 255
    return float((picture.amax(0) - picture.amin(0)).mean())


def _of_all(config: AuditAllConfig, console: Console) -> AuditResult | str:
    return audit_colour(ColourConfig(images=config.images), console=console)


AUDITS[NAME] = _of_all
