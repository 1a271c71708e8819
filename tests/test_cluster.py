"""Work on a real Ray of this machine: the results of this process, though workers die; and its mistakes."""

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from stablerep import cluster
from stablerep.cluster import EngineConfig, Task, engine_fields, hired
from stablerep.console import Console
from stablerep.errors import UserError

RAY = EngineConfig(engine="ray", num_workers=1)
QUIET = Console(quiet=True)


@dataclass
class Doubling:
    """Doubles numbers, and does once what a file asks for."""

    folder: Path
    settings: Any = None
    description: str = "doubles"

    def __post_init__(self) -> None:
        loads = self.folder / "loads"
        loads.write_text(f"{loads.read_text() if loads.exists() else ''}{os.getpid()}\n")
        self.settings = {
            "kind": (self.folder / "kind").read_text() if (self.folder / "kind").exists() else "one"
        }

    def __call__(self, number: int) -> int:
        if number == 3 and (self.folder / "die").exists():
            if (self.folder / "once").exists():
                (self.folder / "die").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 5 and (self.folder / "change").exists():
            self.settings = {"kind": "two"}
        if number == 7:
            raise UserError("seven is not to be doubled")
        return 2 * number


@pytest.fixture(scope="module")
def _cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    # The workers find this module where the tests are found. They inherit the environment of the cluster: with one of
    # their own Ray could not start them ahead.
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"USAGE_STATS_ENABLED": "0", "worker_niceness": "0"}.items():
            patch.setenv(f"RAY_{name}", value)
        patch.setenv("PYTHONPATH", path)
        ray.init(
            address="local",
            num_cpus=1,
            include_dashboard=False,
            object_store_memory=100 * 2**20,
            log_to_driver=False,
            logging_level="error",
        )
        yield
        ray.shutdown()


def crew(folder: Path) -> Any:
    return hired(Task(load=partial(Doubling, folder), name="number {}".format, device="cpu"), RAY, QUIET)


@pytest.mark.slow
@pytest.mark.usefixtures("_cluster")
def test_jobs_of_a_worker_that_died_are_done_again_and_the_rest_is_bounded(tmp_path: Path) -> None:
    for name in ("die", "once"):
        (tmp_path / name).touch()
    taken: list[int] = []

    def jobs() -> Iterator[int]:
        for number in range(7):
            taken.append(number)
            yield number

    done: dict[int, int] = {}
    with crew(tmp_path) as workers:
        assert workers.describe() == "doubles"
        for job, result in workers.run(jobs()):
            done[job] = result
            assert len(taken) <= len(done) + 4, "two in hand, one that looks ahead, one just finished"
    assert done == {number: 2 * number for number in range(7)}
    assert len((tmp_path / "loads").read_text().split()) == 2, "loaded once in each of two processes"


@pytest.mark.slow
@pytest.mark.usefixtures("_cluster")
def test_what_the_work_raises_and_workers_that_differ(tmp_path: Path) -> None:
    with crew(tmp_path) as workers:
        workers.describe()
        with pytest.raises(UserError, match="seven is not to be doubled"):
            list(workers.run([7]))
        (tmp_path / "change").touch()
        with pytest.raises(UserError, match=r"work differently \(kind: 'one' there, 'two'"):
            list(workers.run([5]))


@dataclass
class NotYetRunning:
    """Ray as a process finds it that has joined no cluster; it notes what it is asked and fails if told to."""

    failure: Exception | None = None
    asked: dict[str, Any] = field(default_factory=dict)

    def init(self, **asked: Any) -> None:
        self.asked = asked
        if self.failure:
            raise self.failure


def test_which_cluster_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    def joined(**settings: Any) -> dict[str, Any]:
        ray = NotYetRunning()
        cluster._connect(ray, EngineConfig(engine="ray", **settings))
        return ray.asked

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    own = joined(num_workers=50, cpus_per_worker=2)
    assert own["address"] == "local" and own["num_cpus"] >= 100, "room for all that were asked for"
    assert joined(address="auto")["address"] == "auto"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert joined()["address"] == "10.0.0.1:6379"
    assert joined(address="auto")["address"] == "auto", "what is asked for goes before the environment"
    assert "num_cpus" not in joined(address="auto"), "a cluster that runs has what it has"


def test_a_cluster_that_is_not_there_is_named() -> None:
    ray = NotYetRunning(ConnectionError("nobody answers\nat all"))
    with pytest.raises(
        UserError, match=r"no Ray cluster at 'auto' \(nobody answers\); start one with `ray start"
    ):
        cluster._connect(ray, EngineConfig(engine="ray", address="auto"))


def test_without_ray_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install '\.\[ray\]'"), crew(tmp_path):
        pass


def test_wrong_numbers_of_workers_are_refused() -> None:
    for name in ("num_workers", "cpus_per_worker"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1"):
            EngineConfig(**{name: 0})
    assert EngineConfig(**engine_fields(RAY)) == RAY
