"""``stablerep audit match``: does a picture show what its caption asked for, by an encoder of the user's choice?"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from tyro.conf import Positional

from stablerep import runtime
from stablerep.audit.levels import (
    FEWEST,
    CaptionVectors,
    levels,
    mean_picture,
    ranks,
    shuffled,
    wanted_level,
)
from stablerep.audit.record import AuditResult, Example, audit_path, example, metered, record
from stablerep.audit.rows import CaptionFacts, Rows, first_pictures, read_captions, read_rows
from stablerep.audit.verdicts import write_verdicts
from stablerep.cluster import EngineConfig
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.features import Extraction, TableImages, decoded
from stablerep.match import decodable_vectors, text_vectors
from stablerep.models.joint import ImageText, load_image_text

NAME = "match"
DEFAULT_LEVEL = 0.95
_SHOWN_LEVELS = (0.5, 0.9, 0.95, 0.99)
_NUM_WORST = 24
_NUM_MEAN = 500  # captions whose pictures make the mean picture of their origin


@dataclass(frozen=True, kw_only=True)
class MatchRules:
    """Which pictures are rejected: those below a level, those beyond the best of a caption, or both."""

    min_level: float | None = None
    """Reject what fits its caption worse than this share of shuffled captions: at 0.95 a wrong picture passes with a
    chance of at most 5 %. 0.95 where neither this nor ``keep_best`` is given."""
    keep_best: int | None = None
    """Keep this many pictures of each caption, those that fit it best, and reject the others."""
    reference: Path | None = None
    """Table of real pictures of captions in the caption table, which the encoder has not learned from: sets the level
    so that ``false_alarms`` of them are rejected, in place of ``min_level``."""
    reference_where: str | None = None
    """Which of its pictures, such as "split = 'validation'"."""
    false_alarms: float = 0.05
    """Share of the real pictures that the level may reject."""
    num_shuffled: int = 4000
    """At most so many captions of the table, one for each concept, are what a picture is held against, as far as they
    are of another group and concept."""
    across_labels: bool = False
    """Hold a picture against captions of other labels only, where it has one: what shows another thing of the same
    label is then no mismatch."""

    def __post_init__(self) -> None:
        if self.min_level is not None and not 0 <= self.min_level <= 1:
            raise ValueError(f"min_level must be in [0, 1], got {self.min_level}")
        if self.min_level is not None and self.reference is not None:
            raise ValueError("min_level and reference both set the level; give one of them")
        if not 0 < self.false_alarms < 1:
            raise ValueError(f"false_alarms must be between 0 and 1, got {self.false_alarms}")
        if self.keep_best is not None and self.keep_best < 1:
            raise ValueError(f"keep_best must be positive, got {self.keep_best}")
        if self.num_shuffled < FEWEST:
            raise ValueError(f"num_shuffled must be at least {FEWEST}, got {self.num_shuffled}")

    @property
    def level(self) -> float | None:
        """The level that is asked for, where no real pictures set it."""
        return DEFAULT_LEVEL if self.min_level is None and self.keep_best is None else self.min_level


@dataclass(frozen=True, kw_only=True)
class MatchAuditConfig(EngineConfig):
    """Hold every picture against its own caption and against shuffled ones; writes match columns and the keep mask.

    Columns: match, the cosine of picture and caption (without its style); match_level, the share of shuffled captions
    that fit the picture worse; match_rank, its place among the pictures of its caption, 0 the best; match_ok and
    match_reason. A picture that cannot be decoded is rejected.
    """

    images: Positional[Path]
    """Table of pictures (images.lance)."""
    captions: Path
    """Table of the captions that they were painted for."""
    encoder: str
    """Run of `train clip` or `train stablerep-plus`, a model of open_clip (open_clip:NAME@FILE, or a folder), or an
    official StableRep+ file. Best one that saw no painted picture of this painter."""
    download: bool = False
    """Fetch a model given by its name from the hub if it is not in the local cache yet."""
    where: str | None = None
    """Only the pictures that match this filter."""
    rules: MatchRules = field(default_factory=MatchRules)
    """Which pictures are rejected."""
    batch_size: int = 256
    """Pictures per forward pass."""
    precision: runtime.Precision = "auto"
    """Number format of the forward pass; auto takes bfloat16 where it is faster."""
    device: str = "auto"
    """Where the encoder runs: auto, cpu, cuda, mps."""
    seed: int = 0
    """Of the shuffling."""
    out: Path | None = None
    """Where to write the findings; audit.json beside the table where not given. Vectors of pictures are cached by
    content in features/ beside it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {self.batch_size}")


@dataclass(frozen=True)
class Matched:
    """Match, level and rank (M,) of M pictures, and the level (M,) that each would have with a shuffled caption.

    NaN where a picture cannot be decoded, which then ranks last.
    """

    match: np.ndarray
    level: np.ndarray
    rank: np.ndarray
    control: np.ndarray
    undecoded: Mapping[int, str]
    """Row -> why it cannot be decoded."""
    num_mean: Mapping[str, int]
    """Origin -> pictures behind the mean that is taken off."""


