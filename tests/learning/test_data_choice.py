"""Which images and which texts a run may draw, and what is said where they are too few."""

from pathlib import Path

import pyarrow as pa
import pytest
from tiny_training import (
    NUM_CAPTIONS,
    World,
    caption_rows,
    data_config,
    image_row,
    text,
    tokenize,
    train_config,
    write_captions,
    write_images,
)

from stablerep.errors import UserError
from stablerep.learning.contrastive import require_positives
from stablerep.learning.data import ViewSource, identity_of
from stablerep.learning.methods import METHODS
from stablerep.learning.opening import open_run
from stablerep.store import REAL, ImageTable, caption_id


def drawn(views: ViewSource, num_steps: int = 24) -> set[int]:
    """The images that many batches show."""
    return {int(image) for step in range(num_steps) for image in views.batch(step)["image_id"].flatten()}


# -- so many of each caption -------------------------------------------------------------------------


def test_the_first_real_and_painted_images_that_pass_the_filters(tmp_path: Path) -> None:
    """The first real picture is in a held-out style, as in a world whose pictures are sorted by style."""
    rows = [
        image_row(number, index, origin=origin, style="fluent" if (origin, index) == (REAL, 0) else "noto")
        for number in range(4)
        for origin in (REAL, "teacher-a")
        for index in range(3)
    ]
    images = write_images(tmp_path / "images.lance", rows)
    config = data_config(images, num_real=1, num_painted=2, exclude_styles=["fluent"])
    expected = {
        identity_of(origin, caption_id(text(number)), index)
        for number in range(4)
        for origin, index in ((REAL, 1), ("teacher-a", 0), ("teacher-a", 1))
    }
    assert drawn(ViewSource(config, seed=0)) == expected


def test_more_captions_than_there_are_is_refused(world: World) -> None:
    with pytest.raises(
        UserError, match=rf"{NUM_CAPTIONS} captions have usable images, and num_captions asks for 13"
    ):
        ViewSource(data_config(world.images, num_captions=13), seed=0)


def test_a_table_that_adds_nothing_is_named_with_its_filters(tmp_path: Path, world: World) -> None:
    other = write_images(tmp_path / "other.lance", [image_row(number, 9, split=None) for number in range(4)])
    with pytest.raises(
        UserError, match=r"other.lance: no image passes the filters .*where \"split = 'train'\""
    ):
        ViewSource(data_config(world.images, other, where="split = 'train'"), seed=0)


def test_images_are_counted_by_table(tmp_path: Path, world: World) -> None:
    other = write_images(tmp_path / "other.lance", [image_row(number, 9) for number in range(4)])
    assert ViewSource(data_config(world.images, other), seed=0).images_by_table == [36, 4]


def test_the_share_of_views_that_count(tmp_path: Path) -> None:
    rows = [image_row(number, index) for number in range(4) for index in range(1 + number % 2 * 3)]
    views = ViewSource(data_config(write_images(tmp_path / "i.lance", rows), images_per_caption=2), seed=0)
    assert views.share_that_counts == pytest.approx(3 / 4)
    assert views.batch(0)["valid"].float().mean() == pytest.approx(3 / 4)


# -- positives ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "rows"),
    [
        ("stablerep", [image_row(number, 0) for number in range(4)]),
        ("stablerep-plus", [image_row(number, 0) for number in range(4)]),
        ("supervised", [image_row(number, index, label=None) for number in range(4) for index in range(2)]),
    ],
)
def test_data_without_a_single_positive_are_refused(
    method: str, rows: list[dict[str, object]], world: World, tmp_path: Path
) -> None:
    """Every loss would be zero, and the run would end in good order with nothing learned."""
    images = write_images(tmp_path / "images.lance", rows)
    config = train_config(method, world, tmp_path / "run", data={"images": [images]})
    built = METHODS[method].build(config)
    with pytest.raises(UserError, match=r"has two images that may be drawn.*crops_per_image 2"):
        require_positives(built, ViewSource(config.data, seed=0))
    crops = data_config(images, crops_per_image=2)
    require_positives(built, ViewSource(crops, seed=0))


# -- texts -------------------------------------------------------------------------------------------


def texts_of(captions: Path, world: World, **changes: object) -> set[int]:
    views = ViewSource(data_config(world.images, captions=captions, **changes), seed=0, tokenize=tokenize)
    return {int(token) for step in range(60) for token in views.batch(step)["tokens"]}


@pytest.mark.usefixtures("blank")
@pytest.mark.parametrize("other", [{"split": "test"}, {"group": "test/group"}, {"label": "another"}])
def test_wordings_of_another_split_group_or_label_are_not_read(
    other: dict[str, str], tmp_path: Path, world: World
) -> None:
    rows = caption_rows()
    rows = [row | other if row["text"] == text(0, 1) else row for row in rows]
    captions = write_captions(tmp_path / "captions.lance", rows)
    seen = texts_of(captions, world, other_wordings=True)
    assert identity_of(text(0)) in seen and identity_of(text(1, 1)) in seen
    assert identity_of(text(0, 1)) not in seen


