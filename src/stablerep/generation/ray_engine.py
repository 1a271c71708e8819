"""``generate --engine ray``: the plan painted by Ray workers anywhere in a cluster, stored by the process that asked.

Workers hold one teacher each and get batches of the same plan as the local engine, so that the table is the same. Rows
are committed here: workers need neither the tables nor a shared disk, and a batch counts as painted once its rows are
in the table. A worker or node that dies costs the batches it had in hand, which another worker paints again.
"""

import collections
import dataclasses
import functools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stablerep.config import differing_fields
from stablerep.console import Console, Progress
from stablerep.errors import UserError
from stablerep.generation.pictures import Encoded, encode_painted
from stablerep.generation.plan import PlanItem, num_asked, num_missing, plan, rotated
from stablerep.generation.repaint import images_asked, require_mask
from stablerep.generation.settings import GenerateConfig
from stablerep.generation.shared_table import DoneKeys, Tally, Writer, claim
from stablerep.generation.teacher import Teacher, load_teacher
from stablerep.generation.wanted import read_captions
from stablerep.generation.work import Conditionings, Outcome, picture_settings, plan_in_words
from stablerep.store import ImageTable

_IN_HAND = 2  # batches per worker: one that it paints, one that waits
_MOST_ATTEMPTS = 20
_PATIENCE = 1800.0  # seconds without any answer; a cloud may need minutes for a machine
_OBJECT_STORE = 128 * 2**20

Batch = list[PlanItem]


@dataclass(frozen=True, kw_only=True)
class Description:
    """A worker's teacher: what the plan and the fingerprint need to know of it."""

    name: str
    batch_size: int
    styles: tuple[str, ...]
    settings: dict[str, Any]
    """All that determines the stored pictures."""
    words: str
    """The painter in words."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A painted batch: per picture its bytes, or the reason why there are none."""

    pictures: list[Encoded | None]
    reasons: list[str | None]
    settings: dict[str, Any]
    num_truncated: int


class Painter:
    """What runs in a Ray worker: one teacher, loaded at the first call and kept."""

    def __init__(self, config: GenerateConfig) -> None:
        self._config = config
        self._teacher: Teacher | None = None
        self._conditionings: Conditionings | None = None

    def describe(self) -> Description:
        """Load the teacher and say what it is."""
        teacher, _ = self._loaded()
        return Description(
            name=teacher.name,
            batch_size=teacher.batch_size,
            styles=teacher.styles,
            settings=picture_settings(teacher, self._config),
            words=plan_in_words(teacher),
        )

    def paint(self, batch: Batch) -> Result:
        """Paint and encode a batch; the settings come along, as this worker may have started anew elsewhere."""
        teacher, conditionings = self._loaded()
        before = teacher.num_truncated
        painted = teacher.paint(
            conditionings.of([item.prompt for item in batch]), [item.seed for item in batch]
        )
        return Result(
            pictures=encode_painted(painted, self._config),
            reasons=painted.reasons,
            settings=picture_settings(teacher, self._config),
            num_truncated=teacher.num_truncated - before,
        )

    def _loaded(self) -> tuple[Teacher, Conditionings]:
        if self._teacher is None or self._conditionings is None:
            torch.set_num_threads(self._config.cpus_per_worker)
            self._teacher = load_teacher(self._config.teacher, self._config)
            self._conditionings = Conditionings(self._teacher)
        return self._teacher, self._conditionings


def paint_with_ray(config: GenerateConfig, console: Console) -> Outcome:
    """Paint what is missing on the workers of a Ray cluster; without an address one is started on this machine."""
    ray = _import_ray()
    require_mask(config)
    captions = read_captions(config)
    was_running = ray.is_initialized()
    if not was_running:
        _connect(ray, config)
    crew = _Crew(ray, config, console)
    try:
        teacher = crew.describe()
        table = ImageTable.open_or_create(config.out)
        origin = claim(table, teacher.name, teacher.settings)
        done = DoneKeys(table, origin)
        asked = images_asked(table, origin, captions, config)
        missing = num_missing(captions, asked, done)
        there = num_asked(captions, asked) - missing
        console.say(
            f"{origin}: {teacher.words}; {crew.size} Ray workers; {len(captions)} captions x {config.num_images} "
            f"images, {there} {'kept' if config.repaint else 'there already'}, {missing} to paint"
        )
        tally, num_truncated, begin = Tally(), 0, time.monotonic()
        while missing:
            batches = plan(
                rotated(captions, 0),
                asked,
                done,
                batch_size=teacher.batch_size,
                seed=config.seed,
                styles=teacher.styles,
            )
            with (
                console.progress("painting", missing, "pictures") as progress,
                Writer(table, origin, captions.facts, config) as writer,
            ):
                num_truncated += crew.paint(batches, writer, progress)
            tally += writer.tally
            done.refresh()
            asked = images_asked(table, origin, captions, config)
            missing = num_missing(captions, asked, done)
        return Outcome(origin, len(captions), there, tally, time.monotonic() - begin, num_truncated)
    finally:
        crew.dismiss()
        if not was_running:
            ray.shutdown()


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's workers give way to every other process by default; of a cluster that is started here they need not.
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError("the engine ray needs Ray: pip install 'stablerep[ray]'") from error
    return ray


def _connect(ray: Any, config: GenerateConfig) -> None:
    """Join the cluster at the address, or start one on this machine, with room for a few batches only."""
    quiet = {"log_to_driver": False, "logging_level": "error"}
    address = config.address or os.environ.get("RAY_ADDRESS")
    if address is None:
        num_cpus = config.cpus_per_worker * (config.num_workers or 1)
        num_cpus = max(num_cpus, os.cpu_count() or 1)
        ray.init(num_cpus=num_cpus, include_dashboard=False, object_store_memory=_OBJECT_STORE, **quiet)
        return
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"no Ray cluster at {address!r} ({str(error).splitlines()[0]}); start one with `ray start --head`, "
            "or leave the address out"
        ) from error


