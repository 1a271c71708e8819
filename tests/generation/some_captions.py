"""Seven captions, six to train on and one to test on, as a caption table."""

from pathlib import Path

from stablerep.store import CaptionTable, caption_id

TEXTS = (
    "a red cat",
    "the small dog",
    "sun",
    "a house with the blue boat",
    "leaf of the sun",
    "round and red",
    "boat",
)


def add_captions(path: Path, texts: tuple[str, ...]) -> None:
    """Append captions; the last of ``TEXTS`` is of the test split."""
    CaptionTable.open_or_create(path).append(
        {
            "id": caption_id(text),
            "text": text,
            "source": "test",
            "group": f"group of {text}",
            "split": "test" if text == TEXTS[-1] else "train",
            "label": text.split()[-1],
        }
        for text in texts
    )
