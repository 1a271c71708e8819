"""Run a function in two real processes that share a gloo group."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def on_two_ranks(function: Callable[[], Any], folder: Path) -> list[Any]:
    """What ``function`` (of a module, without arguments) returns on rank 0 and on rank 1: tensors and plain values."""
    mp.spawn(_run, args=(function, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _run(rank: int, function: Callable[[], Any], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        torch.save(function(), Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
