"""Nearest pictures by pixels, by an encoder, by an image-text model; vectors that outlive the process."""

from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
import torch
from small_gallery import COLOURS, TEXTS, open_small, picture

from stablerep.errors import UserError
from stablerep.gallery import blocks, render
from stablerep.gallery import vectors as vectors_module
from stablerep.gallery.columns import Between, OneOf
from stablerep.gallery.pairs import Place
from stablerep.gallery.session import Gallery, Wish
from stablerep.gallery.vectors import Vectors
from stablerep.models.encoder import Encoder, EncoderConfig
from stablerep.models.joint import ImageText, save_image_text
from stablerep.models.text import LearnedVocabulary, TextConfig, TextTower, train_tokenizer
from stablerep.store import OK, ImageTable


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `train clip` exports, just drawn."""
    torch.manual_seed(0)
    encoder = EncoderConfig(
        architecture="vit_tiny_patch16_224", image_size=16, patch_size=8, width=24, depth=1, num_heads=3
    )
    text = TextConfig(width=24, depth=1, num_heads=3, num_tokens=16, vocabulary=64, joint_width=8)
    model = ImageText(Encoder(encoder), TextTower(text, LearnedVocabulary(train_tokenizer(list(TEXTS), 64))))
    folder = tmp_path_factory.mktemp("runs") / "clip"
    save_image_text(model, folder)
    return folder


def nearest(gallery: Gallery, wish: Wish, count: int) -> list[str]:
    rows, hits = gallery.find(wish)
    assert hits is not None and hits.ranked
    return [gallery.main.text(code) for code in gallery.main.caption[rows[:count]]]


def test_the_nearest_by_pixels_have_the_colour(tmp_path: Path) -> None:
    gallery = open_small(tmp_path)
    gallery.vectors.compute()
    found = nearest(gallery, Wish(like=picture(COLOURS["a blue square"], 1)), 4)
    assert set(found) == {"a blue square"}
    rows, _ = gallery.find(Wish(like=Place(0, 0)))
    assert rows[0] == 0, "a picture is nearest to itself"
    failed = np.flatnonzero(~gallery.main.has_picture)
    assert len(failed) == 1 and failed[0] not in rows
    with pytest.raises(UserError, match="this row is a failure"):
        gallery.find(Wish(like=Place(0, int(failed[0]))))
    with pytest.raises(UserError, match="that file is no picture"):
        gallery.find(Wish(like=b"GIF89a but not really"))
    with pytest.raises(UserError, match="no picture 0/99"):
        gallery.find(Wish(like=Place(0, 99)))


@pytest.mark.slow
def test_texts_are_found_where_the_run_can_read(tmp_path: Path, run: Path) -> None:
    gallery = open_small(tmp_path, run=run)
    gallery.vectors.compute()
    rows, hits = gallery.find(Wish(text="a red square", mode="meaning"))
    assert hits is not None and "clip" in hits.how
    model = gallery.looker.model
    assert model is not None
    shown = gallery.main.table.take_images(rows)
    similar = [
        float(
            gallery.looker.look([image])[0][gallery.looker.columns("text")]
            @ gallery.looker.text_vector("a red square")
        )
        for image in shown
    ]
    assert similar == sorted(similar, reverse=True)
    np.testing.assert_allclose(hits.scores[rows], similar, atol=1e-5)
    by_picture, _ = gallery.find(Wish(like=Place(0, 4)))
    assert by_picture[0] == 4


def test_words_are_searched_where_nothing_reads(tmp_path: Path) -> None:
    gallery = open_small(tmp_path)
    _, hits = gallery.find(Wish(text="blue", mode="meaning"))
    assert hits is not None and not hits.ranked
    with pytest.raises(UserError, match="does not read texts"):
        gallery.looker.text_vector("blue")


def test_vectors_are_computed_once_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (vectors_module, blocks):
        monkeypatch.setattr(module, "BLOCK", 8)
    gallery = open_small(tmp_path)
    assert gallery.vectors.num_missing == 20
    gallery.vectors.start()
    assert gallery.vectors._thread is not None
    gallery.vectors._thread.join()
    assert gallery.vectors.problem is None
    assert gallery.vectors.num_missing == 0
    before = gallery.vectors.scores(gallery.looker.picture_vector(picture((220, 30, 30))), "picture")

    table = ImageTable.open(gallery.main.table.path)
    table.write_columns([0], {"later": pa.array([1.0])})
    again = Vectors(gallery.main.reload(), gallery.looker, tmp_path / ".images.gallery")
    assert again.num_missing == 0, "a column more changes no picture"
    np.testing.assert_array_equal(
        again.scores(gallery.looker.picture_vector(picture((220, 30, 30))), "picture"), before
    )

    extra = {
        "origin": "other",
        "caption_id": "c",
        "image_index": 0,
        "status": OK,
        "image": b"no picture at all",
    }
    table.append([extra])
    assert gallery.refresh()
    gallery.vectors.compute()
    assert gallery.vectors.num_missing == 0
    scores = gallery.vectors.scores(gallery.looker.picture_vector(picture((220, 30, 30))), "picture")
    assert np.isneginf(scores[20]), "what cannot be decoded is near to nothing"
    np.testing.assert_array_equal(scores[:20], before)


def test_vectors_follow_their_pictures_where_a_row_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (vectors_module, blocks):
        monkeypatch.setattr(module, "BLOCK", 8)
    gallery = open_small(tmp_path)
    gallery.vectors.compute()
    wanted = gallery.looker.picture_vector(picture((220, 30, 30)))
    before, token = gallery.vectors.scores(wanted, "picture"), gallery.main.token
    key = gallery.main.key(2)
    lance.dataset(gallery.main.table.path).delete(
        f"origin = '{key.origin}' AND caption_id = '{key.caption_id}' AND image_index = {key.image_index}"
    )
    assert gallery.refresh() and gallery.main.token != token
    gallery.vectors.stop()
    gallery.vectors = Vectors(gallery.main, gallery.looker, tmp_path / ".images.gallery")
    gallery.vectors.compute()
    found = gallery.vectors.scores(wanted, "picture")
    np.testing.assert_allclose(found, np.delete(before, 2), atol=1e-6)  # other blocks round otherwise


def test_a_search_says_what_it_has_not_seen(tmp_path: Path) -> None:
    gallery = open_small(tmp_path)
    shown = gallery.browse(Wish(like=picture((1, 2, 3))))
    assert shown.num_pictures == 0
    assert shown.how is not None and "20 are to come" in shown.how
    waiting = render.results(gallery, shown, "*table")
    assert "data-awaited" in waiting and "None of them was looked at yet" in waiting
    gallery.vectors.compute()
    seen = gallery.browse(Wish(like=picture((1, 2, 3))))
    assert seen.num_pictures == 19 and "data-awaited" not in render.results(gallery, seen, "*table")


def test_what_finds_nothing_says_what_helps(gallery: Gallery) -> None:
    few = {"sharp": OneOf(("yes",)), "match": Between(5, None)}
    hints = {
        "Search for fewer or other words.": Wish(text="zebra"),
        "Take a filter away, or search for fewer or other words.": Wish(text="zebra", filters=few),
        "Take one of them away.": Wish(filters=few),
    }
    for hint, wish in hints.items():
        page = render.results(gallery, gallery.browse(wish), wish.sort)
        assert hint in page and "data-awaited" not in page


def test_vectors_that_cannot_be_computed_are_not_awaited(tmp_path: Path) -> None:
    gallery = open_small(tmp_path)
    gallery.vectors.problem = "the disk is full"
    shown = gallery.browse(Wish(like=picture((1, 2, 3))))
    assert shown.how is not None and "the disk is full" in shown.how
    assert "data-awaited" not in render.results(gallery, shown, "*table")


def test_damaged_vectors_are_named(tmp_path: Path) -> None:
    gallery = open_small(tmp_path)
    gallery.vectors.compute()
    file = next((tmp_path / ".images.gallery").iterdir())
    file.write_bytes(b"rubbish")
    with pytest.raises(UserError, match="are damaged"):
        gallery.find(Wish(like=Place(0, 0)))
