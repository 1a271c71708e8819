"""What the page says of cost: sums by step, and energy only where it was read or a power was stated."""

import dataclasses
from pathlib import Path

import pytest
from report_project import write_run
from report_trends import write_costs

from stablerep.console import duration
from stablerep.cost import FILE, Cost
from stablerep.report.costs import Costs, PowerConfig, find_costs
from stablerep.report.reading import open_project


def costs_of(folder: Path, *lines: Cost, **power: float) -> Costs:
    run = folder / "runs" / "a"
    if not run.exists():
        write_run(run, finished=False)
    write_costs(run / FILE, *lines)
    return find_costs(open_project((folder,), None, None, None), PowerConfig(**power))


def test_steps_are_summed_and_then_all(tmp_path: Path) -> None:
    train = Cost(step="train stablerep", seconds=100, cpu_seconds=150)
    found = costs_of(tmp_path, train, train, Cost(step="evaluate", seconds=10, cpu_seconds=20))
    assert [(row.step, row.num, row.time, row.cpu) for row in found.rows] == [
        ("train stablerep", 2, "3 min 20 s", "5 min 00 s"),
        ("evaluate", 1, "10 s", "20 s"),
        ("all together", 3, "3 min 30 s", "5 min 20 s"),
    ]


def test_what_a_painter_painted_to_be_judged_counts(tmp_path: Path) -> None:
    painted = Cost(step="generate", seconds=40, cpu_seconds=50)
    run = write_run(tmp_path / "runs" / "a", "text-to-image", finished=False)
    write_costs(run / f"painter-scores-painted.{FILE}", painted)
    found = costs_of(tmp_path, Cost(step="train text-to-image", seconds=60, cpu_seconds=60))
    assert {row.step: row.time for row in found.rows} == {
        "train text-to-image": "1 min 00 s",
        "generate": "40 s",
        "all together": "1 min 40 s",
    }


def test_energy_is_not_made_up(tmp_path: Path) -> None:
    found = costs_of(tmp_path, Cost(step="evaluate", seconds=10, cpu_seconds=20))
    assert [row.energy for row in found.rows] == ["not known"]
    assert "--power.watts-per-core" in found.sentence and "gpu" not in found.sentence


def test_a_stated_power_gives_an_estimate_and_says_so(tmp_path: Path) -> None:
    found = costs_of(tmp_path, Cost(step="evaluate", seconds=10, cpu_seconds=3600), watts_per_core=10)
    assert found.rows[0].energy == "10 Wh"
    assert "Energy is an estimate: processor time times 10 watts per core, as stated" in found.sentence


def test_counters_go_before_a_stated_power(tmp_path: Path) -> None:
    line = Cost(step="evaluate", seconds=10, cpu_seconds=3600, joules=7200)
    found = costs_of(tmp_path, line, watts_per_core=10)
    assert found.rows[0].energy == "2 Wh"
    assert "read from the processors' counters" in found.sentence


def test_processes_of_one_machine_share_time_and_counter(tmp_path: Path) -> None:
    ranks = [Cost(step="train clip", seconds=100, cpu_seconds=90, joules=3600, rank=rank) for rank in (0, 1)]
    (row,) = costs_of(tmp_path, *ranks).rows
    assert (row.num, row.time, row.cpu, row.energy) == (1, "1 min 40 s", "3 min 00 s", "1 Wh")


def test_gpus_need_a_power_of_their_own(tmp_path: Path) -> None:
    line = Cost(step="generate", seconds=3600, cpu_seconds=3600, gpu_seconds=7200, joules=3600)
    assert costs_of(tmp_path, line).rows[0].energy == "not known"
    found = costs_of(tmp_path, line, watts_per_gpu=300)
    assert found.rows[0].energy == "601 Wh"
    assert "300 watts per GPU as stated" in found.sentence


def test_what_is_missing_is_the_power_of_the_gpus_where_counters_were_read(tmp_path: Path) -> None:
    read = Cost(step="generate", seconds=3600, cpu_seconds=3600, gpu_seconds=7200, joules=3600)
    sentence = costs_of(tmp_path / "read", read).sentence
    assert "the power of the GPUs was not stated (--power.watts-per-gpu of stablerep report)" in sentence
    assert "could not be read" not in sentence and "watts-per-core" not in sentence
    sentence = costs_of(tmp_path / "unread", dataclasses.replace(read, joules=None)).sentence
    assert "could not be read" in sentence
    assert "(--power.watts-per-core and --power.watts-per-gpu of stablerep report)" in sentence


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (59, "59 s"), (61, "1 min 01 s"), (7500, "2 h 05 min"), (200_000, "2 d 7 h")],
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_power_must_be_positive() -> None:
    with pytest.raises(ValueError, match="watts_per_core must be positive"):
        PowerConfig(watts_per_core=0)
