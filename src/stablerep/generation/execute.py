"""``stablerep generate``: K pictures per caption, painted by a teacher into the image table; restartable any time."""

import concurrent.futures
import dataclasses
import multiprocessing
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from stablerep import cost
from stablerep.console import Console
from stablerep.generation.settings import GenerateConfig
from stablerep.store import ImageTable

if TYPE_CHECKING:
    from stablerep.generation.estimate import Estimate
    from stablerep.generation.work import Outcome

__all__ = ["GenerateConfig", "GenerateSummary", "generate"]

_QUIET = Console(quiet=True)


@dataclass(frozen=True, kw_only=True)
class GenerateSummary:
    """What ``generate`` did; in a dry run, what it would do."""

    path: Path
    """The image table."""
    origin: str
    """The teacher with its settings, as the rows name it."""
    num_captions: int
    """Captions asked for."""
    painted: int = 0
    """Pictures added."""
    failed: int = 0
    """Rows added that hold a reason instead of a picture."""
    failures: dict[str, int]
    """Their number by reason."""
    already_there: int
    """Rows asked for that the table held before; with ``repaint`` the kept ones among them."""
    truncated: int = 0
    """Prompts painted now of which the teacher's tokenizer took only the beginning."""
    truncated_example: str | None = None
    """One of them."""
    missing: int = 0
    """Rows asked for that the table does not hold now; 0 but in a dry run."""
    seconds: float
    """Wall time of the painting; loading the teacher comes on top."""
    images_per_second: float
    """Pictures painted per second."""
    estimated_seconds: float | None = None
    """Dry run: time that the missing pictures would take."""
    estimated_bytes: int | None = None
    """Dry run: size of the missing pictures."""


def generate(config: GenerateConfig, *, console: Console = _QUIET) -> GenerateSummary:
    """Paint every missing picture of the captions into the image table; a failure becomes a row with its reason.

    May be killed and started again at any moment, and run several times at once on one table: no row is ever there
    twice, and a picture is a function of settings, caption and image index (on a CPU to the bit; on GPUs, whose kernels
    differ, up to rounding). Raises ``UserError`` where captions, filter or teacher cannot be used, and where the table
    holds pictures painted with other settings.
    """
    # Imported here because diffusers takes seconds, which a command line that only prints its help should not pay.
    from stablerep.generation.estimate import estimate
    from stablerep.generation.ray_engine import paint_with_ray
    from stablerep.generation.work import paint_share

    devices = local_devices(config.device)
    if config.dry_run:
        summary = _foreseen(config, estimate(config, devices[0], len(devices), console))
    elif config.engine == "ray":
        summary = _summary(config, [paint_with_ray(config, console)])
    else:
        with cost.metered("generate", cost.beside(config.out), len(devices)):
            if len(devices) == 1:
                alone = dataclasses.replace(config, device=devices[0])
                outcomes = [paint_share(alone, console=console)]
            else:
                outcomes = paint_on(devices, config, console)
        summary = _summary(config, outcomes)
    console.say(_in_words(summary))
    if summary.truncated:
        console.say(
            f"{summary.truncated} prompts are longer than the teacher reads; only their beginning counted, so of "
            f"{summary.truncated_example!r}"
        )
    return summary


def local_devices(asked: str) -> list[str]:
    """The devices to paint on: the one named, or for ``auto`` every GPU of this machine."""
    num_gpus = torch.cuda.device_count()
    # A launcher that sets LOCAL_RANK has started one process per GPU already.
    if asked != "auto" or num_gpus < 2 or "LOCAL_RANK" in os.environ:
        return [asked]
    return [f"cuda:{index}" for index in range(num_gpus)]


def paint_on(devices: Sequence[str], config: GenerateConfig, console: Console = _QUIET) -> "list[Outcome]":
    """Paint with one spawned process per device, each its share of the captions; progress is read off the table."""
    from stablerep.generation.wanted import read_captions
    from stablerep.generation.work import paint_share

    console.say(f"painting on {', '.join(devices)}, one process each")
    table = ImageTable.open_or_create(config.out)
    asked, before = len(read_captions(config)) * config.num_images, len(table)
    context = multiprocessing.get_context("spawn")  # neither CUDA nor Lance survives a fork
    with (
        concurrent.futures.ProcessPoolExecutor(len(devices), mp_context=context) as pool,
        console.progress("painting", asked, "pictures") as progress,
    ):
        waiting = {
            pool.submit(paint_share, dataclasses.replace(config, device=device), index, len(devices))
            for index, device in enumerate(devices)
        }
        outcomes = []
        while waiting:
            finished, waiting = concurrent.futures.wait(waiting, timeout=1)
            outcomes += [future.result() for future in finished]
            now = len(table.reload())
            progress.advance(now - before)
            before = now
    return outcomes


def _summary(config: GenerateConfig, outcomes: "Sequence[Outcome]") -> GenerateSummary:
    failures = sum((outcome.tally.failures for outcome in outcomes), Counter[str]())
    painted = sum(outcome.tally.painted for outcome in outcomes)
    seconds = max(outcome.seconds for outcome in outcomes)
    return GenerateSummary(
        path=config.out,
        origin=outcomes[0].origin,
        num_captions=sum(outcome.num_captions for outcome in outcomes),
        painted=painted,
        failed=failures.total(),
        failures=dict(failures),
        already_there=sum(outcome.already_there for outcome in outcomes),
        truncated=sum(outcome.num_truncated for outcome in outcomes),
        truncated_example=next(filter(None, (outcome.truncated_example for outcome in outcomes)), None),
        seconds=seconds,
        images_per_second=(painted + failures.total()) / max(seconds, 1e-9),
    )


def _foreseen(config: GenerateConfig, estimate: "Estimate") -> GenerateSummary:
    return GenerateSummary(
        path=config.out,
        origin=estimate.origin,
        num_captions=estimate.num_captions,
        failures={},
        already_there=estimate.already_there,
        missing=estimate.missing,
        seconds=estimate.measured_seconds,
        images_per_second=estimate.num_measured / max(estimate.measured_seconds, 1e-9),
        estimated_seconds=estimate.seconds,
        estimated_bytes=estimate.num_bytes,
    )


def _in_words(summary: GenerateSummary) -> str:
    if summary.estimated_seconds is not None and summary.estimated_bytes is not None:
        return (
            f"dry run: {summary.missing} pictures to paint into {summary.path}, {summary.already_there} are there; "
            f"judged by one batch, painted and thrown away: about {summary.estimated_seconds:.1f} s and "
            f"{summary.estimated_bytes / 1e6:.2f} MB; nothing was written"
        )
    reasons = "; ".join(f"{count} x {reason}" for reason, count in sorted(summary.failures.items()))
    return (
        f"{summary.path}: {summary.painted} pictures added, {summary.already_there} were there, "
        f"{summary.failed} failed{f' ({reasons})' if reasons else ''}"
    )
