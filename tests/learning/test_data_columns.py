"""Real and painted pictures mixed, pictures weighted and masked by columns, and what is kept in memory."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest
import torch
from tiny_training import SIZE, World, data_config, image_row, text, write_images

from stablerep.errors import UserError
from stablerep.learning import data, pictures
from stablerep.learning.data import DataConfig, ViewSource, identity_of
from stablerep.learning.method import Batch
from stablerep.store import REAL, caption_id


def source(*paths: Path, **changes: Any) -> ViewSource:
    return ViewSource(data_config(*paths, **changes), seed=0)


def equal(left: Batch, right: Batch) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def add_column(path: Path, name: str, values: list[Any], kind: pa.DataType) -> Path:
    """Another column, as an audit adds one."""
    table = pa.table({name: pa.array(values, kind)})
    lance.dataset(str(path)).add_columns(table.to_reader())
    return path


def image_identity(number: int, index: int, origin: str = "teacher-a") -> int:
    return identity_of(origin, caption_id(text(number)), index)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Four captions of three pictures, in the order of the rows."""
    rows = [image_row(number, index) for number in range(4) for index in range(3)]
    return write_images(tmp_path / "images.lance", rows)


# -- real, painted, or both --------------------------------------------------------------------------


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    """Six captions with four painted pictures; four of them also have two real ones."""
    painted = [image_row(number, index) for number in range(6) for index in range(4)]
    real = [image_row(number, index, origin=REAL) for number in range(4) for index in range(2)]
    return write_images(tmp_path / "painted.lance", painted), write_images(tmp_path / "real.lance", real)


def shares_of_real(views: ViewSource, num_steps: int) -> dict[int, float]:
    """For each caption the share of its views that are real."""
    real = {image_identity(number, index, REAL) for number in range(6) for index in range(2)}
    num_views: Counter[int] = Counter()
    num_real: Counter[int] = Counter()
    for step in range(num_steps):
        batch = views.batch(step)
        for caption, images in zip(batch["caption_id"].tolist(), batch["image_id"].tolist(), strict=True):
            num_views[caption] += len(images)
            num_real[caption] += sum(image in real for image in images)
    return {caption: num_real[caption] / count for caption, count in num_views.items()}


@pytest.mark.usefixtures("blank")
@pytest.mark.parametrize(("mix", "expected"), [(None, 1 / 3), ((1, 1), 0.5), ((1, 4), 0.8)])
def test_captions_that_have_real_pictures_show_them_in_the_ratio_of_the_mix(
    both: tuple[Path, Path], mix: tuple[float, float] | None, expected: float
) -> None:
    num_epochs = 64
    views = source(*both, mix=mix, captions_per_batch=6, images_per_caption=1, view={"augmentation": "none"})
    shares = shares_of_real(views, num_epochs)
    has_real = {identity_of(caption_id(text(number))) for number in range(4)}
    bound = 4 * math.sqrt(expected * (1 - expected) / (len(has_real) * num_epochs))
    assert abs(sum(shares[caption] for caption in has_real) / 4 - expected) < bound
    assert all(share == 0 for caption, share in shares.items() if caption not in has_real)


def test_a_mixed_batch_is_full_and_a_function_of_its_step(both: tuple[Path, Path]) -> None:
    first, second = (source(*both, mix=(1, 9), images_per_caption=4) for _ in range(2))
    for step in (3, 0, 2):
        batch = first.batch(step)
        assert batch["valid"].all()
        assert all(len(set(images)) == 4 for images in batch["image_id"].tolist())
        assert equal(batch, second.batch(step))


