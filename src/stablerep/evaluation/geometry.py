"""What lies near what in the space of features: concepts, or the hands that drew them.

Shapes: M pictures, D features, F folds, K kinds (concepts, or styles).
"""

from dataclasses import dataclass

import numpy as np

_BLOCK = 1024
_SMALLEST = 1e-6
"""Share of the largest singular value below which others are rounding."""
_TINY = 1e-12


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
    concept_over_style: float | None = None
    """Variance of unit vectors between concepts over that between the styles of one concept, of concepts in at least
    two styles: how many times further apart things are drawn than hands draw them."""
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

    What needs two pictures of one concept is None where no concept has two, and what needs two styles of one concept
    where fewer than two concepts have them. Raises ``ValueError`` for fewer than two pictures, and for lengths that
    differ.
    """
    return _Cloud(features, concepts, styles, np.zeros(len(features), dtype=np.int64)).without(None)


def with_parts(
    features: np.ndarray, concepts: np.ndarray, styles: np.ndarray, folds: np.ndarray
) -> tuple[Geometry, list[Geometry]]:
    """The geometry of all pictures, and that without one fold after the other; folds (M,) are numbered from 0.

    All pairs of pictures are looked at once, so that F folds cost little more than one. Raises ``ValueError`` also
    where a concept lies in two folds.
    """
    cloud = _Cloud(features, concepts, styles, folds)
    return cloud.without(None), [cloud.without(fold) for fold in range(cloud.num_folds)]


def effective_rank(features: np.ndarray) -> float:
    """Exponential of the entropy of the singular values, made to sum to one, of the centred features (M, D)."""
    centred = features - features.mean(axis=0, dtype=np.float64)
    return _rank(centred.T @ centred)


@dataclass(frozen=True)
class _Kinds:
    """Vectors by kind: how many (K,), their mean (K, D), and the sum of their squared distances to it (K,)."""

    counts: np.ndarray
    means: np.ndarray
    within: np.ndarray

    @classmethod
    def of(cls, vectors: np.ndarray, kind: np.ndarray) -> "_Kinds":
        """Of vectors (M, D) with the number of the kind of each (M,); every number up to the largest is there."""
        counts = np.bincount(kind)
        begins = np.cumsum(counts) - counts
        sums = np.add.reduceat(vectors[np.argsort(kind, kind="stable")], begins, axis=0)
        means = sums / counts[:, None]
        return cls(counts, means, np.bincount(kind, ((vectors - means[kind]) ** 2).sum(axis=1)))

    def some(self, kinds: np.ndarray) -> "_Kinds":
        """Those of a mask or of some numbers."""
        return _Kinds(self.counts[kinds], self.means[kinds], self.within[kinds])

    def merged(self, into: np.ndarray) -> "_Kinds":
        """Kinds that become one where their numbers (K,) are equal."""
        _, into = np.unique(into, return_inverse=True)
        counts = np.bincount(into, self.counts)
        means = np.zeros((len(counts), self.means.shape[1]))
        np.add.at(means, into, self.counts[:, None] * self.means)
        means /= counts[:, None]
        moved = self.counts * ((self.means - means[into]) ** 2).sum(axis=1)
        return _Kinds(counts, means, np.bincount(into, self.within + moved))

    def share_between(self) -> float | None:
        """Share of the variance that the means explain; an estimate without the chance part of small kinds.

        That is omega squared of a one-way analysis of variance (Hays 1963), which is 0 in the mean where kinds say
        nothing.
        """
        if not len(self.counts):
            return None
        num, within = self.counts.sum(), self.within.sum()
        between = (self.counts * ((self.means - self.counts @ self.means / num) ** 2).sum(axis=1)).sum()
        freedom = num - len(self.counts)
        if between + within <= 0 or freedom <= 0:
            return 0.0
        noise = within / freedom
        explained = between - (len(self.counts) - 1) * noise
        return float(np.clip(explained / (between + within + noise), 0.0, 1.0))

    def ratio(self) -> float | None:
        """Variance between the kinds over that within them, both unbiased; None where one of them cannot be said."""
        if len(self.counts) < 2:
            return None
        within = self.within / (self.counts - 1)
        # Means of few vectors differ by chance too, by this part of the variance within.
        between = ((self.means - self.means.mean(axis=0)) ** 2).sum() / (len(self.counts) - 1)
        between -= (within / self.counts).mean()
        return float(max(between, 0.0) / within.mean()) if within.mean() > _TINY else None

    def alignment(self) -> float | None:
        """Mean squared distance of two vectors of one kind, a mean over kinds; None where there are none."""
        # Over ordered pairs of n vectors the squared distances sum to 2 n times those to the mean.
        return float((2 * self.within / (self.counts - 1)).mean()) if len(self.counts) else None


class _Cloud:
    """Features with all that takes long to find of them, fold by fold, so that any fold can be left out."""

    def __init__(
        self, features: np.ndarray, concepts: np.ndarray, styles: np.ndarray, folds: np.ndarray
    ) -> None:
        if len(features) < 2 or not len(features) == len(concepts) == len(styles) == len(folds):
            raise ValueError(
                f"at least two pictures, with a concept and a style each; got {len(features)} features, "
                f"{len(concepts)} concepts, {len(styles)} styles"
            )
        self.folds, self.num_folds = folds, int(folds.max()) + 1
        self.centred = features - features.mean(axis=0, dtype=np.float64)
        self.scatter = self.centred.T @ self.centred
        norms = np.linalg.norm(features, axis=1, keepdims=True)
        unit = (features / np.maximum(norms, 1e-12)).astype(np.float64)
        names, self.concept = np.unique(concepts, return_inverse=True)
        _, self.style = np.unique(styles, return_inverse=True)
        self.known = styles != ""
        self.fold_of = np.zeros(len(names), dtype=np.int64)
        self.fold_of[self.concept] = folds
        if (self.fold_of[self.concept] != folds).any():
            raise ValueError("every concept must lie in one fold")
        self.concepts = _Kinds.of(unit, self.concept)
        self._look_at_styles(unit[self.known])
        self.similarity, self.nearest, self.closeness = _pairs(unit, folds, self.num_folds)

    def without(self, fold: int | None) -> Geometry:
        """The geometry of all pictures but those of a fold."""
        left_out = -1 if fold is None else fold
        rows = np.flatnonzero(self.folds != left_out)
        concept, style, known = self.concept[rows], self.style[rows], self.known[rows]
        several = self.concepts.some((self.concepts.counts > 1) & (self.fold_of != left_out))
        has_pair = self.concepts.counts[concept] > 1
        neighbours, hands = self._neighbours(rows, left_out), self.hand_fold != left_out
        return Geometry(
            effective_rank=self._rank(rows, left_out),
            alignment=several.alignment(),
            uniformity=self._uniformity(len(rows), left_out),
            concept_over_style=self.drawn.some(self.drawn_fold != left_out).ratio(),
            concept_variance=several.share_between(),
            style_variance=self.hands.some(hands).merged(self.hand_style[hands]).share_between(),
            same_concept=_share(self.concept[neighbours] == concept, has_pair),
            same_style=_share(self.style[neighbours] == style, has_pair & known),
            num_pictures=len(rows),
        )

    def _look_at_styles(self, unit: np.ndarray) -> None:
        """Of vectors (M, D) of known styles: the styles of each concept that has two, and those of each fold.

        In its concept a style counts once, however many pictures it has there.
        """
        concept, style, folds = (values[self.known] for values in (self.concept, self.style, self.folds))
        num_styles = int(self.style.max()) + 1
        pairs, pair = np.unique(concept * num_styles + style, return_inverse=True)
        shown = pairs // num_styles
        several = np.bincount(shown)[shown] > 1
        concepts, kind = np.unique(shown[several], return_inverse=True)
        self.drawn, self.drawn_fold = (
            _Kinds.of(_Kinds.of(unit, pair).means[several], kind),
            self.fold_of[concepts],
        )
        hands, hand = np.unique(folds * num_styles + style, return_inverse=True)
        self.hands, self.hand_fold, self.hand_style = (
            _Kinds.of(unit, hand),
            hands // num_styles,
            hands % num_styles,
        )

    def _neighbours(self, rows: np.ndarray, left_out: int) -> np.ndarray:
        """The nearest other picture of each row."""
        similarity = self.similarity[rows]
        if left_out >= 0:
            similarity[:, left_out] = -np.inf
        nearest: np.ndarray = self.nearest[rows, similarity.argmax(axis=1)]
        return nearest

    def _rank(self, rows: np.ndarray, left_out: int) -> float:
        apart = self.centred[self.folds == left_out]
        mean = self.centred[rows].mean(axis=0)
        return _rank(self.scatter - apart.T @ apart - len(rows) * np.outer(mean, mean))

    def _uniformity(self, num: int, left_out: int) -> float:
        kept = np.arange(self.num_folds) != left_out
        return float(np.log(self.closeness[np.ix_(kept, kept)].sum() / (num * (num - 1))))


def _rank(scatter: np.ndarray) -> float:
    """The effective rank from the scatter matrix (D, D), whose eigenvalues are squares of the singular values."""
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(scatter), 0.0))
    shares = values[values > values.max() * _SMALLEST]
    if not len(shares):
        return 1.0
    shares = shares / shares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _pairs(unit: np.ndarray, folds: np.ndarray, num_folds: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What all pairs of unit vectors (M, D) say, those of a vector with itself left out.

    For each vector the cosine of the nearest one in each fold and its place (M, F), and for each two folds the sum of
    exp(-2 d^2) over pairs between them (F, F).
    """
    order = np.argsort(folds, kind="stable")
    counts = np.bincount(folds, minlength=num_folds)
    begins = np.cumsum(counts) - counts
    place = np.argsort(order)
    vectors = unit.astype(np.float32)
    by_fold = np.ascontiguousarray(vectors[order].T)
    similarity = np.full((len(unit), num_folds), -np.inf)
    nearest = np.zeros((len(unit), num_folds), dtype=np.int64)
    closeness = np.zeros((num_folds, num_folds))
    for start in range(0, len(unit), _BLOCK):
        cosines = vectors[start : start + _BLOCK] @ by_fold
        rows = np.arange(len(cosines))
        cosines[rows, place[start + rows]] = -np.inf
        for fold in np.flatnonzero(counts):
            begin, end = begins[fold], begins[fold] + counts[fold]
            best = begin + cosines[:, begin:end].argmax(axis=1)
            similarity[start + rows, fold], nearest[start + rows, fold] = cosines[rows, best], order[best]
            close = np.exp(4 * cosines[:, begin:end] - 4).sum(axis=1, dtype=np.float64)
            closeness[:, fold] += np.bincount(folds[start + rows], close, minlength=num_folds)
    return similarity, nearest, closeness


def _share(holds: np.ndarray, of: np.ndarray) -> float | None:
    return float(holds[of].mean()) if of.any() else None
