"""Probes as protocols: crops, the published metric, several classes per picture, and what the scores say."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.evaluation.benchmarks import Benchmark, Split
from stablerep.evaluation.classify import ProbeProtocol
from stablerep.evaluation.contract import Classified, NotMeasurableError, Subject, Tools
from stablerep.evaluation.crops import crop_features, heads_on_crops, rectangle
from stablerep.evaluation.pictures import as_png
from stablerep.evaluation.protocols import EvaluateConfig, evaluate
from stablerep.evaluation.scores import Measurement, Scores
from stablerep.probes import PathConfig, ProbeConfig, SgdConfig, fit_logistic
from stablerep.probes.linear import LinearProbe

QUICK = ProbeConfig(
    logistic=PathConfig(strongest_l2=1e2, weakest_l2=1e-2, num_l2=5),
    sgd=SgdConfig(num_epochs=4, check_every=2, batch_size=32, learning_rates=(0.1, 0.5), crop_scale=(0.3, 1)),
)


class MeanColour:
    fingerprint = "mean-colour"

    def __init__(self) -> None:
        self.num_seen = 0

    def __call__(self, images: Tensor, /) -> Tensor:
        self.num_seen += len(images)
        return images.mean((2, 3))


SUBJECT = Subject("colour", "run", MeanColour())


def tools(folder: Path) -> Tools:
    return Tools(
        cache=folder, batch_size=64, precision="float32", device="cpu", seed=0, num_bootstrap=20,
        console=Console(quiet=True),
    )  # fmt: skip


@pytest.fixture(scope="module")
def scored(world: Path, make_run: Callable[[str, int], Path]) -> tuple[Path, Scores]:
    run = make_run("published", 3)
    config = EvaluateConfig(
        run=run, world=world, protocols=("logistic", "sgd", "sgd-bn"), num_bootstrap=50, precision="float32",
        device="cpu", probe=QUICK,
    )  # fmt: skip
    return run, evaluate(config)


@pytest.mark.slow
def test_every_record_says_its_settings_its_choice_and_its_split(scored: tuple[Path, Scores]) -> None:
    for record in scored[1].records:
        assert record.metric == "mean_per_class"
        assert record.chosen_on == "validation"
        if record.protocol == "logistic":
            assert record.settings["logistic"]["num_l2"] == 5
            assert set(record.chosen) == {"l2"}
            assert record.official == {}
        else:
            assert record.settings["sgd"]["crops"] is True
            assert set(record.chosen) == {"learning_rate", "epoch"}
            assert record.official["top1_maximum_on_test"] >= record.top1.value
    raw = [record for record in scored[1].records if record.encoder == "raw pixels"]
    assert min(record.top1.value for record in raw) > 0.8
    assert Scores.read(scored[0]).records == scored[1].records


def test_crops_are_a_function_of_seed_epoch_and_place(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [as_png(Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))) for _ in range(5)]
    first, again, other = (
        crop_features(MeanColour(), images, epoch, SgdConfig(), tools(tmp_path)) for epoch in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    alone = crop_features(
        MeanColour(), images, 1, SgdConfig(), dataclasses.replace(tools(tmp_path), batch_size=2)
    )
    np.testing.assert_allclose(first, alone, atol=1e-6)


def test_a_damaged_training_picture_is_named(tmp_path: Path) -> None:
    data = Benchmark("six", tuple("rgb"), *(several(6, seed) for seed in (0, 1)), {"test": several(6, 2)})
    labels = np.arange(6) % 3
    parts = [dataclasses.replace(part, labels=labels) for part in (data.train, data.validation)]
    damaged = dataclasses.replace(parts[0], images=[*parts[0].images[:4], b"torn", parts[0].images[5]])
    data = dataclasses.replace(data, train=damaged, validation=parts[1])
    with pytest.raises(
        UserError, match=r"^training picture 4 cannot be decoded \(no known picture format\);"
    ):
        ProbeProtocol("sgd", QUICK).measure(SUBJECT, data, dataclasses.replace(tools(tmp_path), batch_size=3))


def three_colours(num: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, num)
    noisy = rng.normal(128, 70, (num, 12, 18, 3)) + 60 * np.eye(3)[labels][:, None, None]
    images = [as_png(Image.fromarray(one)) for one in noisy.clip(0, 255).astype(np.uint8)]
    return Split(images, labels, [str(row) for row in range(num)])


@pytest.mark.parametrize("refit", [False, True])
def test_both_published_probes_learn_from_one_pass_of_crops(refit: bool, tmp_path: Path) -> None:
    data = Benchmark("colours", tuple("rgb"), *(three_colours(40, seed) for seed in (0, 1)), {})
    data = dataclasses.replace(data, tests={"test": three_colours(30, 2)})
    config = dataclasses.replace(QUICK, sgd=dataclasses.replace(QUICK.sgd, refit=refit))

    def measured(names: tuple[str, ...], together: bool) -> tuple[list[Classified], int]:
        """What the probes found, and how many pictures the encoder saw."""
        subject = Subject("colour", "run", MeanColour())
        folder = tmp_path / "-".join((*names, str(together)))
        shared = dataclasses.replace(tools(folder), protocols=names)
        found = []
        for name in names:
            own = shared if together else tools(folder)
            classified = ProbeProtocol(name, config).measure(subject, data, own)
            assert isinstance(classified, Classified)
            found.append(classified)
        assert not shared.trained
        return found, subject.encoder.num_seen  # type: ignore[attr-defined]

    apart, seen_apart = measured(("sgd", "sgd-bn"), together=False)
    shared, seen_shared = measured(("sgd", "sgd-bn"), together=True)
    num_epochs, num_crops = QUICK.sgd.num_epochs, 80 if refit else 40
    assert seen_apart - seen_shared == num_epochs * num_crops
    assert seen_shared == num_epochs * num_crops + 40 + 30, "validation and test come from the cache"
    for one, other in zip(apart, shared, strict=True):
        assert (one.chosen, one.official) == (other.chosen, other.official)
        np.testing.assert_array_equal(one.predicted["test"], other.predicted["test"])


def test_a_refit_trains_on_the_validation_pictures_and_leaves_the_choice(tmp_path: Path) -> None:
    data = Benchmark("colours", tuple("rgb"), *(three_colours(40, seed) for seed in (0, 1)), {})
    plain, refitted = (
        heads_on_crops("sgd", SUBJECT, data, dataclasses.replace(QUICK.sgd, refit=refit), tools(tmp_path))
        for refit in (False, True)
    )
    assert plain.measured == plain.checks
    assert torch.equal(refitted.checks[-1].weight, plain.checks[-1].weight)
    assert not torch.equal(refitted.measured[-1].weight, plain.checks[-1].weight)


def test_rectangles_lie_inside_and_have_the_area_asked_for() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        top, left, height, width = rectangle(40, 60, (0.2, 0.5), rng)
        assert 0 <= top <= 40 - height
        assert 0 <= left <= 60 - width
        assert 0.17 < height * width / 2400 < 0.55
        assert 0.7 < width / height < 1.4
    assert rectangle(2, 400, (0.9, 1.0), rng) == (0, 199, 2, 2)


def several(num: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (num, 3))
    colours = (labels * 180 + rng.integers(0, 40, (num, 3))).astype(np.uint8)
    labels[rng.random((num, 3)) < 0.05] = -1
    images = [as_png(Image.new("RGB", (4, 4), tuple(map(int, colour)))) for colour in colours]
    return Split(images, labels, [str(row) for row in range(num)])


def test_several_classes_are_scored_by_mean_average_precision(tmp_path: Path) -> None:
    data = Benchmark("three", tuple("rgb"), several(80, 0), several(40, 1), {"test": several(60, 2)}, "map11")
    measured = ProbeProtocol("logistic", QUICK).measure(SUBJECT, data, tools(tmp_path))
    assert isinstance(measured, list)
    (found,) = measured
    assert isinstance(found, Measurement)
    assert found.metrics["map11"].value > 0.97
    assert 0.3 < found.chance["map11"] < 0.8
    assert found.chosen_on == "validation"
    assert "replicates" not in found.note
    many = dataclasses.replace(tools(tmp_path), num_bootstrap=201)
    (fewer,) = ProbeProtocol("logistic", QUICK).measure(SUBJECT, data, many)
    assert isinstance(fewer, Measurement)
    assert fewer.note.endswith("interval from 200 replicates")
    with pytest.raises(NotMeasurableError, match="`logistic` alone"):
        ProbeProtocol("knn", QUICK).measure(SUBJECT, data, tools(tmp_path))


def test_what_is_hard_to_see_does_not_choose_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third of what validation pictures show is marked difficult: counted as not shown it would spoil the choice."""
    rng, reached = np.random.default_rng(0), []
    validation = several(40, 1)
    labels = np.where((validation.labels == 1) & (rng.random((40, 3)) < 1 / 3), -1, validation.labels)

    def fit(*what: Any) -> LinearProbe:
        probe = fit_logistic(*what)
        reached.append(probe.validation_accuracy)
        return probe

    monkeypatch.setattr("stablerep.evaluation.classify.fit_logistic", fit)
    parts = several(80, 0), dataclasses.replace(validation, labels=labels)
    data = Benchmark("three", tuple("rgb"), *parts, {"test": several(60, 2)}, "map11")
    ProbeProtocol("logistic", QUICK).measure(SUBJECT, data, tools(tmp_path))
    assert reached[0] > 0.97
