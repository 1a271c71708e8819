"""The contrastive loss block by block, beside the plain way that holds the whole matrix of similarities.

    python bench/loss.py [--rows 8256] [--dim 256] [--images-per-caption 6] [--threads 1] [--ranks 1]

Each way runs forward and backward in a process of its own, so that its peak memory is its own. Printed are the
best of three CPU times, the memory above what was there after a small warm-up, and how far value and gradient differ.
The third way is ``SupConLoss`` of pytorch-metric-learning (Khosla et al. 2020: the mean over a row's positives, as ours
is for equal weights), which `pip install pytorch-metric-learning` brings.

With ``--ranks`` above one it is the work of the first of so many processes: its own rows against the rows of
all. Without symmetry each block serves once; pytorch-metric-learning is then left out.

Sizes of which the plain way needs more memory than there is: ``--ways blockwise``; what plain would need grows with the
square of the rows.
"""

import argparse
import importlib.util
import multiprocessing
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stablerep.learning.losses import Samples, multi_positive_contrastive, soft_cross_entropy

TEMPERATURE = 0.1
Loss = Callable[[Tensor, Tensor, int], Tensor]
"""Features (N, D) and labels (N,) of all ranks, and how many ranks there are, to the loss of the first one's rows."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One way of computing the loss: CPU seconds, megabytes above the start, value, gradient (N, D)."""

    seconds: float
    megabytes: float
    value: float
    gradient: Tensor


def plain(features: Tensor, labels: Tensor, ranks: int) -> Tensor:
    """Cross-entropy over the similarities of rows and all features (N, D), written as in the paper."""
    normalised, num_rows = F.normalize(features, dim=1), len(labels) // ranks
    own = torch.eye(num_rows, len(labels), dtype=torch.bool)
    logits = (normalised[:num_rows] @ normalised.T / TEMPERATURE).masked_fill(own, float("-inf"))
    positive = (labels[:num_rows, None] == labels[None, :]) & ~own
    target = positive / positive.sum(1, keepdim=True)
    return -(target * logits.log_softmax(1).masked_fill(own, 0)).sum(1).mean()


def blockwise(features: Tensor, labels: Tensor, ranks: int) -> Tensor:
    """The loss of the package: as one process calls it, or on what it has after gathering."""
    if ranks == 1:
        return multi_positive_contrastive(features, labels, TEMPERATURE)
    normalised, num_rows = F.normalize(features, dim=1), len(labels) // ranks
    rows = Samples(features=normalised[:num_rows], labels=labels[:num_rows])
    everything = Samples(features=normalised, labels=labels)
    return soft_cross_entropy(rows, everything, 1 / TEMPERATURE, own=torch.arange(num_rows))


def metric_learning(features: Tensor, labels: Tensor, ranks: int) -> Tensor:  # noqa: ARG001 -- it knows one
    """The loss of pytorch-metric-learning, which normalises by itself."""
    from pytorch_metric_learning.losses import SupConLoss

    value: Tensor = SupConLoss(temperature=TEMPERATURE)(features, labels)
    return value


WAYS: dict[str, Loss] = {"plain": plain, "blockwise": blockwise, "metric-learning": metric_learning}


def measure(way: str, options: argparse.Namespace) -> Measured:
    """Forward and backward, three times; called in a fresh process."""
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(options.rows, options.dim, generator=generator).requires_grad_()
    labels = torch.arange(options.rows) // options.images_per_caption
    WAYS[way](features[:64], labels[:64], 1).backward()  # type: ignore[no-untyped-call]  # loads what it needs
    before = _peak_megabytes()
    seconds = float("inf")
    for _ in range(3):
        features.grad = None
        begin = time.process_time()
        loss = WAYS[way](features, labels, options.ranks)
        loss.backward()  # type: ignore[no-untyped-call]
        seconds = min(seconds, time.process_time() - begin)
    assert features.grad is not None
    return Measured(
        seconds=seconds,
        megabytes=max(_peak_megabytes() - before, 1.0),  # less cannot be told from what was there
        value=float(loss.detach()),
        gradient=features.grad.detach().clone(),
    )


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kilobytes on Linux


def main() -> None:
    """Measure both ways and compare."""
    parser = argparse.ArgumentParser(description="the contrastive loss, block by block and plain")
    parser.add_argument("--rows", type=int, default=8256, help="N: 1376 captions of 6 images, as published")
    parser.add_argument("--dim", type=int, default=256, help="D, width of the projection")
    parser.add_argument("--images-per-caption", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    options = parser.parse_args()
    if importlib.util.find_spec("pytorch_metric_learning") is None and "metric-learning" in options.ways:
        print("metric-learning is left out: pip install pytorch-metric-learning")
        options.ways.remove("metric-learning")
    if options.ranks > 1:
        options.ways = [way for way in options.ways if way != "metric-learning"]
    found: dict[str, Measured] = {}
    for way in options.ways:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[way] = pool.apply(measure, (way, options))
        result = found[way]
        print(f"{way:15} {result.seconds:8.3f} s {result.megabytes:8.0f} MB  loss {result.value:.6f}")
    ours = found.get("blockwise")
    for way, other in found.items():
        if ours is None or way == "blockwise":
            continue
        difference = float((other.gradient - ours.gradient).abs().max() / other.gradient.abs().max())
        print(
            f"{options.rows} rows of {options.dim} on {options.threads} thread(s), beside {way}: blockwise takes "
            f"1/{other.seconds / ours.seconds:.1f} of the time and 1/{other.megabytes / ours.megabytes:.1f} of the "
            f"memory; gradients differ by {difference:.1e} of the largest"
        )


if __name__ == "__main__":
    main()
