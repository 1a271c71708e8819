"""How long the steps of an experiment took, from the lines that each left beside what it made.

What a killed process had spent is in none of them, and neither are audits.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from stablerep import cost


def seconds_by_step(folders: Iterable[Path], tables: Iterable[Path]) -> dict[str, float]:
    """Seconds of every kind of step (``generate``, ``train stablerep``, ...) below folders, and of painting tables.

    Of several processes of one step only the first counts: they run side by side.
    """
    files = {path for folder in folders for path in folder.rglob(f"*{cost.FILE}")}
    found: dict[str, float] = defaultdict(float)
    for path in sorted(files | set(map(cost.beside, tables))):
        for one in cost.read_costs(path):
            if one.rank == 0:
                found[one.step] += one.seconds
    return {step: round(seconds, 3) for step, seconds in sorted(found.items())}


def seconds_of_painting(table: Path) -> float:
    """Seconds in which the pictures of a table were painted, loading the teacher included."""
    return seconds_by_step([], [table]).get("generate", 0.0)
