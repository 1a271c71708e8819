"""What lies near what in the space of features: concepts, or the hands that drew them.

Shapes: M pictures, D features.
"""

from dataclasses import dataclass

import numpy as np

_BLOCK = 1024


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How features of labelled pictures lie; shares in [0, 1]."""

    effective_rank: float
    """Exponential of the entropy of the singular values of the centred features (Roy and Vetterli 2007): of how many
    directions use is made, between 1 and D."""
    alignment: float | None
    """Mean squared distance of two unit vectors of one concept (Wang and Isola 2020, equation 1); smaller is closer."""
    uniformity: float
    """Logarithm of the mean of exp(-2 d^2) over pairs of unit vectors (their equation 2); smaller is more even."""
    concept_variance: float | None
    """Variance between concepts over all variance of unit vectors: 1 where the pictures of a concept coincide."""
    style_variance: float | None
    """Variance between styles over all variance of unit vectors: what the hand decides."""
    same_concept: float | None
    """Share of pictures whose nearest neighbour shows the same concept, of those whose concept has another picture."""
    same_style: float | None
    """Share of the same pictures whose nearest neighbour is of the same style, of those whose style is known."""
    num_pictures: int


def measure_geometry(features: np.ndarray, concepts: np.ndarray, styles: np.ndarray) -> Geometry:
    """The geometry of features (M, D) of pictures of these concepts and styles (M,); an empty style is an unknown one.

    What needs two pictures of one concept is None where no concept has two. Raises ``ValueError`` for fewer than two
    pictures, and for lengths that differ.
    """
    if len(features) < 2 or not len(features) == len(concepts) == len(styles):
        raise ValueError(
            f"at least two pictures, with a concept and a style each; got {len(features)} features, "
            f"{len(concepts)} concepts, {len(styles)} styles"
        )
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    unit = (features / np.maximum(norms, 1e-12)).astype(np.float64)
    _, concept = np.unique(concepts, return_inverse=True)
    has_pair = np.bincount(concept)[concept] > 1
    neighbours = _nearest(unit)
    known = has_pair & (styles != "")
    return Geometry(
        effective_rank=effective_rank(features),
        alignment=_alignment(unit, concept) if has_pair.any() else None,
        uniformity=_uniformity(unit),
        concept_variance=_between(unit[has_pair], concept[has_pair]) if has_pair.any() else None,
        style_variance=_between(unit[styles != ""], styles[styles != ""]) if (styles != "").any() else None,
        same_concept=_share(concept[neighbours] == concept, has_pair),
        same_style=_share(styles[neighbours] == styles, known),
        num_pictures=len(features),
    )


def effective_rank(features: np.ndarray) -> float:
    """Exponential of the entropy of the singular values, made to sum to one, of the centred features (M, D)."""
    values = np.linalg.svd(features - features.mean(axis=0, dtype=np.float64), compute_uv=False)
    shares = values[values > values.max(initial=0.0) * 1e-12]
    if not len(shares):
        return 1.0
    shares = shares / shares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _alignment(unit: np.ndarray, concept: np.ndarray) -> float:
    """Mean over concepts, so that a concept of many pictures counts once."""
    counts = np.bincount(concept)
    sums = np.zeros((len(counts), unit.shape[1]))
    np.add.at(sums, concept, unit)
    # Of unit vectors the ordered pairs' squared distances sum to 2 n^2 - 2 |sum|^2.
    pairs = 2 * counts**2 - 2 * (sums**2).sum(axis=1)
    several = counts > 1
    return float((pairs[several] / (counts[several] * (counts[several] - 1))).mean())


def _uniformity(unit: np.ndarray) -> float:
    total, num = 0.0, len(unit)
    for start in range(0, num, _BLOCK):
        squared = 2 - 2 * (unit[start : start + _BLOCK] @ unit.T)
        total += float(np.exp(-2 * squared).sum())
    return float(np.log((total - num) / (num * (num - 1))))  # without each vector's pair with itself


def _between(unit: np.ndarray, kinds: np.ndarray) -> float:
    """Share of the variance that the mean of its kind explains; an estimate without the chance part of small kinds.

    That is omega squared of a one-way analysis of variance (Hays 1963), which is 0 in the mean where kinds say nothing.
    """
    _, kind, counts = np.unique(kinds, return_inverse=True, return_counts=True)
    means = np.zeros((len(counts), unit.shape[1]))
    np.add.at(means, kind, unit)
    means /= counts[:, None]
    total = ((unit - unit.mean(axis=0)) ** 2).sum()
    within = ((unit - means[kind]) ** 2).sum()
    freedom = len(unit) - len(counts)
    if total <= 0 or freedom <= 0:
        return 0.0
    noise = within / freedom
    between = total - within - (len(counts) - 1) * noise
    return float(np.clip(between / (total + noise), 0.0, 1.0))


def _nearest(unit: np.ndarray) -> np.ndarray:
    """Index of the nearest other picture, by cosine."""
    nearest = np.empty(len(unit), dtype=np.int64)
    for start in range(0, len(unit), _BLOCK):
        scores = unit[start : start + _BLOCK] @ unit.T
        rows = np.arange(len(scores))
        scores[rows, start + rows] = -np.inf
        nearest[start : start + _BLOCK] = scores.argmax(axis=1)
    return nearest


def _share(holds: np.ndarray, of: np.ndarray) -> float | None:
    return float(holds[of].mean()) if of.any() else None
