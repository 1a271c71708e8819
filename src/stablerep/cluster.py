"""``--engine ray``: work for the workers of a Ray cluster, the same whichever of them does it.

A worker loads what does the work once and keeps it. It gets jobs from the process that asks, two at a time, and sends
back what came of them: it needs neither the tables nor a shared disk. A worker or node that dies costs the jobs it had
in hand, which another worker does again.
"""

import collections
import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch

from stablerep.config import differing_fields
from stablerep.console import Console
from stablerep.errors import UserError

EngineName = Literal["local", "ray"]

_IN_HAND = 2  # jobs per worker: one that it does, one that waits
_MOST_ATTEMPTS = 20
_PATIENCE = 1800.0  # seconds without any answer; a cloud may need minutes for a machine
_OBJECT_STORE = 128 * 2**20

Job = TypeVar("Job")
Result = TypeVar("Result")
JobIn = TypeVar("JobIn", contravariant=True)
ResultOut = TypeVar("ResultOut", covariant=True)


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Where the heavy work is done."""

    engine: EngineName = "local"
    """Work on this machine, or on the workers of a Ray cluster (pip install '.[ray]' in the clone)."""
    address: str | None = None
    """Ray: address of a running cluster, such as auto or ray://host:10001; unset: one is started on this machine."""
    num_workers: int | None = None
    """Ray: workers, each with a model of its own; unset: one per GPU, or without GPUs one per cpus_per_worker."""
    cpus_per_worker: int = 1
    """Ray: processor cores, and threads, of a worker."""

    def __post_init__(self) -> None:
        for name in ("num_workers", "cpus_per_worker"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


def engine_fields(config: EngineConfig) -> dict[str, Any]:
    """The fields of a configuration that say where the work is done, for one that asks the same."""
    return {name: getattr(config, name) for name in EngineConfig.__dataclass_fields__}


class Work(Protocol[JobIn, ResultOut]):
    """What a worker does, with the model that it needs for it."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What must be the same on all workers, or their results would not belong together."""

    @property
    def description(self) -> Any:
        """What the process that asks must know before it can say what is to be done."""

    def __call__(self, job: JobIn, /) -> ResultOut:
        """Do one job."""


@dataclass(frozen=True, kw_only=True)
class Task(Generic[Job, Result]):
    """What a crew is hired for."""

    load: Callable[[], Work[Job, Result]]
    """Loads the model; called once in every worker."""
    name: Callable[[Job], str]
    """A job in words."""
    device: str = "auto"
    """Where workers do it: on cpu no GPU is reserved for them."""


@dataclass(frozen=True)
class _Answer:
    """What a worker says; the settings come along, as it may have started anew elsewhere."""

    settings: Mapping[str, Any]
    value: Any


class Worker:
    """What runs in a Ray worker."""

    def __init__(self, load: Callable[[], Work[Any, Any]], num_threads: int) -> None:
        self._load = load
        self._num_threads = num_threads
        self._work: Work[Any, Any] | None = None

    def describe(self) -> _Answer:
        """Load the model and say what it is."""
        work = self._loaded()
        return _Answer(work.settings, work.description)

    def do(self, job: Any) -> _Answer:
        """Do one job."""
        work = self._loaded()
        result = work(job)
        return _Answer(work.settings, result)

    def _loaded(self) -> Work[Any, Any]:
        if self._work is None:
            torch.set_num_threads(self._num_threads)
            self._work = self._load()
        return self._work


@contextlib.contextmanager
def hired(task: Task[Job, Result], config: EngineConfig, console: Console) -> Iterator["Crew[Job, Result]"]:
    """The workers of a cluster, for the time of the block; without an address one is started on this machine.

    Raises ``UserError`` where Ray is not installed or there is no cluster at the address.
    """
    ray = _import_ray()
    was_running = ray.is_initialized()
    if not was_running:
        _connect(ray, config)
    try:
        crew = Crew(ray, task, config, console)
        try:
            yield crew
        finally:
            crew.dismiss()
    finally:
        if not was_running:
            ray.shutdown()


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's workers give way to every other process by default; of a cluster that is started here they need not.
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError("the engine ray needs Ray: pip install '.[ray]' in the clone of stablerep") from error
    return ray


def _connect(ray: Any, config: EngineConfig) -> None:
    """Join the cluster at the address, or start one on this machine, with room for a few jobs only."""
    quiet = {"log_to_driver": False, "logging_level": "error"}
    address = config.address or os.environ.get("RAY_ADDRESS")
    if address is None:
        num_cpus = config.cpus_per_worker * (config.num_workers or 1)
        num_cpus = max(num_cpus, os.cpu_count() or 1)
        own = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE}
        # Without "local" Ray would join whatever cluster it finds running on the machine.
        ray.init(address="local", num_cpus=num_cpus, **own, **quiet)
        return
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"no Ray cluster at {address!r} ({str(error).splitlines()[0]}); start one with `ray start --head`, "
            "or leave the address out"
        ) from error


