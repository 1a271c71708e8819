"""Scenes and masks, and what a head on frozen patch features makes of them."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import jaccard_score
from tiny_icons import TINY

from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.evaluation.benchmarks import BenchmarkData, MissingDataError
from stablerep.evaluation.contract import Subject, Tools
from stablerep.evaluation.scenes import IGNORED, Scenes, Segmented, ade20k, icon_scenes, scenes_of
from stablerep.evaluation.segmentation import Segmentation, SegmentationConfig, confusion, metrics_of, miou
from stablerep.features import RawPixels, untrained_encoder

SIZES = {"train": 24, "validation": 8, "test": 12}
SHAPES = {"disc": (230, 40, 40), "frame": (40, 60, 230)}


def drawing(kind: str) -> bytes:
    """A red disc or a blue frame on nothing."""
    picture = np.zeros((32, 32, 4), dtype=np.uint8)
    rows, columns = np.mgrid[:32, :32] - 15.5
    inside = rows**2 + columns**2 < 200 if kind == "disc" else (abs(rows) > 8) | (abs(columns) > 8)
    picture[inside] = (*SHAPES[kind], 255)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def tiny() -> Segmented:
    rows = [
        {"image": drawing(kind), "style": style, "category": kind, "split": split}
        for kind in SHAPES
        for style in ("noto", "fluent")
        for split in SIZES
    ]
    return scenes_of(rows, SIZES)


def tools(folder: Path) -> Tools:
    return Tools(
        cache=folder, batch_size=16, precision="float32", device="cpu", seed=0, num_bootstrap=30,
        console=Console(quiet=True),
    )  # fmt: skip


def test_masks_lie_where_the_drawings_are() -> None:
    scenes = tiny().train
    for place in range(6):
        with Image.open(io.BytesIO(scenes.images[place])) as picture:
            pixels = np.asarray(picture).astype(int)
        mask = scenes.mask(place)
        assert mask.shape == pixels.shape[:2]
        for label, colour in enumerate(SHAPES.values(), start=1):
            if (mask == label).sum() > 50:
                away = np.abs(pixels[mask == label] - colour).sum(1)
                assert np.median(away) < 30
    assert scenes.images[3] == tiny().train.images[3]  # a function of the place alone
    assert scenes.images[3] != scenes.images[4]


def test_the_embedded_scenes_have_their_classes() -> None:
    segmented = icon_scenes(BenchmarkData())
    assert segmented.classes[0] == "background"
    assert len(segmented.classes) == 9
    assert [len(part) for part in (segmented.train, segmented.validation)] == [600, 150]
    shown = np.unique([label for place in range(20) for label in np.unique(segmented.train.mask(place))])
    assert len(shown) > 5


def test_colour_alone_finds_what_differs_in_colour(tmp_path: Path) -> None:
    config = SegmentationConfig(num_epochs=8, batch_size=8, learning_rates=(1e-2, 1e-1), finer=1)
    subject = Subject("raw pixels", "baseline", RawPixels())
    found = Segmentation(config).measure(subject, tiny(), tools(tmp_path))
    assert [one.test for one in found] == list(tiny().tests)
    for one in found:
        assert one.encoder == "colour only"
        assert one.chosen_on == "validation"
        assert one.metrics["miou"].value > one.chance["miou"] + 0.15
        assert one.settings["num_epochs"] == 8


def test_an_encoder_is_measured_through_its_patches(tmp_path: Path) -> None:
    config = SegmentationConfig(num_epochs=2, batch_size=8, num_train=10)
    subject = Subject("untrained", "run", untrained_encoder(TINY, 0))
    found = Segmentation(config).measure(subject, tiny(), tools(tmp_path))
    assert found[0].sizes["num_train"] == 10
    assert 0 <= found[0].metrics["miou"].low <= found[0].metrics["miou"].high <= 1


def test_a_damaged_scene_is_named(tmp_path: Path) -> None:
    whole = tiny()
    images = [*whole.train.images[:20], b"torn", *whole.train.images[21:]]
    data = dataclasses.replace(whole, train=Scenes(images, whole.train.mask))
    subject = Subject("raw pixels", "baseline", RawPixels())
    with pytest.raises(UserError, match=r"^scene 20 cannot be decoded \(no known picture format\)"):
        Segmentation(SegmentationConfig(num_epochs=1)).measure(subject, data, tools(tmp_path))


def test_intersection_over_union_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    masks, named = rng.integers(0, 4, (5, 9, 7)), rng.integers(0, 4, (5, 9, 7))
    masks[0, :3] = IGNORED
    counts = np.stack([confusion(mask, other, 4) for mask, other in zip(masks, named, strict=True)])
    counted = masks != IGNORED
    assert miou(counts.sum(0)) == pytest.approx(
        jaccard_score(masks[counted], named[counted], average="macro")
    )
    metrics, constant = metrics_of(counts, 50, 0)
    assert metrics["pixel accuracy"].value == pytest.approx((masks == named)[counted].mean())
    assert constant < metrics["miou"].value + 0.2
    right = np.stack([confusion(mask, mask, 4) for mask in masks])
    assert metrics_of(right, 50, 0)[0]["miou"].low == pytest.approx(0.025 ** (1 / 5)), "five pictures"


def test_ade20k_in_its_own_layout(tmp_path: Path) -> None:
    root = tmp_path / "ADEChallengeData2016"
    for part, num in (("training", 4), ("validation", 2)):
        (root / "images" / part).mkdir(parents=True)
        (root / "annotations" / part).mkdir(parents=True)
        for place in range(num):
            Image.new("RGB", (20, 12), "red").save(root / "images" / part / f"{place}.jpg")
            classes = np.full((12, 20), place, dtype=np.uint8)
            Image.fromarray(classes).save(root / "annotations" / part / f"{place}.png")
    segmented = ade20k(BenchmarkData(datasets=tmp_path))
    assert [len(segmented.train), len(segmented.validation)] == [3, 1]
    test = segmented.tests["official validation"]
    assert np.unique(test.mask(0)).tolist() == [IGNORED]  # 0 is not counted
    assert np.unique(test.mask(1)).tolist() == [0]
    assert len(segmented.classes) == 150


def test_missing_scenes_are_said(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="--datasets"):
        ade20k(BenchmarkData())
    with pytest.raises(MissingDataError, match=r"ADEChallengeData2016\.zip"):
        ade20k(BenchmarkData(datasets=tmp_path))
    assert isinstance(tiny().validation, Scenes)
