"""``stablerep audit match``: does a picture show what its caption asked for, by an encoder of the user's choice?"""

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from tyro.conf import Positional

from stablerep import runtime
from stablerep.audit.levels import Asked, Pool, centred, levels, ranks, shuffled
from stablerep.audit.record import AuditResult, Example, audit_path, record
from stablerep.audit.rows import CaptionFacts, Rows, read_captions, read_rows
from stablerep.audit.verdicts import write_verdicts
from stablerep.cluster import EngineConfig
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.features import TableImages
from stablerep.match import MatchConfig, image_vectors, text_vectors
from stablerep.models.joint import ImageText, load_image_text

NAME = "match"
DEFAULT_LEVEL = 0.95
_SHOWN_LEVELS = (0.5, 0.9, 0.95, 0.99)
_NUM_WORST = 24
_FEWEST = 20


@dataclass(frozen=True, kw_only=True)
class MatchRules:
    """Which pictures are rejected: those below a level, those beyond the best of a caption, or both."""

    min_level: float | None = None
    """Reject what fits its caption worse than this share of shuffled captions: at 0.95 a wrong picture passes with a
    chance of 5 %. 0.95 where neither this nor ``keep_best`` is given."""
    keep_best: int | None = None
    """Keep this many pictures of each caption, those that fit it best, and reject the others."""
    reference: Path | None = None
    """Table of real pictures of captions in the caption table, which the encoder has not learned from: sets the level
    so that ``false_alarms`` of them are rejected, in place of ``min_level``."""
    reference_where: str | None = None
    """Which of its pictures, such as "split = 'validation'"."""
    false_alarms: float = 0.05
    """Share of the real pictures that the level may reject."""
    num_shuffled: int = 1000
    """Captions of other groups and concepts that a picture is held against."""

    def __post_init__(self) -> None:
        if self.min_level is not None and not 0 <= self.min_level <= 1:
            raise ValueError(f"min_level must be in [0, 1], got {self.min_level}")
        if self.min_level is not None and self.reference is not None:
            raise ValueError("min_level and reference both set the level; give one of them")
        if not 0 < self.false_alarms < 1:
            raise ValueError(f"false_alarms must be between 0 and 1, got {self.false_alarms}")
        if self.keep_best is not None and self.keep_best < 1:
            raise ValueError(f"keep_best must be positive, got {self.keep_best}")
        if self.num_shuffled < _FEWEST:
            raise ValueError(f"num_shuffled must be at least {_FEWEST}, got {self.num_shuffled}")

    @property
    def level(self) -> float | None:
        """The level that is asked for, where no real pictures set it."""
        return DEFAULT_LEVEL if self.min_level is None and self.keep_best is None else self.min_level


