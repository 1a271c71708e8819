"""Which captions are judged: by split, and by the words that training captions have."""

from pathlib import Path

from stablerep.evaluation.asked import read_asked, words
from stablerep.store import CaptionTable, caption_id

TEXTS = {
    "train": ["A red balloon", "two dogs, playing", "an 8-ball"],
    "validation": ["a RED dog", "two red dogs playing", "an 8-ball, playing!", "a balloon_red"],
    "test": ["a red balloon again"],
}


def write(folder: Path) -> Path:
    CaptionTable.open_or_create(folder / "captions.lance").append(
        {"id": caption_id(text), "text": text, "source": "test", "group": text, "split": split, "label": "x"}
        for split, texts in TEXTS.items()
        for text in texts
    )
    return folder


def test_words_are_runs_of_letters_and_digits() -> None:
    assert words("A man's 8-ball, déjà_vu") == {"a", "man", "s", "8", "ball", "déjà", "vu"}


def test_seen_words_leave_out_what_has_another(tmp_path: Path) -> None:
    world = write(tmp_path)
    kept = read_asked(world, "validation", seen_words=True)
    assert sorted(kept.texts.values()) == sorted(TEXTS["validation"][1:])  # "dog" is not "dogs"
    assert kept.num_left_out == 1
    assert set(kept.labels) == {caption_id(text) for text in TEXTS["validation"][1:]}
    every = read_asked(world, "validation", seen_words=False)
    assert len(every.texts) == 4 and every.num_left_out == 0


def test_all_splits_and_training_captions_are_seen(tmp_path: Path) -> None:
    world = write(tmp_path)
    assert len(read_asked(world, "all", seen_words=False).labels) == 8
    assert read_asked(world, "train", seen_words=True).num_left_out == 0
    assert read_asked(world, "test", seen_words=True).num_left_out == 1