@pytest.mark.parametrize(
    ("mix", "message"),
    [((1.0,), "one number per table"), ((1.0, 0.0), "positive"), ((1.0, math.inf), "finite")],
)
def test_a_mix_that_says_nothing_is_refused(mix: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(images=(Path("a"), Path("b")), mix=mix)


# -- columns of an audit -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64(), pa.int64()])
def test_weights_follow_their_images(table: Path, kind: pa.DataType) -> None:
    add_column(table, "score", list(range(12)), kind)
    batch = source(table, weight="score", crops_per_image=2).batch(0)
    weight_of = {image_identity(row // 3, row % 3): float(row) for row in range(12)}
    assert batch["weight"].dtype is torch.float32
    assert batch["weight"].tolist() == [
        [weight_of[image] for image in row] for row in batch["image_id"].tolist()
    ]
    assert "weight" not in source(table).batch(0)


def test_every_table_has_weights_of_its_own(tmp_path: Path, table: Path) -> None:
    real = write_images(tmp_path / "real.lance", [image_row(number, 0, origin=REAL) for number in range(4)])
    add_column(table, "score", [1.0] * 12, pa.float32())
    with pytest.raises(
        UserError, match=r"real.lance has no column 'score'; its columns are origin, caption_id"
    ):
        source(table, real, weight="score")
    add_column(real, "score", [2.0] * 4, pa.float32())
    batch = source(table, real, weight="score", images_per_caption=4).batch(0)
    assert batch["weight"].sort(dim=1).values.tolist() == [[1.0, 1.0, 1.0, 2.0]] * 4


@pytest.mark.parametrize("wrong", [None, math.nan, math.inf, -0.5])
def test_a_weight_that_is_none_is_refused_with_its_row_and_remedy(table: Path, wrong: float | None) -> None:
    add_column(table, "score", [1.0] * 7 + [wrong] + [1.0] * 4, pa.float32())
    place = f"images.lance: image 1 of caption {caption_id(text(2))} \\(origin teacher-a\\) has score "
    with pytest.raises(UserError, match=place) as caught:
        source(table, weight="score")
    remedy = str(caught.value).split('where = "')[1].rstrip('"')
    assert source(table, weight="score", where=remedy).num_images == 11


def test_weights_must_be_numbers(table: Path) -> None:
    with pytest.raises(
        UserError, match=r"images.lance: weights must be numbers, and column 'style' holds string"
    ):
        source(table, weight="style")


def test_other_weights_are_another_digest(table: Path) -> None:
    add_column(table, "one", [1.0] * 12, pa.float32())
    add_column(table, "two", [1.0] * 11 + [2.0], pa.float32())
    digests = [source(table, weight=weight).digest() for weight in (None, "one", "two")]
    assert len(set(digests)) == 3


def test_only_what_the_mask_keeps_is_drawn(table: Path) -> None:
    mask = [row % 3 == 1 for row in range(12)]
    mask[0] = None  # not judged, so not kept
    add_column(table, "keep it", mask, pa.bool_())
    views = source(table, keep="keep it", images_per_caption=3)
    assert views.num_images == 4
    batch = views.batch(0)
    assert set(batch["image_id"].flatten().tolist()) == {image_identity(number, 1) for number in range(4)}
    assert batch["valid"].tolist() == [[True, False, False]] * 4


def test_a_mask_must_be_there_and_be_one(table: Path) -> None:
    with pytest.raises(UserError, match=r"images.lance has no column 'mask'; its columns are .*licence"):
        source(table, keep="mask")
    with pytest.raises(
        UserError, match="keep must name a column of true and false, and 'style' holds string"
    ):
        source(table, keep="style")


# -- memory ------------------------------------------------------------------------------------------


def known_sizes(folder: Path, name: str, origin: str = "teacher-a") -> Path:
    rows = [
        image_row(number, index, width=SIZE, height=SIZE, origin=origin)
        for number in range(4)
        for index in range(2)
    ]
    return write_images(folder / name, rows)


def count_decoded(monkeypatch: pytest.MonkeyPatch, views: ViewSource, num_steps: int) -> int:
    """How many pictures the steps decode."""
    decode, count = pictures.decode_image, 0

    def counting(encoded: bytes) -> torch.Tensor:
        nonlocal count
        count += 1
        return decode(encoded)

    with monkeypatch.context() as patch:
        patch.setattr(pictures, "decode_image", counting)
        for step in range(num_steps):
            views.batch(step)
    return count


def test_a_small_table_is_decoded_once_and_gives_the_same_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = known_sizes(tmp_path, "images.lance")
    cached, uncached = source(path), source(path, cache_megabytes=0)
    assert count_decoded(monkeypatch, cached, 5) == 8
    assert count_decoded(monkeypatch, uncached, 5) == 40
    assert all(equal(cached.batch(step), uncached.batch(step)) for step in range(5))


def test_tables_stay_in_memory_as_far_as_it_reaches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, other = known_sizes(tmp_path, "a.lance"), known_sizes(tmp_path, "b.lance", REAL)
    monkeypatch.setattr(data, "_MEGABYTE", 8 * 3 * SIZE * SIZE)  # one table of decoded pictures
    views = source(small, other, cache_megabytes=1, images_per_caption=4)
    assert count_decoded(monkeypatch, views, 3) == 8 + 3 * 8


def test_a_table_that_does_not_know_its_sizes_does_not_stay(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert count_decoded(monkeypatch, source(table, images_per_caption=3), 2) == 24


def test_several_crops_of_an_image_decode_it_once(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert count_decoded(monkeypatch, source(table, crops_per_image=4), 1) == 8


@pytest.mark.parametrize(("most", "expected"), [(1, 2), (2**30, 4)])
def test_large_batches_do_not_pile_up(
    world: World, monkeypatch: pytest.MonkeyPatch, most: int, expected: int
) -> None:
    """While the first batch is in use, one more is prepared, or one more than there are threads."""
    monkeypatch.setattr(data, "_MOST_AHEAD", most)
    views = source(world.images, num_threads=2)
    prepare, begun = views.batch, []

    def counting(step: int) -> Batch:
        begun.append(step)
        return prepare(step)

    monkeypatch.setattr(views, "batch", counting)
    ahead = views.batches(0, 9)
    assert equal(next(ahead), prepare(0))
    while len(begun) < expected:  # the threads take what was handed to them
        pass
    assert sorted(begun) == list(range(expected))
    assert [equal(batch, prepare(step)) for step, batch in enumerate(ahead, 1)] == [True] * 8


def test_threads_that_prepare_leave_the_threads_of_training_alone(world: World) -> None:
    torch.set_num_threads(2)  # set back by the fixture
    list(source(world.images, num_threads=3).batches(0, 4))
    assert torch.get_num_threads() == 2


def test_a_cache_cannot_be_negative() -> None:
    with pytest.raises(ValueError, match="cache_megabytes must not be negative, got -1"):
        DataConfig(images=(Path("x"),), cache_megabytes=-1)
