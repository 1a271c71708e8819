"""Prompt fidelity of painters that read, that do not, and that fail."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tiny_icons import COLOURS, QUICK_PROBE, captions, drawing, image_row

from stablerep.copies import CopySearch
from stablerep.errors import UserError
from stablerep.evaluation.distances import DistanceConfig
from stablerep.evaluation.near_copies import NearCopyConfig
from stablerep.evaluation.painting import PainterConfig, evaluate_painter
from stablerep.store import CaptionTable, ImageTable, caption_id


def paint(folder: Path, label_for: dict[str, str], origin: str = "painter", **more: object) -> Path:
    """Four pictures per caption, each showing the subject that this painter takes its label for."""
    rows = [
        image_row(
            caption,
            index,
            drawing(label_for[str(caption["label"])], 99_000 + 100 * row + 10 * index),
            origin=origin,
            label=None,
            split=None,
            **more,
        )
        for row, caption in enumerate(captions())
        for index in range(4)
    ]
    ImageTable.open_or_create(folder / "images.lance").append(rows)
    return folder / "images.lance"


COARSE = CopySearch(side=32, reach=3, cells=8)
READS = {label: label for label in COLOURS}
CONFUSES = dict(zip(COLOURS, [*list(COLOURS)[1:], next(iter(COLOURS))], strict=True))


def settings(images: Path, world: Path, **more: object) -> PainterConfig:
    few: dict[str, object] = {
        "judge": "raw-pixels",
        "num_bootstrap": 100,
        "precision": "float32",
        "probe": QUICK_PROBE,
        "search_copies": False,
        "distances": DistanceConfig(kid_splits=5),
        "copies": NearCopyConfig(num_pictures=20, num_planted=2, num_shown=3, search=COARSE),
    }
    return PainterConfig(images=images, world=world, **(few | more))


@pytest.mark.slow
def test_a_painter_that_reads_reaches_the_judge(world: Path, tmp_path: Path) -> None:
    scores = evaluate_painter(settings(paint(tmp_path, READS), world))
    assert scores.fidelity.num_captions == 36
    assert scores.fidelity.num_pictures == 144
    assert scores.fidelity.mean_per_class.value > 0.9
    assert abs(scores.fidelity.mean_per_class.value - scores.judge_test.value) < 0.1
    assert scores.chance == pytest.approx(1 / 3)
    assert 0.2 < scores.fidelity.shuffled < 0.45
    assert set(scores.fidelity.per_class) == set(COLOURS)
    assert scores.judge_fingerprint == "raw-pixels-16"


@pytest.mark.slow
def test_fewer_real_pictures_may_train_the_judge(world: Path, tmp_path: Path) -> None:
    """Near-copies are searched among all of them all the same."""
    images = paint(tmp_path, READS)
    searched = {"search_copies": True}
    whole = evaluate_painter(settings(images, world, out=tmp_path / "whole.json", **searched))
    part = evaluate_painter(settings(images, world, num_train=1, out=tmp_path / "part.json", **searched))
    assert part.judge_test.value < 0.4 < 0.9 < whole.judge_test.value
    assert part.near_copies == whole.near_copies is not None
    with pytest.raises(UserError, match="num_train must be positive, got 0"):
        evaluate_painter(settings(images, world, num_train=0))


@pytest.mark.slow
def test_a_painter_that_confuses_every_subject_scores_zero(world: Path, tmp_path: Path) -> None:
    scores = evaluate_painter(settings(paint(tmp_path, CONFUSES), world))
    assert scores.fidelity.mean_per_class.value < 0.1
    assert scores.judge_validation > 0.9  # the judge never saw these pictures


@pytest.mark.slow
def test_a_painter_that_paints_one_subject_scores_chance(world: Path, tmp_path: Path) -> None:
    always = dict.fromkeys(COLOURS, "plum")
    fidelity = evaluate_painter(settings(paint(tmp_path, always), world)).fidelity
    assert fidelity.mean_per_class.value == pytest.approx(1 / 3, abs=0.05)
    assert fidelity.shuffled == pytest.approx(1 / 3, abs=0.05)
    assert fidelity.per_class["plum"] > 0.9


@pytest.mark.slow
def test_scores_are_written_and_repeatable(world: Path, tmp_path: Path) -> None:
    images = paint(tmp_path, READS)
    first = evaluate_painter(settings(images, world, search_copies=True))
    assert json.loads((tmp_path / "painter-scores.json").read_text()) == first.to_json()
    again = settings(images, world, search_copies=True, out=tmp_path / "again.json")
    assert evaluate_painter(again) == first and first.near_copies is not None
    assert (tmp_path / "again.json").read_text() == (tmp_path / "painter-scores.json").read_text()
    assert all(len(row) == len(first.HEADER) for row in first.rows())


@pytest.mark.slow
def test_what_the_judge_named_every_picture_is_kept(world: Path, tmp_path: Path) -> None:
    scores = evaluate_painter(settings(paint(tmp_path, READS), world))
    named = pq.read_table(tmp_path / "painter-scores-named.parquet").to_pylist()
    assert len(named) == scores.fidelity.num_pictures
    assert [row["caption_id"] for row in named] == sorted(row["caption_id"] for row in named)
    right = sum(row["named"] == row["label"] for row in named) / len(named)
    assert right == pytest.approx(scores.fidelity.top1.value)


@pytest.mark.slow
def test_split_and_failures_are_counted(world: Path, tmp_path: Path) -> None:
    paint(tmp_path, READS)
    images = ImageTable.open(tmp_path / "images.lance")
    caption = next(caption for caption in captions() if caption["split"] == "test")
    failed = image_row(caption, 9, b"", origin="painter", status="failed", reason="blank")
    images.append([{**failed, "image": None}])
    scores = evaluate_painter(settings(tmp_path / "images.lance", world, split="test"))
    assert scores.fidelity.num_captions == 9
    assert scores.fidelity.num_pictures == 36
    assert scores.num_failed == 1
    assert ["not judged: failed paintings, pictures without a known label", "1, 0"] in scores.rows()


@pytest.mark.slow
def test_several_painters_need_a_choice(world: Path, tmp_path: Path) -> None:
    images = paint(tmp_path, READS, origin="reads")
    paint(tmp_path, CONFUSES, origin="confuses")
    with pytest.raises(UserError, match=r"several painters \(found: confuses, reads\).*--origin"):
        evaluate_painter(settings(images, world))
    assert evaluate_painter(settings(images, world, origin="confuses")).fidelity.mean_per_class.value < 0.1
    assert evaluate_painter(settings(images, world, origin="reads")).origin == "reads"
    with pytest.raises(UserError, match="no painter third"):
        evaluate_painter(settings(images, world, origin="third"))


def test_nothing_painted_is_said(world: Path) -> None:
    with pytest.raises(UserError, match="no painter at all"):
        evaluate_painter(settings(world / "images.lance", world))


def test_near_copies_may_be_left_out(world: Path, tmp_path: Path) -> None:
    scores = evaluate_painter(settings(paint(tmp_path, READS), world, search_copies=False))
    assert scores.near_copies is None
    assert not any("copies" in row[0] for row in scores.rows())
    assert not (tmp_path / "painter-scores-nearest.png").exists()


@pytest.mark.slow
def test_distances_and_near_copies_see_a_painter_that_repeats(world: Path, tmp_path: Path) -> None:
    """One painter draws anew, the other hands out its training pictures."""
    copying = NearCopyConfig(num_planted=4, num_shown=3)
    more = {"copies": copying, "search_copies": True, "second": "raw-pixels"}
    fresh = evaluate_painter(settings(paint(tmp_path, READS), world, **more))
    real = ImageTable.open(world / "images.lance").read(
        ["image", "caption_id", "image_index", "split", "style"]
    )
    rows = [row for row in real.to_pylist() if row["split"] == "train" and row["style"] != "fluent"]
    by_id = {caption["id"]: caption for caption in captions()}
    ImageTable.open_or_create(tmp_path / "repeats.lance").append(
        image_row(by_id[row["caption_id"]], row["image_index"], row["image"], origin="repeats")
        for row in rows
    )
    repeats = evaluate_painter(settings(tmp_path / "repeats.lance", world, out=tmp_path / "r.json", **more))
    copies = repeats.near_copies
    assert fresh.near_copies is not None and copies is not None
    assert fresh.near_copies.share.value < 0.1
    assert copies.share.value == 1
    assert copies.nearest[0].similarity > 0.999
    assert copies.false_alarms <= 0.01
    assert copies.found["mirrored"] == 1
    assert [found.encoder for found in repeats.distances] == ["raw-pixels", "raw-pixels"]
    assert repeats.distances[0].cover.coverage > 0.9
    assert repeats.distances[0].num_pictures == 31
    with Image.open(tmp_path / "r-nearest.png") as sheet:
        assert sheet.format == "PNG" and sheet.width > 6 * 64


@pytest.mark.slow
def test_every_interval_has_as_many_replicates_as_asked_for(world: Path, tmp_path: Path) -> None:
    """Of a painter that repeats some pictures of training; one replicate is no interval."""
    images = paint(tmp_path, READS)
    real = ImageTable.open(world / "images.lance").read(["image"], "split = 'train' AND style = 'noto'")
    ImageTable.open(images).append(
        image_row(caption, 4, image, origin="painter")
        for caption, image in zip(captions(), real["image"].to_pylist(), strict=False)
    )
    copies = NearCopyConfig(num_pictures=20, num_planted=1, search=COARSE)
    scores = evaluate_painter(settings(images, world, num_bootstrap=1, search_copies=True, copies=copies))
    assert scores.near_copies is not None and 0 < scores.near_copies.share.value < 1
    for share in (scores.near_copies.share, scores.judge_test, scores.fidelity.top1):
        assert share.low == share.high or share.value == 1  # where the end is not one of replicates


@pytest.mark.slow
def test_seen_words_are_counted(world: Path, tmp_path: Path) -> None:
    """Training captions are numbered 0 to 6, validation captions 7 and 8: each has a number not seen."""
    images = paint(tmp_path, READS)
    with pytest.raises(UserError, match="one of the 0 captions that are judged"):
        evaluate_painter(settings(images, world, split="validation", seen_words=True))
    scores = evaluate_painter(settings(images, world, split="all", seen_words=True))
    assert scores.fidelity.num_captions == 21
    assert scores.num_captions_left_out == 15
    assert ["captions left out for an unseen word", "15"] in scores.rows()


def test_few_paintings_leave_distances_out(world: Path, tmp_path: Path) -> None:
    rows = [image_row(captions()[0], 0, drawing("apple", 1), origin="painter")]
    ImageTable.open_or_create(tmp_path / "images.lance").append(rows)
    scores = evaluate_painter(settings(tmp_path / "images.lance", world, search_copies=True))
    assert scores.distances == () and scores.near_copies is not None and scores.near_copies.num_painted == 1


@pytest.mark.slow
def test_filter_and_mask_choose_the_pictures_that_are_judged(world: Path, tmp_path: Path) -> None:
    """Of a painter that reads and one that does not, under one name: a mask keeps the former, a filter its first."""
    images = paint(tmp_path, READS)
    paint(tmp_path, CONFUSES, origin="confuses")
    table = ImageTable.open(images)
    rows = np.arange(len(table))
    reads = table.positions("origin = 'painter'")
    table.write_columns(rows, {"fits": pa.array(np.isin(rows, reads)), "rank": pa.array(rows % 4)})
    with pytest.raises(UserError, match=r"144 pictures of confuses, of which the filter keeps 0"):
        evaluate_painter(settings(images, world, keep="fits", origin="confuses"))
    painter = {"origin": "painter"}
    best = evaluate_painter(settings(images, world, keep="fits", where="rank = 0 OR rank = 1", **painter))
    assert (best.fidelity.num_pictures, best.num_left_out) == (72, 72)
    assert (best.keep, best.where) == ("fits", "rank = 0 OR rank = 1")
    assert ["pictures left out by the filter", "72"] in best.rows()
    with pytest.raises(UserError, match="keep must name a column of true and false, and 'rank' holds int64"):
        evaluate_painter(settings(images, world, keep="rank", **painter))
    with pytest.raises(UserError, match="the filter 'rank =' is not valid"):
        evaluate_painter(settings(images, world, where="rank =", **painter))


@pytest.mark.slow
def test_the_world_says_which_benchmark(world: Path, tmp_path: Path) -> None:
    """Pictures of four styles train as fashion, of three as icons, which leaves one out."""
    other = shutil.copytree(world, tmp_path / "world")
    images = paint(tmp_path, READS)
    copies = evaluate_painter(settings(images, other, search_copies=True)).near_copies
    assert copies is not None and copies.num_training == 63
    (other / "world.json").write_text('{"world": "fashion"}')
    copies = evaluate_painter(settings(images, other, search_copies=True)).near_copies
    assert copies is not None and copies.num_training == 84


def test_captions_without_real_pictures_have_a_fidelity(world: Path, tmp_path: Path) -> None:
    texts = [f"{label} of glass" for label in COLOURS]
    asked = [
        {**captions()[0], "id": caption_id(text), "text": text, "label": text.split()[0]} for text in texts
    ]
    other = shutil.copytree(world, tmp_path / "world")
    CaptionTable.open(other / "captions.lance").append(asked)
    ImageTable.open_or_create(tmp_path / "images.lance").append(
        image_row(caption, index, drawing(str(caption["label"]), 10 * index), origin="painter")
        for caption in asked
        for index in range(8)
    )
    scores = evaluate_painter(settings(tmp_path / "images.lance", other, second="raw-pixels"))
    assert scores.distances == ()
    assert scores.fidelity.num_pictures == 24 and scores.fidelity.mean_per_class.value > 0.9
