"""What the machine offers: device, precision, process group, and randomness that depends on identity alone.

Every collective here is a no-op outside a process group, so each script and test also runs without ``torchrun``.
"""

import contextlib
import functools
import hashlib
import logging
import os
import shutil
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from stablerep.errors import UserError
from stablerep.storage import first_line

Precision = Literal["auto", "float32", "bfloat16"]

# The latter two come from a torch that was built without the device.
_NO_DEVICE = (RuntimeError, AssertionError, ImportError)


def seed_for(*identity: int | str) -> int:
    """A 63-bit seed that is a pure function of the identity: the same parts give the same seed anywhere, always.

    torch's CPU generator draws by the lowest 32 bits alone: among n pictures expect n^2 / 2^33 pairs that begin with
    the same noise, 116 in a million, nearly all of different captions. Among the K of one caption it is K^2 / 2^33.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in identity)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def torch_generator(*identity: int | str) -> torch.Generator:
    """A CPU generator seeded by identity."""
    return torch.Generator().manual_seed(seed_for(*identity))


def numpy_generator(*identity: int | str) -> np.random.Generator:
    """A numpy generator seeded by identity."""
    return np.random.Generator(np.random.Philox(seed_for(*identity)))


def pick_device(name: str = "auto") -> torch.device:
    """The named device, or the best present one: cuda, then mps, then cpu; of several GPUs the one of this process.

    Raises ``UserError`` for a device that is unknown or not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.empty(0, device=device)
    except _NO_DEVICE as error:
        reason = first_line(error).split(". ")[0]  # of torch's pages of advice the fact
        raise UserError(
            f"device {name!r} cannot be used ({reason}); name one such as auto, cpu, cuda:0 or mps"
        ) from error
    return device


def pick_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype for autocast; ``auto`` takes bfloat16 where a short matrix product shows that it is faster."""
    if precision == "auto":
        return torch.bfloat16 if _bfloat16_pays(device) else torch.float32
    return torch.float32 if precision == "float32" else torch.bfloat16


def autocast(dtype: torch.dtype, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Mixed precision in ``dtype``; nothing for float32."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32)


@functools.cache
def _bfloat16_pays(device: torch.device) -> bool:
    """Processors without instructions for it take a hundred times as long, which a small product shows at once."""
    for size, gain in ((_SMALL, 0.25), (None, 1.25)):
        if matmul_rate(torch.bfloat16, device, size) < gain * matmul_rate(torch.float32, device, size):
            return False
    return True


_SMALL = 256


@functools.cache
def matmul_rate(dtype: torch.dtype, device: torch.device, size: int | None = None) -> float:
    """Floating-point operations per second of a product of square matrices.

    Of a large one, where no size is given: what this process can reach at best.
    """
    if size is None:
        size = 1024 if device.type == "cpu" else 8192
    a = torch.ones(size, size, dtype=dtype, device=device)
    return 2 * size**3 / min(_seconds(lambda: a @ a) for _ in range(5))


def fused_attention_pays(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> bool:
    """Whether torch's fused attention is as fast as the spelled-out one, forward and backward.

    ``shape`` is (heads, tokens, features per head). On some CPUs the fused kernel takes twice the time in bfloat16. It
    needs less memory, so a tenth more time is allowed.
    """
    q, k, v = (torch.ones(8, *shape, dtype=dtype, device=device, requires_grad=True) for _ in range(3))

    def fused() -> Tensor:
        return torch.autograd.grad(F.scaled_dot_product_attention(q, k, v).sum(), (q, k, v))[0]

    def plain() -> Tensor:
        weights = (q * shape[2] ** -0.5 @ k.transpose(-2, -1)).softmax(-1)
        return torch.autograd.grad((weights @ v).sum(), (q, k, v))[0]

    rounds = [(_seconds(fused), _seconds(plain)) for _ in range(5)]
    return min(first for first, _ in rounds) <= 1.1 * min(second for _, second in rounds)


def _seconds(compute: Callable[[], Tensor]) -> float:
    begin = time.perf_counter()
    float(compute().flatten()[0])  # reading one value waits for the device
    return time.perf_counter() - begin


def spare_threads() -> int:
    """Threads that may prepare data beside the computing: next to a GPU this process's share of the cores, else one."""
    if not torch.cuda.is_available():
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1)


@functools.cache
def why_no_compile() -> str | None:
    """Why ``torch.compile`` cannot work here, as a sentence; None where it can.

    Asked before anything is compiled, hence the place to keep torch from warning that there is no GPU.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
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


def require_one_process() -> None:
    """Raise ``UserError`` where Slurm started this command several times and nothing tells these processes apart.

    ``SLURM_NTASKS`` is set in every shell of a job and counts all its tasks; the other is that of the step by ``srun``.
    """
    num_tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if num_tasks != "1" and "SLURM_PROCID" in os.environ and "RANK" not in os.environ:
        raise UserError(
            f"srun started this command {num_tasks} times (SLURM_STEP_NUM_TASKS), and each would work alone on the "
            "same output; to share the work start it with torchrun, one task per node (srun --ntasks-per-node 1 "
            "torchrun ... -m stablerep ...), or else give srun --ntasks 1"
        )


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Join the group that ``torchrun`` describes in the environment, for the time of the block; alone, do nothing.

    Raises ``UserError`` for a process that is not alone and was told of no group.
    """
    require_one_process()
    if "RANK" not in os.environ or dist.is_initialized():
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


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


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its sum over the ranks; all ranks must have gradients of the same parameters.

    One call after the backward passes, in place of DistributedDataParallel, whose hooks expect every gradient from
    the one backward pass that follows a forward: with cached gradients those of a head come from an earlier one. What
    it would gain, exchange during the backward pass, is little beside a step over a large batch.
    """
    if world_size() == 1:
        return
    bucket: list[Tensor] = []
    for gradient in [parameter.grad for parameter in parameters if parameter.grad is not None]:
        bucket.append(gradient)
        if sum(part.numel() for part in bucket) >= _BUCKET:
            _sum_together(bucket)
            bucket = []
    if bucket:
        _sum_together(bucket)


_BUCKET = 2**23  # numbers sent at once, 32 MB in float32: few messages, small copies


def _sum_together(tensors: list[Tensor]) -> None:
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, total in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(total.view_as(tensor))


def copy_from_first_rank(module: nn.Module) -> None:
    """Give parameters and buffers of all ranks the values of rank 0, so that equal updates keep them equal."""
    if world_size() > 1:
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor.detach(), 0)


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
