"""``stablerep audit quality``: pictures that are blank, blurred, noisy, compressed, enlarged, or painted twice."""

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from tyro.conf import Positional

from stablerep import runtime
from stablerep.audit.measured import MEASURES, Measured, among_siblings, measure
from stablerep.audit.record import AuditResult, Example, audit_path, example, metered, record
from stablerep.audit.rows import Rows, read_rows
from stablerep.audit.verdicts import write_verdicts
from stablerep.cluster import EngineConfig
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.features import TableImages

NAME = "quality"
_NUM_WORST = 24
_PER_CAPTION = 8  # real pictures that show how those of one caption vary


@dataclass(frozen=True, kw_only=True)
class QualityRules:
    """What is rejected: blank and repeated pictures always, all else in comparison with real pictures."""

    reference: Path | None = None
    """Table of real pictures that set the limits. Without it only blank and repeated pictures are rejected."""
    reference_where: str | None = None
    """Which of its pictures, such as "split = 'train'"."""
    num_reference: int = 2000
    """At most so many of them, up to eight of each caption first, captions in a random order; larger ones are shrunk to
    the size of the pictures that are judged."""
    false_alarms: float = 0.03
    """Share of the real pictures that all limits together may reject; every measure gets an equal part."""
    most_rejected: float = 0.25
    """A limit that would reject a larger share of the pictures tells of the painter and not of single pictures: that
    share is reported, and nothing is rejected for it. 1 applies every limit."""
    min_spread: float = 2.0
    """A picture whose pixels deviate less from their mean, in levels of 255, is blank."""
    min_difference: float = 1.0
    """A picture that differs less from an earlier one of its caption, in levels on 16 x 16 thumbnails, repeats it."""

    def __post_init__(self) -> None:
        if not 0 < self.false_alarms < 1:
            raise ValueError(f"false_alarms must be between 0 and 1, got {self.false_alarms}")
        if self.num_reference < 1:
            raise ValueError(f"num_reference must be positive, got {self.num_reference}")


@dataclass(frozen=True, kw_only=True)
class QualityConfig(EngineConfig):
    """Measure every picture without a learned model; writes quality_* columns and renews the keep mask.

    Columns: quality_spread, _clipped, _noise, _blur, _blockiness and _resolution of the picture, quality_diversity and
    quality_nearest of it among the pictures of its caption, quality_ok and quality_reason.
    """

    images: Positional[Path]
    """Table of pictures (images.lance)."""
    where: str | None = None
    """Only the pictures that match this filter."""
    rules: QualityRules = field(default_factory=QualityRules)
    """What is rejected."""
    out: Path | None = None
    """Where to write the findings; audit.json beside the table where not given."""


@dataclass(frozen=True)
class Limits:
    """What the reference says: one limit per measure, the share of it beyond any of them, and how diverse it is."""

    by_name: Mapping[str, float]
    false_alarms: float | None
    expected: float | None
    """Share of other real pictures that lies beyond any limit, on average over references of this size, at most."""
    diversity: float | None
    """Median of quality_diversity of the real pictures."""


@metered(NAME)
def audit_quality(config: QualityConfig, *, console: Console = Console(quiet=True)) -> AuditResult:  # noqa: B008
    """Measure, compare with the limits, write columns, mask and audit.json.

    Raises ``UserError`` where a table or a filter cannot be used. A picture that cannot be decoded is rejected.
    """
    begin = time.monotonic()
    path = audit_path(config.images, config.out)
    rows = read_rows(config.images, config.where)
    limits = reference_limits(config.rules, rows, console)  # a wrong path is said now, not after hours
    measured = measure(TableImages(rows.table, rows.positions), console, engine=config)
    beyond = beyond_limits(measured, limits)
    applied = replace(
        limits,
        by_name={
            name: limit
            for name, limit in limits.by_name.items()
            if beyond[name] <= config.rules.most_rejected
        },
    )
    diversity, nearest, earlier = among_siblings(rows, measured)
    repeated = np.where(nearest < config.rules.min_difference, earlier, -1)
    reasons = [_reason(row, measured, applied, config.rules, rows, repeated) for row in range(len(rows))]
    scores = {**measured.values, "diversity": diversity, "nearest": nearest}
    columns = {
        f"{NAME}_{name}": pa.array(values, pa.float32(), from_pandas=True) for name, values in scores.items()
    }
    kept = write_verdicts(rows.table, rows.positions, NAME, reasons, columns)
    result = AuditResult(
        audit=NAME,
        images=config.images,
        num_pictures=len(rows),
        num_rejected=sum(reason is not None for reason in reasons),
        columns=tuple(columns),
        facts={
            "rejected for": dict(Counter(kind for reason in reasons if reason for kind in _kinds(reason))),
            "reference pictures rejected": limits.false_alarms,
            "of other real pictures, expected up to": limits.expected,
            "limits": limits.by_name,
            "beyond the limit": beyond,
            "not rejected for, as it is the painter's": [
                name for name in beyond if name not in applied.by_name
            ],
            "medians": {name: _median(values) for name, values in scores.items()},
            "median diversity of real pictures": limits.diversity,
        },
        worst=_worst(rows, measured, reasons, applied),
        kept=kept,
        seconds=time.monotonic() - begin,
    )
    record(path, result)
    for name, share in beyond.items():
        if name not in applied.by_name:
            console.say(
                f"{share:.0%} of the pictures lie beyond the limit of {name} that real ones set: that is how this "
                "painter paints, and none is rejected for it"
            )
    console.say(f"quality of {len(rows):,} pictures: {path}")
    return result


