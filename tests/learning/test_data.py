"""Batches: pure functions of the step, epochs without repetition, and nothing that was not asked for."""

import itertools
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import (
    NUM_CAPTIONS,
    World,
    caption_rows,
    data_config,
    image_row,
    png,
    text,
    tokenize,
    write_captions,
    write_images,
)

from processes import as_torchrun_would
from stablerep import runtime
from stablerep.decoding import decode_image
from stablerep.errors import UserError
from stablerep.learning.data import DataConfig, ViewSource, identity_of
from stablerep.learning.method import Batch
from stablerep.learning.views import ViewConfig, make_views
from stablerep.store import REAL, caption_id

FAILED = {"status": "failed", "reason": "blank", "image": None}


def source(*paths: Path, **changes: Any) -> ViewSource:
    return ViewSource(data_config(*paths, **changes), seed=0)


def equal(left: Batch, right: Batch) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def image_identity(number: int, index: int, origin: str = "teacher-a") -> int:
    return identity_of(origin, caption_id(text(number)), index)


def drawable(views: ViewSource, num_epochs: int = 4) -> set[int]:
    """Every image that some batch of the first epochs holds."""
    steps = range(num_epochs * views.steps_per_epoch)
    return {int(image) for step in steps for image in views.batch(step)["image_id"].flatten()}


# -- a batch is a function of its step ---------------------------------------------------------------


def test_a_batch_has_the_shapes_of_the_contract(world: World) -> None:
    config = data_config(world.images, captions=world.captions, crops_per_image=3)
    batch = ViewSource(config, seed=0, tokenize=tokenize).batch(1)
    shapes = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in batch.items()}
    assert shapes == {
        "image": ((4, 6, 3, 16, 16), torch.uint8),
        "caption_id": ((4,), torch.int64),
        "image_id": ((4, 6), torch.int64),
        "valid": ((4, 6), torch.bool),
        "label": ((4, 6), torch.int64),
        "seed": ((4,), torch.int64),
        "tokens": ((4, 1), torch.int64),
        "thing_id": ((4,), torch.int64),
    }
    assert batch["image"].min() < 100 < batch["image"].max()


def test_the_same_step_is_the_same_batch_in_any_order(world: World) -> None:
    config = data_config(world.images, captions=world.captions)
    first = ViewSource(config, seed=3, tokenize=tokenize)
    second = ViewSource(config, seed=3, tokenize=tokenize)
    in_order = [first.batch(step) for step in range(8)]
    steps = list(range(8))
    random.Random(0).shuffle(steps)
    for step in steps:
        assert equal(second.batch(step), in_order[step])
    assert not any(equal(in_order[step], in_order[step + 1]) for step in range(7))
    assert not equal(ViewSource(config, seed=4, tokenize=tokenize).batch(0), in_order[0])


@pytest.mark.parametrize("num_threads", [1, 3])
def test_batches_prepared_ahead_come_in_the_order_of_the_steps(world: World, num_threads: int) -> None:
    views = source(world.images, num_threads=num_threads)
    ahead = list(views.batches(2, 9))
    assert len(ahead) == 7
    assert all(equal(batch, views.batch(step)) for step, batch in enumerate(ahead, 2))
    assert list(views.batches(5, 5)) == []


def test_views_are_those_of_the_drawn_image_at_their_own_seeds(world: World) -> None:
    """With the augmentation off, a view is its image; with it on, two crops of an image differ."""
    plain = source(world.images, view={"augmentation": "none"}).batch(0)
    pictures = {
        image_identity(number, index): png(100 * number + index)
        for number in range(NUM_CAPTIONS)
        for index in range(3)
    }
    for image, view in zip(plain["image_id"].flatten(), plain["image"].flatten(0, 1), strict=True):
        whole = make_views(
            [decode_image(pictures[int(image)])], [0], ViewConfig(image_size=16, augmentation="none")
        )
        assert torch.equal(view, whole[0])
    crops = source(world.images, crops_per_image=2).batch(0)
    assert torch.equal(crops["image_id"][:, 0::2], crops["image_id"][:, 1::2])
    assert not any(torch.equal(row[0], row[1]) for row in crops["image"])


# -- epochs and subsets ------------------------------------------------------------------------------


def test_an_epoch_shows_every_caption_once_and_its_images_without_replacement(world: World) -> None:
    views = source(world.images)
    assert views.steps_per_epoch == 3
    assert views.num_images == 36
    orders = []
    for epoch in range(3):
        batches = [views.batch(3 * epoch + step) for step in range(3)]
        captions = torch.cat([batch["caption_id"] for batch in batches]).tolist()
        assert len(set(captions)) == NUM_CAPTIONS
        assert all(len(set(row)) == 2 for batch in batches for row in batch["image_id"].tolist())
        assert all(batch["valid"].all() for batch in batches)
        orders.append(captions)
    assert orders[0] != orders[1] != orders[2]


