"""A product and the GELU after it in one call of oneDNN, where a pipeline paints on a CPU.

In a small transformer torch's GELU (tanh) takes as long as the product before it: rows are written, read, and written
again, and the tanh is a slow one. oneDNN applies it to what it has just computed, before rounding: pixels are rounded
otherwise, so it belongs to the fingerprint.
"""

from collections.abc import Iterator
from typing import Any

import torch
from diffusers.models.activations import GELU
from torch import Tensor, nn

from stablerep.generation.denoiser import denoiser_of

_ALGORITHMS = ("none", "tanh")
"""Ways to compute a GELU, whose names torch and oneDNN's call share."""


def fuse_gelu(pipeline: Any, device: torch.device) -> None:
    """Let the products of the pipeline's denoiser compute the GELU that follows them, where ``device`` is a CPU."""
    if device.type != "cpu":
        return
    for layer in _layers(pipeline):
        if _is_fusible(layer):
            layer.forward = _Fused(layer)


def has_fused_gelu(pipeline: Any) -> bool:
    """Whether ``fuse_gelu`` found something to do."""
    return any(isinstance(layer.forward, _Fused) for layer in _layers(pipeline))


def _layers(pipeline: Any) -> Iterator[GELU]:
    denoiser = denoiser_of(pipeline)
    if denoiser is not None:
        yield from (layer for layer in denoiser.modules() if type(layer) is GELU)


def _is_fusible(layer: GELU) -> bool:
    """Whether oneDNN takes the layer: a plain product (no adapter, not quantised) in a precision it computes in."""
    if type(layer.proj) is not nn.Linear or layer.approximate not in _ALGORITHMS:
        return False
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not has_onednn or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    dtype = layer.proj.weight.dtype
    return dtype == torch.float32 or (
        dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


class _Fused:
    """The forward pass of a layer, with its weights as they are when it is called."""

    def __init__(self, layer: GELU) -> None:
        self._layer = layer

    def __call__(self, hidden_states: Tensor) -> Tensor:
        proj = self._layer.proj
        result: Tensor = torch.ops.mkldnn._linear_pointwise(
            hidden_states, proj.weight, proj.bias, "gelu", [], self._layer.approximate
        )
        return result
