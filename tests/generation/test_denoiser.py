"""A compiled denoiser paints what a plain one paints, up to rounding, and says that it is another."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from generation import tiny_pipelines
from stablerep import runtime
from stablerep.errors import UserError
from stablerep.generation.denoiser import compile_denoiser, denoiser_of
from stablerep.generation.settings import PaintConfig
from stablerep.generation.teacher import load_teacher

PROMPTS, SEEDS = ["a red apple", "two dogs"], [1, 2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teachers") / "pixart"
    tiny_pipelines.pixart(path, num_layers=1)  # each takes long to compile
    return path


def painted(folder: Path, **changes: Any) -> tuple[Tensor, dict[str, Any]]:
    """Pictures, and the settings that their teacher states."""
    asked = {"num_inference_steps": 3, "guidance_scale": 3.0, "dtype": "float32", "batch_size": 2}
    teacher = load_teacher(str(folder), PaintConfig(**(asked | changes)))
    return teacher.paint(teacher.encode(PROMPTS), SEEDS).pictures, teacher.settings


@pytest.mark.slow
@pytest.mark.skipif(runtime.why_no_compile() is not None, reason=str(runtime.why_no_compile()))
def test_a_compiled_teacher_paints_the_same_but_for_rounding(folder: Path) -> None:
    plain, settings = painted(folder)
    compiled, stated = painted(folder, compile=True)
    assert (plain.int() - compiled.int()).abs().max() <= 1
    del settings["gelu"]  # the compiler is given the layers as they are
    assert stated == settings | {"compile": "frozen"}


@pytest.mark.slow
@pytest.mark.skipif(runtime.why_no_compile() is not None, reason=str(runtime.why_no_compile()))
def test_a_compiled_teacher_guides_in_an_interval(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced for batches of both sizes. The code that becomes of what is traced is compiled above."""
    shapes = set()

    def as_traced(graph: Any, inputs: list[Any]) -> Any:
        shapes.update(tuple(tensor.shape) for tensor in inputs if isinstance(tensor, Tensor))
        return graph.forward

    compile_as_traced = partial(torch.compile, backend=as_traced)
    monkeypatch.setattr(torch, "compile", lambda forward, **_: compile_as_traced(forward, dynamic=False))
    limited = {"guidance_interval": (0.3, 0.9)}
    plain, _ = painted(folder, **limited)
    compiled, _ = painted(folder, **limited, compile=True)
    assert (plain.int() - compiled.int()).abs().max() <= 1
    assert not torch.equal(plain, painted(folder)[0])
    assert {(4, 4, 8, 8), (2, 4, 8, 8)} <= shapes, "latents of pictures that are guided, and of others"


def test_what_cannot_be_compiled_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert denoiser_of(SimpleNamespace(unet=None, transformer="model")) == "model"
    with pytest.raises(UserError, match="has neither a transformer nor a U-Net; leave compile out"):
        compile_denoiser(SimpleNamespace(), torch.device("cpu"))
    monkeypatch.setattr(
        "stablerep.runtime.why_no_compile", lambda: "no C++ compiler was found (g++ or clang++)"
    )
    with pytest.raises(UserError, match=r"compile: no C\+\+ compiler was found .*leave compile out"):
        compile_denoiser(SimpleNamespace(unet=SimpleNamespace(forward=print)), torch.device("cpu"))
