"""Who paints what, with which seed: pure functions of the captions, the number of images and what is there already."""

import itertools
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from stablerep.runtime import seed_for
from stablerep.store import in_style

Key = tuple[str, int]
Caption = tuple[str, str]
"""(caption id, text)"""

Asked = int | Mapping[str, Sequence[int]]
"""The image indices to have: 0..K-1 of every caption, or those listed for each caption id."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PlanItem:
    """One picture to paint."""

    caption_id: str
    text: str
    image_index: int
    seed: int
    style: str | None = None

    @property
    def prompt(self) -> str:
        """What the teacher is asked for."""
        return in_style(self.text, self.style)

    @property
    def key(self) -> Key:
        """What identifies the picture within its origin."""
        return self.caption_id, self.image_index


def plan(
    captions: Iterable[Caption],
    asked: Asked,
    done: Container[Key],
    *,
    batch_size: int,
    seed: int,
    styles: Sequence[str] = (),
) -> Iterator[list[PlanItem]]:
    """Batches of the missing pictures, all of ``batch_size`` but the last.

    The order is deterministic: windows of ``batch_size`` captions, within each all first images, then all second ones,
    so that a batch holds as many prompts as the text encoder takes at once and a prompt is needed only for a while.
    ``done`` is asked when a window is reached, so it may grow meanwhile. A picture's seed is a function of (run seed,
    caption id, image index) alone, its style one of its image index.
    """
    waiting: list[PlanItem] = []
    ahead = iter(captions)
    while window := list(itertools.islice(ahead, batch_size)):
        waiting += [
            PlanItem(identity, text, index, seed_for(seed, identity, index), _style_of(index, styles))
            for index, identity, text in _in_turn(window, asked)
            if (identity, index) not in done
        ]
        while len(waiting) >= batch_size:
            yield waiting[:batch_size]
            del waiting[:batch_size]
    if waiting:
        yield waiting


def _style_of(image_index: int, styles: Sequence[str]) -> str | None:
    return styles[image_index % len(styles)] if styles else None


def _in_turn(captions: Sequence[Caption], asked: Asked) -> list[tuple[int, str, str]]:
    """(image index, caption id, text) of everything asked for: the first images of all captions, then the second."""
    places = [
        (index, place)
        for place, (identity, _) in enumerate(captions)
        for index in indices_of(identity, asked)
    ]
    return [(index, *captions[place]) for index, place in sorted(places)]


def indices_of(caption: str, asked: Asked) -> Sequence[int]:
    """The image indices that are asked for of a caption."""
    return range(asked) if isinstance(asked, int) else asked.get(caption, ())


def num_asked(captions: Iterable[Caption], asked: Asked) -> int:
    """Pictures asked for of these captions."""
    return sum(len(indices_of(identity, asked)) for identity, _ in captions)


def num_missing(captions: Iterable[Caption], asked: Asked, done: Container[Key]) -> int:
    """Pictures of these captions that are still to be painted."""
    return sum(
        (identity, index) not in done for identity, _ in captions for index in indices_of(identity, asked)
    )


def indices_with_repaints(judged: Mapping[int, bool], num_images: int, max_images: int) -> list[int]:
    """The image indices of a caption to have so that ``num_images`` of them are good.

    ``judged``: image index -> whether the picture there counts, for every one that is painted. Those that count stay;
    as many as are missing are added, under the smallest indices below ``max_images`` at which nothing was painted yet.
    """
    good = [index for index, counts in sorted(judged.items()) if counts]
    unused = [index for index in range(max_images) if index not in judged]
    return sorted([*good, *unused[: max(0, num_images - len(good))]])


def share(items: Sequence[T], index: int, count: int) -> Sequence[T]:
    """The contiguous part of worker ``index`` of ``count``; the parts cover everything once."""
    return items[len(items) * index // count : len(items) * (index + 1) // count]


def rotated(items: Sequence[T], by: int) -> Iterator[T]:
    """The items in order from position ``by`` on, then those before it."""
    by = by % len(items) if items else 0
    return itertools.chain(items[by:], items[:by])