@metered(NAME)
def audit_match(config: MatchAuditConfig, *, console: Console = Console(quiet=True)) -> AuditResult:  # noqa: B008
    """Match every picture, calibrate, write columns, mask and audit.json.

    Raises ``UserError`` where tables and encoder cannot be used or belong to different captions, and where too few
    captions of other things are there to be held against.
    """
    begin = time.monotonic()
    path = audit_path(config.images, config.out)
    rows = read_rows(config.images, config.where)
    captions = read_captions(config.captions, list(set(rows.captions)))
    pool = _pool(config, captions)
    settings = Extraction(
        batch_size=config.batch_size,
        precision=config.precision,
        cache=path.parent / "features",
        engine=config,
        device=config.device,
    )
    model = load_image_text(config.encoder, settings.own_device(), download=config.download)
    matching = Matching(model, settings, config, captions, pool, console)
    level = config.rules.level
    if config.rules.reference is not None:  # first: what is wrong with it is said now, not after hours
        level = _level_of_real(config, matching)
    matched = matching.of(rows)
    reasons = [_reason(row, matched, level, config.rules.keep_best) for row in range(len(rows))]
    unseen = np.isnan(matched.match)
    columns = {
        "match": pa.array(matched.match, pa.float32(), mask=unseen),
        "match_level": pa.array(matched.level, pa.float32(), mask=unseen),
        "match_rank": pa.array(matched.rank, pa.int32(), mask=unseen),
    }
    kept = write_verdicts(rows.table, rows.positions, NAME, reasons, columns)
    result = AuditResult(
        audit=NAME,
        images=config.images,
        num_pictures=len(rows),
        num_rejected=sum(reason is not None for reason in reasons),
        columns=tuple(columns),
        facts={
            "encoder": config.encoder,
            "mean level (AUROC against shuffled captions)": float(np.nanmean(matched.level)),
            "at or above level": _shares(matched.level),
            "the same with shuffled captions": _shares(matched.control),
            "shuffled captions": len(pool),
            "pictures behind the mean that is taken off": dict(matched.num_mean),
            "cannot be decoded": len(matched.undecoded) or None,
            "level wanted": level,
            "best of a caption kept": config.rules.keep_best,
        },
        worst=_worst(rows, captions, matched, reasons),
        kept=kept,
        seconds=time.monotonic() - begin,
    )
    record(path, result)
    console.say(f"match of {len(rows):,} pictures with their captions: {path}")
    return result


@dataclass(frozen=True)
class Matching:
    """An image-text model at work."""

    model: ImageText
    settings: Extraction
    config: MatchAuditConfig
    captions: Mapping[str, CaptionFacts]
    pool: Sequence[str]
    """Captions that pictures are held against, the same for all."""
    console: Console

    def of(self, rows: Rows) -> Matched:
        """Match, level and rank of pictures; of these the rank alone depends on which others are among them."""
        pictures, undecoded = self._vectors(TableImages(rows.table, rows.positions))
        means = self._means(rows, pictures)
        asked, pool = self._captions_of(rows)
        wrong = shuffled(asked, pool, runtime.numpy_generator("audit match", self.config.seed))
        level, control = (np.full(len(rows), np.nan) for _ in range(2))
        seen = np.flatnonzero(np.isfinite(pictures).all(axis=1))
        about = pictures[seen] - np.stack([means[origin][0] for origin in rows.origins[seen]])
        level[seen], control[seen] = levels(about, asked[seen], pool), levels(about, wrong[seen], pool)
        if not np.isfinite(level[seen]).all():
            raise UserError(
                f"{self.config.captions}: all captions are of one group, concept or label; nothing is there to "
                "compare with"
            )
        match: np.ndarray = (pictures * asked.vectors).sum(axis=1)
        rank = ranks(match, list(rows.by_caption()))
        return Matched(
            match, level, rank, control, undecoded, {name: num for name, (_, num) in means.items()}
        )

    def _vectors(self, images: TableImages) -> tuple[np.ndarray, dict[int, str]]:
        return decodable_vectors(self.model, images, self.settings, console=self.console)

    def _not_audited(self, images: TableImages, width: int) -> np.ndarray:
        """Vectors (M, E) of pictures beside the audited ones: it does not matter where none can be decoded."""
        if all(isinstance(decoded(image), str) for image in images):
            return np.full((len(images), width), np.nan, np.float32)
        return self._vectors(images)[0]

    def _means(self, rows: Rows, pictures: np.ndarray) -> dict[str, tuple[np.ndarray, int]]:
        """For each origin its mean picture (E,), from how many pictures.

        Always of the same pictures of the table, whichever are audited, and each origin for itself: what all pictures
        of one hand have in common says nothing about their captions.
        """
        means = {}
        for origin, positions in first_pictures(rows.table, _NUM_MEAN).items():
            if origin not in rows.origins:
                continue
            places = np.searchsorted(rows.positions, positions).clip(max=len(rows) - 1)
            is_known = bool((rows.positions[places] == positions).all())
            first = TableImages(rows.table, positions)
            vectors = pictures[places] if is_known else self._not_audited(first, pictures.shape[1])
            num = int(np.isfinite(vectors).all(axis=1).sum())
            if num < FEWEST:
                self.console.say(
                    f"{rows.table.path}: {num} captions of {origin} have pictures that can be decoded, {FEWEST} are "
                    "needed for a mean picture; captions that fit everything are not told from those that fit"
                )
            means[origin] = mean_picture(vectors), num if num >= FEWEST else 0
        return means

    def _captions_of(self, rows: Rows) -> tuple[CaptionVectors, CaptionVectors]:
        """What pictures were asked to show, and the pool."""
        ids = [*rows.captions, *self.pool]
        facts = [self.captions[one] for one in ids]
        subjects = [[fact.group for fact in facts], [fact.concept for fact in facts]]
        if self.config.rules.across_labels:
            subjects.append([fact.label or one for one, fact in zip(ids, facts, strict=True)])
        both = CaptionVectors(
            text_vectors(self.model, [fact.text for fact in facts], self.settings),
            np.stack([_codes(names) for names in subjects], axis=1),
        )
        return both[slice(0, len(rows))], both[slice(len(rows), None)]


