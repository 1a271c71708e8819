"""Several workers on one table: they see one another's rows, stay out of each other's way, and never store twice."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lance
import pytest
import torch
from some_captions import TEXTS, add_captions

from processes import start
from stablerep.errors import UserError
from stablerep.generation import shared_table, work
from stablerep.generation.execute import GenerateConfig, generate
from stablerep.generation.pictures import Painted
from stablerep.generation.shared_table import DoneKeys, claim, refuse_other_settings
from stablerep.store import ImageTable


class NoiseTeacher:
    """Paints the noise of the seed, slowly, and keeps account of what it was asked."""

    name = "noise"
    batch_size = 2
    styles: tuple[str, ...] = ()
    num_truncated = 0
    truncated_example: str | None = None

    def __init__(self, seconds: float = 0.0) -> None:
        names = ("num_inference_steps", "guidance_scale", "dtype", "device")
        self.settings: dict[str, Any] = {**dict.fromkeys(names, 0), "scheduler": {"class": "none"}}
        self.encoded: list[str] = []
        self.seeds: list[int] = []
        self._seconds = seconds

    def encode(self, prompts: Sequence[str]) -> list[Any]:
        self.encoded += prompts
        return [{"prompt": prompt} for prompt in prompts]

    def paint(self, conditionings: Sequence[Any], seeds: Sequence[int]) -> Painted:
        assert len(conditionings) == len(seeds) <= self.batch_size
        self.seeds += seeds
        time.sleep(self._seconds)
        noise = [
            torch.randint(0, 256, (3, 4, 4), generator=torch.Generator().manual_seed(seed)) for seed in seeds
        ]
        return Painted(torch.stack(noise).to(torch.uint8), [None] * len(seeds))


@pytest.fixture
def paint(captions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Paint with a given teacher; a commit per batch."""
    local = threading.local()
    monkeypatch.setattr(work, "load_teacher", lambda *_: local.teacher)

    def run(teacher: NoiseTeacher, **options: Any) -> work.Outcome:
        local.teacher = teacher
        quick: dict[str, Any] = {"num_images": 3, "format": "png", "commit_seconds": 0.0}
        return work.paint_share(
            GenerateConfig(captions=captions, out=tmp_path / "images.lance", **{**quick, **options})
        )

    return run


def _keys(path: Path) -> Counter[tuple[str, str, int]]:
    rows = ImageTable.open(path).read(["origin", "caption_id", "image_index"]).to_pylist()
    return Counter((row["origin"], row["caption_id"], row["image_index"]) for row in rows)


@pytest.mark.slow
def test_prompt_is_encoded_once_for_all_its_images(paint: Any) -> None:
    teacher = NoiseTeacher()
    paint(teacher, num_images=5)
    assert sorted(teacher.encoded) == sorted(TEXTS)
    assert len(teacher.seeds) == len(set(teacher.seeds)) == 5 * len(TEXTS)


@pytest.mark.slow
def test_two_workers_share_the_work(paint: Any, captions: Path, tmp_path: Path) -> None:
    """Each picture is stored once, and few are painted twice: only what the other had not committed yet."""
    add_captions(captions, tuple(f"thing {index}" for index in range(23)))
    # Long enough for a commit to end meanwhile, on a busy machine too.
    teachers = [NoiseTeacher(seconds=0.2), NoiseTeacher(seconds=0.2)]
    outcomes: list[work.Outcome] = []
    threads = [threading.Thread(target=lambda one=one: outcomes.append(paint(one))) for one in teachers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 2
    keys = _keys(tmp_path / "images.lance")
    assert len(keys) == 3 * 30 and set(keys.values()) == {1}
    assert sum(outcome.tally.painted for outcome in outcomes) == 3 * 30
    num_calls = sum(len(teacher.seeds) for teacher in teachers)
    assert num_calls == 3 * 30 + sum(outcome.tally.lost for outcome in outcomes)
    assert num_calls < 1.4 * 3 * 30
    assert min(len(teacher.seeds) for teacher in teachers) > 0.25 * 3 * 30


def test_worker_goes_elsewhere_where_another_has_been(paint: Any, tmp_path: Path) -> None:
    """Rows that turn up while it paints are not painted again."""
    helper, teacher = NoiseTeacher(), NoiseTeacher()
    paint_batch = teacher.paint

    def paint_and_be_overtaken(conditionings: Sequence[Any], seeds: Sequence[int]) -> Painted:
        if not teacher.seeds:
            thread = threading.Thread(target=paint, args=(helper,))
            thread.start()
            thread.join()
        return paint_batch(conditionings, seeds)

    teacher.paint = paint_and_be_overtaken  # type: ignore[method-assign]
    outcome = paint(teacher)
    assert len(helper.seeds) == 3 * len(TEXTS)
    assert len(teacher.seeds) == teacher.batch_size  # only what it had begun
    assert (outcome.tally.painted, outcome.tally.lost) == (0, teacher.batch_size)
    assert set(_keys(tmp_path / "images.lance").values()) == {1}


def test_more_workers_than_captions_leave_some_idle(paint: Any, config: Any) -> None:
    paint(NoiseTeacher(), limit=1)
    idle = work.paint_share(config(limit=1, num_images=3, commit_seconds=0.0), index=0, count=2)
    assert (idle.num_captions, idle.tally.painted) == (0, 0)


def test_pictures_are_committed_when_the_teacher_breaks(paint: Any, tmp_path: Path) -> None:
    teacher = NoiseTeacher()
    paint_batch = teacher.paint

    def break_down(conditionings: Sequence[Any], seeds: Sequence[int]) -> Painted:
        if len(teacher.seeds) >= 6:
            raise RuntimeError("out of memory")
        return paint_batch(conditionings, seeds)

    teacher.paint = break_down  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="out of memory"):
        paint(teacher, commit_seconds=1000.0)
    assert len(_keys(tmp_path / "images.lance")) == 6


