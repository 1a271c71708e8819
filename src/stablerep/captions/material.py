"""What a world is made of, before it is written: caption rows and pictures that are drawn on demand."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from PIL import Image

CaptionRow = Mapping[str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One real picture: its place in the image table, what is known of it, how to draw it (RGB or grey)."""

    caption_id: str
    image_index: int
    draw: Callable[[], Image.Image]
    style: str
    split: str
    group: str
    label: str
    licence: str


@dataclass(frozen=True, kw_only=True)
class Material:
    """All of one world; ``digest`` identifies the data behind it, ``size`` is the side of its pictures."""

    captions: list[CaptionRow]
    pictures: list[Picture]
    digest: str
    size: int


def running_numbers(names: Iterable[str]) -> list[int]:
    """For each name how often it came before: the image index within its caption."""
    seen: Counter[str] = Counter()
    numbers = []
    for name in names:
        numbers.append(seen[name])
        seen[name] += 1
    return numbers
