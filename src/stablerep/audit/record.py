"""What an audit found, as a table in the terminal and as its part of ``audit.json``."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Concatenate, ParamSpec, Protocol, TypeVar

from stablerep import cost
from stablerep.audit.rows import Rows
from stablerep.audit.verdicts import Kept
from stablerep.errors import UserError
from stablerep.locks import alone
from stablerep.run import write_text
from stablerep.storage import file_beside, refuse_remote
from stablerep.store import ImageTable

FILE = "audit.json"
REFERENCE = "table of real pictures"
"""The fact that says where the pictures are that others repeat (``Example.of``)."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A picture that an audit finds among the worst."""

    origin: str
    caption_id: str
    image_index: int
    text: str | None
    """The caption, where it is known."""
    score: float | None
    """How bad, in the unit of the audit; None where that is no matter of degree."""
    reason: str
    """What is wrong with it; empty where it is only nearest to being wrong."""
    of: str | None = None
    """The picture that it repeats or is most like, as origin/caption_id/image_index."""

    @property
    def captions(self) -> tuple[str, ...]:
        """The captions that tell of it by id: its own, and that of the picture beside it."""
        return (self.caption_id,) if self.of is None else (self.caption_id, self.of.rsplit("/", 2)[1])


def example(
    rows: Rows,
    row: int,
    *,
    reason: str,
    text: str | None = None,
    score: float | None = None,
    of: str | None = None,
) -> Example:
    """The picture in a row, with what an audit says of it."""
    return Example(
        origin=str(rows.origins[row]),
        caption_id=str(rows.captions[row]),
        image_index=int(rows.indices[row]),
        text=text,
        score=score,
        reason=reason,
        of=of,
    )


@dataclass(frozen=True, kw_only=True)
class AuditResult:
    """What one audit found in a table of pictures."""

    audit: str
    images: Path
    num_pictures: int
    """Pictures that it judged."""
    num_rejected: int
    """Pictures that it speaks against."""
    columns: tuple[str, ...]
    """Columns of the table that it wrote."""
    facts: Mapping[str, Any]
    """What it measured, by name."""
    worst: tuple[Example, ...]
    kept: Kept
    """The mask that follows from all audits of the table."""
    seconds: float

    HEADER: ClassVar[tuple[str, ...]] = ("", "value")

    def rows(self) -> list[list[str]]:
        """The result as rows of text under ``HEADER``."""
        return [
            [f"{self.audit}: pictures judged", f"{self.num_pictures:,}"],
            [f"{self.audit}: rejected", share_of(self.num_rejected, self.num_pictures)],
            *(
                [f"{self.audit}: {name}", _in_words(value)]
                for name, value in self.facts.items()
                if value not in (None, {}, [])
            ),
            *mask_rows(self.kept),
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain values, as written to audit.json."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        return plain


class OfPictures(Protocol):
    """What is asked of an audit of pictures."""

    @property
    def images(self) -> Path:
        """Their table."""


Config = TypeVar("Config", bound=OfPictures)
More = ParamSpec("More")
Audit = Callable[Concatenate[Config, More], AuditResult]


def metered(name: str) -> Callable[[Audit[Config, More]], Audit[Config, More]]:
    """Decorates an audit of this name: each time it is done, a line beside the table says what it cost."""

    def decorate(audit: Audit[Config, More]) -> Audit[Config, More]:
        @functools.wraps(audit)
        def run(config: Config, /, *more: More.args, **named: More.kwargs) -> AuditResult:
            with cost.metered(f"audit {name}", cost.beside(config.images)):
                return audit(config, *more, **named)

        return run

    return decorate


def mask_rows(kept: Kept) -> list[list[str]]:
    """The mask as rows of a table."""
    total = kept.num_kept + kept.num_rejected
    return [
        ["kept by all audits", share_of(kept.num_kept, total)],
        ["rejected by any audit", share_of(kept.num_rejected, total)],
        ["not judged", f"{kept.num_unknown:,}"],
    ]


def share_of(count: int, total: int) -> str:
    """A count and its share: ``12 (1.2 %)``."""
    return f"{count:,} ({100 * count / total:.1f} %)" if total else f"{count:,}"


def audit_path(images: Path, out: Path | None) -> Path:
    """Where the findings on a table go; ``UserError`` where they cannot, or the file there is about another table."""
    path = out or file_beside(images, FILE, "--out")
    refuse_remote(path)
    if path.exists():
        there = _read(path).get("images")
        if there != images.name:
            ImageTable.open(images)  # where there is none, that is the mistake
            raise UserError(
                f"{path} holds the audits of {there}, not of {images.name}; give another place with --out"
            )
    return path


def record(path: Path, result: AuditResult) -> None:
    """Write the result into audit.json in place of what the same audit found before; other audits' parts stay."""
    plain = result.to_json()
    with alone(path.with_name(f".{path.name}.lock")):  # of two at once, one would take away the other's part
        content: dict[str, Any] = {"images": result.images.name, "audits": {}}
        if path.exists():
            content = _read(path)
        content["keep"] = plain.pop("kept")
        content["audits"][result.audit] = plain
        write_text(path, json.dumps(content, indent=2) + "\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        content["audits"].keys()
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(
            f"{path} does not hold audits ({error!r}); remove it, or give another place"
        ) from error
    return content


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_in_words(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_in_words, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
