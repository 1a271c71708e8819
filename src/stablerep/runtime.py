"""What the machine offers: device, precision, process group, and randomness that depends on identity alone.

Every collective here is a no-op outside a process group, so each script and test also runs without ``torchrun``.
"""

import contextlib
import functools
import hashlib
import os
import shutil
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from stablerep.errors import UserError

Precision = Literal["auto", "float32", "bfloat16"]


def seed_for(*identity: int | str) -> int:
    """A 63-bit seed that is a pure function of the identity: the same parts give the same seed anywhere, always."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in identity)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def torch_generator(*identity: int | str) -> torch.Generator:
    """A CPU generator seeded by identity."""
    return torch.Generator().manual_seed(seed_for(*identity))


def numpy_generator(*identity: int | str) -> np.random.Generator:
    """A numpy generator seeded by identity."""
    return np.random.Generator(np.random.Philox(seed_for(*identity)))


def pick_device(name: str = "auto") -> torch.device:
    """The named device, or the best present one: cuda, then mps, then cpu."""
    if name != "auto":
        try:
            return torch.device(name)
        except RuntimeError as error:
            raise UserError(f"unknown device {name!r}; name one such as auto, cpu, cuda:0 or mps") from error
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def pick_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype for autocast; ``auto`` takes bfloat16 where a short matrix product shows that it is faster."""
    if precision == "auto":
        return torch.bfloat16 if _bfloat16_pays(str(device)) else torch.float32
    return torch.float32 if precision == "float32" else torch.bfloat16


def autocast(dtype: torch.dtype, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Mixed precision in ``dtype``; nothing for float32."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32)


@functools.cache
def _bfloat16_pays(device: str) -> bool:
    def seconds(dtype: torch.dtype) -> float:
        a = torch.ones(512, 512, dtype=dtype, device=device)
        best = float("inf")
        for _ in range(5):
            begin = time.perf_counter()
            float((a @ a @ a @ a)[0, 0])  # reading one value waits for the device
            best = min(best, time.perf_counter() - begin)
        return best

    return seconds(torch.bfloat16) < 0.8 * seconds(torch.float32)


@functools.cache
def why_no_compile() -> str | None:
    """Why ``torch.compile`` cannot work here, as a sentence; None where it can."""
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++")):
        return "no C++ compiler was found (g++ or clang++)"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        return "the Python headers (Python.h) were not found"
    return None


def rank() -> int:
    """This process's rank, 0 alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes, 1 alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Join the group that ``torchrun`` describes in the environment, for the time of the block; alone, do nothing."""
    if "RANK" not in os.environ or dist.is_initialized():
        yield
        return
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def barrier() -> None:
    """Wait until every rank is here."""
    if world_size() > 1:
        dist.barrier()


def gather(x: Tensor) -> Tensor:
    """Concatenate ``x (N, ...)`` of all ranks to ``(world * N, ...)`` in rank order, gradients included.

    The backward pass sums over the ranks what each of them contributed to the gradient of this rank's part, so a loss
    that every rank computes over its own rows, divided by the global count, has the gradient of one process.
    """
    if world_size() == 1:
        return x
    if not x.requires_grad:
        return _all_gather(x)
    everything: Tensor = _Gather.apply(x)
    return everything


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum ``x`` over the ranks, gradients included."""
    if world_size() == 1:
        return x
    total: Tensor = _AllReduceSum.apply(x)
    return total


def _all_gather(x: Tensor) -> Tensor:
    out = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(out, x.contiguous())
    return torch.cat(out)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.num_rows = len(x)
        return _all_gather(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total[rank() * ctx.num_rows : (rank() + 1) * ctx.num_rows]


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ARG004
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total


class SyncBatchNorm1d(nn.BatchNorm1d):
    """Batch norm over ``(N, D)`` whose statistics cover the rows of all ranks, on any device.

    torch's SyncBatchNorm refuses CPU tensors inside a process group; this one differentiates through the all-reduce,
    so value and gradient equal those of one process that holds all rows.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(x)
        x = x.float()
        sums = all_reduce_sum(torch.cat([x.sum(0), x.new_tensor([len(x)])]))
        count = sums[-1]
        mean = sums[:-1] / count
        # In a second pass, not as E[x^2] - E[x]^2: that cancels where the mean is large, down to below zero.
        variance = all_reduce_sum((x - mean).square().sum(0)) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        normalised = (x - mean) * torch.rsqrt(variance + self.eps)
        return normalised * self.weight + self.bias if self.affine else normalised

    def _track(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        momentum = 0.1 if self.momentum is None else self.momentum
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(unbiased_variance, momentum)