class Crew(Generic[Job, Result]):
    """The workers of one task, what each has in hand, and what must be done again."""

    def __init__(self, ray: Any, task: Task[Job, Result], config: EngineConfig, console: Console) -> None:
        self._ray = ray
        self._console = console
        self._name = task.name
        resources = ray.cluster_resources()
        num_gpus = 0 if task.device == "cpu" else int(resources.get("GPU", 0))
        most = num_gpus or int(resources.get("CPU", 1)) // config.cpus_per_worker
        self.size = config.num_workers or max(1, most)
        # Restarts are Ray's, retries are ours: it is the job that must not be lost, not the call.
        options = {"num_cpus": config.cpus_per_worker, "num_gpus": 1 if num_gpus else 0}
        remote = ray.remote(**options, max_restarts=-1, max_task_retries=0)(Worker)
        load = ray.put(task.load)  # sent once, though it may hold a whole model
        self._new_worker = functools.partial(remote.remote, load, config.cpus_per_worker)
        self._workers = [self._new_worker() for _ in range(self.size)]
        self._num_replaced = 0
        self._settings: Mapping[str, Any] | None = None
        self._in_hand: dict[Any, tuple[int, tuple[int, Job] | None]] = {}
        self._load = [0] * self.size
        self._is_up = [False] * self.size
        self._again: collections.deque[tuple[int, Job]] = collections.deque()
        self._attempts: collections.Counter[int] = collections.Counter()
        self._last_sign = time.monotonic()

    def describe(self) -> Any:
        """The description by the first worker that has its model loaded; the others follow in their time."""
        for index in range(self.size):
            self._call(index, None)
        while True:
            for job, answer in self._answers():
                if job is None:
                    return answer

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result]]:
        """Have all jobs done, after ``describe``; each with its result, in the order in which they are finished.

        Jobs are taken one by one as workers become free, so that what is in flight stays bounded. What a job raises is
        raised here.
        """
        self._attempts.clear()
        waiting = enumerate(jobs)
        ahead = next(waiting, None)
        while ahead is not None or self._again or self._busy:
            while (ahead is not None or self._again) and (index := self._free()) is not None:
                if self._again:
                    self._call(index, self._again.popleft())
                else:
                    self._call(index, ahead)
                    ahead = next(waiting, None)
            for numbered, answer in self._answers():
                if numbered is not None:
                    yield numbered[1], answer

    def dismiss(self) -> None:
        """Let the workers go."""
        for worker in self._workers:
            self._ray.kill(worker)

    @property
    def _busy(self) -> bool:
        return any(job is not None for _, job in self._in_hand.values())

    def _free(self) -> int | None:
        """A worker that is up and has the least in hand, None where all have enough."""
        free = [i for i in range(self.size) if self._is_up[i] and self._load[i] < _IN_HAND]
        return min(free, key=self._load.__getitem__, default=None)

    def _call(self, index: int, job: tuple[int, Job] | None) -> None:
        """Give a worker a job, or ask it what it is, which it answers once it is up."""
        worker = self._workers[index]
        reference = worker.describe.remote() if job is None else worker.do.remote(job[1])
        self._in_hand[reference] = (index, job)
        self._load[index] += job is not None

    def _answers(self) -> Iterator[tuple[tuple[int, Job] | None, Any]]:
        """Wait for what is finished: (job, what came of it). What was lost is put aside to be done again."""
        ready, _ = self._ray.wait(list(self._in_hand), num_returns=1, timeout=10)
        for reference in ready:
            index, job = self._in_hand.pop(reference)
            self._load[index] -= job is not None
            try:
                answer = self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:
                # What the work raised, as it would without Ray.
                raise error.cause if isinstance(error.cause, Exception) else error from None
            except self._ray.exceptions.RayError as error:
                self._lost(index, job, error)
                continue
            self._check(answer.settings)
            self._is_up[index] = True
            self._last_sign = time.monotonic()
            yield job, answer.value
        if time.monotonic() - self._last_sign > _PATIENCE:
            raise UserError(
                f"no Ray worker has answered for {_PATIENCE / 60:.0f} minutes; check the cluster (`ray status`), then "
                "run again"
            )

    def _lost(self, index: int, job: tuple[int, Job] | None, error: Exception) -> None:
        if self._is_up[index]:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            self._console.say(f"worker {index} was lost ({reason}); its work goes to others")
            self._is_up[index] = False
        if job is not None:
            number, content = job
            self._attempts[number] += 1
            if self._attempts[number] >= _MOST_ATTEMPTS:
                raise UserError(
                    f"{self._name(content)} was lost with its worker {_MOST_ATTEMPTS} times; look for its cause in "
                    "Ray's logs (out of memory?), then run again"
                )
            self._again.append(job)
        if job is None and isinstance(error, self._ray.exceptions.ActorDiedError):
            self._replace(index, error)
        if not any(there == index and call is None for there, call in self._in_hand.values()):
            time.sleep(0.1)  # while a worker starts anew, calls fail at once
            self._call(index, None)

    def _replace(self, index: int, error: Exception) -> None:
        """Put another worker in the place of one that Ray has given up."""
        self._num_replaced += 1
        if self._num_replaced > _MOST_ATTEMPTS * self.size:
            raise UserError(
                f"Ray's workers die at their start ({str(error).strip()}); mend that, then run again"
            )
        self._workers[index] = self._new_worker()

    def _check(self, settings: Mapping[str, Any]) -> None:
        """Refuse a worker on another kind of machine, whose results would not belong to the others'."""
        if self._settings is None:
            self._settings = settings
        differences = differing_fields(self._settings, settings)
        if differences:
            raise UserError(
                f"the cluster's machines work differently ({'; '.join(differences)}); say --device and the number "
                "format, or use machines of one kind"
            )
