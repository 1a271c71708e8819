"""Multinomial logistic regression, its L2 constant chosen on validation: our shorter path, and the published one.

Shapes: M examples, D features, C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stablerep.probes.base import Labelled, together
from stablerep.probes.metrics import Metric, accuracy, mean_average_precision
from stablerep.probes.path import Solution, solve_path
from stablerep.probes.settings import PathConfig, ProbeConfig, device_named


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """The chosen classifier of a path."""

    solution: Solution
    validation_accuracy: float
    along_path: tuple[float, ...]
    """The metric that chose, on validation, of every constant from the strongest to the weakest."""
    note: str

    @property
    def chosen(self) -> Mapping[str, float]:
        return {"l2": self.solution.l2}

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Class probabilities (M, C) of features (M, D); of each class by itself where pictures have several."""
        return self.solution.probabilities(features)


def fit_linear(train: Labelled, validation: Labelled, num_classes: int, config: ProbeConfig) -> LinearProbe:
    """A logistic regression over the constants of ``config.linear``."""
    return _choose(train, validation, num_classes, config.linear, config.metric)


def fit_logistic(train: Labelled, validation: Labelled, num_classes: int, config: ProbeConfig) -> LinearProbe:
    """A logistic regression as published: 45 constants, and trained again on both splits after the choice.

    Source: SynCLR (Tian et al. 2023), appendix B.5.
    """
    return _choose(train, validation, num_classes, config.logistic, config.metric)


def solution_l2(constant: float) -> float:
    """A constant as a solution reports it, rounded to float32."""
    return float(np.float32(constant))


def _choose(
    train: Labelled, validation: Labelled, num_classes: int, path: PathConfig, metric: Metric | None
) -> LinearProbe:
    """The best of a path on the validation examples; of equally good constants the strongest wins.

    All constants are looked at: the accuracy has more than one peak along the path. Where pictures have several
    classes, one classifier against the rest for each class, chosen by 11-point mAP.
    """
    device = device_named(path.device)
    constants = path.constants()
    best: Solution | None = None
    reached: list[float] = []
    unsolved = 0
    for solution in solve_path(
        train.features, train.labels, constants, path, num_classes=num_classes, device=device
    ):
        score = _score(validation, solution.probabilities(validation.features), metric)
        if best is None or score > max(reached):
            best = solution
        reached.append(score)
        unsolved += not solution.solved
    assert best is not None
    notes = [f"{unsolved} of {len(constants)} constants not solved"] if unsolved else []
    if len(constants) > 1 and best.l2 in (solution_l2(constants[0]), solution_l2(constants[-1])):
        notes.append(f"l2 = {best.l2:g} is the end of the range")
    if path.refit:
        best = _refitted(together(train, validation), best, num_classes, path)
        notes += [] if best.solved else ["not solved after the choice"]
    return LinearProbe(
        solution=best, validation_accuracy=max(reached), along_path=tuple(reached), note="; ".join(notes)
    )


def _refitted(both: Labelled, chosen: Solution, num_classes: int, path: PathConfig) -> Solution:
    """The chosen constant on both splits; the stronger ones lead to it, as every solution starts from another."""
    constants = [constant for constant in path.constants() if solution_l2(constant) >= chosen.l2]
    device = device_named(path.device)
    found = solve_path(both.features, both.labels, constants, path, num_classes=num_classes, device=device)
    return list(found)[-1]


def _score(validation: Labelled, probabilities: np.ndarray, metric: Metric | None) -> float:
    if validation.labels.ndim == 2:
        return mean_average_precision(validation.labels, probabilities)
    return accuracy(validation.labels, probabilities.argmax(1), metric)
