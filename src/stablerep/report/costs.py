"""What it cost: time, processor time and energy, from the lines that every step left beside what it made."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stablerep.console import duration
from stablerep.cost import FILE, Cost, beside, read_costs
from stablerep.report.reading import Project
from stablerep.storage import is_remote


@dataclass(frozen=True, kw_only=True)
class PowerConfig:
    """What the machine draws, for an estimate of energy where its counters cannot be read."""

    watts_per_core: float | None = None
    """Of one busy processor core: the processor's power divided by its cores."""
    watts_per_gpu: float | None = None
    """Of one GPU at work."""

    def __post_init__(self) -> None:
        for name in ("watts_per_core", "watts_per_gpu"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """All that was spent on one kind of step."""

    step: str
    num: int
    time: str
    cpu: str
    gpu: str
    energy: str


@dataclass(frozen=True, kw_only=True)
class Costs:
    """The rows, their sum last, and how the energy in them is known."""

    rows: tuple[CostRow, ...]
    has_gpu: bool
    sentence: str


def find_costs(project: Project, power: PowerConfig) -> Costs:
    """What all steps spent whose files lie with the runs, tables and scores of the project."""
    costs = [cost for path in _files(project) for cost in read_costs(path)]
    steps: dict[str, list[Cost]] = defaultdict(list)
    for cost in costs:
        steps[cost.step].append(cost)
    rows = [_row(step, found, power) for step, found in steps.items()]
    if len(rows) > 1:
        rows.append(_row("all together", costs, power))
    return Costs(
        rows=tuple(rows),
        has_gpu=any(cost.gpu_seconds for cost in costs),
        sentence=_energy_sentence(costs, power),
    )


def joules_of(costs: Sequence[Cost], power: PowerConfig) -> float | None:
    """Measured by the processors' counters where every step has them, else estimated from the stated power, else None.

    The counters hold whole machines, so of several processes of one step only the first counts.
    """
    first = [cost for cost in costs if cost.rank == 0]
    measured = [cost.joules for cost in first if cost.joules is not None]
    gpu = sum(cost.gpu_seconds for cost in costs)
    if gpu and power.watts_per_gpu is None:
        return None
    on_gpus = gpu * (power.watts_per_gpu or 0.0)
    if len(measured) == len(first):
        return sum(measured) + on_gpus
    if power.watts_per_core is None:
        return None
    return sum(cost.cpu_seconds for cost in costs) * power.watts_per_core + on_gpus


def _files(project: Project) -> list[Path]:
    tables = [Path(table.path) for table in project.images]
    # Beside that of a run lie those of tables in it: what a painter painted to be judged.
    paths = [path for run in project.runs for path in (run.path / FILE, *sorted(run.path.glob(f"*.{FILE}")))]
    paths += [beside(table) for table in tables if not is_remote(table)]
    for folder in project.folders:
        paths += [
            folder / FILE,
            *sorted(folder.glob(f"scores/*/{FILE}")),
            *sorted(folder.glob(f"search/*/{FILE}")),
        ]
    return list({path.resolve(): path for path in paths}.values())


def _row(step: str, costs: Sequence[Cost], power: PowerConfig) -> CostRow:
    joules = joules_of(costs, power)
    gpu = sum(cost.gpu_seconds for cost in costs)
    return CostRow(
        step=step,
        num=sum(cost.rank == 0 for cost in costs),
        time=duration(sum(cost.seconds for cost in costs if cost.rank == 0)),
        cpu=duration(sum(cost.cpu_seconds for cost in costs)),
        gpu=duration(gpu) if gpu else "\u2013",
        energy="not known" if joules is None else _watt_hours(joules),
    )


def _watt_hours(joules: float) -> str:
    hours = joules / 3600
    return f"{hours / 1000:.3g} kWh" if hours >= 1000 else f"{hours:.3g} Wh"


def _energy_sentence(costs: Sequence[Cost], power: PowerConfig) -> str:
    if not costs:
        return ""
    spent = (
        "Time is from begin to end of each step, processor time that of all cores together. Steps that were killed "
        "left no line, so what they spent is not counted."
    )
    gpus = any(cost.gpu_seconds for cost in costs)
    on_gpus = f" and {power.watts_per_gpu:g} watts per GPU as stated" if gpus and power.watts_per_gpu else ""
    were_read = all(cost.joules is not None for cost in costs if cost.rank == 0)
    if joules_of(costs, power) is None:
        if were_read:
            return (
                f"{spent} Energy is not known: the power of the GPUs was not stated (--power.watts-per-gpu of "
                "stablerep report)."
            )
        missing = "--power.watts-per-core" + (" and --power.watts-per-gpu" if gpus else "")
        return (
            f"{spent} Energy is not known: the processors' counters could not be read when this was made, and no power "
            f"was stated ({missing} of stablerep report)."
        )
    if were_read:
        return f"{spent} Energy was read from the processors' counters (RAPL), whatever else ran on them{on_gpus}."
    return (
        f"{spent} Energy is an estimate: processor time times {power.watts_per_core:g} watts per core, as stated"
        f"{on_gpus}; memory, disks and cooling are not in it."
    )
