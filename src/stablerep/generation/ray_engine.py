"""``generate --engine ray``: the plan painted by Ray workers anywhere in a cluster, stored by the process that asked.

Workers hold one teacher each and get batches of the same plan as the local engine, so that the table is the same. Rows
are committed here, and a batch counts as painted once its rows are in the table.
"""

import contextlib
import dataclasses
import functools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stablerep.cluster import Crew, Task, hired
from stablerep.console import Console
from stablerep.generation.folders import shipped_teachers
from stablerep.generation.pictures import Encoded, encode_painted
from stablerep.generation.plan import PlanItem, num_asked, num_missing, plan
from stablerep.generation.repaint import images_asked, require_mask
from stablerep.generation.settings import GenerateConfig
from stablerep.generation.shared_table import DoneKeys, Tally, Writer, claim
from stablerep.generation.teacher import TEACHERS, load_teacher
from stablerep.generation.wanted import read_captions
from stablerep.generation.work import Conditionings, Outcome, picture_settings, plan_in_words
from stablerep.store import ImageTable

Batch = list[PlanItem]


@dataclass(frozen=True, kw_only=True)
class Description:
    """A worker's teacher: what the plan and the table need to know of it."""

    name: str
    batch_size: int
    styles: tuple[str, ...]
    settings: dict[str, Any]
    """All that determines the stored pictures."""
    words: str
    """The painter in words."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A painted batch: per picture its bytes, or the reason why there are none."""

    pictures: list[Encoded | None]
    reasons: list[str | None]
    truncated: list[str]
    """The prompts among them of which the text encoder sees only the beginning."""


class Painter:
    """What a worker does: paint batches with one teacher."""

    def __init__(self, config: GenerateConfig) -> None:
        self._config = config
        self._teacher = load_teacher(config.teacher, config)
        self._conditionings = Conditionings(self._teacher)

    @property
    def settings(self) -> dict[str, Any]:
        """All that determines the stored pictures."""
        return picture_settings(self._teacher, self._config)

    @property
    def description(self) -> Description:
        """What the teacher is."""
        teacher = self._teacher
        return Description(
            name=teacher.name,
            batch_size=teacher.batch_size,
            styles=teacher.styles,
            settings=self.settings,
            words=plan_in_words(teacher),
        )

    def __call__(self, batch: Batch) -> Result:
        """Paint and encode a batch."""
        prompts = [item.prompt for item in batch]
        conditionings = self._conditionings.of(prompts)
        painted = self._teacher.paint(conditionings, [item.seed for item in batch])
        return Result(
            pictures=encode_painted(painted, self._config),
            reasons=painted.reasons,
            truncated=[prompt for prompt in dict.fromkeys(prompts) if self._teacher.is_truncated(prompt)],
        )


def hired_painters(
    config: GenerateConfig, console: Console
) -> contextlib.AbstractContextManager[Crew[Batch, Result]]:
    """Workers with the teacher, on a Ray cluster; without an address one is started on this machine."""
    # A worker has another working directory; a name goes before a path, as in `load_teacher`.
    if config.teacher not in (*TEACHERS, *shipped_teachers()) and Path(config.teacher).exists():
        config = dataclasses.replace(config, teacher=str(Path(config.teacher).resolve()))
    task = Task(load=functools.partial(Painter, config), name=_in_words, device=config.device)
    return hired(task, config, console)


def paint_with_ray(config: GenerateConfig, console: Console) -> Outcome:
    """Paint what is missing on the workers of a Ray cluster."""
    require_mask(config)
    captions = read_captions(config)
    with hired_painters(config, console) as crew:
        teacher: Description = crew.describe()
        table = ImageTable.open_or_create(config.out)
        origin = claim(table, teacher.name, teacher.settings)
        done = DoneKeys(table, origin)
        asked = images_asked(table, origin, captions, config)
        missing = num_missing(captions, asked, done)
        there = num_asked(captions, asked) - missing
        console.say(
            f"{origin}: {teacher.words}; {crew.size} Ray workers; {len(captions)} captions x {config.num_images} "
            f"images, {there} {'kept' if config.repaint else 'there already'}, {missing} to paint"
        )
        tally, begin = Tally(), time.monotonic()
        truncated: set[int] = set()  # hashes, as the images of a prompt are painted by several workers
        example: str | None = None
        while missing:
            batches = plan(
                captions,
                asked,
                done,
                batch_size=teacher.batch_size,
                seed=config.seed,
                styles=teacher.styles,
            )
            with (
                console.progress("painting", missing, "pictures") as progress,
                Writer(table, origin, captions.facts, config) as writer,
            ):
                for batch, result in crew.run(batches):
                    writer.put_encoded(batch, result.pictures, result.reasons)
                    truncated.update(map(hash, result.truncated))
                    example = example or next(iter(result.truncated), None)
                    progress.advance(len(batch), note=writer.tally.in_words())
            tally += writer.tally
            done.refresh()
            asked = images_asked(table, origin, captions, config)
            missing = num_missing(captions, asked, done)
        seconds = time.monotonic() - begin
        return Outcome(origin, len(captions), there, tally, seconds, len(truncated), example)


def _in_words(batch: Batch) -> str:
    return f"the batch of caption {batch[0].caption_id}, image {batch[0].image_index},"
