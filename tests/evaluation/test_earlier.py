"""Evaluations of one run one after the other: what stays in scores.json, what is replaced, what no longer holds."""

import dataclasses
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_icons import QUICK_PROBE, TINY
from tiny_joint import joint_run, random_model

from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.evaluation import protocols
from stablerep.evaluation.earlier import Combined, Keeper, read_earlier
from stablerep.evaluation.intervals import Interval
from stablerep.evaluation.protocols import EvaluateConfig, evaluate
from stablerep.evaluation.scores import Kind, Measurement, Outcome, Record, Scores
from stablerep.features import untrained_encoder
from stablerep.models.encoder import save_encoder

MakeRun = Callable[[str, int], Path]


def measure(run: Path, world: Path, *names: str, **more: Any) -> Scores:
    settings = {"baselines": False, "num_bootstrap": 20, "precision": "float32", "device": "cpu"}
    settings |= {"probe": QUICK_PROBE}
    return evaluate(EvaluateConfig(run=run, world=world, protocols=names, **(settings | more)))


def found(scores: Scores) -> list[tuple[str, str]]:
    """Encoder and protocol of all results in the first test of each."""
    entries = (*scores.records, *scores.measurements)
    return list(dict.fromkeys((entry.encoder, entry.protocol) for entry in entries))


@pytest.mark.slow
def test_what_is_not_measured_again_stays(world: Path, make_run: MakeRun) -> None:
    run = make_run("mine", 3)
    first = measure(run, world, "knn", "retrieval", baselines=True)
    second = measure(run, world, "linear", "geometry")
    assert found(second) == [("mine", "linear"), ("mine", "geometry")]
    both = Scores.read(run)
    names = ("mine", "raw pixels", "untrained encoder")
    assert found(both) == [*((name, "knn") for name in names), *found(second)]
    assert [record for record in both.records if record.protocol == "knn"] == list(first.records)
    assert len(both.outcomes) == len(both.records) == len(first.records) + len(second.records)
    assert "icons: retrieval: mine" in both.skipped
    content = (run / "scores.json").read_bytes(), (run / "predictions.parquet").read_bytes()
    measure(run, world, "linear", "geometry")
    assert ((run / "scores.json").read_bytes(), (run / "predictions.parquet").read_bytes()) == content


@pytest.mark.slow
def test_results_of_other_weights_go(world: Path, make_run: MakeRun) -> None:
    run, rival = make_run("epoch_last", 3), make_run("rival", 5)
    measure(run, world, "knn", "linear", also=(rival,))
    save_encoder(untrained_encoder(TINY, 4), run / "encoder")
    said: list[str] = []
    console = Console(quiet=True)
    console.say = said.append  # type: ignore[method-assign]
    config = EvaluateConfig(run=run, world=world, protocols=("knn",), baselines=False, device="cpu")
    new = evaluate(config, console=console)
    left = Scores.read(run)
    assert found(left) == [("epoch_last", "knn"), ("rival", "knn"), ("rival", "linear")]
    assert left.of_the_run().keys() == new.of_the_run().keys()
    assert {record.fingerprint for record in left.records if record.kind == "run"} == {
        new.records[0].fingerprint
    }
    leads = [record.ahead for record in left.records if record.protocol == "linear"]
    assert leads == [None] * 3, "the lead was one of other weights"
    assert said.count("epoch_last has other weights now: its earlier scores are dropped") == 1


def test_results_on_other_pictures_go(world: Path, make_run: MakeRun) -> None:
    run = make_run("mine", 3)
    measure(run, world, "knn", num_train=30)
    measure(run, world, "linear")
    assert found(Scores.read(run)) == [("mine", "linear")]


