"""A product with its GELU in one call paints what the two after each other paint, up to rounding, and is stated."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.models.activations import GELU
from torch import nn

from generation import tiny_pipelines
from stablerep.generation import pipelines
from stablerep.generation.fused_gelu import fuse_gelu, has_fused_gelu
from stablerep.generation.settings import PaintConfig
from stablerep.generation.teacher import load_teacher

CPU = torch.device("cpu")
BFLOAT16 = pytest.param(
    torch.bfloat16,
    marks=pytest.mark.skipif(
        not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        reason="oneDNN computes no bfloat16 on this processor",
    ),
)


def around(layer: nn.Module) -> Any:
    """A pipeline whose denoiser holds the layer."""
    return SimpleNamespace(transformer=nn.Sequential(layer))


@pytest.mark.parametrize("dtype", [torch.float32, BFLOAT16])
@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_it_is_nearer_to_the_exact_value_than_two_calls(
    dtype: torch.dtype, approximate: str, bias: bool
) -> None:
    torch.manual_seed(0)
    layer = GELU(24, 40, approximate, bias)
    picture = torch.randn(3, 40, 24).to(dtype).transpose(0, 1)  # not contiguous
    layer = layer.to(dtype)
    twice = layer(picture)
    exact = GELU(24, 40, approximate, bias).double()
    exact.load_state_dict(layer.state_dict())
    wanted = exact(picture.double())
    fuse_gelu(around(layer), CPU)
    once = layer(picture)
    assert has_fused_gelu(around(layer)) and once.dtype == dtype and once.shape == twice.shape
    off, usual = ((result.double() - wanted).abs().max() for result in (once, twice))
    assert off <= usual + 1e-5


@torch.no_grad()
def test_weights_that_change_later_are_used() -> None:
    layer, picture = GELU(8, 8, "tanh"), torch.randn(2, 8)
    fuse_gelu(around(layer), CPU)
    nn.init.zeros_(layer.proj.weight)
    nn.init.zeros_(layer.proj.bias)
    assert not layer(picture).any()


def test_what_onednn_does_not_take_is_left_alone() -> None:
    adapted = GELU(8, 8, "tanh")
    adapted.proj = nn.Sequential(adapted.proj)
    half = GELU(8, 8, "tanh").half()
    for pipeline in (around(adapted), around(half), SimpleNamespace()):
        fuse_gelu(pipeline, CPU)
        assert not has_fused_gelu(pipeline)
    layer = GELU(8, 8, "tanh")
    fuse_gelu(around(layer), torch.device("cuda"))
    assert not has_fused_gelu(around(layer))


def test_a_teacher_paints_the_same_but_for_rounding_and_states_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pixart"
    tiny_pipelines.pixart(folder)

    def painted() -> tuple[torch.Tensor, dict[str, Any]]:
        teacher = load_teacher(
            str(folder), PaintConfig(num_inference_steps=3, guidance_scale=3.0, dtype="float32", batch_size=2)
        )
        return teacher.paint(teacher.encode(["a red apple", "two dogs"]), [1, 2]).pictures, teacher.settings

    fused, stated = painted()
    monkeypatch.setattr(pipelines, "fuse_gelu", lambda *_: None)
    plain, settings = painted()
    assert (plain.int() - fused.int()).abs().max() <= 1
    assert stated == settings | {"gelu": "fused"}
