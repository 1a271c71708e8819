"""The run folder: claims, atomic writes that survive a kill, checkpoints, and a log that mends torn lines."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from stablerep import run as run_module
from stablerep.config import build
from stablerep.errors import UserError
from stablerep.run import Run, torn_files, write_atomically, write_text


@dataclass(frozen=True, kw_only=True)
class Settings:
    steps: int = 10
    out: Path = Path("somewhere")
    seed: int | None = None


def test_a_new_run_describes_itself(tmp_path: Path) -> None:
    settings = Settings(steps=3, seed=7)
    run = Run.open_or_create(tmp_path / "a" / "b", settings, kind="simclr")
    assert run.kind == "simclr"
    assert run.description["config"] == {"steps": 3, "out": "somewhere", "seed": 7}
    saved = tomllib.loads((run.path / "config.toml").read_text(encoding="utf-8"))
    assert build(Settings, saved, origin="x") == settings
    provenance = json.loads((run.path / "provenance.json").read_text(encoding="utf-8"))
    assert provenance["versions"]["torch"] == torch.__version__.split("+")[0]
    assert provenance["threads"] == torch.get_num_threads()
    assert Run.open(run.path).kind == "simclr"


def test_where_it_came_from_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_module.provenance()
    monkeypatch.setattr("importlib.metadata.version", None)  # called, it would raise
    monkeypatch.setattr("subprocess.run", None)
    first["versions"].clear()
    again = run_module.provenance()
    assert again["versions"]["torch"] == torch.__version__.split("+")[0]
    assert again["git_revision"] == first["git_revision"]


def test_going_on_needs_the_same_settings(tmp_path: Path) -> None:
    path = tmp_path / "run"
    Run.open_or_create(path, Settings(steps=3), kind="simclr")
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    Run.open_or_create(path, Settings(steps=3), kind="simclr")
    with pytest.raises(UserError) as caught:
        Run.open_or_create(path, Settings(steps=4, seed=1), kind="clip")
    for part in (
        "config.steps: 3 there, 4 asked",
        "config.seed: None there, 1 asked",
        "kind: 'simclr' there",
        "it has no checkpoint yet",
    ):
        assert part in str(caught.value)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "love.txt").write_text("dear", encoding="utf-8")
    (tmp_path / "file").write_text("text", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    for name in ("letters", "file"):
        with pytest.raises(UserError, match="not a run folder"):
            Run.open_or_create(tmp_path / name, Settings(), kind="simclr")
        with pytest.raises(UserError, match="not a run folder"):
            Run.open(tmp_path / name)
    assert Run.open_or_create(tmp_path / "empty", Settings(), kind="simclr").kind == "simclr"
    with pytest.raises(UserError, match="cannot create the run folder"):
        Run.open_or_create(tmp_path / "file" / "below", Settings(), kind="simclr")


@pytest.mark.parametrize("content", ['{"kind": "simc', "[]", '{"kind": "simclr"}'])
def test_a_damaged_description_is_named(tmp_path: Path, content: str) -> None:
    run = Run.open_or_create(tmp_path / "run", Settings(), kind="simclr")
    run.description_path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"run/run\.json .*; restore or remove it"):
        Run.open_or_create(tmp_path / "run", Settings(), kind="simclr")
    with pytest.raises(UserError, match=r"run/run\.json .*; restore or remove it"):
        _ = Run.open(tmp_path / "run").kind
    assert run.description_path.read_text(encoding="utf-8") == content


@pytest.mark.parametrize("killed_before", ["run.json", "config.toml", "provenance.json"])
def test_creation_goes_on_after_a_kill_at_any_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_before: str
) -> None:
    class Killed(BaseException):
        pass

    def write(path: Path, text: str) -> None:
        if path.name == killed_before:
            (path.parent / f".{path.name}.abc").write_text(text[:5], encoding="utf-8")  # what a kill leaves
            raise Killed
        write_text(path, text)

    monkeypatch.setattr(run_module, "write_text", write)
    with pytest.raises(Killed):
        Run.open_or_create(tmp_path / "run", Settings(), kind="simclr")
    monkeypatch.undo()
    run = Run.open_or_create(tmp_path / "run", Settings(), kind="simclr")
    assert {"run.json", "config.toml", "provenance.json"} <= {file.name for file in run.path.iterdir()}
    assert run.description["config"]["steps"] == 10


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "value.txt"
    write_text(target, "old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half", encoding="utf-8")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_atomically(target, fail)
    assert target.read_text(encoding="utf-8") == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["value.txt"]


def test_torn_files_are_what_a_writer_has_not_finished_and_no_others(tmp_path: Path) -> None:
    for name in ("checkpoint.pt", ".hidden", ".checkpoint.pt.0123", "checkpoint.pt.0123456789abcdef"):
        (tmp_path / name).touch()
    seen: list[tuple[Path, list[Path]]] = []
    write_atomically(
        tmp_path / "encoder" / "encoder.json", lambda half: seen.append((half, torn_files(tmp_path)))
    )
    assert [torn for _, torn in seen] == [[half] for half, _ in seen]
    assert torn_files(tmp_path) == []


def test_written_files_have_ordinary_permissions(tmp_path: Path) -> None:
    write_text(tmp_path / "atomic", "x")
    (tmp_path / "plain").write_text("x", encoding="utf-8")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("atomic", "plain")}
    assert len(modes) == 1


WRITER = """
import sys
from pathlib import Path
from stablerep.run import write_atomically

