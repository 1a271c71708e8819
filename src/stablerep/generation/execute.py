"""``stablerep generate``: K pictures per caption, painted by a teacher into the image table, restartable at any moment."""

import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import os
import platform
import random
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tyro.conf import Positional

from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.generation.pictures import FormatName, encode_picture
from stablerep.generation.plan import Caption, PlanItem, num_missing, plan, rotated, share
from stablerep.generation.settings import PaintConfig
from stablerep.runtime import pick_device, seed_for
from stablerep.store import CaptionTable, ImageTable

if TYPE_CHECKING:  # diffusers takes seconds to import, and the command line needs only the config
    from stablerep.generation.shared_table import Tally, Writer
    from stablerep.generation.teacher import Conditioning, Teacher

_COPIED = ("split", "group", "label")


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(PaintConfig):
    """Paint ``num_images`` pictures for every caption; what is there already is not painted again."""

    captions: Positional[Path] = Path("captions.lance")
    """Caption table."""
    out: Path = Path("images.lance")
    """Image table to add to; created where there is none."""
    teacher: str = "icons"
    """A shipped teacher by name, the path of a diffusers folder, or a hub id."""
    num_images: int = 10
    """Pictures per caption (K); published: 10 for CC12M and RedCaps."""
    size: int | None = None
    """Short side to store, in pixels, never enlarged; 256 for pictures of 512 or more, as published, else as painted."""
    format: FormatName = "jpeg"
    """Encoding of the stored pictures."""
    quality: int = 95
    """Quality of JPEG and WebP, 1 to 100."""
    seed: int = 0
    """Run seed: together with caption and image index it determines a picture's noise."""
    where: str | None = None
    """Only the captions that match this filter, such as "split = 'train' AND template = 'primary'"."""
    limit: int | None = None
    """At most so many captions, the first of the table."""
    commit_seconds: float = 10.0
    """How often finished pictures are committed; a killed process loses at most the work since."""
    dry_run: bool = False
    """Say what would be painted, how long it would take and how large it would be; write nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_images < 1:
            raise ValueError(f"num_images must be at least 1, got {self.num_images}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality must be within 1 to 100, got {self.quality}")
        if self.size is not None and self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")


@dataclass(frozen=True, kw_only=True)
class GenerateSummary:
    """What ``generate`` did, or in a dry run would do."""

    path: Path
    """The image table."""
    origin: str
    """Name of the teacher with its settings, as the rows carry it."""
    num_captions: int
    """Captions asked for."""
    painted: int
    """Pictures added."""
    failed: int
    """Rows added that have a reason instead of a picture."""
    failures: dict[str, int]
    """Their number by reason."""
    already_there: int
    """Rows asked for that the table held before."""
    seconds: float
    """Wall time of the painting, without loading the teacher."""
    images_per_second: float
    """Rows added per second."""
    dry_run: bool = False
    """Whether nothing was written."""
    missing: int = 0
    """Rows that are still to be painted: 0 but in a dry run."""
    estimated_bytes: int | None = None
    """Dry run: size of the missing pictures, from one painted batch."""
    estimated_seconds: float | None = None
    """Dry run: time to paint them, from one painted batch."""


def generate(config: GenerateConfig, *, console: Console | None = None) -> GenerateSummary:
    """Paint every missing picture of the captions and add it to the image table; failures become rows with a reason.

    May be killed and started again at any moment, and run several times at once on one table: rows are unique. Raises
    ``UserError`` where the teacher, the captions or the filter cannot be used, and where the table holds pictures painted
    with other settings.
    """
    console = console or Console(quiet=True)
    captions = _read_captions(config)
    if config.dry_run:
        return _dry_run(config, captions, console)
    devices = local_devices(config.device)
    ImageTable.open_or_create(config.out)
    if len(devices) == 1:
        outcome = _paint_share(dataclasses.replace(config, device=devices[0]), (0, 1), console)
    else:
        console.say(f"painting on {len(devices)} devices: {', '.join(devices)}")
        outcome = _merged(_on_each(config, devices))
    added = outcome.tally.painted + outcome.tally.failures.total()
    summary = GenerateSummary(
        path=config.out,
        origin=outcome.origin,
        num_captions=len(captions),
        painted=outcome.tally.painted,
        failed=outcome.tally.failures.total(),
        failures=dict(outcome.tally.failures),
        already_there=outcome.already_there,
        seconds=round(outcome.seconds, 3),
        images_per_second=round(added / max(outcome.seconds, 1e-9), 3),
    )
    _report(summary, console)
    return summary
