"""What a step costs and where its time goes: model FLOPs counted once, and a trace of a few steps."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from stablerep import runtime
from stablerep.learning.method import Batch, Method
from stablerep.learning.step import Encoding, leaves
from stablerep.run import write_atomically


def flops_per_caption(method: Method, batch: Batch, encoding: Encoding) -> int:
    """Floating-point operations of encoding one caption's views with gradient, forward and backward.

    Counted on the first caption of the batch, before anything is compiled or recomputed in the backward pass: what
    the model needs, not what a way of running it adds. Heads and losses are left out. Attention is spelled out
    meanwhile, as the counter does not know every fused kernel.
    """
    parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
    caption = {name: tensor[:1] for name, tensor in batch.items()}
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        features = leaves(encoding.encode(method, caption, step=0, index=0))
        attached = [leaf.float().sum() for leaf in features if leaf.requires_grad]
        if attached:
            torch.autograd.grad(torch.stack(attached).sum(), parameters, allow_unused=True)
    return int(counter.get_total_flops())


@contextlib.contextmanager
def traced(num_steps: int | None, path: Path) -> Iterator[Callable[[], None]]:
    """Trace ``num_steps`` steps, from the third on, into a file for a trace viewer (chrome://tracing, Perfetto).

    Yields what is to be called after every step. The first step compiles and the second warms the profiler up. Rank 0
    alone writes; where no number is given, nothing happens.
    """
    if num_steps is None or runtime.rank() != 0:
        yield lambda: None
        return
    schedule = torch.profiler.schedule(wait=1, warmup=1, active=num_steps, repeat=1)

    def save(profiler: torch.profiler.profile) -> None:
        write_atomically(path, lambda temporary: profiler.export_chrome_trace(str(temporary)))

    with torch.profiler.profile(schedule=schedule, on_trace_ready=save) as profiler:
        yield profiler.step