def test_error_of_the_storing_thread_reaches_the_painting(
    paint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError("no space left")

    monkeypatch.setattr(ImageTable, "append", full)
    teacher = NoiseTeacher(seconds=0.02)
    with pytest.raises(OSError, match="no space left"):
        paint(teacher, num_images=20)
    assert len(teacher.seeds) < 20 * len(TEXTS)  # it did not paint to the end for nothing


def test_done_keys_follow_the_table(tmp_path: Path) -> None:
    table = ImageTable.open_or_create(tmp_path / "images.lance")

    def add(origin: str, index: int) -> None:
        ImageTable.open(table.path).append(
            [{"origin": origin, "caption_id": "c", "image_index": index, "status": "ok"}]
        )

    add("mine", 0)
    done = DoneKeys(table.reload(), "mine")
    add("mine", 1)
    add("other", 2)
    assert ("c", 0) in done and ("c", 1) not in done
    done.refresh()
    assert ("c", 1) in done and ("c", 2) not in done
    done.add([("c", 7)])
    ImageTable.open(table.path).dataset.optimize.compact_files()
    add("mine", 3)
    done.refresh()
    assert len(done) == 4 and ("c", 3) in done and ("c", 7) in done


def test_done_keys_of_a_damaged_table_are_a_mistake_that_names_it(tmp_path: Path) -> None:
    table = ImageTable.open_or_create(tmp_path / "images.lance")
    table.append([{"origin": "it's mine", "caption_id": "c", "image_index": 0, "status": "ok"}])
    assert ("c", 0) in DoneKeys(table.reload(), "it's mine")
    for path in (tmp_path / "images.lance" / "data").iterdir():
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"images\.lance could not be read"):
        DoneKeys(table.reload(), "it's mine")


def test_of_two_first_workers_with_different_settings_one_stands(tmp_path: Path) -> None:
    table = ImageTable.open_or_create(tmp_path / "images.lance")
    table.register_origin("a-1", {"steps": 1})
    table.register_origin("b-2", {"steps": 2})  # registered before it saw the other
    assert claim(table, "a", {"steps": 1}) == "a-1"
    with pytest.raises(UserError, match="steps: 1 there, 2 asked"):
        claim(table, "b", {"steps": 2})


def test_a_claim_that_comes_between_looking_and_registering_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = ImageTable.open_or_create(tmp_path / "images.lance")
    seen_empty = lance.dataset(table.path)
    assert claim(table, "b", {"steps": 2}).startswith("b-")
    # As a process finds it that opened the table just before; "a" is the smaller name.
    monkeypatch.setattr(shared_table, "refuse_other_settings", _once(None, refuse_other_settings))
    monkeypatch.setattr(lance, "dataset", _once(seen_empty, lance.dataset))
    with pytest.raises(UserError, match=r"steps: 2 there, 1 asked.*it holds no row yet"):
        claim(table, "a", {"steps": 1})
    assert list(table.reload().origins().values()) == [{"steps": 2}]


def _once(answer: Any, then: Callable[..., Any]) -> Callable[..., Any]:
    """A function that answers so the first time, and as the other one from then on."""
    first = [answer]
    return lambda *given: first.pop() if first else then(*given)


@pytest.mark.slow
def test_two_processes_never_store_a_picture_twice(config: Any, tmp_path: Path) -> None:
    shared = config(num_images=6, commit_seconds=0.0)
    processes = [start(partial(generate, shared)) for _ in range(2)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    keys = _keys(shared.out)
    assert len(keys) == 6 * len(TEXTS) and set(keys.values()) == {1}
    alone = config(num_images=6, out=tmp_path / "alone.lance")
    generate(alone)
    columns = ImageTable.schema.names
    order = [("caption_id", "ascending"), ("image_index", "ascending")]
    rows = [ImageTable.open(path).read(columns).sort_by(order) for path in (shared.out, alone.out)]
    assert rows[0].equals(rows[1])
