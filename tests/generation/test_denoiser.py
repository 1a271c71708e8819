"""A compiled denoiser paints what a plain one paints, up to rounding, and says that it is another."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from generation import tiny_pipelines
from stablerep import runtime
from stablerep.errors import UserError
from stablerep.generation.denoiser import compile_denoiser, denoiser_of
from stablerep.generation.settings import PaintConfig
from stablerep.generation.teacher import load_teacher

PROMPTS, SEEDS = ["a red apple", "two dogs"], [1, 2]


@pytest.mark.slow
@pytest.mark.skipif(runtime.why_no_compile() is not None, reason=str(runtime.why_no_compile()))
def test_a_compiled_teacher_paints_the_same_but_for_rounding(tmp_path: Path) -> None:
    folder = tmp_path / "pixart"
    tiny_pipelines.pixart(folder, num_layers=1)  # each takes long to compile

    def teacher(**changes: Any) -> Any:
        asked = {"num_inference_steps": 3, "guidance_scale": 3.0, "dtype": "float32", "batch_size": 2}
        return load_teacher(str(folder), PaintConfig(**(asked | changes)))

    plain, compiled = teacher(), teacher(compile=True)
    first = plain.paint(plain.encode(PROMPTS), SEEDS).pictures
    second = compiled.paint(compiled.encode(PROMPTS), SEEDS).pictures
    assert (first.int() - second.int()).abs().max() <= 1
    assert compiled.settings == plain.settings | {"compile": True}
    limited = {"guidance_interval": (0.3, 0.9)}
    pictures = [
        one.paint(one.encode(PROMPTS), SEEDS).pictures
        for one in (teacher(**limited), teacher(**limited, compile=True))
    ]
    assert (pictures[0].int() - pictures[1].int()).abs().max() <= 1
    assert not torch.equal(pictures[0], first)


def test_what_cannot_be_compiled_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert denoiser_of(SimpleNamespace(unet=None, transformer="model")) == "model"
    with pytest.raises(UserError, match="has neither a transformer nor a U-Net; leave compile out"):
        compile_denoiser(SimpleNamespace())
    monkeypatch.setattr(
        "stablerep.runtime.why_no_compile", lambda: "no C++ compiler was found (g++ or clang++)"
    )
    with pytest.raises(UserError, match=r"compile: no C\+\+ compiler was found .*leave compile out"):
        compile_denoiser(SimpleNamespace(unet=SimpleNamespace(forward=print)))
