"""Costs: a line per step, also where the user stops it; energy from counters that overflow."""

from pathlib import Path

import pytest

from stablerep import cost
from stablerep.cost import EnergyMeter, beside, metered, read_costs
from stablerep.errors import UserError


def counters(root: Path, **values: int) -> None:
    for name, value in values.items():
        folder = root / f"intel-rapl:{name[1:]}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "energy_uj").write_text(f"{value}\n")
        (folder / "max_energy_range_uj").write_text("1000000000\n")


def test_a_step_leaves_a_line_with_what_it_spent(tmp_path: Path) -> None:
    path = tmp_path / cost.FILE
    for step in ("generate", "evaluate"):
        with metered(step, path):
            (tmp_path / "made").touch()
            sum(number * number for number in range(300_000))
    first, second = read_costs(path)
    assert (first.step, second.step, first.rank) == ("generate", "evaluate", 0)
    assert 0 < first.cpu_seconds <= first.seconds + 0.05


def test_a_step_that_fails_leaves_none_and_one_that_is_stopped_does(tmp_path: Path) -> None:
    (tmp_path / "made").touch()
    path = tmp_path / cost.FILE
    with pytest.raises(UserError), metered("generate", path):
        raise UserError("no such teacher")
    assert not path.exists()
    with pytest.raises(KeyboardInterrupt), metered("generate", path):
        raise KeyboardInterrupt
    assert [line.step for line in read_costs(path)] == ["generate"]


@pytest.mark.parametrize("place", ["missing", "empty", "s3:/bucket"])
def test_where_nothing_was_made_nothing_is_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    path = Path(place) / cost.FILE if ":" in place else tmp_path / place / cost.FILE
    with metered("generate", path):
        pass
    assert not path.exists()


def test_counters_of_all_processors_are_added_and_may_overflow(tmp_path: Path) -> None:
    counters(tmp_path, p0=999_000_000, p1=5_000_000)
    (tmp_path / "intel-rapl:0:0").mkdir()
    (tmp_path / "intel-rapl:0:0" / "energy_uj").write_text("77")
    with EnergyMeter(tmp_path) as meter:
        assert meter.joules == 0
        counters(tmp_path, p0=1_000_000, p1=6_000_000)
        assert meter.joules == pytest.approx(2 + 1)
    counters(tmp_path, p0=2_000_000, p1=6_000_000)
    assert meter.joules == pytest.approx(4)


def test_without_counters_energy_is_not_known(tmp_path: Path) -> None:
    assert EnergyMeter(tmp_path / "missing").joules is None


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / cost.FILE).write_text('{"step": "generate", "seconds": 1, "cpu_seconds": 1, "later": 2}\n')
    assert read_costs(tmp_path / cost.FILE)[0].seconds == 1
    for damaged in (b"no line\n", b"\xff\xfe"):
        (tmp_path / cost.FILE).write_bytes(damaged)
        with pytest.raises(UserError, match="does not hold costs"):
            read_costs(tmp_path / cost.FILE)
    assert read_costs(tmp_path / "none.jsonl") == []


def test_the_file_of_a_table_carries_its_name() -> None:
    assert beside(Path("a/images.lance")) == Path("a/images.costs.jsonl")
    assert beside(Path("s3:/bucket/images.lance")) == Path("s3:/bucket/images.costs.jsonl")
    assert beside(Path()).parent == Path(), "a folder without a name has its costs too"
