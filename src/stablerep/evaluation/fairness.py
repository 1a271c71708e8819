"""How unevenly an encoder serves groups of pictures: the worst group, and its distance to the best.

Shapes: M pictures, C clusters of them, G groups.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from stablerep import runtime
from stablerep.evaluation.benchmarks import BENCHMARKS, Benchmark, Split
from stablerep.evaluation.contract import Classified, NotMeasurableError, Subject, Tools, described
from stablerep.evaluation.intervals import Interval
from stablerep.evaluation.scores import Measurement


@dataclass(frozen=True, kw_only=True)
class FairnessConfig:
    """Settings of the protocol `fairness`."""

    fewest: int = 5
    """Groups with fewer test pictures are left out: they would be the worst by chance."""

    def __post_init__(self) -> None:
        if self.fewest < 1:
            raise ValueError(f"fewest must be positive, got {self.fewest}")


@dataclass(frozen=True)
class Fairness:
    """Top-1 of a linear probe (and of zero-shot where there is a text tower) group by group, and class by class."""

    config: FairnessConfig
    classifiers: Mapping[str, Any]
    """The protocols that name classes, by name."""

    benchmarks = BENCHMARKS
    trains_baselines = True

    @property
    def settings(self) -> Mapping[str, Any]:
        """Which groups count, and how each classifier was trained."""
        probes = {name: dict(probe.settings) for name, probe in self.classifiers.items()}
        return {"fewest": self.config.fewest, **probes}

    def measure(self, subject: Subject, data: Benchmark, tools: Tools) -> list[Measurement]:
        """Worst group and gap for every attribute of the pictures, and for the classes themselves."""
        if data.several:
            raise NotMeasurableError(
                f"{data.name}: pictures have several classes, a group's accuracy needs one"
            )
        found: list[Measurement] = []
        for name, classifier in self.classifiers.items():
            if subject.kind == "baseline" and not classifier.trains_baselines:
                continue
            try:
                classified = classifier.measure(subject, data, tools)
            except NotMeasurableError:
                continue  # without a text tower only the probe is measured
            for test in data.tests:
                found += self._of_test(subject, data, (name, test), classified, tools)
        return found

    def _of_test(
        self, subject: Subject, data: Benchmark, where: tuple[str, str], classified: Classified, tools: Tools
    ) -> list[Measurement]:
        classifier, test = where
        split = data.tests[test]
        correct = classified.predicted[test] == split.labels
        groups = {**split.attributes, "class": np.array(data.classes)[split.labels]}
        found = []
        for attribute, values in groups.items():
            names, counts = np.unique(values, return_counts=True)
            kept = names[counts >= self.config.fewest]
            if len(kept) < 2:
                continue
            cells = Cells.of(correct, values, kept, split)
            seed = runtime.seed_for(tools.seed, "fairness", data.name, test, attribute)
            metrics = cells.metrics(num=tools.num_bootstrap, seed=seed)
            even = cells.by_chance(num=tools.num_bootstrap, seed=seed)
            p_value = (1 + (even["gap"] >= metrics["gap"].value - 1e-9).sum()) / (1 + tools.num_bootstrap)
            found.append(
                Measurement(
                    **described(subject, data.name, f"{test}, by {attribute}", f"fairness: {classifier}"),
                    metrics=metrics,
                    chance={name: float(drawn.mean()) for name, drawn in even.items()},
                    settings=self.settings,
                    chosen=classified.chosen,
                    chosen_on=classified.chosen_on,
                    sizes={"num_pictures": len(split), "num_groups": len(kept)},
                    note=f"worst: {cells.worst()}; {len(names) - len(kept)} groups are too small to count; groups "
                    f"by chance have such a gap with p = {p_value:.2g}",
                )
            )
        return found


@dataclass(frozen=True)
class Cells:
    """Hits and pictures (C, G) of C clusters of pictures, which succeed or fail together, in G groups."""

    hits: np.ndarray
    totals: np.ndarray
    names: np.ndarray

    @classmethod
    def of(cls, correct: np.ndarray, values: np.ndarray, kept: np.ndarray, split: Split) -> Self:
        """Count right answers (M,) by cluster and group; pictures whose group is not kept are left out."""
        clusters, cluster = np.unique(np.asarray(split.groups), return_inverse=True)
        column = {name: place for place, name in enumerate(kept)}
        place = np.array([column.get(value, -1) for value in values])
        inside = place >= 0
        cell = cluster[inside] * len(kept) + place[inside]
        shape = (len(clusters), len(kept))
        totals = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)
        hits = np.bincount(cell, weights=correct[inside], minlength=shape[0] * shape[1]).reshape(shape)
        return cls(hits, totals, kept)

    def worst(self) -> str:
        """The group that fares worst, with its share."""
        shares = _shares(self.hits.sum(0), self.totals.sum(0))
        return f"{self.names[int(np.nanargmin(shares))]} ({100 * np.nanmin(shares):.1f} %)"

    def metrics(self, *, num: int, seed: int) -> dict[str, Interval]:
        """Top-1 of the worst group, best less worst, and overall, with intervals over clusters.

        Replicates name the worst group anew: the least of several uncertain numbers is too low by construction, and its
        interval shows by how much it may be. Where they cannot differ it is as sure as the worst group has clusters.
        """
        rng = runtime.numpy_generator("bootstrap of groups", seed)
        num_clusters = len(self.hits)
        weights = np.ones((num + 1, num_clusters))
        for row in weights[1:]:
            row[:] = np.bincount(rng.integers(num_clusters, size=num_clusters), minlength=num_clusters)
        above, below = weights @ self.hits, weights @ self.totals
        series = _extremes(_shares(above, below))
        series["top1"] = above.sum(1) / np.maximum(below.sum(1), 1e-12)
        shares = _shares(above[0], below[0])
        in_worst = int((self.totals > 0).sum(0)[shares == np.nanmin(shares)].min())
        counts = {"worst group": in_worst, "gap": in_worst, "top1": int((self.totals.sum(1) > 0).sum())}
        return {name: Interval.of_share(value[0], value[1:], counts[name]) for name, value in series.items()}

    def by_chance(self, *, num: int, seed: int) -> dict[str, np.ndarray]:
        """Worst group and gap (num,) where groups say nothing: clusters of equally many groups exchange their groups.

        A gap is never negative, so that equal groups have one as well. In a permutation every cluster takes all groups
        of another one, in random order, so that what lies within a cluster stays within one.
        """
        rng = runtime.numpy_generator("permuted groups", seed)
        num_groups = (self.totals > 0).sum(1)
        above, below = np.zeros((2, num, len(self.names)))
        for count in np.unique(num_groups[num_groups > 0]):
            clusters = np.flatnonzero(num_groups == count)
            groups = np.nonzero(self.totals[clusters])[1].reshape(len(clusters), count)
            hits, totals = (part[clusters[:, None], groups].ravel() for part in (self.hits, self.totals))
            for row in range(num):
                drawn = rng.permuted(rng.permutation(groups), axis=1).ravel()
                above[row] += np.bincount(drawn, weights=hits, minlength=len(self.names))
                below[row] += np.bincount(drawn, weights=totals, minlength=len(self.names))
        return _extremes(_shares(above, below))


def _shares(hits: np.ndarray, totals: np.ndarray) -> np.ndarray:
    shares: np.ndarray = np.divide(hits, totals, out=np.full(hits.shape, np.nan), where=totals > 0)
    return shares


def _extremes(shares: np.ndarray) -> dict[str, np.ndarray]:
    """The worst of G groups, and how far it is from the best, of shares (B, G)."""
    worst, best = np.nanmin(shares, 1), np.nanmax(shares, 1)
    return {"worst group": worst, "gap": best - worst}
