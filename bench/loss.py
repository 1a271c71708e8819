"""The contrastive loss block by block, beside the plain way that holds the whole matrix of similarities.

    python bench/loss.py [--rows 8256] [--dim 256] [--images-per-caption 6] [--threads 1] [--ranks 1] [--rounds 2]

Each way runs forward and backward in a process of its own, so that its peak memory is its own, and the ways take turns,
so that all see the same machine. Printed are the best CPU time of all rounds, the memory above what was there after a
small warm-up, and how far value and gradient differ.
The third way is ``SupConLoss`` of pytorch-metric-learning (Khosla et al. 2020: the mean over a row's positives, as ours
is for equal weights), which `pip install pytorch-metric-learning` brings.

With ``--ranks`` above one so many gloo processes share the rows and exchange what they must; the figures are those of
the first one. pytorch-metric-learning, which knows one process, is then left out.

Sizes of which the plain way needs more memory than there is: ``--ways blockwise``; what plain would need grows with the
square of the rows.
"""

import argparse
import importlib.util
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from stablerep import runtime
from stablerep.learning.losses import multi_positive_contrastive

TEMPERATURE = 0.1
Loss = Callable[[Tensor, Tensor], Tensor]
"""Features (M, D) and labels (M,) of this rank to its part of the loss; the parts add up to the loss of all rows."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One way of computing the loss: CPU seconds, megabytes above the start, value, gradient (M, D)."""

    seconds: float
    megabytes: float
    value: float
    gradient: Tensor


def plain(features: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over the similarities of rows and all features (N, D), written as in the paper."""
    normalised = F.normalize(features, dim=1)
    everything, names = runtime.gather(normalised), runtime.gather(labels)
    own = torch.zeros(len(labels), len(names), dtype=torch.bool)
    own.diagonal(runtime.rank() * len(labels)).fill_(True)
    logits = (normalised @ everything.T / TEMPERATURE).masked_fill(own, float("-inf"))
    positive = (labels[:, None] == names[None, :]) & ~own
    target = positive / positive.sum(1, keepdim=True)
    return -(target * logits.log_softmax(1).masked_fill(own, 0)).sum() / len(names)


def blockwise(features: Tensor, labels: Tensor) -> Tensor:
    """The loss of the package."""
    return multi_positive_contrastive(features, labels, TEMPERATURE)


def metric_learning(features: Tensor, labels: Tensor) -> Tensor:
    """The loss of pytorch-metric-learning, which normalises by itself."""
    from pytorch_metric_learning.losses import SupConLoss

    value: Tensor = SupConLoss(temperature=TEMPERATURE)(features, labels)
    return value


WAYS: dict[str, Loss] = {"plain": plain, "blockwise": blockwise, "metric-learning": metric_learning}


def measure(way: str, options: argparse.Namespace) -> Measured:
    """What the first of the processes needs, each of which is started for this alone."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "measured.pt"
        context = multiprocessing.get_context("spawn")
        ranks = [
            context.Process(target=_measure_rank, args=(rank, way, options, result))
            for rank in range(options.ranks)
        ]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
        if any(process.exitcode for process in ranks):
            raise SystemExit(f"{way}: a process failed")
        return Measured(**torch.load(result, weights_only=True))


def _measure_rank(rank: int, way: str, options: argparse.Namespace, result: Path) -> None:
    if options.ranks > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(options.ranks)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(options.port)}
    torch.set_num_threads(options.threads)
    with runtime.process_group():
        measured = _measure(way, options)
        if rank == 0:
            torch.save(vars(measured), result)


def _measure(way: str, options: argparse.Namespace) -> Measured:
    """Forward and backward, four times: the first ones also wait for the system to hand out memory."""
    generator = torch.Generator().manual_seed(0)
    everything = torch.randn(options.rows, options.dim, generator=generator)
    features = everything.chunk(options.ranks)[runtime.rank()].clone().requires_grad_()
    labels = (torch.arange(options.rows) // options.images_per_caption).chunk(options.ranks)[runtime.rank()]
    WAYS[way](features[:64], labels[:64]).backward()  # type: ignore[no-untyped-call]  # loads what it needs
    before = _peak_megabytes()
    seconds = float("inf")
    for _ in range(4):
        features.grad = None
        begin = time.process_time()
        loss = WAYS[way](features, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        seconds = min(seconds, time.process_time() - begin)
    assert features.grad is not None
    return Measured(
        seconds=seconds,
        megabytes=max(_peak_megabytes() - before, 1.0),  # less cannot be told from what was there
        value=float(runtime.all_reduce_sum(loss.detach())),
        gradient=features.grad.detach().clone(),
    )


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kilobytes on Linux


def main() -> None:
    """Measure all ways and compare."""
    parser = argparse.ArgumentParser(description="the contrastive loss, block by block and plain")
    parser.add_argument("--rows", type=int, default=8256, help="N: 1376 captions of 6 images, as published")
    parser.add_argument("--dim", type=int, default=256, help="D, width of the projection")
    parser.add_argument("--images-per-caption", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2, help="processes of each way, in turns")
    parser.add_argument("--port", type=int, default=29511, help="at which the processes meet")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    options = parser.parse_args()
    if importlib.util.find_spec("pytorch_metric_learning") is None and "metric-learning" in options.ways:
        print("metric-learning is left out: pip install pytorch-metric-learning")
        options.ways.remove("metric-learning")
    if options.ranks > 1:
        options.ways = [way for way in options.ways if way != "metric-learning"]
    rounds: dict[str, list[Measured]] = {way: [] for way in options.ways}
    for _ in range(options.rounds):
        for way in options.ways:
            rounds[way].append(measure(way, options))
    found = {way: min(measured, key=lambda one: one.seconds) for way, measured in rounds.items()}
    for way, result in found.items():
        print(f"{way:15} {result.seconds:8.3f} s {result.megabytes:8.0f} MB  loss {result.value:.6f}")
    ours = found.get("blockwise")
    for way, other in found.items():
        if ours is None or way == "blockwise":
            continue
        difference = float((other.gradient - ours.gradient).abs().max() / other.gradient.abs().max())
        print(
            f"{options.rows} rows of {options.dim}, {options.ranks} process(es) of {options.threads} thread(s), "
            f"beside {way}: blockwise takes "
            f"1/{other.seconds / ours.seconds:.1f} of the time and 1/{other.megabytes / ours.megabytes:.1f} of the "
            f"memory; gradients differ by {difference:.1e} of the largest"
        )


if __name__ == "__main__":
    main()
