"""``stablerep captions synthesize``: class names become captions, by templates or by a language model.

Caption i is a function of the settings, the run seed and i: a killed run goes on where it stopped, and a larger number
later adds to what is there. Class, template and seed stay in the rows, so that captions can be audited by class.
"""

import hashlib
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stablerep.captions.entries import fault_of
from stablerep.captions.language_model import LanguageModel, SamplingConfig, model_name
from stablerep.captions.phrases import (
    Mixture,
    Subject,
    Words,
    draw_subject,
    first_line,
    model_prompt,
    template_caption,
)
from stablerep.captions.statistics import Lengths, Statistics
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.runtime import seed_for
from stablerep.store import CaptionTable, caption_id, normalise_text

_VERSION = 1  # of the word lists and templates: raise it when they change
_QUIET = Console(quiet=True)
_MOST_ROWS = 50_000


@dataclass(frozen=True, kw_only=True)
class SynthesizeConfig:
    """Make captions from class names; the same command again goes on, a larger ``num`` adds to what is there."""

    classes: Path
    """Text file with one class name a line, without an article."""
    num: int = 10_000
    """Captions to draw; of equal ones the table keeps the first, and the summary counts the others."""
    out: Path = Path("captions.lance")
    """Caption table, which is created or continued."""
    model: str | None = None
    """A causal language model that writes the captions: the path of a transformers folder, or a hub id; unset: by
    templates."""
    balanced: bool = False
    """Every class equally often, instead of drawn by chance."""
    backgrounds: Path | None = None
    """Text file with one background a line, such as "on a sandy beach"; unset: a list of 30."""
    relations: Path | None = None
    """Text file with one relation a line, such as "next to"; unset: a list of 10."""
    mixture: Mixture = field(default_factory=Mixture)
    """How often each kind of caption is drawn, as a ratio; the defaults are published (SynCLR)."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How the language model writes."""
    seed: int = 0
    """Run seed."""
    commit_seconds: float = 30.0
    """How often captions are committed; a killed process loses at most the work since."""

    def __post_init__(self) -> None:
        if self.num < 1:
            raise ValueError(f"num must be at least 1, got {self.num}")


@dataclass(frozen=True, kw_only=True)
class SynthesizeSummary:
    """What the table holds of these settings: ``drawn == distinct + duplicates + empty``."""

    path: Path
    source: str
    """Name of the settings, as the rows carry it."""
    drawn: int
    """Captions drawn so far, in this run and earlier ones."""
    distinct: int
    """Rows that they gave."""
    duplicates: int
    """Captions that the table had already."""
    empty: int
    """Captions without usable text."""
    new: int
    """Rows added now."""
    kinds: dict[str, int]
    """Captions drawn now by kind."""
    fewest: int
    """Captions drawn now of the rarest class."""
    most: int
    """Captions drawn now of the most frequent class."""
    characters: Lengths
    """How long the captions drawn now are."""
    seconds: float


def synthesize(config: SynthesizeConfig, *, console: Console = _QUIET) -> SynthesizeSummary:
    """Draw captions 0 to ``num`` - 1 into the caption table; those drawn by an earlier run are not drawn again.

    Raises ``UserError`` for lists without usable lines and for a model that cannot be opened.
    """
    words = _words(config)
    model = None if config.model is None else LanguageModel(config.model, config.sampling)
    settings = _settings(config, words, model)
    table = CaptionTable.open_or_create(config.out)
    source = _source(settings, config)
    progress = _Progress(table, source, settings)
    writer = _Writer(config, words, model, source)
    begin = last = time.monotonic()
    with console.progress("synthesizing", config.num, "captions", done=min(progress.done, config.num)) as bar:
        for end, rows, num_empty in writer.blocks(progress.done):
            progress.hold(end, rows, num_empty)
            bar.advance(len(rows) + num_empty)
            if progress.num_held >= _MOST_ROWS or time.monotonic() - last >= config.commit_seconds:
                progress.commit()
                last = time.monotonic()
        progress.commit()
    summary = _summary(config, progress, writer, time.monotonic() - begin)
    console.say(
        f"{summary.drawn:,} captions drawn: {summary.distinct:,} distinct, {summary.duplicates:,} already known, "
        f"{summary.empty:,} empty; the table is {summary.path}"
    )
    return summary


def _summary(
    config: SynthesizeConfig, progress: "_Progress", writer: "_Writer", seconds: float
) -> SynthesizeSummary:
    concepts = [writer.concepts.get(name, 0) for name in writer.words.classes]
    distinct = progress.distinct()
    return SynthesizeSummary(
        path=config.out,
        source=progress.source,
        drawn=progress.done,
        distinct=distinct,
        duplicates=progress.done - progress.empty - distinct,
        empty=progress.empty,
        new=progress.new,
        kinds=dict(writer.kinds.most_common()),
        fewest=min(concepts),
        most=max(concepts),
        characters=writer.statistics.lengths(),
        seconds=round(seconds, 3),
    )


