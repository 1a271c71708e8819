"""The protocol `geometry` on features with a known answer."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from stablerep.console import Console
from stablerep.evaluation.arrangement import Arrangement, GeometryConfig
from stablerep.evaluation.benchmarks import Benchmark, Split
from stablerep.evaluation.contract import Subject, Tools
from stablerep.evaluation.pictures import as_png
from stablerep.evaluation.scores import Measurement


class MeanColour:
    """Three features: how red, green and blue a picture is."""

    fingerprint = "mean-colour"

    def __call__(self, images: Tensor, /) -> Tensor:
        return images.mean((2, 3))


def split(*, colour_is: str, style: str, num: int = 120, seed: int = 0) -> Split:
    """Pictures of 30 concepts whose colour shows the concept, or the style alone."""
    rng = np.random.default_rng(0)
    palette = rng.integers(40, 220, (30, 3))
    concept = np.arange(num) % 30
    shown = (
        palette[concept]
        if colour_is == "concept"
        else np.array([[200, 30, 30], [30, 30, 200]])[int(style == "b")]
    )
    noise = np.random.default_rng(seed).normal(0, 3, (num, 3))
    images = [
        as_png(Image.new("RGB", (4, 4), tuple(map(int, row)))) for row in np.clip(shown + noise, 0, 255)
    ]
    attributes = {"style": np.full(num, style)}
    return Split(images, concept % 6, [f"group {one}" for one in concept], attributes=attributes)


def measured(folder: Path, tests: dict[str, Split], config: GeometryConfig | None = None) -> Measurement:
    first = next(iter(tests.values()))
    data = Benchmark("colours", tuple("abcdef"), first, first, tests)
    tools = Tools(
        cache=folder, batch_size=64, precision="float32", device="cpu", seed=0, num_bootstrap=100,
        console=Console(quiet=True),
    )  # fmt: skip
    (found,) = Arrangement(config or GeometryConfig()).measure(
        Subject("colour", "run", MeanColour()), data, tools
    )
    return found


def test_an_encoder_that_sees_concepts_puts_styles_together(tmp_path: Path) -> None:
    tests = {name: split(colour_is="concept", style=name, seed=seed) for seed, name in enumerate("ab")}
    found = measured(tmp_path, tests)
    assert found.test == "all tests"
    assert found.metrics["same concept"].value > 0.8
    assert found.metrics["concept variance"].value > 0.95
    assert found.metrics["style variance"].value < 0.05
    assert found.metrics["same style"].value == pytest.approx(0.5, abs=0.15)
    over = found.metrics["concept over style"]
    assert 20 < over.low < over.value < over.high
    shares = [one for name, one in found.metrics.items() if name not in found.numbers]
    assert all(0 <= one.low <= one.value <= one.high <= 1 for one in shares), "shares end where shares end"
    assert "concept over style" in found.numbers


def test_an_encoder_that_sees_hands_puts_concepts_apart(tmp_path: Path) -> None:
    tests = {name: split(colour_is="style", style=name, seed=seed) for seed, name in enumerate("ab")}
    found = measured(tmp_path, tests)
    assert found.metrics["same style"].value == 1
    assert found.metrics["style variance"].value > 0.95
    assert found.metrics["same concept"].value < 0.2


def test_one_style_alone_says_nothing_of_styles(tmp_path: Path) -> None:
    found = measured(tmp_path, {"test": split(colour_is="concept", style="a")})
    assert found.test == "test"
    assert not {"same style", "style variance", "concept over style"} & set(found.metrics)
    assert {"effective rank", "alignment", "uniformity"} == set(found.numbers)


@pytest.mark.slow
def test_intervals_hold_the_value_and_narrow_with_more_pictures(tmp_path: Path) -> None:
    widths = []
    for num in (90, 1800):
        interval = measured(tmp_path, {"test": split(colour_is="concept", style="a", num=num)}).metrics[
            "uniformity"
        ]
        assert interval.low < interval.value < interval.high
        widths.append(interval.high - interval.low)
    few = measured(
        tmp_path, {"test": split(colour_is="concept", style="a", num=1800)}, GeometryConfig(most=240, folds=4)
    )
    assert few.sizes == {"num_pictures": 240, "num_groups": 4}
    assert widths[1] < widths[0] * 1.5  # groups, not pictures, decide the width


def test_plain_numbers_are_not_shown_in_percent(tmp_path: Path) -> None:
    found = measured(tmp_path, {"test": split(colour_is="concept", style="a")})
    assert 1 <= found.metrics["effective rank"].value <= 3
    assert not found.said("effective rank").startswith("100")
    assert found.said("same concept").startswith(f"{100 * found.metrics['same concept'].value:.1f}")
