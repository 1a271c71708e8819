"""Geometry of features on clouds whose answer is known."""

import dataclasses
import itertools

import numpy as np
import pytest

from stablerep.evaluation.geometry import effective_rank, measure_geometry, with_parts

GENERATOR = np.random.default_rng(0)
NUM_CONCEPTS, STYLES, D = 40, ("ink", "oil", "clay"), 16
CONCEPTS = np.repeat([f"concept {number}" for number in range(NUM_CONCEPTS)], len(STYLES))
HANDS = np.tile(np.array(STYLES), NUM_CONCEPTS)


def cloud(concept: float, style: float, noise: float) -> np.ndarray:
    of_concept = np.repeat(GENERATOR.normal(size=(NUM_CONCEPTS, D)), len(STYLES), axis=0)
    of_style = np.tile(GENERATOR.normal(size=(len(STYLES), D)), (NUM_CONCEPTS, 1))
    return concept * of_concept + style * of_style + noise * GENERATOR.normal(size=of_concept.shape)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_the_rank_counts_equal_directions(rank: int) -> None:
    axes = np.eye(rank, D)
    features = np.concatenate([axes, -axes]) * 7
    assert effective_rank(features + 5) == pytest.approx(rank)


def test_the_rank_of_nothing_is_one() -> None:
    assert effective_rank(np.ones((5, 4))) == 1.0


def test_alignment_and_uniformity_are_as_defined() -> None:
    features = GENERATOR.normal(size=(30, 5))
    concepts = np.array([f"{number % 7}" for number in range(30)])
    found = measure_geometry(features, concepts, np.full(30, ""))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    squared = {
        (a, b): float(((unit[a] - unit[b]) ** 2).sum()) for a, b in itertools.permutations(range(30), 2)
    }
    per_concept = []
    for concept in np.unique(concepts):
        members = np.flatnonzero(concepts == concept)
        per_concept.append(np.mean([squared[pair] for pair in itertools.permutations(members, 2)]))
    assert found.alignment == pytest.approx(np.mean(per_concept))
    assert found.uniformity == pytest.approx(np.log(np.mean([np.exp(-2 * d) for d in squared.values()])))
    assert found.style_variance is None
    assert found.same_style is None


def test_a_space_of_concepts_and_a_space_of_hands_are_told_apart() -> None:
    of_concepts = measure_geometry(cloud(1, 0, 0.1), CONCEPTS, HANDS)
    of_hands = measure_geometry(cloud(0, 1, 0.1), CONCEPTS, HANDS)
    assert of_concepts.concept_variance > 0.95 > 0.05 > of_concepts.style_variance  # type: ignore[operator]
    assert of_hands.style_variance > 0.95 > 0.05 > of_hands.concept_variance  # type: ignore[operator]
    assert of_concepts.same_concept == 1.0
    assert of_concepts.same_style == 0.0  # a concept's other pictures are of other hands
    assert of_hands.same_style == 1.0
    assert of_hands.same_concept == 0.0


def test_noise_alone_explains_nothing() -> None:
    shares = [measure_geometry(cloud(0, 0, 1), CONCEPTS, HANDS).concept_variance for _ in range(20)]
    assert np.mean(shares) < 0.05, "small kinds must not look as if they explained variance"


def test_what_has_no_pair_is_not_made_up() -> None:
    found = measure_geometry(
        GENERATOR.normal(size=(3, 4)), np.array(["a", "b", "c"]), np.array(["x", "", "x"])
    )
    assert (found.alignment, found.concept_variance, found.same_concept, found.same_style) == (None,) * 4
    with pytest.raises(ValueError, match="at least two pictures"):
        measure_geometry(np.ones((1, 4)), np.array(["a"]), np.array([""]))


def test_concepts_over_styles_is_reckoned_by_hand() -> None:
    """Two concepts in two styles, a quarter of a circle apart; 1 within a concept, and 1 less a half between them."""
    corners = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]]) * np.array([[1], [2], [3], [4]])
    concepts, styles = np.array(["a", "a", "b", "b"]), np.array(["ink", "oil", "ink", "oil"])
    assert measure_geometry(corners, concepts, styles).concept_over_style == pytest.approx(0.5)
    # Not counted: another picture in the same style, a concept in one style, and what is drawn in an unknown one.
    more = np.concatenate([corners, [[1, 0], [0.6, 0.8], [0.8, 0.6]]])
    found = measure_geometry(
        more, np.append(concepts, ["a", "c", "b"]), np.append(styles, ["ink", "ink", ""])
    )
    assert found.concept_over_style == pytest.approx(0.5)


def test_without_two_styles_nothing_is_said_of_concepts_over_styles() -> None:
    features = cloud(1, 0, 0.1)
    assert measure_geometry(features, CONCEPTS, np.full(len(CONCEPTS), "ink")).concept_over_style is None
    assert measure_geometry(features, CONCEPTS, np.full(len(CONCEPTS), "")).concept_over_style is None
    one = np.where(CONCEPTS == "concept 0", HANDS, "ink")
    assert measure_geometry(features, CONCEPTS, one).concept_over_style is None, (
        "no variance between one concept"
    )


def test_concepts_over_styles_tells_the_spaces_apart() -> None:
    apart = [
        measure_geometry(cloud(*kind, 0.1), CONCEPTS, HANDS).concept_over_style for kind in [(1, 0), (0, 1)]
    ]
    assert apart[0] > 20 > 0.1 > apart[1]  # type: ignore[operator]
    chance = [measure_geometry(cloud(0, 0, 1), CONCEPTS, HANDS).concept_over_style for _ in range(20)]
    assert np.mean(chance) < 0.05, "means of three pictures differ by chance"  # type: ignore[arg-type]


def test_leaving_out_a_fold_is_measuring_the_others() -> None:
    features, styles = cloud(1, 0.5, 0.5), np.where(np.arange(len(HANDS)) % 7, HANDS, "")
    folds = np.unique(CONCEPTS, return_inverse=True)[1] % 6
    whole, parts = with_parts(features, CONCEPTS, styles, folds)
    for left_out, part in zip([-1, *range(6)], [whole, *parts], strict=True):
        others = folds != left_out
        expected = measure_geometry(features[others], CONCEPTS[others], styles[others])
        assert dataclasses.asdict(part) == pytest.approx(dataclasses.asdict(expected), rel=1e-5)
    with pytest.raises(ValueError, match="every concept must lie in one fold"):
        with_parts(features, CONCEPTS, styles, np.arange(len(folds)) % 6)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    features = cloud(1, 0.5, 0.5)
    whole = measure_geometry(features, CONCEPTS, HANDS)
    monkeypatch.setattr("stablerep.evaluation.geometry._BLOCK", 7)
    parts = measure_geometry(features, CONCEPTS, HANDS)
    assert parts.same_concept == whole.same_concept
    assert parts.uniformity == pytest.approx(whole.uniformity)