@pytest.mark.parametrize("painted", [(0,), (0, 1)])
@pytest.mark.parametrize("others", [False, True])
def test_texts_of_other_captions_are_read_where_asked_whether_or_not_these_have_pictures(
    others: bool, painted: tuple[int, ...], tmp_path: Path
) -> None:
    """Either the first wording of a concept has pictures or both have, and the subset holds one of them."""
    own = {caption_id(text(number, variant)): (number, variant) for number in range(6) for variant in (0, 1)}
    rows = [
        image_row(number, 0, caption_id=caption)
        for caption, (number, variant) in own.items()
        if variant in painted
    ]
    images = write_images(tmp_path / "images.lance", rows)
    captions = write_captions(tmp_path / "captions.lance", caption_rows(6))
    config = data_config(images, captions=captions, num_captions=6, other_wordings=others)
    views = ViewSource(config, seed=0, tokenize=tokenize)
    seen = {int(token) for step in range(60) for token in views.batch(step)["tokens"]}
    trained = [own[caption] for caption in views.caption_ids]
    wordings = trained + [(number, 1 - variant) for number, variant in trained if others]
    assert seen == {identity_of(text(*wording)) for wording in wordings}


def test_images_of_a_caption_are_of_the_style_that_its_text_names(tmp_path: Path, world: World) -> None:
    styles = ["ink", "brush", "ink", "brush", "chalk"]
    rows = [
        image_row(number, index, style=style) for number in range(4) for index, style in enumerate(styles)
    ]
    style_of = {identity_of("teacher-a", row["caption_id"], row["image_index"]): row["style"] for row in rows}
    images = write_images(tmp_path / "images.lance", rows)
    config = data_config(images, captions=world.captions, style_probability=1.0)
    views = ViewSource(config, seed=0, tokenize=tokenize)
    told = {
        identity_of(f"{text(number, variant)}, {style}"): style
        for number in range(4)
        for variant in (0, 1)
        for style in set(styles)
    }
    seen = set()
    for step in range(30):
        batch = views.batch(step)
        for token, shown in zip(batch["tokens"][:, 0].tolist(), batch["image_id"].tolist(), strict=True):
            assert {style_of[image] for image in shown} == {told[token]}
            seen.add(told[token])
    assert seen == set(styles)


def test_weights_that_are_all_zero_are_refused(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images.lance", [image_row(number, 0) for number in range(4)])
    table = ImageTable.open(images)
    table.write_columns(range(4), {"score": pa.array([0.0] * 4)})
    with pytest.raises(UserError, match="all 4 usable images have score 0, so that none counts"):
        ViewSource(data_config(images, weight="score"), seed=0)


@pytest.mark.slow
@pytest.mark.usefixtures("blank")
def test_what_counts_is_counted_by_style_where_the_text_names_it(tmp_path: Path, world: World) -> None:
    """Of three images in three styles a draw holds one, of two and one it holds 5/3 on average."""
    rows = [image_row(number, index, style=f"style {index}") for number in range(4) for index in range(3)]
    apart = write_images(tmp_path / "apart.lance", rows)
    shared = [row | {"style": "style 0"} if row["image_index"] == 1 else row for row in rows]
    together = write_images(tmp_path / "together.lance", shared)
    told = {"captions": world.captions, "style_probability": 1.0}
    for images, expected, several in ((apart, 1 / 2, 0), (together, 5 / 6, 4)):
        views = ViewSource(data_config(images, **told), seed=0, tokenize=tokenize)
        assert views.share_that_counts == pytest.approx(expected)
        assert views.num_with_several("caption") == several
        counted = [views.batch(step)["valid"].float().mean() for step in range(300)]
        assert float(sum(counted)) / 300 == pytest.approx(expected, abs=0.03)
    unread = ViewSource(data_config(apart, style_probability=1.0), seed=0)
    assert unread.share_that_counts == 1 and unread.num_with_several("caption") == 4


def test_a_share_by_groups_is_that_of_what_an_epoch_shows(tmp_path: Path) -> None:
    """A group of three captions with one image each has one turn, as the caption with two images has."""
    rows = [image_row(number, 0, group="many") for number in range(3)]
    rows += [image_row(9, index, group="alone") for index in range(2)]
    images = write_images(tmp_path / "images.lance", rows)
    config = data_config(images, one_per_group=True, captions_per_batch=2)
    assert ViewSource(config, seed=0).share_that_counts == pytest.approx((1 / 2 + 1) / 2)


def test_a_run_of_a_version_that_counted_otherwise_is_told_so(world: World, tmp_path: Path) -> None:
    config = train_config("simclr", world, tmp_path / "run")
    method, source = METHODS["simclr"].build(config), ViewSource(config.data, seed=0)
    with open_run(config, "simclr", source, method):
        pass
    path = tmp_path / "run" / "resolved.json"
    path.write_text(path.read_text().replace('"2:', '"'))
    with (
        pytest.raises(UserError, match="was begun by another version of stablerep"),
        open_run(config, "simclr", source, method),
    ):
        pass
