"""What was measured by protocols that do not name classes: one row per encoder, test and metric."""

from collections.abc import Sequence
from dataclasses import dataclass

from stablerep.evaluation.intervals import Interval
from stablerep.report.scores import Measured


@dataclass(frozen=True, kw_only=True)
class MeasurementRow:
    """One number with its interval."""

    test: str
    protocol: str
    metric: str
    encoder: str
    score: Interval
    chance: float | None
    """What knowing nothing gives, where that can be said."""
    is_share: bool = True
    """Whether it is shown in percent."""


def measurement_rows(measured: Sequence[Measured]) -> list[MeasurementRow]:
    """Every metric of every measurement, test by test, so that encoders stand under one another."""
    rows = [
        MeasurementRow(
            test=f"{found.benchmark}: {found.test}",
            protocol=found.protocol,
            metric=metric,
            encoder=found.encoder,
            score=score,
            chance=found.chance.get(metric),
            is_share=metric not in found.numbers,
        )
        for scores in measured
        for found in scores.measurements
        for metric, score in found.metrics.items()
    ]
    first: dict[tuple[str, str, str, str], MeasurementRow] = {}
    for row in rows:
        first.setdefault((row.protocol, row.test, row.metric, row.encoder), row)
    order = list(dict.fromkeys(key[:3] for key in first))
    return [first[key] for key in sorted(first, key=lambda key: order.index(key[:3]))]
