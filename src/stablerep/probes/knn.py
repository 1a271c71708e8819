"""Weighted k-nearest neighbours, k chosen on validation. Shapes: M examples, D features, C classes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stablerep.probes.base import Labelled, together
from stablerep.probes.metrics import accuracy
from stablerep.probes.settings import ProbeConfig

_QUERIES_PER_BLOCK = 1024


@dataclass(frozen=True, kw_only=True)
class KnnProbe:
    """Weighted k-nearest-neighbour vote by cosine (Wu et al. 2018, section 3.4; temperature as in DINO)."""

    bank: Tensor
    labels: Tensor
    num_classes: int
    centre: Tensor
    temperature: float
    k: int
    validation_accuracy: float = math.nan
    note: str = ""

    @property
    def chosen(self) -> Mapping[str, float]:
        return {"k": self.k}

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Class probabilities (M, C) of features (M, D): shares of the vote."""
        return self.votes(features, [self.k])[0]

    def votes(self, features: np.ndarray, ks: Sequence[int]) -> list[np.ndarray]:
        """Class probabilities (M, C) for each k, from one search."""
        votes: list[list[Tensor]] = [[] for _ in ks]
        for block in torch.split(torch.from_numpy(features), _QUERIES_PER_BLOCK):
            cosines, rows = (F.normalize(block - self.centre, dim=1) @ self.bank.T).topk(max(ks))
            weights = ((cosines - cosines[:, :1]) / self.temperature).exp()  # the shift cancels in the share
            for k, parts in zip(ks, votes, strict=True):
                empty = torch.zeros(len(block), self.num_classes)
                parts.append(empty.scatter_add_(1, self.labels[rows[:, :k]], weights[:, :k]))
        return [F.normalize(torch.cat(parts), p=1, dim=1).numpy() for parts in votes]


def fit_knn(train: Labelled, validation: Labelled, num_classes: int, config: ProbeConfig) -> KnnProbe:
    """A k-NN probe on the training examples, its k (of equals the smallest) chosen on the validation ones."""
    ks = sorted({min(k, len(train.labels)) for k in config.neighbours})
    probe = _bank(train, num_classes, config, ks[-1])
    accuracies = [
        accuracy(validation.labels, votes.argmax(1), config.metric)
        for votes in probe.votes(validation.features, ks)
    ]
    best = int(np.argmax(accuracies))
    if config.refit:
        probe = _bank(together(train, validation), num_classes, config, ks[best])
    return replace(probe, k=ks[best], validation_accuracy=accuracies[best])


def _bank(train: Labelled, num_classes: int, config: ProbeConfig, k: int) -> KnnProbe:
    features = torch.from_numpy(train.features)
    centre = features.mean(0) if config.centre else torch.zeros(features.shape[1])
    return KnnProbe(
        bank=F.normalize(features - centre, dim=1),
        labels=torch.from_numpy(train.labels).long(),
        num_classes=num_classes,
        centre=centre,
        temperature=config.temperature,
        k=k,
    )