@dataclass(frozen=True, kw_only=True)
class MatchAuditConfig(EngineConfig):
    """Hold every picture against its own caption and against shuffled ones; writes match columns and the keep mask.

    Columns: match, the cosine of picture and caption (without its style); match_level, the share of shuffled captions
    that fit the picture worse; match_rank, its place among the pictures of its caption, 0 the best; match_ok and
    match_reason.
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
    """Match, level and rank (M,) of M pictures, and the level (M,) that each would have with a shuffled caption."""

    match: np.ndarray
    level: np.ndarray
    rank: np.ndarray
    control: np.ndarray


def audit_match(config: MatchAuditConfig, *, console: Console = Console(quiet=True)) -> AuditResult:  # noqa: B008
    """Match every picture, calibrate, write columns, mask and audit.json.

    Raises ``UserError`` where tables and encoder cannot be used or belong to different captions, and where too few
    captions of other things are there to be held against.
    """
    begin = time.monotonic()
    path = audit_path(config.images, config.out)
    rows = read_rows(config.images, config.where)
    captions = read_captions(config.captions, list(set(rows.captions)))
    settings = MatchConfig(
        batch_size=config.batch_size,
        precision=config.precision,
        cache=path.parent / "features",
        engine=config,
        device=config.device,
    )
    model = load_image_text(config.encoder, settings.own_device(), download=config.download)
    matching = Matching(model, settings, config, console)
    matched = matching.of(rows, captions)
    level = config.rules.level
    if config.rules.reference is not None:
        level = _level_of_real(config, matching)
    reasons = [_reason(row, matched, level, config.rules.keep_best) for row in range(len(rows))]
    columns = {
        "match": pa.array(matched.match, pa.float32()),
        "match_level": pa.array(matched.level, pa.float32()),
        "match_rank": pa.array(matched.rank, pa.int32()),
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
            "mean level (AUROC against shuffled captions)": float(matched.level.mean()),
            "at or above level": {
                _percent(level): float((matched.level >= level).mean()) for level in _SHOWN_LEVELS
            },
            "the same with shuffled captions": {
                _percent(level): float((matched.control >= level).mean()) for level in _SHOWN_LEVELS
            },
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
    settings: MatchConfig
    config: MatchAuditConfig
    console: Console

    def of(self, rows: Rows, captions: dict[str, CaptionFacts]) -> Matched:
        """Match, level and rank of pictures beside the captions of their table."""
        pool_ids = _pool(rows, captions, self.config.rules.num_shuffled)
        images = TableImages(rows.table, rows.positions)
        pictures = image_vectors(self.model, images, self.settings, console=self.console)
        facts = [captions[one] for one in [*rows.captions, *pool_ids]]
        vectors = text_vectors(self.model, [fact.text for fact in facts], self.settings)
        groups = _codes([fact.group for fact in facts])
        concepts = _codes([fact.concept for fact in facts])
        own, rest = slice(0, len(rows)), slice(len(rows), None)
        asked = Asked(vectors[own], groups[own], concepts[own])
        pool = Pool(vectors[rest], groups[rest], concepts[rest])
        about = centred(pictures)
        level = levels(about, asked, pool)
        if not np.isfinite(level).all():
            raise UserError(
                f"{self.config.captions}: all captions are of one group or concept; nothing is there to compare with"
            )
        wrong = shuffled(asked, pool, runtime.numpy_generator("audit match", self.config.seed))
        match: np.ndarray = (pictures * asked.vectors).sum(axis=1)
        return Matched(match, level, ranks(match, list(rows.by_caption())), levels(about, wrong, pool))


def _level_of_real(config: MatchAuditConfig, matching: Matching) -> float:
    """The level that all but ``false_alarms`` of the real pictures reach with their own captions."""
    rules = config.rules
    assert rules.reference is not None
    rows = read_rows(rules.reference, rules.reference_where)
    captions = read_captions(config.captions, list(set(rows.captions)))
    return float(np.quantile(matching.of(rows, captions).level, rules.false_alarms))


def _pool(rows: Rows, captions: dict[str, CaptionFacts], size: int) -> list[str]:
    """Captions to be held against: those that were painted first, then others of the table, one for each concept.

    Ids are hashes, so that the first in their order are a random but fixed choice.
    """
    painted = sorted(set(rows.captions))
    others = sorted(captions.keys() - set(painted))
    by_concept: dict[str, str] = {}
    for one in [*painted, *others]:
        by_concept.setdefault(captions[one].concept, one)
    chosen = list(by_concept.values())[:size]
    if len(chosen) < _FEWEST:
        raise UserError(
            f"only {len(chosen)} captions of different concepts are there; at least {_FEWEST} are needed to say how "
            "well a picture fits its own: give a caption table with more of them"
        )
    return chosen


def _codes(names: list[str]) -> np.ndarray:
    """Equal names as equal integers."""
    codes: np.ndarray = np.unique(np.array(names, dtype=object), return_inverse=True)[1]
    return codes


def _percent(level: float) -> str:
    return f"{100 * level:g} %"


def _reason(row: int, matched: Matched, wanted: float | None, best: int | None) -> str | None:
    level, rank = float(matched.level[row]), int(matched.rank[row])
    found = []
    if wanted is not None and level < wanted:
        found.append(f"better than {level:.1%} of shuffled captions, wanted {wanted:.1%}")
    if best is not None and rank >= best:
        found.append(f"number {rank + 1} of its caption, the best {best} are kept")
    return "; ".join(found) or None


def _worst(
    rows: Rows, captions: dict[str, CaptionFacts], matched: Matched, reasons: list[str | None]
) -> tuple[Example, ...]:
    """The pictures of the lowest level."""
    order = np.lexsort((matched.match, matched.level))[:_NUM_WORST]
    return tuple(
        Example(
            origin=str(rows.origins[row]),
            caption_id=str(rows.captions[row]),
            image_index=int(rows.indices[row]),
            text=captions[rows.captions[row]].text,
            score=float(matched.level[row]),
            reason=reasons[row] or "",
        )
        for row in order
    )
