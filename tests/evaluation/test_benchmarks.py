"""Benchmarks: which pictures go where, and what is said when there are none."""

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
from tiny_icons import COLOURS, captions, drawing, image_row, real_rows, write_tables

from stablerep.decoding import decode_image
from stablerep.errors import UserError
from stablerep.evaluation.benchmarks import BenchmarkData, MissingDataError, load_benchmark


def test_icons_splits(world: Path) -> None:
    benchmark = load_benchmark("icons", BenchmarkData(world=world))
    assert benchmark.classes == tuple(sorted(COLOURS))
    assert len(benchmark.train) == 3 * 7 * 3  # labels x concepts x training styles
    assert len(benchmark.validation) == 3 * 2 * 3
    assert {name: len(split) for name, split in benchmark.tests.items()} == {
        "test captions, training styles": 3 * 3 * 3,
        "test captions, held-out style": 3 * 3,
        "seen captions, held-out style": 3 * 7,
    }
    seen = set(benchmark.train.images) | set(benchmark.validation.images)
    for split in benchmark.tests.values():
        assert not seen & set(split.images)
    groups = [set(benchmark.train.groups), set(benchmark.validation.groups)]
    groups.append(set(benchmark.tests["test captions, training styles"].groups))
    assert sum(map(len, groups)) == len(set.union(*groups))


def test_the_held_out_style_never_trains(world: Path) -> None:
    benchmark = load_benchmark("icons", BenchmarkData(world=world))
    held_out = {row["image"] for row in real_rows() if row["style"] == "fluent"}
    assert not held_out & {*benchmark.train.images, *benchmark.validation.images}


def test_labels_belong_to_their_pictures(world: Path) -> None:
    benchmark = load_benchmark("icons", BenchmarkData(world=world))
    label_of = {row["image"]: row["label"] for row in real_rows()}
    for split in (benchmark.train, benchmark.validation, *benchmark.tests.values()):
        named = [benchmark.classes[label] for label in split.labels]
        assert named == [label_of[image] for image in split.images]


def test_the_order_of_writing_does_not_show(world: Path, tmp_path: Path) -> None:
    rows = real_rows()
    random.Random(1).shuffle(rows)
    other = write_tables(tmp_path / "world", rows)
    first, second = (load_benchmark("icons", BenchmarkData(world=folder)) for folder in (world, other))
    assert first.train.images == second.train.images
    assert np.array_equal(first.train.labels, second.train.labels)


def test_classes_unknown_to_training_and_unusable_rows_are_left_out(tmp_path: Path) -> None:
    rows = real_rows()
    caption = next(caption for caption in captions() if caption["split"] == "test")
    image = drawing("plum", 7)
    rows += [
        image_row(caption, 10, image, style="noto", label="quince"),
        image_row(caption, 11, image, style="noto", label=None),
        image_row(caption, 12, image, style="noto", status="failed"),
        image_row(caption, 13, image, style="noto", origin="a painter"),
    ]
    benchmark = load_benchmark("icons", BenchmarkData(world=write_tables(tmp_path, rows)))
    test = benchmark.tests["test captions, training styles"]
    assert len(test) == 3 * 3 * 3
    assert test.num_left_out == 2
    assert "quince" not in benchmark.classes


def test_an_empty_label_is_none(tmp_path: Path) -> None:
    rows = real_rows()
    for split in ("train", "test"):
        next(row for row in rows if row["split"] == split)["label"] = ""
    benchmark = load_benchmark("fashion", BenchmarkData(fashion=write_tables(tmp_path, rows)))
    assert benchmark.classes == tuple(sorted(COLOURS))
    label_of = {row["image"]: row["label"] for row in rows}
    for split in (benchmark.train, benchmark.tests["official test"]):
        assert [benchmark.classes[label] for label in split.labels] == [label_of[one] for one in split.images]
        assert split.num_left_out == 1


def test_fewer_training_pictures_are_nested_and_keep_their_labels(world: Path) -> None:
    whole = load_benchmark("icons", BenchmarkData(world=world)).train
    label_of = dict(zip(whole.images, whole.labels, strict=True))
    twenty, ten = (
        load_benchmark("icons", BenchmarkData(world=world, num_train=num)).train for num in (20, 10)
    )
    assert set(ten.images) < set(twenty.images) < set(whole.images)
    assert [label_of[image] for image in twenty.images] == twenty.labels.tolist()
    assert len(ten) == len(ten.groups) == 10


def test_missing_data_are_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="--world"):
        load_benchmark("icons", BenchmarkData())
    with pytest.raises(MissingDataError, match=r"no images\.lance"):
        load_benchmark("fashion", BenchmarkData(fashion=tmp_path))
    rows = [row for row in real_rows() if row["style"] != "fluent"]
    with pytest.raises(MissingDataError, match="test captions, held-out style"):
        load_benchmark("icons", BenchmarkData(world=write_tables(tmp_path, rows)))


def test_unknown_benchmark_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="icons, fashion, digits"):
        load_benchmark("imagenet", BenchmarkData())


def test_fashion_takes_every_style_and_the_official_test(world: Path) -> None:
    benchmark = load_benchmark("fashion", BenchmarkData(fashion=world))
    assert [len(benchmark.train), len(benchmark.validation)] == [3 * 7 * 4, 3 * 2 * 4]
    assert {name: len(split) for name, split in benchmark.tests.items()} == {"official test": 3 * 3 * 4}


def test_digits() -> None:
    benchmark = load_benchmark("digits", BenchmarkData())
    splits = [benchmark.train, benchmark.validation, benchmark.tests["test"]]
    assert sum(map(len, splits)) == 1797
    assert len({image for split in splits for image in split.images}) > 1790
    for split, share in zip(splits, (0.6, 0.15, 0.25), strict=True):
        counts = np.bincount(split.labels, minlength=10) / np.array(
            [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
        )
        np.testing.assert_allclose(counts, share, atol=0.01)
    assert decode_image(benchmark.train.images[0]).shape == (3, 32, 32)


def test_some_rows_of_a_split_keep_all_that_is_known_of_them(world: Path) -> None:
    whole = dataclasses.replace(load_benchmark("icons", BenchmarkData(world=world)).train, num_left_out=4)
    rows = np.array([7, 0, 50])
    some = whole.some(rows)
    assert list(some.images) == [whole.images[row] for row in rows]
    assert some.labels.tolist() == whole.labels[rows].tolist()
    assert some.groups == [whole.groups[row] for row in rows]
    assert some.attributes["style"].tolist() == whole.attributes["style"][rows].tolist()
    assert (len(some), some.num_left_out) == (3, 4)
    assert len(whole.some(np.array([], dtype=np.int64))) == 0
