"""What the sources hand over: one record per picture, before captions, groups and splits exist."""

import hashlib
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One picture with everything its source says about it."""

    picture_id: str
    style: str
    concept: str
    name: str  # cleaned English name of what is depicted, without article
    keywords: tuple[str, ...]
    description: str | None
    label: str  # emoji sub-category, before small classes are merged
    base: str  # drawings of one base are one group from the outset
    path: Path
    licence: str
    title: str
    author: str | None = None
    skin_tone: str | None = None
    gender: str | None = None


@dataclass
class Report:
    """How many drawings were dropped, and why."""

    dropped: Counter[str] = field(default_factory=Counter)
    facts: dict[str, object] = field(default_factory=dict)

    def drop(self, reason: str) -> None:
        """Count one more drawing dropped for this reason."""
        self.dropped[reason] += 1


def stable_hash(*identity: object) -> int:
    """A number that depends on the identity only."""
    text = "\x1f".join(str(part) for part in identity)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def normalised(text: str) -> str:
    """The form in which two captions are compared."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", text).casefold()).strip()
