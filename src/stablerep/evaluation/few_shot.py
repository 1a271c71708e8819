"""Few-shot episodes: N classes, k pictures of each to learn from, pictures of other groups to name.

What is learned from and what is named never share a group: the same drawing by another hand would be recognised, not
its class. Shapes: D features, E episodes, M pictures of a class in G groups, N classes of an episode (ways), k shots,
Q queries.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stablerep import config as config_module
from stablerep import runtime
from stablerep.evaluation.benchmarks import BENCHMARKS, Benchmark, Split
from stablerep.evaluation.contract import NOTHING, NotMeasurableError, Subject, Tools, described
from stablerep.evaluation.intervals import Interval
from stablerep.evaluation.scores import Measurement


@dataclass(frozen=True, kw_only=True)
class FewShotConfig:
    """Settings of the protocol `few-shot`."""

    ways: int = 5
    """Classes of an episode."""
    shots: int = 5
    """Pictures of each class to learn from."""
    queries: int = 15
    """Pictures of each class to name; fewer where the groups that nothing was learned from hold no more."""
    episodes: int = 600
    """Episodes over which the accuracy is averaged."""
    centre: bool = True
    """Subtract the mean of the training pictures before the cosine."""

    def __post_init__(self) -> None:
        if self.ways < 2 or min(self.shots, self.queries, self.episodes) < 1:
            raise ValueError("ways must be at least 2, and shots, queries and episodes positive")


@dataclass(frozen=True)
class FewShot:
    """Pictures of the tests alone, named after the nearest class mean by cosine (Snell et al. 2017, with cosine)."""

    config: FewShotConfig

    benchmarks = BENCHMARKS
    trains_baselines = True

    @property
    def settings(self) -> Mapping[str, Any]:
        """The size of an episode, and how many there are."""
        return config_module.to_dict(self.config)

    def measure(self, subject: Subject, data: Benchmark, tools: Tools) -> list[Measurement]:
        """Mean accuracy over episodes, with the 95 % interval of that mean."""
        if data.several:
            raise NotMeasurableError(f"{data.name}: pictures have several classes, an episode needs one")
        centre = tools.features(subject.encoder, data.train.images).mean(0) if self.config.centre else None
        found = []
        for name, split in data.tests.items():
            features = tools.features(subject.encoder, split.images)
            seed = runtime.seed_for(tools.seed, "few-shot", data.name, name)
            accuracies, usable = self._episodes(
                features if centre is None else features - centre, split, seed
            )
            mean, spread = float(accuracies.mean()), float(accuracies.std(ddof=min(1, len(accuracies) - 1)))
            found.append(
                Measurement(
                    **described(subject, data.name, name, "few-shot"),
                    metrics={"accuracy": Interval.normal(mean, spread / math.sqrt(len(accuracies)))},
                    chance={"accuracy": 1 / self.config.ways},
                    settings=self.settings,
                    chosen={},
                    chosen_on=NOTHING,
                    sizes={
                        "num_episodes": len(accuracies),
                        "num_classes": usable,
                        "num_pictures": len(split),
                    },
                    note="the interval is that of the mean over episodes of these pictures, not over other pictures",
                )
            )
        return found

    def _episodes(self, features: np.ndarray, split: Split, seed: int) -> tuple[np.ndarray, int]:
        """Accuracy of each episode (E,), and how many classes have enough pictures."""
        unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
        classes = [_Class.of(split, label) for label in np.unique(split.labels)]
        # Without its largest group a class has to hold the shots, so that any order of groups leaves one to name.
        classes = [one for one in classes if one.sizes.sum() - one.sizes.max() >= self.config.shots]
        if len(classes) < self.config.ways:
            raise NotMeasurableError(
                f"only {len(classes)} classes of the test have {self.config.shots} pictures beside their largest "
                f"group, an episode needs {self.config.ways}; give fewer --few-shot.ways or --few-shot.shots"
            )
        accuracies = np.empty(self.config.episodes)
        for episode in range(self.config.episodes):
            rng = runtime.numpy_generator("episode", seed, episode)
            drawn = [
                classes[place].draw(self.config.shots, self.config.queries, rng)
                for place in rng.choice(len(classes), self.config.ways, replace=False)
            ]
            accuracies[episode] = _accuracy(unit, drawn)
        return accuracies, len(classes)


@dataclass(frozen=True)
class _Class:
    """The pictures of one class: their rows (M,), the group of each (M,) from 0, and the sizes of the groups (G,)."""

    rows: np.ndarray
    group: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, split: Split, label: int) -> "_Class":
        """The pictures of this class in a split."""
        rows = np.flatnonzero(split.labels == label)
        _, group, sizes = np.unique(np.asarray(split.groups)[rows], return_inverse=True, return_counts=True)
        return cls(rows, group, sizes)

    def draw(self, shots: int, queries: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Rows to learn from, of a random half of the groups (more where that has too few), and rows of the others."""
        order = rng.permutation(len(self.sizes))
        enough = int(np.searchsorted(self.sizes[order].cumsum(), shots)) + 1
        learned = np.isin(self.group, order[: max(enough, len(order) // 2)])
        return (
            rng.permutation(self.rows[learned])[:shots],
            rng.permutation(self.rows[~learned])[:queries],
        )


def _accuracy(unit: np.ndarray, drawn: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """One episode: the mean accuracy of its classes, so that one with few queries counts as much."""
    means = np.stack([unit[shots].mean(0) for shots, _ in drawn])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    right = [(unit[queries] @ means.T).argmax(1) == way for way, (_, queries) in enumerate(drawn)]
    return float(np.mean([part.mean() for part in right]))