def test_a_kill_leaves_what_was_measured(
    world: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed:
        benchmarks = protocols.BENCHMARKS
        settings: Mapping[str, Any] = {}
        trains_baselines = True

        def measure(self, *_: object) -> None:
            raise KeyboardInterrupt

    run = make_run("mine", 3)
    monkeypatch.setitem(protocols.PROTOCOLS, "sgd", lambda _: Killed())  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        measure(run, world, "knn", "sgd", baselines=True)
    assert {protocol for _, protocol in found(Scores.read(run))} == {"knn"}
    assert len(Scores.read(run).records) == 9


def test_scores_that_cannot_be_read_are_refused_before_anything_is_measured(
    world: Path, make_run: MakeRun
) -> None:
    run = make_run("mine", 3)
    (run / "scores.json").write_text("{}")
    with pytest.raises(UserError, match=r"cannot be read \('records'\).*move scores.json"):
        measure(run, world, "knn")
    assert not (run / "features").exists()


def test_a_skipped_run_is_ahead_of_nobody(world: Path, make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("plain", 1)
    also = tuple(joint_run(tmp_path / name, random_model(seed)) for seed, name in enumerate(("clip", "plus")))
    scores = measure(run, world, "zero-shot", also=also)
    assert found(scores) == [("clip", "zero-shot"), ("plus", "zero-shot")]
    assert all(record.ahead is None for record in scores.records)
    assert "icons: zero-shot: plain" in scores.skipped


def record(encoder: str, protocol: str, kind: Kind, fingerprint: str) -> Record:
    share = Interval(value=0.5, low=0.4, high=0.6)
    return Record(
        benchmark="icons", test="t", encoder=encoder, kind=kind, fingerprint=fingerprint, protocol=protocol,
        mean_per_class=share, top1=share, ahead=None if kind == "run" else share, num_pictures=2, num_groups=2,
        num_classes=2, chance_mean_per_class=0.5, chance_top1=0.5, chosen={}, chosen_on="nothing",
        validation_accuracy=None, note="",
    )  # fmt: skip


def scores(run: str, *records: Record, **more: Any) -> Scores:
    outcomes = [
        Outcome(
            benchmark=one.benchmark, test=one.test, encoder=one.encoder, protocol=one.protocol,
            groups=np.array(["g", "h"]), labels=np.array(["x", "y"]), predicted=np.array(["x", "x"]),
        )
        for one in records
    ]  # fmt: skip
    described: dict[str, Any] = {
        "run": run, "path": run, "config": {"benchmarks": ["icons"], "protocols": ["knn"]}, "precision": "float32",
        "benchmarks": {}, "skipped": {}, "provenance": {}, "records": records, "outcomes": tuple(outcomes),
    }  # fmt: skip
    return Scores(**(described | more))


def test_another_run_of_the_same_folder_turns_the_first_into_a_further_one() -> None:
    before = scores("a", record("a", "knn", "run", "A"), record("b", "linear", "further run", "B"))
    now = scores("b", record("b", "knn", "run", "B"))
    both = Combined(before, now, {"b": "B"}).scores()
    assert [(one.encoder, one.protocol, one.kind) for one in both.records] == [
        ("b", "knn", "run"),
        ("a", "knn", "further run"),
        ("b", "linear", "run"),
    ]
    assert [one.ahead for one in both.records] == [None] * 3
    assert sorted(both.of_the_run()) == [("icons", "t", "knn"), ("icons", "t", "linear")]


def test_a_run_that_was_renamed_keeps_its_results() -> None:
    before = scores("old", record("old", "linear", "run", "A"), record("b", "linear", "further run", "B"))
    both = Combined(before, scores("new", record("new", "knn", "run", "A")), {"new": "A"}).scores()
    assert sorted(both.of_the_run()) == [("icons", "t", "knn"), ("icons", "t", "linear")]
    assert both.records[1].ahead == before.records[1].ahead, "its predictions are the same"


def test_a_lead_goes_with_the_predictions_it_was_a_lead_of() -> None:
    before = scores("a", record("a", "knn", "run", "A"), record("b", "knn", "further run", "B"))
    now = scores("a", record("a", "knn", "run", "A"))
    assert Combined(before, now, {"a": "A"}).scores().records[1].ahead is not None
    (outcome,) = now.outcomes
    other = dataclasses.replace(outcome, predicted=np.array(["y", "y"]))
    now = dataclasses.replace(now, outcomes=(other,))
    assert Combined(before, now, {"a": "A"}).scores().records[1].ahead is None


def counted(run: str, protocol: str, sizes: Mapping[str, int], **settings: Any) -> Measurement:
    share = Interval(value=0.5, low=0.4, high=0.6)
    return Measurement(
        benchmark="icons", test="t", encoder=run, kind="run", fingerprint=run.upper(), protocol=protocol,
        metrics={"R@1": share}, chance={}, settings=settings, chosen={}, chosen_on="nothing", sizes=sizes,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("num_texts", "at", "left"), [(9, [1], 2), (8, [1], 1), (8, [1, 5], 2)], ids=["same", "other", "settings"]
)
def test_a_protocol_that_counts_otherwise_has_seen_other_pictures(
    num_texts: int, at: list[int], left: int
) -> None:
    """Where nothing else says what a benchmark holds; one encoder is told by what another one found."""
    found = counted("b", "retrieval", {"num_pictures": 4, "num_texts": 9}, at=(1,))
    before = scores("b", measurements=(found,))
    now = scores(
        "a", measurements=(counted("a", "retrieval", {"num_pictures": 4, "num_texts": num_texts}, at=at),)
    )
    assert len(Combined(before, now, {"a": "A"}).scores().measurements) == left


def test_groups_drawn_by_another_seed_are_no_other_pictures() -> None:
    sizes = {"benchmarks": {"icons": {"num_train": 4}}}
    before, now = (
        scores(run, measurements=(counted(run, "geometry", {"num_pictures": num}),), **sizes)
        for run, num in (("b", 4), ("a", 5))
    )
    assert len(Combined(before, now, {"a": "A"}).scores().measurements) == 2


def test_what_was_there_is_read_once_and_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []

    def counted_read(folder: Path) -> Scores | None:
        reads.append(folder)
        return read_earlier(folder)

    monkeypatch.setattr("stablerep.evaluation.earlier.read_earlier", counted_read)
    before = scores("a", record("a", "linear", "run", "A"), record("b", "knn", "further run", "B"))
    before.write(tmp_path)
    said: list[str] = []
    console = Console(quiet=True)
    console.say = said.append  # type: ignore[method-assign]
    keeper = Keeper(tmp_path, console)
    now = scores("a", record("a", "knn", "run", "A"))
    for _ in range(3):
        keeper.keep(now, {"a": "A", "b": "C"})
    assert len(reads) == 1
    assert said == ["b has other weights now: its earlier scores are dropped"]
    meanwhile = scores("a", record("a", "linear", "run", "A"), record("c", "knn", "further run", "C"))
    meanwhile.write(tmp_path)
    keeper.keep(now, {"a": "A"})
    assert sorted(found(Scores.read(tmp_path))) == [("a", "knn"), ("a", "linear"), ("c", "knn")]


def test_evaluations_at_the_same_time_add_up(tmp_path: Path) -> None:
    """As one process per GPU, each with benchmarks of its own: none takes away what another one kept meanwhile."""
    names = [f"benchmark-{number}" for number in range(6)]

    def evaluating(name: str) -> None:
        keeper, found = Keeper(tmp_path, Console(quiet=True)), list[Record]()
        for protocol in ("knn", "linear", "logistic"):
            found.append(dataclasses.replace(record("a", protocol, "run", "A"), benchmark=name))
            keeper.keep(scores("a", *found), {"a": "A"})

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(evaluating, names))
    assert {one.benchmark for one in Scores.read(tmp_path).records} == set(names)
    assert len(Scores.read(tmp_path).records) == len(Scores.read(tmp_path).outcomes) == 18


def test_what_was_skipped_is_said_until_it_is_asked_again() -> None:
    skipped = {
        "fashion": "no folder",
        "icons: knn: a": "no",
        "icons: retrieval: a": "no",
        "icons: retrieval": "no",
    }
    before = scores("a", record("a", "linear", "run", "A"), skipped=skipped)
    both = Combined(before, scores("a", record("a", "knn", "run", "A")), {"a": "A"}).scores()
    assert set(both.skipped) == {"fashion", "icons: retrieval: a", "icons: retrieval"}
