"""The contrastive loss block by block, beside the plain way that holds the whole matrix of similarities.

    python bench/loss.py [--rows 8256] [--dim 256] [--images-per-caption 6] [--threads 1]

Each way runs forward and backward in a process of its own, so that its peak memory is its own. Printed are the
best of three CPU times, the memory above what was there before, and how far value and gradient differ.
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stablerep.learning.losses import multi_positive_contrastive

TEMPERATURE = 0.1
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One way of computing the loss: CPU seconds, megabytes above the start, value, gradient (N, D)."""

    seconds: float
    megabytes: float
    value: float
    gradient: Tensor


def plain(features: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over the N x N similarities of features (N, D), written as in the paper."""
    normalised = F.normalize(features, dim=1)
    own = torch.eye(len(labels), dtype=torch.bool)
    logits = (normalised @ normalised.T / TEMPERATURE).masked_fill(own, float("-inf"))
    positive = (labels[:, None] == labels[None, :]) & ~own
    target = positive / positive.sum(1, keepdim=True)
    return -(target * logits.log_softmax(1).masked_fill(own, 0)).sum(1).mean()


def blockwise(features: Tensor, labels: Tensor) -> Tensor:
    """The loss of the package."""
    return multi_positive_contrastive(features, labels, TEMPERATURE)


WAYS: dict[str, Loss] = {"plain": plain, "blockwise": blockwise}


def measure(way: str, options: argparse.Namespace) -> Measured:
    """Forward and backward, three times; called in a fresh process."""
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(options.rows, options.dim, generator=generator).requires_grad_()
    labels = torch.arange(options.rows) // options.images_per_caption
    before = _peak_megabytes()
    seconds = float("inf")
    for _ in range(3):
        features.grad = None
        begin = time.process_time()
        loss = WAYS[way](features, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        seconds = min(seconds, time.process_time() - begin)
    assert features.grad is not None
    return Measured(
        seconds=seconds,
        megabytes=_peak_megabytes() - before,
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
    options = parser.parse_args()
    found = {}
    for way in WAYS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[way] = pool.apply(measure, (way, options))
        result = found[way]
        print(f"{way:10} {result.seconds:8.3f} s {result.megabytes:8.0f} MB  loss {result.value:.6f}")
    one, other = found["plain"], found["blockwise"]
    difference = float((one.gradient - other.gradient).abs().max() / one.gradient.abs().max())
    print(
        f"{options.rows} rows of {options.dim} on {options.threads} thread(s): blockwise takes "
        f"1/{one.seconds / other.seconds:.1f} of the time; gradients differ by {difference:.1e} of the largest"
    )


if __name__ == "__main__":
    main()
