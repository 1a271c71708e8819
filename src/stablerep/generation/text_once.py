"""What a denoiser makes of the text alone, computed once for all steps of a batch: keys and values of cross-attention.

A pipeline gives its denoiser the same text at every step, and the layers that read nothing else come to the same every
time. They keep their last output and give it out again, so the pictures are the same to the bit. Joint attention
(Stable Diffusion 3, FLUX) changes the text from block to block and has no such layers.
"""

from collections.abc import Callable, Iterator
from typing import Any

from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from stablerep.generation.denoiser import denoiser_of

_BEFORE_BLOCKS = ("caption_projection", "caption_norm")


def read_text_once(pipeline: Any) -> None:
    """Let the layers of the pipeline's denoiser that see nothing but text compute it once a batch, not once a step."""
    denoiser = denoiser_of(pipeline)
    if denoiser is None:
        return
    for layer in text_layers(denoiser):
        layer.forward = _Remembering(layer.forward)


def text_layers(denoiser: nn.Module) -> Iterator[nn.Module]:
    """The layers that see nothing but the text: before the blocks, and of every cross-attention."""
    yield from (layer for name in _BEFORE_BLOCKS if (layer := getattr(denoiser, name, None)) is not None)
    for module in denoiser.modules():
        # With added keys and values, `to_k` and `to_v` read the picture.
        if isinstance(module, Attention) and module.is_cross_attention and module.added_kv_proj_dim is None:
            yield module.to_k
            yield module.to_v


class _Remembering:
    """A function of one tensor that keeps its last input and output.

    While the input is kept, nothing else can lie at its place in memory: the same place is the same text.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function
        self._last: tuple[Tensor, Tensor] | None = None

    def __call__(self, text: Tensor) -> Tensor:
        if self._last is None or not _same_place(self._last[0], text):
            self._last = (text, self._function(text))
        return self._last[1]


def _same_place(one: Tensor, other: Tensor) -> bool:
    return (one.data_ptr(), one.shape, one.stride(), one.dtype) == (
        other.data_ptr(),
        other.shape,
        other.stride(),
        other.dtype,
    )
