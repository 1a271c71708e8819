"""What captions look like: in which script they are written and how long they are, counted in bounded memory."""

import functools
import math
import unicodedata
from collections import Counter
from dataclasses import dataclass

import numpy as np

from stablerep.captions.entries import MAX_CHARACTERS

NO_LETTERS = "no letters"


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """How long captions are, in characters after normalising; None where there are none."""

    mean: float | None = None
    median: int | None = None
    p95: int | None = None
    longest: int | None = None


@functools.lru_cache(maxsize=2**16)
def script_of(letter: str) -> str | None:
    """The script of a character by the first word of its Unicode name (Latin, Cyrillic, CJK); None for no letter."""
    if not letter.isalpha():
        return None
    name = unicodedata.name(letter, "unnamed").split()[0]
    return "CJK" if name == "CJK" else name.capitalize()


def main_script(text: str) -> str:
    """The script in which most letters of a text are written; of scripts with equally many the one that comes first."""
    if text.isascii():
        return "Latin" if any(map(str.isalpha, text)) else NO_LETTERS
    scripts = Counter(filter(None, map(script_of, text)))
    return scripts.most_common(1)[0][0] if scripts else NO_LETTERS


class Statistics:
    """Counts captions by script and length."""

    def __init__(self) -> None:
        self._scripts: Counter[str] = Counter()
        self._lengths = np.zeros(MAX_CHARACTERS + 1, dtype=np.int64)

    def add(self, text: str) -> None:
        """Count a caption, whose text is normalised."""
        self._scripts[main_script(text)] += 1
        self._lengths[min(len(text), MAX_CHARACTERS)] += 1

    def scripts(self) -> dict[str, int]:
        """Number of captions by script, the most frequent first."""
        return dict(self._scripts.most_common())

    def lengths(self) -> Lengths:
        """Exact, as there is a counter for every length."""
        total = int(self._lengths.sum())
        if not total:
            return Lengths()
        reached = np.cumsum(self._lengths)
        at = {
            share: int(np.searchsorted(reached, max(1, math.ceil(share * total)))) for share in (0.5, 0.95, 1)
        }
        mean = float((self._lengths * np.arange(len(self._lengths))).sum() / total)
        return Lengths(mean=round(mean, 2), median=at[0.5], p95=at[0.95], longest=at[1])
