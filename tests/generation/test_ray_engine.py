"""`generate --engine ray` on a real Ray of this machine: the table of the local engine, whatever dies meanwhile."""

import contextlib
import dataclasses
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from ray_cluster import workers_below
from some_captions import TEXTS, add_captions

from stablerep.errors import UserError
from stablerep.generation import ray_engine
from stablerep.generation.execute import generate
from stablerep.generation.settings import GenerateConfig
from stablerep.store import ImageTable, caption_id

Make = Callable[..., GenerateConfig]


def contents(path: Path) -> pa.Table:
    """All rows and columns, in the order of their keys."""
    table = ImageTable.open(path)
    return table.read(table.schema.names).sort_by([("caption_id", "ascending"), ("image_index", "ascending")])


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of this machine with room for two workers, started once for the module."""
    ray = pytest.importorskip("ray")
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    quiet = {"log_to_driver": False, "logging_level": "error"}
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, **quiet)
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_the_table_is_that_of_the_local_engine_though_a_worker_is_killed(
    config: Make, tmp_path: Path
) -> None:
    local = config(out=tmp_path / "local.lance", num_images=7)
    generate(local)
    shared = config(out=tmp_path / "ray.lance", num_images=7, engine="ray", num_workers=2, commit_seconds=0.0)
    killed: list[int] = []

    def kill_after_first_commit() -> None:
        while not killed:
            time.sleep(0.02)
            workers = workers_below(os.getpid())
            # The folder is there before its first version is.
            if workers and any(shared.out.glob("_versions/*")) and len(ImageTable.open(shared.out)):
                os.kill(workers[0], signal.SIGKILL)
                killed.append(workers[0])

    killer = threading.Thread(target=kill_after_first_commit, daemon=True)
    killer.start()
    summary = generate(shared)
    killer.join(timeout=5)
    assert killed
    assert (summary.painted, summary.failed, summary.already_there) == (7 * len(TEXTS), 0, 0)
    assert contents(shared.out).equals(contents(local.out))
    assert ImageTable.open(shared.out).origins() == ImageTable.open(local.out).origins()

    more = generate(config(out=shared.out, num_images=8))
    assert (more.painted, more.already_there) == (len(TEXTS), 7 * len(TEXTS)), "the local engine goes on"


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What workers would be hired for, on a cluster that has none."""
    tasks: list[Any] = []

    @contextlib.contextmanager
    def hired(task: Any, *_: Any) -> Iterator[Any]:
        tasks.append(task)
        yield SimpleNamespace(size=1, describe=lambda: task.load().description)

    monkeypatch.setattr(ray_engine, "hired", hired)
    return tasks


def test_a_folder_named_like_a_shipped_teacher_does_not_take_its_place(
    config: Make, sent: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As without Ray; the folder may well be the tables that the teacher painted."""
    monkeypatch.chdir(tmp_path)
    Path("icons").mkdir()
    with pytest.raises(AttributeError, match="run"):  # it would paint now
        generate(config(teacher="icons", engine="ray", num_images=1, limit=1))
    monkeypatch.chdir("/")  # as a worker has another folder
    assert pickle.loads(pickle.dumps(sent[0].load))().description.name == "icons"


@pytest.fixture
def two_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster within this process, that does jobs in turn, with other threads than this process."""

    @contextlib.contextmanager
    def hired(task: Any, *_: Any) -> Iterator[Any]:
        workers = [task.load(), task.load()]
        description = workers[0].description
        there = dataclasses.replace(description, settings={**description.settings, "threads": 7})
        yield SimpleNamespace(
            size=2,
            describe=lambda: there,
            run=lambda jobs: ((job, workers[number % 2](job)) for number, job in enumerate(jobs)),
        )

    monkeypatch.setattr(ray_engine, "hired", hired)


@pytest.mark.usefixtures("two_workers")
def test_a_dry_run_asks_the_workers(config: Make) -> None:
    """They have other threads, and perhaps GPUs, than the machine where the command runs."""
    painted = generate(config(engine="ray", num_images=1))
    foreseen = generate(config(engine="ray", dry_run=True))
    assert (foreseen.origin, foreseen.missing) == (painted.origin, len(TEXTS))
    assert foreseen.estimated_seconds == foreseen.seconds, "two batches, at once"


@pytest.mark.usefixtures("two_workers")
def test_a_prompt_that_several_workers_cut_counts_once(config: Make) -> None:
    long = " ".join(["red cat"] * 20)
    add_captions(config().captions, (long,))
    summary = generate(config(engine="ray", where=f"id = '{caption_id(long)}'", num_images=8))
    assert (summary.painted, summary.truncated, summary.truncated_example) == (8, 1, long)


@pytest.mark.usefixtures("sent")
def test_a_mistake_of_the_workers_leaves_no_table(config: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown teacher"):
        generate(config(out=tmp_path / "x.lance", engine="ray", num_workers=1, teacher="nobody"))
    assert not (tmp_path / "x.lance").exists()


@pytest.mark.slow
def test_without_ray_the_remedy_is_said(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install '\.\[ray\]'"):
        generate(config(engine="ray"))
