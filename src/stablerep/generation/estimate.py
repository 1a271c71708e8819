"""The dry run: count what is missing, paint one batch of it, write nothing."""

import dataclasses
import math
import time
from collections.abc import Callable, Set
from dataclasses import dataclass

from stablerep.console import Console
from stablerep.generation.plan import Key, num_asked, num_missing, plan
from stablerep.generation.ray_engine import Batch, Description, Painter, Result, hired_painters
from stablerep.generation.repaint import images_asked, require_mask
from stablerep.generation.settings import GenerateConfig
from stablerep.generation.shared_table import DoneKeys, refuse_other_settings
from stablerep.generation.teacher import origin_name
from stablerep.generation.wanted import Captions, read_captions
from stablerep.store import ImageTable


@dataclass(frozen=True)
class Estimate:
    """What ``generate`` would do; ``seconds`` and ``num_bytes`` are scaled up from one batch, painted to measure."""

    origin: str
    num_captions: int
    already_there: int
    missing: int
    num_measured: int
    measured_seconds: float
    seconds: float
    num_bytes: int


def estimate(config: GenerateConfig, device: str, num_devices: int, console: Console) -> Estimate:
    """Measure one batch of what is missing, on ``device`` or a Ray worker; raises what the real run would raise."""
    require_mask(config)
    captions = read_captions(config)
    if config.engine == "ray":
        with hired_painters(config, console) as crew:
            described = crew.describe()
            return _scaled_up(
                config, captions, described, lambda batch: next(crew.run([batch]))[1], crew.size
            )
    painter = Painter(dataclasses.replace(config, device=device))
    return _scaled_up(config, captions, painter.description, painter, num_devices)


def _scaled_up(
    config: GenerateConfig,
    captions: Captions,
    teacher: Description,
    paint: Callable[[Batch], Result],
    num_workers: int,
) -> Estimate:
    origin: str | None = None
    table: ImageTable | None = None
    done: DoneKeys | Set[Key] = frozenset()
    if ImageTable.exists(config.out):
        table = ImageTable.open(config.out)
        origin = refuse_other_settings(table, teacher.settings)
        done = DoneKeys(table, origin) if origin else done
    asked = images_asked(table, origin, captions, config)
    missing = num_missing(captions, asked, done)
    batches = plan(
        captions,
        asked,
        done,
        batch_size=teacher.batch_size,
        seed=config.seed,
        styles=teacher.styles,
    )
    batch = next(batches, [])
    begin = time.monotonic()
    sizes = [len(picture.data) for picture in paint(batch).pictures if picture is not None] if batch else []
    measured = time.monotonic() - begin if batch else 0.0
    num_batches = math.ceil(missing / teacher.batch_size)
    return Estimate(
        origin=origin or origin_name(teacher.name, teacher.settings),
        num_captions=len(captions),
        already_there=num_asked(captions, asked) - missing,
        missing=missing,
        num_measured=len(batch),
        measured_seconds=measured,
        seconds=measured * math.ceil(num_batches / num_workers),
        num_bytes=round(sum(sizes) / len(sizes) * missing) if sizes else 0,
    )