class _Progress:
    """How far the drawing has come: kept in the table itself, and written after the rows that it speaks of."""

    def __init__(self, table: CaptionTable, source: str, settings: dict[str, Any]) -> None:
        self._table = table
        self.source = source
        known = table.notes("synthesis.").get(source, {})
        self.done = int(known.get("done", 0))
        self.empty = int(known.get("empty", 0))
        self.new = 0
        self._settings = settings
        self._rows: list[dict[str, Any]] = []

    @property
    def num_held(self) -> int:
        return len(self._rows)

    def hold(self, done: int, rows: list[dict[str, Any]], num_empty: int) -> None:
        """Take over what was drawn up to ``done``."""
        self._rows += rows
        self.done = done
        self.empty += num_empty

    def commit(self) -> None:
        """Store the rows, then how far they reach: after a kill in between they are drawn again, and not added."""
        self.new += self._table.append(self._rows)
        self._rows = []
        note = {"done": self.done, "empty": self.empty, "settings": self._settings}
        if self._table.notes("synthesis.").get(self.source) != note:
            self._table.note(f"synthesis.{self.source}", note)

    def distinct(self) -> int:
        return int(self._table.reload().dataset.count_rows(filter=f"source = '{self.source}'"))


class _Writer:
    """Draws captions in blocks, each a function of its first and last number alone."""

    def __init__(
        self, config: SynthesizeConfig, words: Words, model: LanguageModel | None, source: str
    ) -> None:
        self.words = words
        self.kinds: Counter[str] = Counter()
        self.concepts: Counter[str] = Counter()
        self.statistics = Statistics()
        self._config = config
        self._model = model
        self._source = source
        self._size = 1_000 if model is None else config.sampling.batch_size

    def blocks(self, done: int) -> Iterator[tuple[int, list[dict[str, Any]], int]]:
        """(number of captions drawn by then, rows, number of empty ones) from caption ``done`` on."""
        num = self._config.num
        if done >= num:  # an earlier run drew as many or more
            return
        for begin in range(done - done % self._size, num, self._size):
            # Always whole blocks, as a model sees whole batches.
            drawn = self._draw(range(begin, begin + self._size))
            wanted = [drawn[index - begin] for index in range(max(begin, done), min(begin + self._size, num))]
            rows = [self._row(*caption) for caption in wanted if fault_of(caption[1]) is None]
            yield min(begin + self._size, num), rows, len(wanted) - len(rows)

    def _draw(self, numbers: range) -> list[tuple[Subject, str, str, int]]:
        """(subject, text, template, seed) of each number."""
        config, classes = self._config, self.words.classes
        seeds = [seed_for(config.seed, "caption", number) for number in numbers]
        draws = [random.Random(seed) for seed in seeds]
        subjects = []
        for number, draw in zip(numbers, draws, strict=True):
            concept = classes[number % len(classes)] if config.balanced else None
            subjects.append(draw_subject(draw, self.words, config.mixture, concept))
        if self._model is None:
            texts = [template_caption(draw, subject) for draw, subject in zip(draws, subjects, strict=True)]
        else:
            prompts = [
                model_prompt(draw, subject, config.sampling.num_examples)
                for draw, subject in zip(draws, subjects, strict=True)
            ]
            completions = self._model.complete(prompts, seeds[0])
            texts = [
                (first_line(text), f"{subject.kind}-model")
                for text, subject in zip(completions, subjects, strict=True)
            ]
        return [(s, text, name, seed) for s, (text, name), seed in zip(subjects, texts, seeds, strict=True)]

    def _row(self, subject: Subject, text: str, template: str, seed: int) -> dict[str, Any]:
        text = normalise_text(text)
        self.kinds[subject.kind] += 1
        self.concepts[subject.concept] += 1
        self.statistics.add(text)
        identity = caption_id(text)
        row = {"id": identity, "text": text, "source": self._source, "group": identity, "seed": seed}
        return {**row, "concept": subject.concept, "template": template}


def _settings(config: SynthesizeConfig, words: Words, model: LanguageModel | None) -> dict[str, Any]:
    """Everything that determines caption i; not how many there are."""
    lists = json.dumps(asdict(words), sort_keys=True).encode()
    settings: dict[str, Any] = {
        "version": _VERSION,
        "words": hashlib.sha256(lists).hexdigest()[:16],
        "num_classes": len(words.classes),
        "mixture": asdict(config.mixture),
        "balanced": config.balanced,
        "seed": config.seed,
    }
    if model is not None:
        sampling = asdict(config.sampling)
        settings |= {"model": model.fingerprint, "sampling": sampling}
        del sampling["device"], sampling["download"]
    return settings


def _source(settings: dict[str, Any], config: SynthesizeConfig) -> str:
    how = "templates" if config.model is None else model_name(config.model)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    return f"synthesis-{''.join(c if c.isalnum() or c in '._-' else '-' for c in how)}-{digest}"


def _words(config: SynthesizeConfig) -> Words:
    lists: dict[str, tuple[str, ...]] = {"classes": _lines(config.classes)}
    if config.backgrounds is not None:
        lists["backgrounds"] = _lines(config.backgrounds)
    if config.relations is not None:
        lists["relations"] = _lines(config.relations)
    return Words(**lists)


def _lines(path: Path) -> tuple[str, ...]:
    """The lines of a list, each once, blank ones left out; ``UserError`` where a line cannot be used."""
    try:
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); give a text file with one entry a line"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); convert it first") from error
    names: dict[str, None] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        name = normalise_text(line)
        if not name:
            continue
        if fault := fault_of(name):
            raise UserError(f"{path}, line {number}: {fault}; give one entry a line")
        names[name] = None
    if not names:
        raise UserError(f"{path} has no entries; give one a line")
    return tuple(names)
