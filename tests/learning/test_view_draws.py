"""What is drawn for a view: rates, ranges and crops as torchvision draws them."""

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.transforms import RandomResizedCrop

from stablerep.learning.views import ViewConfig, ViewParameters, draw_parameters

SIZE = 48
NUM_DRAWN = 4000


@pytest.fixture(scope="module")
def drawn() -> ViewParameters:
    config = ViewConfig(image_size=SIZE, downsample_probability=0.05)
    return draw_parameters(range(NUM_DRAWN), np.array([[200, 300]] * NUM_DRAWN), config)


def happened(drawn: ViewParameters) -> dict[str, NDArray[np.bool_]]:
    return {
        "jitter": (drawn.order >= 0).all(axis=1),
        "grayscale": drawn.gray,
        "blur": drawn.sigma > 0,
        "flip": drawn.flip,
        "downsample": drawn.coarse > 0,
    }


PUBLISHED = {"jitter": 0.8, "grayscale": 0.2, "blur": 0.5, "flip": 0.5, "downsample": 0.0}
OTHERS = {"jitter": 0.3, "grayscale": 0.4, "blur": 0.1, "flip": 0.9, "downsample": 0.05}


@pytest.mark.parametrize(("given", "expected"), [({}, PUBLISHED), (OTHERS, OTHERS)])
def test_rates_equal_their_probabilities(given: dict[str, float], expected: dict[str, float]) -> None:
    probabilities = {f"{name}_probability": value for name, value in given.items()}
    config = dataclasses.replace(ViewConfig(image_size=SIZE), **probabilities)
    drawn = draw_parameters(range(NUM_DRAWN), np.array([[50, 60]] * NUM_DRAWN), config)
    for name, events in happened(drawn).items():
        bound = 4 * np.sqrt(expected[name] * (1 - expected[name]) / NUM_DRAWN)
        assert abs(events.mean() - expected[name]) <= bound, name


def test_decisions_are_independent(drawn: ViewParameters) -> None:
    correlations = np.corrcoef(np.stack(list(happened(drawn).values()))) - np.eye(5)
    assert np.abs(correlations).max() < 4 / np.sqrt(NUM_DRAWN)


def test_strengths_fill_their_ranges(drawn: ViewParameters) -> None:
    ranges = [(0.6, 1.4)] * 3 + [(-0.1, 0.1)]
    for values, (low, high) in zip(drawn.factors.T, ranges, strict=True):
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high >= values.max() > high - 0.01 * (high - low)
        assert abs(values.mean() - (low + high) / 2) < 4 * (high - low) / np.sqrt(12 * NUM_DRAWN)
    sigma = drawn.sigma[drawn.sigma > 0]
    assert sigma.min() >= 0.1 and sigma.max() <= 2.0
    assert abs(sigma.mean() - 1.05) < 4 * 1.9 / np.sqrt(12 * len(sigma))


def test_every_order_of_the_jitter_is_equally_likely(drawn: ViewParameters) -> None:
    orders = drawn.order[drawn.order[:, 0] >= 0]
    different, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(different) == 24
    expected = len(orders) / 24
    assert ((counts - expected) ** 2 / expected).sum() < 53  # chi-square with 23 degrees, p = 0.0004


def test_crops_are_distributed_as_torchvisions(drawn: ViewParameters) -> None:
    """Means of area, ratio and centre over many crops of a 200 x 300 image."""
    ours = drawn.box[drawn.coarse == 0].astype(float)
    torch.manual_seed(0)
    image = torch.empty(3, 200, 300)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(len(ours))],
        dtype=float,
    )
    for statistic in (
        lambda box: box[:, 2] * box[:, 3],
        lambda box: np.log(box[:, 3] / box[:, 2]),
        lambda box: box[:, 0] + box[:, 2] / 2,
        lambda box: box[:, 1] + box[:, 3] / 2,
        lambda box: (box[:, 1] + box[:, 3] / 2) ** 2,
    ):
        a, b = statistic(ours), statistic(theirs)
        assert abs(a.mean() - b.mean()) < 4 * np.sqrt((a.var() + b.var()) / len(a))


def test_rows_and_columns_of_the_corner_are_independent(drawn: ViewParameters) -> None:
    top, left, height, width = drawn.box[drawn.coarse == 0].T
    down, right = top / np.maximum(200 - height, 1), left / np.maximum(300 - width, 1)
    assert abs(np.corrcoef(down, right)[0, 1]) < 4 / np.sqrt(len(top))


@pytest.mark.parametrize(
    ("size", "expected"),
    [((10, 300), [0, 143, 10, 13]), ((300, 10), [143, 0, 13, 10]), ((1, 1), [0, 0, 1, 1])],
)
def test_a_very_long_image_gives_its_central_crop(size: tuple[int, int], expected: list[int]) -> None:
    config = ViewConfig(image_size=SIZE, crop_scale=(1.0, 1.0))
    boxes = draw_parameters(range(20), np.array([size] * 20), config).box
    assert (boxes == expected).all()


def test_crops_stay_inside(drawn: ViewParameters) -> None:
    top, left, height, width = drawn.box[drawn.coarse == 0].T
    assert min(top.min(), left.min()) == 0 and min(height.min(), width.min()) > 0
    assert (top + height).max() == 200 and (left + width).max() == 300
