"""Whether the cores of this machine are independent: two loops of matrix products beside one.

    python bench/scaling.py

Other benches of two processes ask it first: where two processes that have nothing to do with each other do not
compute 1.85 times as much as one, nothing can be said about two that do.
"""

import multiprocessing
import time

import torch

LEAST = 1.85


def loops(seconds: float) -> int:
    """How many products of matrices one thread computes in this time."""
    torch.set_num_threads(1)
    matrix, done = torch.ones(512, 512), 0
    begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        (matrix @ matrix)[0, 0].item()
        done += 1
    return done


def machine_scales(seconds: float = 10.0) -> float:
    """What two processes that have nothing to do with each other compute together, over what one computes alone."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(loops, [0.5, 0.5], chunksize=1)  # both have started
        (alone,) = pool.map(loops, [seconds])
        return sum(pool.map(loops, [seconds, seconds], chunksize=1)) / alone


def can_judge() -> bool:
    """Print how the machine scales, and say so where it scales too badly for a bench of two processes."""
    scales = machine_scales()
    print(f"two independent matrix loops: {scales:.2f} times one")
    if scales < LEAST:
        print(
            f"SKIPPED: the machine is busy or its cores are not independent; below {LEAST} nothing can be judged"
        )
    return scales >= LEAST


if __name__ == "__main__":
    can_judge()
