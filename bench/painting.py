"""Painting by ``generate`` beside the plain loop that calls the stock pipeline for one caption after the other.

    python bench/painting.py --num-captions 32 --num-images 4

Same teacher, precision, steps, guidance and number of pictures; loading is not counted. Then how much of the time
passes outside the model's own forward passes (transformer or U-Net, text encoder, decoder), and what guidance in a
part of the steps saves.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import tyro
from diffusers import DiffusionPipeline
from diffusers.utils import logging

from stablerep.captions.worlds import WorldConfig, write_world
from stablerep.generation import work
from stablerep.generation.folders import find_teacher
from stablerep.generation.settings import GenerateConfig
from stablerep.generation.teacher import load_teacher
from stablerep.generation.wanted import read_captions
from stablerep.runtime import why_no_compile


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes."""

    teacher: str = "icons"
    num_captions: int = 32
    num_images: int = 4
    where: str = "split = 'train' AND template = 'primary'"
    interval: tuple[float, float] = (0.3, 0.95)
    num_rounds: int = 2
    """Every way is measured so often in turn; the fastest counts, so that compiling, which the first pays, does not."""


def main(config: Config) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder) / "world"
        write_world(WorldConfig(name="icons", out=world))
        asked = GenerateConfig(
            captions=world / "captions.lance",
            teacher=config.teacher,
            num_images=config.num_images,
            limit=config.num_captions,
            where=config.where,
            out=Path(folder) / "warm.lance",
        )
        ways: dict[str, Callable[[int], float]] = {
            "plain loop, pipe(prompt)": lambda _: _plain(asked),
            "generate": lambda turn: _generate(asked, Path(folder) / f"{turn}.lance", {}),
            "generate, compiled": lambda turn: _generate(
                asked, Path(folder) / f"compiled-{turn}.lance", {"compile": True}
            ),
            "generate, guidance in a part": lambda turn: _generate(
                asked, Path(folder) / f"part-{turn}.lance", {"guidance_interval": config.interval}
            ),
        }
        if (reason := why_no_compile()) is not None:
            print(f"not compiled: {reason}")
            del ways["generate, compiled"]
        best: dict[str, float] = {}
        for turn in range(config.num_rounds):
            for name, measure in ways.items():
                best[name] = min(best.get(name, float("inf")), measure(turn))
        outside = _share_outside(asked, Path(folder) / "timed.lance")
    pictures = config.num_captions * config.num_images
    plain = best["plain loop, pipe(prompt)"]
    print(f"{config.teacher}: {pictures} pictures, {torch.get_num_threads()} threads")
    for name, seconds in best.items():
        print(f"  {name:30} {pictures / seconds:7.1f} pictures/s  {plain / seconds:5.2f}x")
    print(f"  outside the model's forward passes: {100 * outside:.1f} % of the time of generate")


def _plain(asked: GenerateConfig) -> float:
    settings = load_teacher(asked.teacher, asked).settings
    logging.disable_progress_bar()
    pipeline = DiffusionPipeline.from_pretrained(
        find_teacher(asked.teacher, download=False), torch_dtype=getattr(torch, settings["dtype"])
    )
    pipeline.set_progress_bar_config(disable=True)
    options = {
        name: settings[name]
        for name in ("num_inference_steps", "guidance_scale", "max_sequence_length")
        if settings[name] is not None
    }
    begin = time.monotonic()
    for _, text in read_captions(asked):
        pipeline(
            text,
            num_images_per_prompt=asked.num_images,
            use_resolution_binning=False,
            clean_caption=False,
            **options,
        )
    return time.monotonic() - begin


def _generate(asked: GenerateConfig, out: Path, changes: dict[str, Any]) -> float:
    fields = {name: getattr(asked, name) for name in asked.__dataclass_fields__}
    return work.paint_share(GenerateConfig(**(fields | {"out": out} | changes))).seconds


def _share_outside(asked: GenerateConfig, out: Path) -> float:
    """One minus the share of the time that passes within forward passes."""
    inside = 0.0

    def timed_teacher(*arguments: Any) -> Any:
        teacher = load_teacher(*arguments)
        pipe = teacher._pipe
        for owner, name in (
            (getattr(pipe, "transformer", None) or pipe.unet, "forward"),
            (pipe.text_encoder, "forward"),
            (pipe.vae, "decode"),
        ):
            setattr(owner, name, _timed(getattr(owner, name)))
        return teacher

    def _timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            begin = time.monotonic()
            result = function(*args, **kwargs)
            inside += time.monotonic() - begin
            return result

        return called

    with mock.patch.object(work, "load_teacher", timed_teacher):
        seconds = _generate(asked, out, {})
    return 1 - inside / seconds


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
