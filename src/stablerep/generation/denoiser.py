"""The model of a pipeline that takes noise away: found, and compiled."""

from typing import Any

import torch

from stablerep import runtime
from stablerep.errors import UserError

_NAMES = ("transformer", "unet")


def denoiser_of(pipeline: Any) -> Any:
    """The transformer or U-Net of a pipeline; None where it has neither."""
    return next((part for name in _NAMES if (part := getattr(pipeline, name, None)) is not None), None)


def compile_denoiser(pipeline: Any, device: torch.device) -> None:
    """Let the pipeline's transformer or U-Net be compiled when it is first called with a batch of some size.

    On a CPU its weights are constants to the compiler, which lays them out for the processor's products once.
    Raises ``UserError`` where there is no such model, or nothing can be compiled on this machine.
    """
    model = denoiser_of(pipeline)
    if model is None:
        raise UserError(f"{type(pipeline).__name__} has neither a transformer nor a U-Net; leave compile out")
    if (reason := runtime.why_no_compile()) is not None:
        raise UserError(f"compile: {reason}; install it, or leave compile out")
    model.forward = torch.compile(model.forward, dynamic=False, options={"freezing": freezes(device)})


def freezes(device: torch.device) -> bool:
    """Whether compiling for ``device`` takes the weights for constants."""
    return device.type == "cpu"
