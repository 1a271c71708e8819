"""What a probe is scored by. Shapes: M examples, C classes."""

from typing import Literal

import numpy as np

Metric = Literal["top1", "mean_per_class"]


def mean_per_class_accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Mean over the classes present in ``labels (M,)`` of the share predicted rightly."""
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return float((np.bincount(index, weights=labels == predicted) / counts).mean())


def accuracy(labels: np.ndarray, predicted: np.ndarray, metric: Metric | None) -> float:
    """The share predicted rightly, over all pictures or (also where no metric is given) class by class."""
    if metric == "top1":
        return float((labels == predicted).mean())
    return mean_per_class_accuracy(labels, predicted)


def average_precisions(
    targets: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """11-point average precision (C,) of scores (M, C), as PASCAL VOC 2007 defines it; nan without a positive.

    ``targets`` are 1 for a class that the picture shows, 0 for one it does not, and below 0 for a difficult one, which
    is not counted at all. ``weights (M,)`` count pictures several times, as in a bootstrap replicate. Of equal scores
    the first picture comes first.
    """
    counted = np.ones(len(targets)) if weights is None else weights
    result = np.full(targets.shape[1], np.nan)
    for column in range(targets.shape[1]):
        order = np.argsort(-scores[:, column], kind="stable")
        order = order[targets[order, column] >= 0]
        positive = (targets[order, column] == 1) * counted[order]
        if positive.sum() == 0:
            continue
        hits, seen = positive.cumsum(), counted[order].cumsum()
        recall, precision = hits / positive.sum(), hits / np.maximum(seen, 1e-12)
        reached = [precision[recall >= level - 1e-9] for level in np.linspace(0, 1, 11)]
        result[column] = np.mean([part.max() if len(part) else 0.0 for part in reached])
    return result


def mean_average_precision(targets: np.ndarray, scores: np.ndarray) -> float:
    """Mean of ``average_precisions`` over the classes that some picture shows."""
    return float(np.nanmean(average_precisions(targets, scores)))
