"""The published logistic regression: 45 L2 constants, chosen on validation, trained again on both splits.

Shapes: M examples, D features, C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stablerep import runtime
from stablerep.probes.base import Labelled, together
from stablerep.probes.metrics import accuracy, mean_average_precision
from stablerep.probes.path import Solution, solve_path
from stablerep.probes.settings import ProbeConfig


@dataclass(frozen=True, kw_only=True)
class LogisticProbe:
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


def fit_logistic(
    train: Labelled, validation: Labelled, num_classes: int, config: ProbeConfig
) -> LogisticProbe:
    """A logistic regression, its L2 constant chosen on the validation examples among all of the path.

    Where pictures have several classes, one against the rest for each class, chosen by 11-point mAP. Of equally good
    constants the strongest wins. Source: SynCLR (Tian et al. 2023), appendix B.5.
    """
    path = config.path
    device = runtime.pick_device(path.device)
    constants = path.constants()
    best: Solution | None = None
    reached: list[float] = []
    unsolved = 0
    for solution in solve_path(
        train.features, train.labels, constants, path, num_classes=num_classes, device=device
    ):
        score = _score(validation, solution.probabilities(validation.features), config)
        if best is None or score > max(reached):
            best = solution
        reached.append(score)
        unsolved += not solution.solved
    assert best is not None
    notes = [f"{unsolved} of {len(constants)} constants not solved"] if unsolved else []
    if len(constants) > 1 and best.l2 in (solution_l2(constants[0]), solution_l2(constants[-1])):
        notes.append(f"l2 = {best.l2:g} is the end of the range")
    if path.refit:
        best = _refitted(train, validation, best, num_classes, config)
        notes += [] if best.solved else ["not solved after the choice"]
    return LogisticProbe(
        solution=best, validation_accuracy=max(reached), along_path=tuple(reached), note="; ".join(notes)
    )


def solution_l2(constant: float) -> float:
    """A constant as a solution reports it, rounded to float32."""
    return float(np.float32(constant))


def _refitted(
    train: Labelled, validation: Labelled, chosen: Solution, num_classes: int, config: ProbeConfig
) -> Solution:
    """The chosen constant on both splits; the stronger ones lead to it, as every solution starts from another."""
    both = together(train, validation)
    path = [constant for constant in config.path.constants() if solution_l2(constant) >= chosen.l2]
    device = runtime.pick_device(config.path.device)
    found = solve_path(both.features, both.labels, path, config.path, num_classes=num_classes, device=device)
    return list(found)[-1]


def _score(validation: Labelled, probabilities: np.ndarray, config: ProbeConfig) -> float:
    if validation.labels.ndim == 2:
        return mean_average_precision(validation.labels, probabilities)
    return accuracy(validation.labels, probabilities.argmax(1), config.metric)
