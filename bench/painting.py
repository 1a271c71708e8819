"""Painting by ``generate`` beside the plain loop that calls the stock pipeline for one caption after the other.

    python bench/painting.py --num-captions 32 --num-images 4
    python bench/painting.py --steps 4 8 12 20

Same teacher, precision, steps, guidance and number of pictures; loading is not counted. Then how much of the time
passes outside the model's own forward passes (transformer or U-Net, text encoder, decoder), and what guidance in a
part of the steps saves. ``generate`` as it is asked for by default, hence not compiled, should be 1.5 times as fast as
the plain loop, with at most 10 % of its time outside the forward passes, at every number of steps.
"""

import dataclasses
import functools
import sys
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
from stablerep.generation.teacher import load_diffusers_teacher
from stablerep.generation.wanted import read_captions
from stablerep.runtime import why_no_compile

LEAST_FASTER, MOST_OUTSIDE = 1.5, 0.1
PLAIN, OURS = "plain loop, pipe(prompt)", "generate"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes."""

    teacher: str = "icons"
    num_captions: int = 32
    num_images: int = 4
    steps: tuple[int, ...] = ()
    """Numbers of denoising steps, one after the other; the teacher's own where not given."""
    where: str = "split = 'train' AND template = 'primary'"
    interval: tuple[float, float] = (0.3, 0.95)
    num_rounds: int = 2
    """Every way is measured so often in turn; the fastest counts, so that compiling, which the first pays, does not."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What painting took at one number of steps."""

    steps: int
    num_pictures: int
    seconds: dict[str, float]
    """The fastest round of every way."""
    outside: float
    """Share of the time of ``generate`` that passes outside the model's forward passes."""


def main(config: Config) -> int:
    """Print a table for every number of steps; 1 where a bar is missed."""
    if (reason := why_no_compile()) is not None:
        print(f"not compiled: {reason}")
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder) / "world"
        write_world(WorldConfig(name="icons", out=world))
        reached = []
        for number, steps in enumerate(config.steps or (None,)):
            asked = GenerateConfig(
                captions=world / "captions.lance",
                teacher=config.teacher,
                num_images=config.num_images,
                num_inference_steps=steps,
                limit=config.num_captions,
                where=config.where,
            )
            reached.append(report(measure(asked, config, Path(folder) / str(number)), config.teacher))
    return 0 if all(reached) else 1


def measure(asked: GenerateConfig, config: Config, folder: Path) -> Measured:
    """Paint in every way, in turn."""
    settings = load_diffusers_teacher(asked.teacher, asked).settings
    changes: dict[str, dict[str, Any]] = {
        OURS: {},
        f"{OURS}, compiled": {"compile": True},
        f"{OURS}, guidance in a part": {"guidance_interval": config.interval},
    }
    if why_no_compile() is not None:
        del changes[f"{OURS}, compiled"]
    best: dict[str, float] = {}
    for turn in range(config.num_rounds):
        ways = {PLAIN: functools.partial(_plain, asked, settings)}
        for number, (name, change) in enumerate(changes.items()):
            out = folder / f"{turn}-{number}.lance"
            ways[name] = functools.partial(_generate, asked, out, change)
        for name, way in ways.items():
            best[name] = min(best.get(name, float("inf")), way())
    return Measured(
        steps=settings["num_inference_steps"],
        num_pictures=config.num_captions * config.num_images,
        seconds=best,
        outside=_share_outside(asked, folder / "timed.lance"),
    )


def report(found: Measured, teacher: str) -> bool:
    """Print rates beside the plain loop's, and whether both bars are kept."""
    print(f"{teacher}: {found.steps} steps, {found.num_pictures} pictures, {torch.get_num_threads()} threads")
    plain = found.seconds[PLAIN]
    for name, seconds in found.seconds.items():
        print(f"  {name:30} {found.num_pictures / seconds:7.1f} pictures/s  {plain / seconds:5.2f}x")
    faster = plain / found.seconds[OURS]
    passed = faster >= LEAST_FASTER and found.outside <= MOST_OUTSIDE
    print(
        f"{'PASSED' if passed else 'FAILED'}: at {found.steps} steps {faster:.2f} times as fast as the plain loop (bar "
        f"{LEAST_FASTER}), {found.outside:.1%} of the time outside the model's forward passes (bar {MOST_OUTSIDE:.0%})"
    )
    return passed


def _plain(asked: GenerateConfig, settings: dict[str, Any]) -> float:
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
    return work.paint_share(dataclasses.replace(asked, out=out, **changes)).seconds


def _share_outside(asked: GenerateConfig, out: Path) -> float:
    """One minus the share of the time that passes within forward passes."""
    inside = 0.0

    def timed_teacher(*arguments: Any) -> Any:
        teacher = load_diffusers_teacher(*arguments)
        pipe = teacher.pipeline
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
    sys.exit(main(tyro.cli(Config, description=__doc__)))