def fill(letter):
    def write(temporary):
        with temporary.open("w") as file:
            for _ in range(200):
                file.write(letter * 1000)
                file.flush()
    return write

print("ready", flush=True)
while True:
    for letter in "abcdef":
        write_atomically(Path(sys.argv[1]), fill(letter))
"""


@pytest.mark.slow
def test_a_reader_never_sees_a_part_even_when_the_writer_is_killed(tmp_path: Path) -> None:
    target = tmp_path / "value.txt"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(target)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"ready\n"
    seen = set()
    deadline = time.monotonic() + 120
    while len(seen) < 3 and time.monotonic() < deadline:
        if target.exists():
            text = target.read_text(encoding="utf-8")
            assert len(text) == 200_000
            assert len(set(text)) == 1
            seen.add(text[0])
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    assert len(seen) == 3, "the reader must have overlapped with several writes"
    text = target.read_text(encoding="utf-8")
    assert len(text) == 200_000
    assert len(set(text)) == 1


def test_checkpoints_come_back_bit_for_bit(tmp_path: Path) -> None:
    run = Run.open_or_create(tmp_path / "run", Settings(), kind="simclr")
    assert run.load_checkpoint() is None
    state = {"step": 5, "model": {"w": torch.randn(3, 4, dtype=torch.float64)}, "rng": torch.get_rng_state()}
    run.save_checkpoint({"step": 4})
    run.save_checkpoint(state)
    loaded = run.load_checkpoint()
    assert loaded is not None
    assert loaded["step"] == 5
    assert torch.equal(loaded["model"]["w"], state["model"]["w"])
    assert torch.equal(loaded["rng"], state["rng"])


def test_a_checkpoint_that_fails_to_save_leaves_the_last_one(tmp_path: Path) -> None:
    run = Run.open_or_create(tmp_path / "run", Settings(), kind="simclr")
    run.save_checkpoint({"step": 4})
    with pytest.raises(Exception, match="pickle"):
        run.save_checkpoint({"step": 5, "bad": lambda: None})
    assert run.load_checkpoint() == {"step": 4}


def test_resumed_steps_supersede_those_of_the_killed_process(tmp_path: Path) -> None:
    run = Run.open_or_create(tmp_path / "run", Settings(), kind="simclr")
    assert run.metrics() == []
    for step, loss in ((1, 9.0), (2, 8.0), (3, 7.0), (2, 8.5), (3, float("nan"))):
        run.log({"step": step, "loss": loss})
    records = run.metrics()
    assert [record["step"] for record in records] == [1, 2, 3]
    assert records[1]["loss"] == 8.5
    assert records[2]["loss"] != records[2]["loss"]
    assert all(abs(record["time"] - time.time()) < 60 for record in records)


def test_steps_of_the_killed_process_go_where_the_resumed_one_logs_at_other_intervals(tmp_path: Path) -> None:
    run = Run.open_or_create(tmp_path / "run", Settings(), kind="simclr")
    for step in (2, 4, 6, 8):  # killed, with a checkpoint of step 5
        run.log({"step": step, "by": "killed"})
    for step in (6, 9):
        run.log({"step": step, "by": "resumed"})
    found = [(record["step"], record["by"]) for record in run.metrics()]
    assert found == [(2, "killed"), (4, "killed"), (6, "resumed"), (9, "resumed")]


def test_records_without_a_step_are_all_kept(tmp_path: Path) -> None:
    run = Run.open_or_create(tmp_path / "run", Settings(), kind="simclr")
    for record in ({"step": 1}, {"note": "a"}, {"note": "b"}, {"step": 2}):
        run.log(record)
    without_time = [
        {key: value for key, value in record.items() if key != "time"} for record in run.metrics()
    ]
    assert without_time == [{"step": 1}, {"note": "a"}, {"note": "b"}, {"step": 2}]
    run.log({"step": 0})  # begun again
    assert [record.get("note", record.get("step")) for record in run.metrics()] == ["a", "b", 0]


def test_a_torn_last_line_costs_only_itself(tmp_path: Path) -> None:
    run = Run.open_or_create(tmp_path / "run", Settings(), kind="simclr")
    run.log({"step": 1})
    with (run.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 2, "lo')
    assert [record["step"] for record in run.metrics()] == [1]
    run.log({"step": 2})
    run.log({"step": 3})
    assert [record["step"] for record in run.metrics()] == [1, 2, 3]


def test_results_are_written_beside_the_configuration(tmp_path: Path) -> None:
    run = Run.open_or_create(tmp_path / "run", Settings(), kind="simclr")
    path = run.write_json("scores.json", {"top1": 0.5})
    assert json.loads(path.read_text(encoding="utf-8")) == {"top1": 0.5}
    assert path.parent == run.path