def test_captions_left_over_by_whole_batches_come_in_another_epoch(world: World) -> None:
    views = source(world.images, captions_per_batch=5)
    assert views.steps_per_epoch == 2
    epochs = [
        {int(caption) for step in range(2) for caption in views.batch(2 * epoch + step)["caption_id"]}
        for epoch in range(6)
    ]
    assert [len(epoch) for epoch in epochs] == [10] * 6
    assert len(set().union(*epochs)) == NUM_CAPTIONS


def test_a_draw_changes_from_epoch_to_epoch(world: World) -> None:
    views = source(world.images, images_per_caption=1)
    drawn: dict[int, set[int]] = {}
    for step in range(30):
        batch = views.batch(step)
        for caption, image in zip(
            batch["caption_id"].tolist(), batch["image_id"][:, 0].tolist(), strict=True
        ):
            drawn.setdefault(caption, set()).add(image)
    assert len(drawn) == NUM_CAPTIONS
    assert all(len(images) == 3 for images in drawn.values())


def test_subsets_of_captions_are_nested(world: World) -> None:
    sizes = (4, 6, 8, 12)
    chosen = [set(source(world.images, num_captions=size).caption_ids) for size in sizes]
    assert [len(captions) for captions in chosen] == list(sizes)
    assert all(small < large for small, large in itertools.pairwise(chosen))
    assert drawable(source(world.images, num_captions=4)) <= {
        image_identity(number, index)
        for number in range(NUM_CAPTIONS)
        for index in range(3)
        if caption_id(text(number)) in chosen[0]
    }


# -- what enters, and what never does ----------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Four captions with a good picture each, and one of everything that must stay out."""
    rows = [image_row(number, 0) for number in range(4)]
    rows += [image_row(number, 1, **FAILED) for number in range(4)]
    rows += [image_row(0, 2, style="held out"), image_row(1, 2, style=None), image_row(2, 2, style="baker's")]
    rows += [image_row(3, 2, split="test"), image_row(3, 3, origin=REAL), image_row(9, 0, **FAILED)]
    return write_images(tmp_path / "mixed.lance", rows)


def test_failures_never_enter(mixed: Path) -> None:
    views = source(mixed)
    assert len(views.caption_ids) == 4
    assert views.num_images == 9
    failed = {image_identity(number, 1) for number in range(4)}
    assert not drawable(views) & failed
    for where in ("image_index = 0 OR status = 'failed'", "image_index = 0) OR (status = 'failed'"):
        assert not drawable(source(mixed, where=where)) & failed


def test_held_out_styles_never_enter_and_unknown_ones_do(mixed: Path) -> None:
    drawn = drawable(source(mixed, exclude_styles=["held out", "baker's"]))
    assert not drawn & {image_identity(0, 2), image_identity(2, 2)}
    assert image_identity(1, 2) in drawn


def test_a_filter_and_an_origin_choose_rows(mixed: Path) -> None:
    real = image_identity(3, 3, origin=REAL)
    everything = drawable(source(mixed))
    assert real in everything
    assert image_identity(3, 2) in everything
    assert image_identity(3, 2) not in drawable(source(mixed, where="split = 'train'"))
    assert drawable(source(mixed, origin="painted")) == everything - {real}
    assert drawable(source(mixed, origin="real", captions_per_batch=1)) == {real}


def test_too_few_images_leave_slots_that_do_not_count(mixed: Path) -> None:
    batch = source(mixed, images_per_caption=3, crops_per_image=2).batch(0)
    numbers = {identity_of(caption_id(text(number))): number for number in range(4)}
    num_images = {0: 2, 1: 2, 2: 2, 3: 3}
    for caption, valid, images in zip(batch["caption_id"], batch["valid"], batch["image_id"], strict=True):
        count = num_images[numbers[int(caption)]]
        assert valid.tolist() == [True] * 2 * count + [False] * 2 * (3 - count)
        assert len(set(images[valid].tolist())) == count


@pytest.mark.slow
def test_identities_are_those_of_the_rows_in_every_table_and_epoch(tmp_path: Path) -> None:
    """The same rows in one table, or spread over two in another order: the same batches to the bit."""
    rows = [image_row(number, index) for number in range(6) for index in range(4)]
    whole = write_images(tmp_path / "whole.lance", rows)
    odd = write_images(tmp_path / "odd.lance", reversed(rows[1::2]))
    even = write_images(tmp_path / "even.lance", rows[0::2])
    alone, spread = (source(*paths, captions_per_batch=3) for paths in ([whole], [odd, even]))
    assert all(equal(alone.batch(step), spread.batch(step)) for step in range(6))
    assert alone.digest() == spread.digest()
    drawn = drawable(alone, num_epochs=12)
    assert drawn == {image_identity(number, index) for number in range(6) for index in range(4)}


def test_an_image_that_two_tables_hold_is_one_image(tmp_path: Path) -> None:
    rows = [image_row(number, index) for number in range(4) for index in range(2)]
    path = write_images(tmp_path / "images.lance", rows)
    copy = write_images(tmp_path / "copy.lance", rows[:5])
    views = source(path, copy, images_per_caption=3)
    assert views.num_images == 8
    assert not views.batch(0)["valid"][:, 2].any()


