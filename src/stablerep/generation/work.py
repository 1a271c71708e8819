"""One worker: loads the teacher, paints its share of the plan, and gets out of the way of other workers."""

import random
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from stablerep.console import Console, Progress
from stablerep.generation.pipelines import Conditioning
from stablerep.generation.plan import Asked, Caption, num_asked, num_missing, plan, rotated, share
from stablerep.generation.repaint import images_asked, require_mask
from stablerep.generation.settings import GenerateConfig
from stablerep.generation.shared_table import DoneKeys, Facts, Tally, Writer, claim
from stablerep.generation.teacher import Teacher, load_teacher
from stablerep.generation.wanted import read_captions
from stablerep.store import ImageTable


@dataclass(frozen=True)
class Outcome:
    """What one worker did."""

    origin: str
    num_captions: int
    already_there: int
    tally: Tally
    seconds: float
    num_truncated: int
    truncated_example: str | None


def picture_settings(teacher: Teacher, config: GenerateConfig) -> dict[str, Any]:
    """Everything that determines the stored pictures: what the fingerprint covers."""
    quality = None if config.format == "png" else config.quality
    stored = {"size": config.size, "format": config.format, "quality": quality}
    return {**teacher.settings, "seed": config.seed, **stored}


def paint_share(
    config: GenerateConfig, index: int = 0, count: int = 1, console: Console | None = None
) -> Outcome:
    """Paint what is missing of part ``index`` of ``count`` of the captions."""
    require_mask(config)
    captions = read_captions(config)
    teacher = load_teacher(config.teacher, config)
    return paint_captions(teacher, share(captions, index, count), captions.facts, config, console)


def paint_captions(
    teacher: Teacher,
    items: Sequence[Caption],
    facts: Facts,
    config: GenerateConfig,
    console: Console | None = None,
) -> Outcome:
    """Paint what is missing of these captions, whatever ``config.captions`` holds."""
    console = console or Console(quiet=True)
    table = ImageTable.open_or_create(config.out)
    origin = claim(table, teacher.name, picture_settings(teacher, config))
    done = DoneKeys(table, origin)
    asked = images_asked(table, origin, items, config)
    missing = num_missing(items, asked, done)
    there = num_asked(items, asked) - missing
    console.say(
        f"{origin}: {plan_in_words(teacher)}; {len(items)} captions x {config.num_images} images, "
        f"{there} {'kept' if config.repaint else 'there already'}, {missing} to paint"
    )
    tally, begin = Tally(), time.monotonic()
    while missing:
        with (
            console.progress("painting", missing, "pictures") as progress,
            Writer(table, origin, facts, config) as writer,
        ):
            _Worker(teacher, config, done, writer, progress).paint(items, asked)
        tally += writer.tally
        # What failed is repainted at once, so that the same command again finds nothing to do.
        asked = images_asked(table, origin, items, config)
        missing = num_missing(items, asked, done)
    seconds = time.monotonic() - begin
    return Outcome(
        origin, len(items), there, tally, seconds, teacher.num_truncated, teacher.truncated_example
    )


class _Worker:
    def __init__(
        self, teacher: Teacher, config: GenerateConfig, done: DoneKeys, writer: Writer, progress: Progress
    ) -> None:
        self._conditionings = Conditionings(teacher)
        self._teacher = teacher
        self._config = config
        self._done = done
        self._writer = writer
        self._progress = progress
        # Where to start is no part of the result, and differs from process to process on purpose.
        self._random = random.Random()

    def paint(self, captions: Sequence[Caption], asked: Asked) -> None:
        """Paint every missing picture, from a random caption on. On meeting another worker, go on somewhere else."""
        finished = not captions
        while not finished:
            finished = self._paint_from(rotated(captions, self._random.randrange(len(captions))), asked)

    def _paint_from(self, captions: Iterable[Caption], asked: Asked) -> bool:
        """Paint until the captions are through (True) or another worker's pictures turn up (False)."""
        config, lost = self._config, self._writer.tally.lost
        batches = plan(
            captions,
            asked,
            self._done,
            batch_size=self._teacher.batch_size,
            seed=config.seed,
            styles=self._teacher.styles,
        )
        for batch in batches:
            self._done.refresh()
            missing = [item for item in batch if item.key not in self._done]
            if missing:
                conditionings = self._conditionings.of([item.prompt for item in missing])
                painted = self._teacher.paint(conditionings, [item.seed for item in missing])
                self._done.add([item.key for item in missing])
                self._writer.put(missing, painted)
                self._progress.advance(len(missing), note=self._writer.tally.in_words())
            if len(missing) < len(batch) or self._writer.tally.lost > lost:
                return False
        return True


class Conditionings:
    """Conditionings of the prompts at hand, each encoded once while it is in use."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self._kept: OrderedDict[str, Conditioning] = OrderedDict()

    def of(self, prompts: Sequence[str]) -> list[Conditioning]:
        """One conditioning per prompt, in their order."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._kept]
        self._kept |= zip(new, self._teacher.encode(new), strict=True)
        for prompt in prompts:
            self._kept.move_to_end(prompt)
        # Two windows of the plan, as a batch may reach over the border between them.
        window = self._teacher.batch_size * max(1, len(self._teacher.styles))
        while len(self._kept) > 2 * window:
            self._kept.popitem(last=False)
        return [self._kept[prompt] for prompt in prompts]


def plan_in_words(teacher: Teacher) -> str:
    """How a teacher paints, in a few words."""
    settings = teacher.settings
    return (
        f"{settings['num_inference_steps']} steps of {settings['scheduler']['class']}, guidance "
        f"{settings['guidance_scale']}, {settings['dtype']} on {settings['device']}"
    )