def _level_of_real(config: MatchAuditConfig, matching: Matching) -> float:
    """The level that all but ``false_alarms`` of real pictures reach with their own captions."""
    rules = config.rules
    assert rules.reference is not None
    rows = read_rows(rules.reference, rules.reference_where)
    strangers = sorted(set(rows.captions) - matching.captions.keys())
    if strangers:
        raise UserError(
            f"{config.captions} has no caption {strangers[0]} ({len(strangers)} such) of {rules.reference}; give real "
            "pictures of captions in the table"
        )
    levels_found = matching.of(rows).level
    num, needed = int(np.isfinite(levels_found).sum()), math.ceil(1 / rules.false_alarms) - 1
    if num < needed:
        matching.console.say(
            f"{rules.reference}: {num:,} real pictures are few, so that the lowest of them sets the level: "
            f"{1 / (num + 1):.0%} of others may miss it, where {rules.false_alarms:.0%} were asked for; give at least "
            f"{needed:,}"
        )
    return wanted_level(levels_found, rules.false_alarms)


def _pool(config: MatchAuditConfig, captions: Mapping[str, CaptionFacts]) -> list[str]:
    """Captions to be held against: one for each concept of the table, whatever was painted of it.

    Ids are hashes, so that the first in their order are a random but fixed choice.
    """
    if config.rules.across_labels and not any(fact.label for fact in captions.values()):
        raise UserError(f"{config.captions}: no caption has a label; leave across_labels out")
    by_concept: dict[str, str] = {}
    for one in sorted(captions):
        by_concept.setdefault(captions[one].concept, one)
    chosen = list(by_concept.values())[: config.rules.num_shuffled]
    if len(chosen) < FEWEST:
        raise UserError(
            f"only {len(chosen)} captions of different concepts are there; at least {FEWEST} are needed to say how "
            "well a picture fits its own: give a caption table with more of them"
        )
    return chosen


def _codes(names: list[str]) -> np.ndarray:
    """Equal names as equal integers."""
    codes: np.ndarray = np.unique(np.array(names, dtype=object), return_inverse=True)[1]
    return codes


def _shares(levels_found: np.ndarray) -> dict[str, float]:
    """Of the pictures that can be decoded, the share at or above each level, by its name."""
    known = levels_found[np.isfinite(levels_found)]
    return {f"{100 * level:g} %": float((known >= level).mean()) for level in _SHOWN_LEVELS}


def _reason(row: int, matched: Matched, wanted: float | None, best: int | None) -> str | None:
    if row in matched.undecoded:
        return matched.undecoded[row]
    level, rank = float(matched.level[row]), int(matched.rank[row])
    found = []
    if wanted is not None and level < wanted:
        found.append(f"better than {level:.1%} of shuffled captions, wanted {wanted:.1%}")
    if best is not None and rank >= best:
        found.append(f"number {rank + 1} of its caption, the best {best} are kept")
    return "; ".join(found) or None


def _worst(
    rows: Rows, captions: Mapping[str, CaptionFacts], matched: Matched, reasons: list[str | None]
) -> tuple[Example, ...]:
    """The pictures of the lowest level."""
    order = np.lexsort((matched.match, matched.level))[:_NUM_WORST]
    return tuple(
        example(
            rows,
            row,
            text=captions[rows.captions[row]].text,
            score=None if row in matched.undecoded else float(matched.level[row]),
            reason=reasons[row] or "",
        )
        for row in order
    )
