"""What changes from turn to turn of a circle: painter, its pictures, and the encoder that learned from them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stablerep.errors import UserError
from stablerep.evaluation.intervals import Interval
from stablerep.report.figures import TrendPanel, TrendPoint, trend_figure
from stablerep.report.reading import Project
from stablerep.report.trends import Cell, Trend, TrendTable, interval_cell
from stablerep.run import read_json

_FILE = "circle.json"
_SERIES = "turn"

Reached = tuple[Cell, tuple[float, float, float]]
"""How a value is written, and the value with the ends of its interval as it is drawn."""


def read_circles(project: Project) -> list[Trend]:
    """The circles among the given folders; ``UserError`` where a circle.json holds something else."""
    found = []
    for number, folder in enumerate(folder for folder in project.folders if (folder / _FILE).exists()):
        path = folder / _FILE
        stored = read_json(path)
        try:
            found.append(_trend(stored["turns"], f"turns-{number}"))
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise UserError(
                f"{path} does not hold a circle ({error!r}); run `stablerep circle` again"
            ) from error
    return found


def _trend(turns: Sequence[Mapping[str, Any]], identity: str) -> Trend:
    measures = _measures(turns)
    columns = tuple(str(turn["number"]) for turn in turns)
    panels = [
        TrendPanel(
            title=name,
            points=tuple(
                TrendPoint(series=_SERIES, x=turn["number"], value=drawn[0], low=drawn[1], high=drawn[2])
                for turn, one in zip(turns, reached, strict=True)
                if one is not None
                for drawn in [one[1]]
            ),
        )
        for name, reached in measures.items()
    ]
    rows = tuple(
        (name, False, tuple(None if one is None else one[0] for one in reached))
        for name, reached in measures.items()
    )
    return Trend(
        title="From turn to turn",
        sentence=(
            "Turn 0 is the painter that the circle began with; the painter of each further turn learned from the "
            "pictures of the one before. All numbers are measured on real pictures; small print: 95\u00a0% intervals."
        ),
        keys=(),
        figure=trend_figure(panels, {_SERIES: 0}, "turn", identity) if len(turns) > 1 else None,
        tables=(TrendTable(title="All turns", corner="turn", columns=columns, rows=rows),),
    )


def _measures(turns: Sequence[Mapping[str, Any]]) -> dict[str, list[Reached | None]]:
    """Name -> one value per turn, of what at least one turn has."""
    found: dict[str, list[Reached | None]] = {
        f"{test}, linear probe, %": [_share(turn["encoder"].get(test)) for turn in turns]
        for test in turns[0]["encoder"]
    }
    reads: dict[str, Callable[[Mapping[str, Any]], Reached | None]] = {
        "prompt fidelity, %": lambda turn: _share(turn["fidelity"]),
        "near-copies, %": lambda turn: _share(turn["near_copies"]),
        "KID": lambda turn: _plain(turn["kid"], ".4f"),
        "recall": lambda turn: _plain(turn["recall"], ".2f"),
        "coverage": lambda turn: _plain(turn["coverage"], ".2f"),
        "effective rank of its pictures": lambda turn: _plain(turn["pictures"]["effective_rank"], ".1f"),
    }
    found |= {name: [read(turn) for turn in turns] for name, read in reads.items()}
    shares = {name: None for turn in turns for name in turn.get("shares") or {}}
    found |= {
        f"{name}, %": [_share((turn.get("shares") or {}).get(name)) for turn in turns] for name in shares
    }
    return {name: values for name, values in found.items() if any(value is not None for value in values)}


def _share(stored: Mapping[str, Any] | None) -> Reached | None:
    if stored is None:
        return None
    score = Interval.read(stored)
    return interval_cell(score), (100 * score.value, 100 * score.low, 100 * score.high)


def _plain(value: float | None, spec: str) -> Reached | None:
    return None if value is None else (Cell(value=f"{value:{spec}}"), (value, value, value))