def reference_limits(rules: QualityRules, judged: Rows, console: Console) -> Limits:
    """Percentiles of the reference on the bad side of each measure; none where there is no reference.

    The k-th worst of n pictures is what another one is worse than with a probability of k / (n + 1), whatever the
    measure: percentiles are interpolated so that this is what is asked for. Of n below 1 / tail - 1 the worst is the
    limit, beyond which more lie than that.
    """
    if rules.reference is None:
        return Limits({}, None, None, None)
    every = read_rows(rules.reference, rules.reference_where)
    rows = every.some(np.sort(_of_many_captions(every, rules.num_reference)))
    images = TableImages(rows.table, rows.positions)
    measured = measure(images, console, short_side=_short_side(judged))
    num = len(images) - len(measured.undecoded)
    if not num:
        raise UserError(
            f"{rules.reference}: none of the {len(images):,} real pictures can be decoded; give others"
        )
    values = measured.values
    tail = rules.false_alarms / len(MEASURES)
    limits = {
        name: float(np.nanquantile(values[name], tail if kind.bad == "low" else 1 - tail, method="weibull"))
        for name, kind in MEASURES.items()
    }
    beyond = [
        any(kind.is_bad(float(values[name][row]), limits[name]) for name, kind in MEASURES.items())
        for row in range(len(images))
    ]
    of_one = max(tail, 1 / (num + 1))
    expected = min(1.0, len(MEASURES) * of_one)
    if of_one > tail:
        console.say(
            f"{rules.reference}: {num:,} real pictures are few, so that each limit is the worst of them: up to "
            f"{expected:.0%} of other real pictures may lie beyond, where {rules.false_alarms:.0%} were asked for; "
            f"give at least {math.ceil(1 / tail) - 1:,}"
        )
    return Limits(limits, float(np.mean(beyond)), expected, _median(among_siblings(rows, measured)[0]))


def _of_many_captions(rows: Rows, most: int) -> np.ndarray:
    """At most so many rows: the first of each caption, captions in a random order, then any of the others.

    How the pictures of one caption vary shows in several of them; limits that hold for all come from many captions.
    """
    captions = list(rows.by_caption())
    generator = runtime.numpy_generator("quality reference")
    order = generator.permutation(len(captions))
    first = np.concatenate([captions[number][:_PER_CAPTION] for number in order])
    others = generator.permutation(np.setdiff1d(np.arange(len(rows)), first))
    return np.concatenate([first, others])[:most]


def beyond_limits(measured: Measured, limits: Limits) -> dict[str, float]:
    """The share of the pictures that lies beyond each limit."""
    return {
        name: float(np.mean([MEASURES[name].is_bad(float(value), limit) for value in measured.values[name]]))
        for name, limit in limits.by_name.items()
    }


def _short_side(rows: Rows) -> int | None:
    """Median short side of the pictures in pixels, as far as the table knows; None where it knows none."""
    sizes = rows.table.read(["width", "height"]).take(rows.positions).drop_null()
    width, height = (sizes[name].to_numpy() for name in ("width", "height"))
    return int(np.median(np.minimum(width, height))) if len(sizes) else None


def _reason(
    row: int, measured: Measured, limits: Limits, rules: QualityRules, rows: Rows, repeated: np.ndarray
) -> str | None:
    """All that speaks against a picture, in words, with the value and its limit."""
    if row in measured.undecoded:
        return measured.undecoded[row]
    if measured.values["spread"][row] < rules.min_spread:
        return "blank"
    found = []
    if repeated[row] >= 0:
        found.append(f"repeats image {rows.indices[repeated[row]]} of its caption")
    for name, limit in limits.by_name.items():
        value = float(measured.values[name][row])
        if MEASURES[name].is_bad(value, limit):
            found.append(f"{MEASURES[name].words} ({name} {value:.3g}, limit {limit:.3g})")
    return "; ".join(found) or None


def _kinds(reason: str) -> list[str]:
    """The reasons without their numbers, to be counted."""
    kinds = [part.split(" (")[0] for part in reason.split("; ")]
    return [
        "repeats another image of its caption" if kind.startswith("repeats image") else kind for kind in kinds
    ]


def _median(values: np.ndarray) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else None


def _worst(
    rows: Rows, measured: Measured, reasons: Sequence[str | None], limits: Limits
) -> tuple[Example, ...]:
    """Rejected pictures, those furthest beyond a limit first, in units of the limit."""

    def excess(row: int) -> float | None:
        if not limits.by_name or row in measured.undecoded:
            return None
        values = {name: float(measured.values[name][row]) for name in limits.by_name}
        excesses = (
            values[name] / limit if MEASURES[name].bad == "high" else limit / max(values[name], 1e-6)
            for name, limit in limits.by_name.items()
            if limit > 0
        )
        return max(excesses, default=None)

    def first(row: int) -> tuple[bool, float, int]:
        beyond = excess(row)
        return beyond is not None, -(beyond or 0.0), row

    rejected = sorted((row for row, reason in enumerate(reasons) if reason), key=first)
    return tuple(
        example(rows, row, score=excess(row), reason=reasons[row] or "") for row in rejected[:_NUM_WORST]
    )
