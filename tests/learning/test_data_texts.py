"""What a batch says of its images: texts, styles, labels, groups."""

from pathlib import Path

import pytest
from tiny_training import (
    NUM_CAPTIONS,
    World,
    caption_rows,
    data_config,
    image_row,
    text,
    tokenize,
    write_captions,
    write_images,
)

from stablerep.errors import UserError
from stablerep.learning.data import ViewSource, identity_of
from stablerep.store import caption_id

# -- text --------------------------------------------------------------------------------------------


def test_tokens_are_of_captions_of_the_same_concept_and_change(world: World) -> None:
    config = data_config(world.images, captions=world.captions, other_wordings=True)
    views = ViewSource(config, seed=0, tokenize=tokenize)
    seen: dict[int, set[int]] = {}
    for step in range(24):
        batch = views.batch(step)
        for caption, token in zip(batch["caption_id"].tolist(), batch["tokens"][:, 0].tolist(), strict=True):
            seen.setdefault(caption, set()).add(token)
    assert seen == {
        identity_of(caption_id(text(number))): {
            identity_of(text(number, 0)),
            identity_of(text(number, 1)),
        }
        for number in range(NUM_CAPTIONS)
    }


def test_a_caption_without_concept_has_its_own_text_only(tmp_path: Path, world: World) -> None:
    rows = [row | {"concept": None} for row in caption_rows()]
    captions = write_captions(tmp_path / "captions.lance", rows)
    config = data_config(world.images, captions=captions, other_wordings=True)
    views = ViewSource(config, seed=0, tokenize=tokenize)
    tokens = {int(token) for step in range(12) for token in views.batch(step)["tokens"]}
    assert tokens == {identity_of(text(number)) for number in range(NUM_CAPTIONS)}


@pytest.mark.parametrize(("concept", "styles", "num_things"), [(True, 1, 3), (False, 1, 6), (True, 2, 6)])
def test_captions_that_may_get_the_same_text_are_one_thing(
    concept: bool, styles: int, num_things: int, tmp_path: Path
) -> None:
    """Both wordings of each concept have pictures; in two styles they are never asked for by the same text."""
    both = [(number, variant) for number in range(3) for variant in (0, 1)]
    images = write_images(
        tmp_path / "images.lance",
        [
            image_row(number, 0, caption_id=caption_id(text(number, variant)), style="ab"[variant % styles])
            for number, variant in both
        ],
    )
    rows = [row if concept else row | {"concept": None} for row in caption_rows(3)]
    captions = write_captions(tmp_path / "captions.lance", rows)
    config = data_config(
        images, captions=captions, captions_per_batch=6, images_per_caption=1, style_probability=1.0
    )
    views = ViewSource(config, seed=0, tokenize=tokenize)
    thing_of: dict[int, set[int]] = {}
    same_text = 0
    for step in range(10):
        batch = views.batch(step)
        things, tokens = batch["thing_id"].tolist(), batch["tokens"][:, 0].tolist()
        assert len(set(things)) == num_things
        same_text += len(tokens) - len(set(tokens))
        for token, thing in zip(tokens, things, strict=True):
            thing_of.setdefault(token, set()).add(thing)
    assert all(len(things) == 1 for things in thing_of.values())
    assert (same_text > 0) == (num_things == 3)


@pytest.mark.slow
@pytest.mark.usefixtures("blank")
def test_the_style_of_the_first_image_joins_the_text_as_often_as_asked(world: World) -> None:
    plain = {identity_of(text(number, variant)) for number in range(NUM_CAPTIONS) for variant in (0, 1)}
    styled = {
        identity_of(f"{text(number, variant)}, brush") for number in range(NUM_CAPTIONS) for variant in (0, 1)
    }
    for probability in (0.0, 0.3, 1.0):
        config = data_config(world.images, captions=world.captions, style_probability=probability)
        views = ViewSource(config, seed=0, tokenize=tokenize)
        tokens = [int(token) for step in range(150) for token in views.batch(step)["tokens"]]
        assert set(tokens) <= plain | styled
        share = sum(token in styled for token in tokens) / len(tokens)
        assert share == pytest.approx(probability, abs=0.07 if 0 < probability < 1 else 0)


def test_an_image_of_unknown_style_leaves_the_text_alone(tmp_path: Path, world: World) -> None:
    rows = [image_row(number, 0, style=None) for number in range(NUM_CAPTIONS)]
    images = write_images(tmp_path / "images.lance", rows)
    config = data_config(images, captions=world.captions, style_probability=1.0)
    views = ViewSource(config, seed=0, tokenize=tokenize)
    plain = {identity_of(text(number, variant)) for number in range(NUM_CAPTIONS) for variant in (0, 1)}
    assert {int(token) for step in range(6) for token in views.batch(step)["tokens"]} <= plain


# -- labels ------------------------------------------------------------------------------------------


def test_labels_are_identities_and_an_image_without_one_is_alone(tmp_path: Path) -> None:
    labels = ["animal", "fruit", "animal", None, None, "fruit"]
    rows = [image_row(number, 0, label=label) for number, label in enumerate(labels)]
    images = write_images(tmp_path / "images.lance", rows)
    views = ViewSource(data_config(images, captions_per_batch=6, images_per_caption=1), seed=0)
    batch = views.batch(0)
    found = dict(zip(batch["caption_id"].tolist(), batch["label"][:, 0].tolist(), strict=True))
    by_number = [found[identity_of(caption_id(text(number)))] for number in range(6)]
    assert by_number[0] == by_number[2] and by_number[1] == by_number[5]
    assert len(set(by_number)) == 4


# -- groups ------------------------------------------------------------------------------------------


def test_an_epoch_may_show_one_caption_of_every_group(tmp_path: Path) -> None:
    """Six captions of one group take turns; those of no group stand alone."""
    groups = ["many"] * 6 + ["a", "b", None, None]
    rows = [image_row(number, 0, group=group) for number, group in enumerate(groups)]
    images = write_images(tmp_path / "images.lance", rows)
    views = ViewSource(data_config(images, captions_per_batch=5, one_per_group=True), seed=0)
    assert views.steps_per_epoch == 1
    number_of = {identity_of(caption_id(text(number))): number for number in range(len(groups))}
    shown = [[number_of[int(caption)] for caption in views.batch(epoch)["caption_id"]] for epoch in range(60)]
    assert all(sorted(number for number in epoch if number > 5) == [6, 7, 8, 9] for epoch in shown)
    turns = [min(epoch) for epoch in shown]
    assert set(turns) == set(range(6))
    assert max(turns.count(number) for number in range(6)) < 25


def test_too_few_groups_are_refused(tmp_path: Path) -> None:
    rows = [image_row(number, 0, group="one") for number in range(NUM_CAPTIONS)]
    images = write_images(tmp_path / "images.lance", rows)
    with pytest.raises(UserError, match="1 groups of captions have usable images, fewer than one batch of 4"):
        ViewSource(data_config(images, one_per_group=True), seed=0)


@pytest.mark.parametrize("change", [{"style": "ink"}, {"label": "other"}, {"group": "other"}])
def test_the_digest_tells_what_a_batch_says_of_its_images(tmp_path: Path, change: dict[str, str]) -> None:
    """Styles enter texts, labels are positives, groups decide the order: a run must not go on with others."""
    rows = [image_row(number, 0) for number in range(NUM_CAPTIONS)]
    before = ViewSource(data_config(write_images(tmp_path / "a.lance", rows)), seed=0)
    after = ViewSource(data_config(write_images(tmp_path / "b.lance", [rows[0] | change, *rows[1:]])), seed=0)
    assert before.digest() != after.digest()
