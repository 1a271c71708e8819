"""Drawing images of a caption: without replacement, in the ratio asked for, and falling back to what there is."""

import itertools

import numpy as np
import pytest

from stablerep.learning.mixing import draw_images

NUM_DRAWS = 2000


def draw(num_images: tuple[int, ...], num_wanted: int, mix: tuple[float, ...] | None, seed: int) -> list[int]:
    """Positions drawn from sources that hold so many images each, the sources interleaved."""
    sources = np.repeat(np.arange(len(num_images)), num_images)
    sources = np.random.default_rng(0).permutation(sources)
    chosen = draw_images(sources, num_wanted, mix, np.random.default_rng(seed))
    assert len(set(chosen)) == len(chosen) == min(num_wanted, len(sources))
    return [int(sources[position]) for position in chosen]


def share(drawn: list[int], source: int) -> float:
    return drawn.count(source) / len(drawn)


def test_without_a_mix_the_first_of_a_permutation_are_drawn() -> None:
    expected = np.random.default_rng(7).permutation(9)[:4].tolist()
    assert draw_images(np.zeros(9, dtype=np.int64), 4, None, np.random.default_rng(7)) == expected


@pytest.mark.parametrize(
    ("mix", "expected"), [(None, 0.25), ((1.0, 1.0), 0.5), ((1.0, 9.0), 0.1), ((3.0, 1.0), 0.75)]
)
def test_sources_come_in_the_ratio_of_the_mix_and_not_of_their_sizes(
    mix: tuple[float, ...] | None, expected: float
) -> None:
    drawn = [source for seed in range(NUM_DRAWS) for source in draw((6, 18), 4, mix, seed)]
    assert abs(share(drawn, 0) - expected) < 4 * np.sqrt(expected * (1 - expected) / len(drawn))


def test_any_number_of_sources_can_be_mixed() -> None:
    drawn = [source for seed in range(NUM_DRAWS) for source in draw((3, 5, 9), 3, (2.0, 5.0, 3.0), seed)]
    for source, expected in enumerate((0.2, 0.5, 0.3)):
        assert abs(share(drawn, source) - expected) < 4 * np.sqrt(expected * (1 - expected) / len(drawn))


def test_every_image_of_a_source_is_equally_likely() -> None:
    sources = np.array([0, 1, 1, 1, 0, 1])
    drawn = [draw_images(sources, 1, (1.0, 1.0), np.random.default_rng(seed))[0] for seed in range(NUM_DRAWS)]
    for position, source in enumerate(sources):
        expected = 0.5 / (sources == source).sum()
        assert abs(share(drawn, position) - expected) < 4 * np.sqrt(expected * (1 - expected) / NUM_DRAWS)


@pytest.mark.parametrize("seed", range(20))
def test_what_a_source_lacks_the_others_give(seed: int) -> None:
    assert sorted(draw((1, 7), 6, (9.0, 1.0), seed)).count(0) <= 1
    assert sorted(draw((0, 7), 6, (9.0, 1.0), seed)) == [1] * 6
    assert sorted(draw((2, 2), 6, (9.0, 1.0), seed)) == [0, 0, 1, 1]
    assert len(draw((1, 1, 1), 2, (1.0, 1.0, 1e-9), seed)) == 2


def test_a_draw_is_a_function_of_its_generator() -> None:
    draws = [draw((6, 18), 4, (1.0, 1.0), seed) for seed in range(50)]
    assert draws == [draw((6, 18), 4, (1.0, 1.0), seed) for seed in range(50)]
    assert any(one != other for one, other in itertools.pairwise(draws))
