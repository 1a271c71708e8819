"""What was measured by protocols that do not name classes: one row per encoder, test and metric."""

from collections.abc import Sequence
from dataclasses import dataclass

from stablerep.evaluation.intervals import Interval
from stablerep.report.scores import Measured, names_of


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
    """Every metric of every measurement, test by test, so that encoders stand under one another.

    Encoders with equal weights share a row, which shows the first evaluation.
    """
    names = names_of(measured)
    first: dict[tuple[str, str, str, str], MeasurementRow] = {}
    for found in (one for scores in measured for one in scores.measurements):
        test = f"{found.benchmark}: {found.test}"
        for metric, score in found.metrics.items():
            row = MeasurementRow(
                test=test,
                protocol=found.protocol,
                metric=metric,
                encoder=names[found.fingerprint],
                score=score,
                chance=found.chance.get(metric),
                is_share=metric not in found.numbers,
            )
            first.setdefault((found.protocol, test, metric, found.fingerprint), row)
    order = list(dict.fromkeys(key[:3] for key in first))
    return [first[key] for key in sorted(first, key=lambda key: order.index(key[:3]))]