# -- the digest --------------------------------------------------------------------------------------


def test_the_digest_tells_whether_batches_can_differ(tmp_path: Path, world: World) -> None:
    rows = [image_row(number, index) for number in range(6) for index in range(2)]
    path = write_images(tmp_path / "images.lance", rows)
    before = source(path).digest()
    write_images(path, [image_row(0, 5, **FAILED), image_row(20, 0, split="test")])
    assert source(path, where="split = 'train'").digest() == before
    write_images(path, [image_row(0, 6)])
    assert source(path, where="split = 'train'").digest() != before

    def of_texts(captions: Path, words: Any = tokenize) -> str:
        config = data_config(world.images, captions=captions, other_wordings=True)
        return ViewSource(config, seed=0, tokenize=words).digest()

    other = write_captions(tmp_path / "captions.lance", caption_rows(num_variants=3))
    assert of_texts(world.captions) == of_texts(world.captions)
    assert of_texts(world.captions) != of_texts(other)
    assert of_texts(world.captions) != of_texts(world.captions, lambda texts: tokenize(texts) + 1)


# -- mistakes ----------------------------------------------------------------------------------------


def test_fewer_captions_than_a_batch_are_refused(mixed: Path) -> None:
    with pytest.raises(
        UserError, match=r"mixed.lance: 4 captions have usable images, fewer than one batch of 5"
    ):
        source(mixed, captions_per_batch=5)
    with pytest.raises(UserError, match="0 captions have usable images"):
        source(mixed, where="split = 'nowhere'")


@pytest.mark.parametrize("where", ["colour = 'red'", "split =", "image_index = 'first'"])
def test_a_wrong_filter_is_quoted_with_its_table(mixed: Path, where: str) -> None:
    with pytest.raises(UserError) as caught:
        source(mixed, where=where)
    message = str(caught.value)
    assert message.startswith(f"{mixed}: the filter {where!r} is not valid (")
    assert "\n" not in message
    assert ".rs" not in message, "where Lance's own source raised it helps nobody"


def test_missing_tables_and_captions_are_named(tmp_path: Path, world: World) -> None:
    with pytest.raises(UserError, match=r"nothing.lance"):
        source(tmp_path / "nothing.lance")
    with pytest.raises(UserError, match=r"give the caption table, such as --data.captions captions.lance"):
        ViewSource(data_config(world.images), seed=0, tokenize=tokenize)
    captions = write_captions(tmp_path / "few.lance", caption_rows(num_captions=10))
    with pytest.raises(UserError, match=r"few.lance has no caption [0-9a-f]{32} \(2 such\)"):
        ViewSource(data_config(world.images, captions=captions), seed=0, tokenize=tokenize)


@pytest.mark.parametrize("damaged", [b"no picture", png(1)[:-30], None])
def test_a_damaged_picture_is_named(tmp_path: Path, damaged: bytes | None) -> None:
    rows = [image_row(0, 0), image_row(1, 7, image=damaged)]
    views = source(write_images(tmp_path / "images.lance", rows), captions_per_batch=2)
    place = f"images.lance: image 7 of caption {caption_id(text(1))} \\(origin teacher-a\\) cannot be decoded"
    with pytest.raises(UserError, match=place):
        views.batch(0)


@pytest.mark.parametrize(
    "name", ["captions_per_batch", "images_per_caption", "crops_per_image", "num_threads"]
)
def test_counts_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
        DataConfig(images=(Path("x"),), **{name: 0})
    with pytest.raises(ValueError, match="at least one image table"):
        DataConfig(images=())


# -- two processes -----------------------------------------------------------------------------------


def shares(images: Path, captions: Path) -> dict[str, Any]:
    """This rank's part of four batches, and what an odd batch says."""
    config = data_config(images, captions=captions)
    with runtime.process_group():
        views = ViewSource(config, seed=0, tokenize=tokenize)
        with pytest.raises(UserError) as caught:
            source(images, captions_per_batch=5)
        return {"batches": [views.batch(step) for step in range(4)], "error": str(caught.value)}


@pytest.mark.slow
def test_two_processes_share_the_batch_of_one(tmp_path: Path, world: World) -> None:
    first, second = as_torchrun_would(partial(shares, world.images, world.captions), tmp_path)
    config = data_config(world.images, captions=world.captions)
    alone = ViewSource(config, seed=0, tokenize=tokenize)
    for step, (left, right) in enumerate(zip(first["batches"], second["batches"], strict=True)):
        assert len(left["caption_id"]) == len(right["caption_id"]) == 2
        together = {name: torch.cat([left[name], right[name]]) for name in left}
        assert equal(together, alone.batch(step))
    for rank in (first, second):
        assert "captions_per_batch 5 cannot be shared equally by 2 processes" in rank["error"]
