"""A batch of 256 images in micro-batches of 32, beside the whole at once and beside a batch of 32.

    python bench/caching.py                               # at 224 px, as published: 16 GB, 8 minutes of a core
    python bench/caching.py --image-size 64 --rounds 3

ViT-S/16 under StableRep's loss. Each way runs in a process of its own, so that its peak memory is its own. Printed are
the best CPU time of a step and the peak of resident memory; gradient caching should cost at most 1.4 times the time of
the whole and at most 1.3 times the memory of the small batch. Memory is judged net of what the process held before its
first step (libraries and weights, most of the peak), which any way would hold.
"""

import argparse
import multiprocessing
import resource
import sys
import time
from dataclasses import dataclass

import torch

from stablerep import runtime
from stablerep.learning.contrastive import Contrastive, ContrastiveConfig
from stablerep.learning.method import Batch
from stablerep.learning.step import Encoding, compute_gradients
from stablerep.models.encoder import EncoderConfig

IMAGES_PER_CAPTION = 4
MOST_TIME, MOST_MEMORY = 1.4, 1.3


@dataclass(frozen=True, kw_only=True)
class Way:
    """Captions in a batch and in a forward pass."""

    captions: int
    micro_batch: int | None


WAYS = {
    "plain 256": Way(captions=64, micro_batch=None),
    "256 as 8 x 32": Way(captions=64, micro_batch=8),
    "plain 32": Way(captions=8, micro_batch=None),
}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """CPU seconds of a step, peak of resident memory in MB, of these what was there before the first step."""

    seconds: float
    peak: float
    before: float

    @property
    def net(self) -> float:
        """What the steps added, in MB; less than one cannot be told from what was there."""
        return max(self.peak - self.before, 1.0)


def measure(way: Way, options: argparse.Namespace) -> Measured:
    """Take steps; called in a fresh process."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    method = Contrastive(ContrastiveConfig(encoder=EncoderConfig(image_size=options.image_size))).train()
    batch = make_batch(way.captions, options.image_size)
    encoding = Encoding(
        seed=0, dtype=runtime.pick_precision("auto", torch.device("cpu")), micro_batch=way.micro_batch
    )
    before = _peak_megabytes()
    seconds = float("inf")
    for step in range(options.rounds):
        begin = time.process_time()
        compute_gradients(method, batch, encoding, step)
        seconds = min(seconds, time.process_time() - begin)
        method.zero_grad(set_to_none=True)
    return Measured(seconds=seconds, peak=_peak_megabytes(), before=before)


def make_batch(num_captions: int, size: int) -> Batch:
    """Noise: what a step costs does not depend on what is seen."""
    shape = (num_captions, IMAGES_PER_CAPTION)
    return {
        "image": torch.randint(256, (*shape, 3, size, size), dtype=torch.uint8),
        "caption_id": torch.arange(num_captions),
        "image_id": torch.arange(num_captions * IMAGES_PER_CAPTION).view(shape),
        "valid": torch.ones(shape, dtype=torch.bool),
    }


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kilobytes on Linux


def main() -> int:
    """Measure all ways and compare; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description="gradient caching beside a plain step")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    found = {}
    for name, way in WAYS.items():
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[name] = pool.apply(measure, (way, options))
        result = found[name]
        print(
            f"{name:14} {result.seconds:7.2f} s  peak {result.peak:6.0f} MB, of these {result.before:5.0f} before"
        )
    return 0 if report(*found.values()) else 1


def report(whole: Measured, cached: Measured, small: Measured) -> bool:
    """Print time and memory beside their bars; whether both are kept."""
    time_ratio, memory_ratio = cached.seconds / whole.seconds, cached.net / small.net
    passed = time_ratio <= MOST_TIME and memory_ratio <= MOST_MEMORY
    print(
        f"{'PASSED' if passed else 'FAILED'}: {time_ratio:.2f} times the time of the whole (bar {MOST_TIME}), "
        f"{memory_ratio:.2f} times the memory of 32 above what was there before (bar {MOST_MEMORY}; "
        f"{cached.peak / small.peak:.2f} times with it), {whole.net / cached.net:.1f} times less than the whole "
        f"({whole.peak / cached.peak:.1f} times with it)"
    )
    return passed


if __name__ == "__main__":
    sys.exit(main())