class _Crew:
    """The workers of one run, what each has in hand, and what must be painted again."""

    def __init__(self, ray: Any, config: GenerateConfig, console: Console) -> None:
        self._ray = ray
        self._console = console
        resources = ray.cluster_resources()
        num_gpus = 0 if config.device == "cpu" else int(resources.get("GPU", 0))
        most = num_gpus or int(resources.get("CPU", 1)) // config.cpus_per_worker
        self.size = config.num_workers or max(1, most)
        if Path(config.teacher).exists():  # a worker has another working directory
            config = dataclasses.replace(config, teacher=str(Path(config.teacher).resolve()))
        # Restarts are Ray's, retries are ours: it is the batch that must not be lost, not the call.
        options = {"num_cpus": config.cpus_per_worker, "num_gpus": 1 if num_gpus else 0}
        remote = ray.remote(**options, max_restarts=-1, max_task_retries=0)(Painter)
        self._new_worker = functools.partial(remote.remote, config)
        self._workers = [self._new_worker() for _ in range(self.size)]
        self._num_replaced = 0
        self._settings: dict[str, Any] = {}
        self._in_hand: dict[Any, tuple[int, Batch | None]] = {}
        self._load = [0] * self.size
        self._is_up = [False] * self.size
        self._again: collections.deque[Batch] = collections.deque()
        self._attempts: collections.Counter[tuple[str, int]] = collections.Counter()
        self._last_sign = time.monotonic()

    def describe(self) -> Description:
        """The teacher, as the first worker that has it loaded says; the others follow in their time."""
        for index in range(self.size):
            self._call(index, None)
        while True:
            for index, batch, answer in self._answers():
                if batch is None and isinstance(answer, Description):
                    self._settings = answer.settings
                    self._is_up[index] = True
                    return answer

    def paint(self, batches: Iterator[Batch], writer: Writer, progress: Progress) -> int:
        """Paint all batches and hand them to the writer; returns the number of prompts that were cut."""
        num_truncated = 0
        ahead: Batch | None = next(batches, None)
        while ahead is not None or self._again or self._busy:
            while (ahead is not None or self._again) and (index := self._free()) is not None:
                if self._again:
                    self._call(index, self._again.popleft())
                else:
                    self._call(index, ahead)
                    ahead = next(batches, None)
            for index, batch, answer in self._answers():
                self._check(answer.settings)
                self._is_up[index] = True
                if batch is not None:
                    writer.put_encoded(batch, answer.pictures, answer.reasons)
                    num_truncated += answer.num_truncated
                    progress.advance(len(batch), note=writer.tally.in_words())
        return num_truncated

    def dismiss(self) -> None:
        """Let the workers go."""
        for worker in self._workers:
            self._ray.kill(worker)

    @property
    def _busy(self) -> bool:
        return any(batch is not None for _, batch in self._in_hand.values())

    def _free(self) -> int | None:
        """A worker that is up and has the least in hand, None where all have enough."""
        free = [i for i in range(self.size) if self._is_up[i] and self._load[i] < _IN_HAND]
        return min(free, key=self._load.__getitem__, default=None)

    def _call(self, index: int, batch: Batch | None) -> None:
        """Give a worker a batch, or ask it what it is, which it answers once it is up."""
        worker = self._workers[index]
        reference = worker.describe.remote() if batch is None else worker.paint.remote(batch)
        self._in_hand[reference] = (index, batch)
        self._load[index] += batch is not None

    def _answers(self) -> Iterator[tuple[int, Batch | None, Any]]:
        """Wait for what is finished: (worker, batch, what it returned). What was lost is put aside to be done again."""
        ready, _ = self._ray.wait(list(self._in_hand), num_returns=1, timeout=10)
        for reference in ready:
            index, batch = self._in_hand.pop(reference)
            self._load[index] -= batch is not None
            try:
                answer = self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:
                # What the teacher raised, as it would without Ray.
                raise error.cause if isinstance(error.cause, Exception) else error from None
            except self._ray.exceptions.RayError as error:
                self._lost(index, batch, error)
                continue
            self._last_sign = time.monotonic()
            yield index, batch, answer
        if time.monotonic() - self._last_sign > _PATIENCE:
            raise UserError(
                f"no Ray worker has answered for {_PATIENCE / 60:.0f} minutes; check the cluster (`ray status`), then "
                "run again"
            )

    def _lost(self, index: int, batch: Batch | None, error: Exception) -> None:
        if self._is_up[index]:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            self._console.say(f"worker {index} was lost ({reason}); its batches go to others")
            self._is_up[index] = False
        if batch is not None:
            key = batch[0].key
            self._attempts[key] += 1
            if self._attempts[key] >= _MOST_ATTEMPTS:
                raise UserError(
                    f"the batch of caption {key[0]}, image {key[1]}, was lost with its worker {_MOST_ATTEMPTS} times; "
                    "look for its cause in Ray's logs (out of memory?), then run again"
                )
            self._again.append(batch)
        if batch is None and isinstance(error, self._ray.exceptions.ActorDiedError):
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

    def _check(self, settings: dict[str, Any]) -> None:
        """Refuse a worker on another kind of machine, whose pictures would not belong into the table."""
        differences = differing_fields(self._settings, settings)
        if differences:
            raise UserError(
                f"the cluster's machines paint differently ({'; '.join(differences)}); say --device and --dtype, or "
                "use machines of one kind"
            )
