"""Few-shot episodes: N classes, k pictures of each to learn from, the rest of a class to name.

Shapes: D features, E episodes, N classes of an episode (ways), k shots, Q queries.
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
    """Pictures of each class to name; fewer where the class has no more."""
    episodes: int = 600
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
                    note="the interval is over episodes of the same pictures",
                )
            )
        return found

    def _episodes(self, features: np.ndarray, split: Split, seed: int) -> tuple[np.ndarray, int]:
        """Accuracy of each episode (E,), and how many classes have enough pictures."""
        unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
        members = [np.flatnonzero(split.labels == label) for label in np.unique(split.labels)]
        members = [rows for rows in members if len(rows) > self.config.shots]
        if len(members) < self.config.ways:
            raise NotMeasurableError(
                f"only {len(members)} classes of the test have more than {self.config.shots} pictures, "
                f"an episode needs {self.config.ways}; give fewer --few-shot.ways or --few-shot.shots"
            )
        accuracies = np.empty(self.config.episodes)
        for episode in range(self.config.episodes):
            rng = runtime.numpy_generator("episode", seed, episode)
            chosen = [
                rng.permutation(members[place])
                for place in rng.choice(len(members), self.config.ways, replace=False)
            ]
            accuracies[episode] = self._one(unit, chosen)
        return accuracies, len(members)

    def _one(self, unit: np.ndarray, chosen: list[np.ndarray]) -> float:
        """One episode: the mean accuracy of its classes, so that one with few queries counts as much."""
        shots, queries = self.config.shots, self.config.queries
        means = np.stack([unit[rows[:shots]].mean(0) for rows in chosen])
        means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        right = [
            (unit[rows[shots : shots + queries]] @ means.T).argmax(1) == way
            for way, rows in enumerate(chosen)
        ]
        return float(np.mean([part.mean() for part in right]))
