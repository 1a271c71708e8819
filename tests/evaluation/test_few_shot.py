"""Few-shot episodes and group fairness on features with a known answer."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from stablerep.console import Console
from stablerep.evaluation.benchmarks import Benchmark, Split
from stablerep.evaluation.classify import ProbeProtocol
from stablerep.evaluation.contract import NotMeasurableError, Subject, Tools
from stablerep.evaluation.fairness import Cells, Fairness, FairnessConfig
from stablerep.evaluation.few_shot import FewShot, FewShotConfig, _Class
from stablerep.evaluation.pictures import as_png
from stablerep.probes import ProbeConfig


class MeanColour:
    """Three features: how red, green and blue a picture is."""

    fingerprint = "mean-colour"

    def __call__(self, images: Tensor, /) -> Tensor:
        return images.mean((2, 3))


SUBJECT = Subject("colour", "run", MeanColour())


def split(num: int, seed: int, *, known: bool = True) -> Split:
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % 6
    hues = np.array(
        [[220, 30, 30], [30, 220, 30], [30, 30, 220], [220, 220, 30], [30, 220, 220], [220, 30, 220]]
    )
    shown = labels if known else rng.integers(0, 6, num)
    colours = np.clip(hues[shown] + rng.normal(0, 12, (num, 3)), 0, 255).astype(np.uint8)
    images = [as_png(Image.new("RGB", (4, 4), tuple(map(int, colour)))) for colour in colours]
    style = np.where(np.arange(num) // 6 % 2 == 0, "one", "other")
    return Split(images, labels, [f"{seed} {row}" for row in range(num)], attributes={"style": style})


def benchmark(*, known: bool = True) -> Benchmark:
    classes = tuple("abcdef")
    return Benchmark(
        "colours", classes, split(60, 0), split(30, 1), {"test": split(120, 2, known=known)}, "top1"
    )


def tools(folder: Path) -> Tools:
    return Tools(
        cache=folder, batch_size=64, precision="float32", device="cpu", seed=0, num_bootstrap=100,
        console=Console(quiet=True),
    )  # fmt: skip


def test_separable_classes_are_named_without_error(tmp_path: Path) -> None:
    (found,) = FewShot(FewShotConfig(episodes=20)).measure(SUBJECT, benchmark(), tools(tmp_path))
    assert found.metrics["accuracy"].value == 1
    assert found.chance["accuracy"] == 0.2
    assert found.sizes == {"num_episodes": 20, "num_classes": 6, "num_pictures": 120}
    assert found.settings["shots"] == 5


def test_random_labels_are_chance_within_the_interval(tmp_path: Path) -> None:
    (found,) = FewShot(FewShotConfig(episodes=300)).measure(SUBJECT, benchmark(known=False), tools(tmp_path))
    accuracy = found.metrics["accuracy"]
    assert accuracy.low < 0.2 + 0.03
    assert accuracy.high > 0.2 - 0.03
    assert 0.002 < accuracy.high - accuracy.low < 0.05


def test_what_is_learned_from_shares_no_group_with_what_is_named(tmp_path: Path) -> None:
    """Every group shows one colour by eight hands, and colours say nothing of classes, so that only whoever meets a
    group twice is above chance."""
    rng = np.random.default_rng(3)
    colours = np.repeat(rng.integers(0, 256, (30, 3)), 8, axis=0).astype(np.uint8)
    images = [as_png(Image.new("RGB", (4, 4), tuple(map(int, colour)))) for colour in colours]
    groups = [f"group {row // 8}" for row in range(240)]
    test = Split(images, np.arange(240) // 8 % 6, groups)
    data = dataclasses.replace(benchmark(), tests={"test": test})
    (found,) = FewShot(FewShotConfig(episodes=200)).measure(SUBJECT, data, tools(tmp_path))
    assert found.metrics["accuracy"].value < 0.21


@pytest.mark.parametrize("sizes", [(5, 1), (1, 4, 3), (1,) * 6, (3,) * 20])
def test_any_draw_has_all_shots_and_a_query(sizes: tuple[int, ...]) -> None:
    group = np.repeat(np.arange(len(sizes)), sizes)
    pictures = Split([b""] * len(group), np.zeros(len(group), dtype=np.int64), [str(one) for one in group])
    shots = int(sum(sizes) - max(sizes))
    for seed in range(20):
        learned, named = _Class.of(pictures, 0).draw(min(shots, 5), 15, np.random.default_rng(seed))
        assert len(learned) == min(shots, 5) and len(named) > 0
        assert not set(group[learned]) & set(group[named])
    assert len(named) == (15 if len(sizes) == 20 else len(named))


def test_too_few_pictures_are_said(tmp_path: Path) -> None:
    with pytest.raises(NotMeasurableError, match="only 0 classes"):
        FewShot(FewShotConfig(shots=50)).measure(SUBJECT, benchmark(), tools(tmp_path))
    with pytest.raises(ValueError, match="ways"):
        FewShotConfig(ways=1)


def test_the_worst_group_is_found(tmp_path: Path) -> None:
    data = benchmark()
    test = data.tests["test"]
    wrong = np.where((test.attributes["style"] == "other") & (test.labels == 0), 1, test.labels)
    data = dataclasses.replace(data, tests={"test": dataclasses.replace(test, labels=wrong)})
    probes = {"linear": ProbeProtocol("linear", ProbeConfig())}
    found = {
        one.test: one for one in Fairness(FairnessConfig(), probes).measure(SUBJECT, data, tools(tmp_path))
    }
    by_style = found["test, by style"]
    assert by_style.metrics["worst group"].value == pytest.approx(50 / 60)
    assert by_style.metrics["gap"].value == pytest.approx(10 / 60)
    assert by_style.metrics["top1"].value == pytest.approx(110 / 120)
    assert by_style.note.startswith("worst: other")
    assert 0 < by_style.chance["gap"] < by_style.metrics["gap"].value
    assert " with p = 0." in by_style.note
    assert by_style.chosen_on == "validation"
    assert found["test, by class"].note.startswith("worst: b")
    assert found["test, by class"].protocol == "fairness: linear"


def test_groups_as_counted_by_hand() -> None:
    part = split(6, 0)
    values = np.array(["x", "x", "y", "y", "z", "z"])
    correct = np.array([True, True, True, False, False, False])
    cells = Cells.of(correct, values, np.array(["x", "y"]), part)
    metrics = cells.metrics(num=20, seed=0)
    assert (metrics["worst group"].value, metrics["gap"].value) == (0.5, 0.5)
    assert metrics["top1"].value == 0.75  # z is left out
    assert cells.worst() == "y (50.0 %)"


def test_a_worst_group_that_is_all_wrong_is_as_sure_as_it_has_clusters() -> None:
    """Clopper and Pearson 1934: of 3 clusters all wrong at most 70.8 % are right, of 9 all right at least 66.4 %."""
    part = Split([b""] * 12, np.zeros(12, int), [str(number) for number in range(12)])
    values = np.array(["x"] * 9 + ["y"] * 3)
    metrics = Cells.of(values == "x", values, np.array(["x", "y"]), part).metrics(num=50, seed=0)
    worst, gap = metrics["worst group"], metrics["gap"]
    assert (worst.low, worst.high) == (0, pytest.approx(0.7076, abs=1e-4))
    assert (gap.low, gap.high) == (pytest.approx(1 - worst.high), 1)
    right = Cells.of(values != "z", values, np.array(["x"]), part).metrics(num=50, seed=0)
    assert (right["top1"].low, right["top1"].high) == (pytest.approx(0.6637, abs=1e-4), 1)


@pytest.mark.parametrize("crossed", [False, True], ids=["a group per cluster", "all groups in every cluster"])
def test_equal_groups_have_the_gap_of_chance(crossed: bool) -> None:
    """Right answers come in clusters: a gap is above zero, and as large as by chance; a real one is larger."""
    rng = np.random.default_rng(0)
    cluster = np.repeat(np.arange(40), 4)
    values = np.array(list("wxyz"))[np.arange(160) % 4 if crossed else cluster % 4]
    part = Split([b""] * 160, np.zeros(160, int), [str(number) for number in cluster])
    kept, gaps, expected = np.unique(values), [], []
    for trial in range(60):
        correct = rng.random(160) < rng.beta(1, 1, 40)[cluster]
        cells = Cells.of(correct, values, kept, part)
        gaps.append(cells.metrics(num=2, seed=trial)["gap"].value)
        expected.append(cells.by_chance(num=20, seed=trial)["gap"].mean())
    assert np.mean(gaps) > 0.1
    assert np.mean(expected) == pytest.approx(np.mean(gaps), rel=0.15)
    uneven = Cells.of(values != "w", values, kept, part)
    assert (uneven.by_chance(num=50, seed=0)["gap"] < uneven.metrics(num=2, seed=0)["gap"].value).all()
