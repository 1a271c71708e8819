"""What all probes share: labelled features, the contract of a fitted probe, standardisation.

Shapes: M examples, D features, C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Labelled:
    """Features (M, D) with their classes (M,), integers from 0; or 0 and 1 (M, C) where pictures have several."""

    features: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or len(self.features) != len(self.labels) or len(self.labels) == 0:
            raise ValueError(
                f"features {self.features.shape} and labels {self.labels.shape} do not fit together"
            )


class Probe(Protocol):
    """A fitted probe."""

    @property
    def chosen(self) -> Mapping[str, float]:
        """The hyper-parameters that the validation split chose."""

    @property
    def validation_accuracy(self) -> float:
        """The metric that chose, by the validation split, of the choice before any refit."""

    @property
    def note(self) -> str:
        """What a reader should know about the fit; empty where all is well."""

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Class probabilities (M, C) of features (M, D)."""


def standardisation(features: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and scale (D,) of features (M, D); the scale of a feature that does not vary is 1, never 0."""
    mean = features.mean(0, dtype=np.float64)
    std = features.std(0, dtype=np.float64)
    scale = np.where(std > 1e-6 * np.abs(mean), std, 1.0)  # below, it is the rounding of float32 that varies
    return torch.from_numpy(mean).float(), torch.from_numpy(scale).float()


def together(train: Labelled, validation: Labelled) -> Labelled:
    """The examples of both, training ones first."""
    return Labelled(
        np.concatenate([train.features, validation.features]),
        np.concatenate([train.labels, validation.labels]),
    )
