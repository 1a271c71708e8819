"""What the turns of a circle reached: as a table, as curves, and kept on disk beside what determined it."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from stablerep.evaluation.geometry import Geometry
from stablerep.evaluation.intervals import Interval
from stablerep.evaluation.painting import PainterScores
from stablerep.evaluation.scores import Scores
from stablerep.run import read_json, write_text

Curves = Mapping[str, Sequence[tuple[float, float, float] | None]]
"""Panel -> a value with its interval by turn."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one painter, and the encoder that learned from it, reached."""

    number: int
    painter: str
    encoder: Mapping[str, Interval]
    """Mean per-class accuracy of the linear probe, by test."""
    fidelity: Interval
    """Prompt fidelity of the painter's pictures."""
    kid: float | None
    kid_floor: float | None
    recall: float | None
    coverage: float | None
    near_copies: Interval | None
    shares: Mapping[str, Interval]
    """Share of the pictures that show a value of an attribute, as "gender of doctors, woman"; empty where no attributes
    were given, or the judge reads none of them."""
    pictures: Geometry
    """How its pictures lie in the features of the judge."""

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> Self:
        """Back from JSON."""
        copies = stored["near_copies"]
        return cls(
            **{
                **stored,
                "encoder": _intervals(stored["encoder"]),
                "fidelity": Interval.read(stored["fidelity"]),
                "near_copies": None if copies is None else Interval.read(copies),
                "shares": _intervals(stored["shares"]),
                "pictures": Geometry(**stored["pictures"]),
            }
        )


@dataclass(frozen=True, kw_only=True)
class Circle:
    """All turns; ``circle.json`` holds the same."""

    path: Path
    figure: Path
    turns: tuple[Turn, ...]

    HEADER: ClassVar[tuple[str, ...]] = (
        "turn",
        "probe, %",
        "fidelity, %",
        "KID",
        "recall",
        "coverage",
        "copies, %",
        "rank",
        "shares, %",
    )

    def rows(self) -> list[list[str]]:
        """One line per turn under ``HEADER``; the probe is that of the first test."""
        return [
            [
                str(turn.number),
                next((score.in_percent() for score in turn.encoder.values()), ""),
                turn.fidelity.in_percent(),
                _number(turn.kid, ".4f"),
                _number(turn.recall, ".2f"),
                _number(turn.coverage, ".2f"),
                "" if turn.near_copies is None else f"{100 * turn.near_copies.value:.1f}",
                f"{turn.pictures.effective_rank:.1f}",
                "; ".join(f"{name} {100 * share.value:.0f}" for name, share in turn.shares.items()),
            ]
            for turn in self.turns
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"figure": str(self.figure), "turns": [dataclasses.asdict(turn) for turn in self.turns]}

    @property
    def curves(self) -> Curves:
        """What is drawn: every measure that at least one turn has."""
        tests = dict.fromkeys(test for turn in self.turns for test in turn.encoder)
        shares = dict.fromkeys(name for turn in self.turns for name in turn.shares)
        curves = {
            **{
                f"linear probe, %\n{test}": [_in_percent(turn.encoder.get(test)) for turn in self.turns]
                for test in tests
            },
            "prompt fidelity, %": [_in_percent(turn.fidelity) for turn in self.turns],
            "near-copies, %": [_in_percent(turn.near_copies) for turn in self.turns],
            "KID": [_alone(turn.kid) for turn in self.turns],
            "recall": [_alone(turn.recall) for turn in self.turns],
            "coverage": [_alone(turn.coverage) for turn in self.turns],
            "effective rank of pictures": [_alone(turn.pictures.effective_rank) for turn in self.turns],
            **{f"{name}, %": [_in_percent(turn.shares.get(name)) for turn in self.turns] for name in shares},
        }
        return {name: curve for name, curve in curves.items() if any(point is not None for point in curve)}


def turn_of(
    number: int, scores: Scores, painting: PainterScores, pictures: Geometry, shares: Mapping[str, Interval]
) -> Turn:
    """Put together what was measured of a turn."""
    probe = {
        f"{record.benchmark}: {record.test}": record.mean_per_class
        for record in scores.records
        if record.kind == "run" and record.protocol == "linear"
    }
    distances = painting.distances[0] if painting.distances else None
    return Turn(
        number=number,
        painter=painting.origin,
        encoder=probe,
        fidelity=painting.fidelity.mean_per_class,
        kid=distances.kid.mean if distances else None,
        kid_floor=distances.kid.floor_95 if distances else None,
        recall=distances.cover.recall if distances else None,
        coverage=distances.cover.coverage if distances else None,
        near_copies=painting.near_copies.share if painting.near_copies else None,
        shares=shares,
        pictures=pictures,
    )


def shares_of(bias: Path) -> dict[str, Interval]:
    """The shares that an audit of attributes found, from its bias.json; without attributes that were not read."""
    return {
        f"{name}, {value}" if group == "all" else f"{name} of {group}, {value}": Interval.read(share)
        for name, finding in read_json(bias).items()
        for group, found in finding["groups"].items()
        for value, share in found["shares"].items()
    }


def stored_turn(path: Path, inputs: Mapping[str, Any]) -> Turn | None:
    """The turn that was kept there, where the same inputs determined it; None else."""
    if not path.exists():
        return None
    stored = read_json(path)
    same = stored.get("inputs") == json.loads(json.dumps(inputs))
    return Turn.read(stored["turn"]) if same else None


def keep_turn(path: Path, inputs: Mapping[str, Any], turn: Turn) -> None:
    """Keep a turn beside everything that determined it."""
    write_text(path, json.dumps({"inputs": inputs, "turn": dataclasses.asdict(turn)}, indent=2) + "\n")


def _intervals(stored: Mapping[str, Any]) -> dict[str, Interval]:
    return {name: Interval.read(value) for name, value in stored.items()}


def _in_percent(interval: Interval | None) -> tuple[float, float, float] | None:
    return None if interval is None else (100 * interval.value, 100 * interval.low, 100 * interval.high)


def _alone(value: float | None) -> tuple[float, float, float] | None:
    return None if value is None else (value, value, value)


def _number(value: float | None, spec: str) -> str:
    return "" if value is None else f"{value:{spec}}"
