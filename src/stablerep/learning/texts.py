"""What is said of an image in training: the text of its caption, in one of the wordings that belong to it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stablerep.errors import UserError
from stablerep.store import CaptionTable

_BELONGS = ("concept", "group", "split", "label")


def wordings(path: Path, captions: Sequence[str], *, others: bool) -> dict[str, list[str]]:
    """For each caption its text and the other texts for the same thing, sorted.

    Captions of one thing get the same list, and a text is in the list of one thing only: the first tells the thing.

    Texts are for the same thing where concept, group, split and label are the same: a wording of the test split is
    never read in training, and captions that only share their class stay apart. With ``others`` all texts of the table
    are read, else those of ``captions`` alone: neither depends on which captions have images. Raises ``UserError`` for
    a caption that the table does not hold.
    """
    rows = CaptionTable.open(path).read(["id", "text", *_BELONGS]).to_pylist()
    wanted = set(captions)
    belonging: dict[tuple[Any, ...], list[str]] = {}
    for row in rows:
        if others or row["id"] in wanted:
            belonging.setdefault(_thing(row), []).append(row["text"])
    for some in belonging.values():
        some.sort()
    texts = {row["id"]: belonging[_thing(row)] for row in rows if row["id"] in wanted}
    unknown = [caption for caption in captions if caption not in texts]
    if unknown:
        raise UserError(f"{path} has no caption {unknown[0]} ({len(unknown)} such); give its table")
    return texts


def _thing(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a text is for; a caption without a concept is for itself."""
    return tuple(row[name] for name in _BELONGS) if row["concept"] else (row["id"],)
