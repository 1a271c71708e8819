"""How unevenly an encoder serves groups of pictures: the worst group, and its distance to the best.

Shapes: M pictures, G groups.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
            seed = runtime.seed_for(tools.seed, "fairness", data.name, test, attribute)
            metrics, worst = group_metrics(correct, values, kept, split, num=tools.num_bootstrap, seed=seed)
            found.append(
                Measurement(
                    **described(subject, data.name, f"{test}, by {attribute}", f"fairness: {classifier}"),
                    metrics=metrics,
                    chance={"gap": 0.0},
                    settings=self.settings,
                    chosen=classified.chosen,
                    chosen_on=classified.chosen_on,
                    sizes={"num_pictures": len(split), "num_groups": len(kept)},
                    note=f"worst: {worst}; {len(names) - len(kept)} groups are too small to count",
                )
            )
        return found


def group_metrics(
    correct: np.ndarray, values: np.ndarray, kept: np.ndarray, split: Split, *, num: int, seed: int
) -> tuple[dict[str, Interval], str]:
    """Top-1 of the worst group, best less worst, and overall, with intervals over groups of pictures; the worst's name.

    Replicates name the worst group anew: the least of several uncertain numbers is too low by construction, and its
    interval shows by how much it may be.
    """
    clusters, cluster = np.unique(np.asarray(split.groups), return_inverse=True)
    column = {name: place for place, name in enumerate(kept)}
    place = np.array([column.get(value, -1) for value in values])
    inside = place >= 0
    cell = cluster[inside] * len(kept) + place[inside]
    shape = (len(clusters), len(kept))
    totals = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)
    hits = np.bincount(cell, weights=correct[inside], minlength=shape[0] * shape[1]).reshape(shape)
    rng = runtime.numpy_generator("bootstrap of groups", seed)
    weights = np.ones((num + 1, len(clusters)))
    for row in weights[1:]:
        row[:] = np.bincount(rng.integers(len(clusters), size=len(clusters)), minlength=len(clusters))
    above, below = weights @ hits, weights @ totals
    shares = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
    worst, best = np.nanmin(shares, 1), np.nanmax(shares, 1)
    overall = above.sum(1) / np.maximum(below.sum(1), 1e-12)
    series = {"worst group": worst, "gap": best - worst, "top1": overall}
    metrics = {name: Interval.around(value[0], value[1:]) for name, value in series.items()}
    return metrics, f"{kept[int(np.nanargmin(shares[0]))]} ({100 * shares[0].min():.1f} %)"
