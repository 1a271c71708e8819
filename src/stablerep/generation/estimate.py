"""The dry run: count what is missing, paint one batch of it, write nothing."""

import dataclasses
import math
import time
from collections.abc import Set
from dataclasses import dataclass

from stablerep.generation.pictures import encode_picture
from stablerep.generation.plan import Key, num_asked, num_missing, plan
from stablerep.generation.repaint import images_asked, require_mask
from stablerep.generation.settings import GenerateConfig
from stablerep.generation.shared_table import DoneKeys, refuse_other_settings
from stablerep.generation.teacher import load_teacher, origin_name
from stablerep.generation.wanted import read_captions
from stablerep.generation.work import picture_settings
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


def estimate(config: GenerateConfig, device: str, num_devices: int) -> Estimate:
    """Measure one batch of the missing pictures on ``device``; raises what the real run would raise."""
    require_mask(config)
    captions = read_captions(config)
    teacher = load_teacher(config.teacher, dataclasses.replace(config, device=device))
    settings = picture_settings(teacher, config)
    origin: str | None = None
    table: ImageTable | None = None
    done: DoneKeys | Set[Key] = frozenset()
    if ImageTable.exists(config.out):
        table = ImageTable.open(config.out)
        origin = refuse_other_settings(table, settings)
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
    sizes = []
    if batch:
        painted = teacher.paint(
            teacher.encode([item.prompt for item in batch]), [item.seed for item in batch]
        )
        sizes = [len(encode_picture(picture, config).data) for picture in painted.pictures]
    measured = time.monotonic() - begin if batch else 0.0
    num_batches = math.ceil(missing / teacher.batch_size)
    return Estimate(
        origin=origin or origin_name(teacher.name, settings),
        num_captions=len(captions),
        already_there=num_asked(captions, asked) - missing,
        missing=missing,
        num_measured=len(batch),
        measured_seconds=measured,
        seconds=measured * math.ceil(num_batches / num_devices),
        num_bytes=round(sum(sizes) / len(sizes) * missing) if sizes else 0,
    )
