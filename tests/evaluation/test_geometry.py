"""Geometry of features on clouds whose answer is known."""

import itertools

import numpy as np
import pytest

from stablerep.evaluation.geometry import effective_rank, measure_geometry

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


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    features = cloud(1, 0.5, 0.5)
    whole = measure_geometry(features, CONCEPTS, HANDS)
    monkeypatch.setattr("stablerep.evaluation.geometry._BLOCK", 7)
    parts = measure_geometry(features, CONCEPTS, HANDS)
    assert parts.same_concept == whole.same_concept
    assert parts.uniformity == pytest.approx(whole.uniformity)
