"""Which captions are judged: by split, and by the words that training captions have."""

from collections import Counter
from pathlib import Path

import numpy as np

from stablerep.evaluation.asked import Paintings, read_asked, real_counterparts, words
from stablerep.evaluation.benchmarks import HELD_OUT_STYLE
from stablerep.store import REAL, CaptionTable, ImageTable, caption_id

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
    every, train = (read_asked(world, split, seen_words=False) for split in ("all", "train"))
    assert every.training == train.training == set(train.labels)
    assert every.only(list(train.labels)[:1], 1).training == set(list(train.labels)[:1])
    assert not read_asked(world, "test", seen_words=False).training
    assert read_asked(world, "test", seen_words=True).num_left_out == 1


def test_counterparts_are_as_many_of_each_caption_on_both_sides(tmp_path: Path) -> None:
    """Two real pictures of one caption, one of another, none of the third; held-out styles and failures never."""
    rows = [
        ("a", 0, "noto", "ok"),
        ("a", 1, "noto", "ok"),
        ("b", 0, None, "ok"),
        ("b", 1, HELD_OUT_STYLE, "ok"),
    ]
    rows += [("c", 0, "noto", "failed"), ("d", 0, "noto", "ok")]
    ImageTable.open_or_create(tmp_path / "images.lance").append(
        {
            "origin": REAL,
            "caption_id": caption,
            "image_index": index,
            "image": f"{caption}{index}".encode(),
            "style": style,
            "status": status,
        }
        for caption, index, style, status in rows
    )
    captions = np.array(["a", "a", "a", "b", "b", "c"])
    painted = Paintings("p", [b""] * 6, captions, captions, num_failed=0, num_not_judged=0)
    found = real_counterparts(tmp_path, painted, seed=0)
    assert Counter(captions[found.painted]) == {"a": 2, "b": 1}
    assert sorted(found.real) == [b"a0", b"a1", b"b0"]
    assert list(captions[found.painted]) == list(found.captions) == [real.decode()[0] for real in found.real]
    again = real_counterparts(tmp_path, painted, seed=0)
    assert np.array_equal(found.painted, again.painted) and list(found.real) == list(again.real)
