"""The evaluation of an encoder from end to end on a tiny world."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_icons import QUICK_PROBE, TINY

from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.evaluation.few_shot import FewShotConfig
from stablerep.evaluation.intervals import GroupBootstrap
from stablerep.evaluation.measuring import Known
from stablerep.evaluation.protocols import EvaluateConfig, evaluate
from stablerep.evaluation.scores import Scores
from stablerep.features import untrained_encoder
from stablerep.models.encoder import load_encoder, save_encoder
from stablerep.probes import PROBES, Labelled, ProbeConfig, SgdConfig

MakeRun = Callable[[str, int], Path]

TESTS = ("test captions, training styles", "test captions, held-out style", "seen captions, held-out style")


def settings(run: Path, world: Path, **more: object) -> EvaluateConfig:
    quick: dict[str, object] = {"num_bootstrap": 100, "precision": "float32", "device": "cpu"}
    return EvaluateConfig(run=run, world=world, **(quick | {"probe": QUICK_PROBE} | more))


@pytest.fixture(scope="module")
def scored(world: Path, make_run: MakeRun) -> tuple[Path, Scores]:
    run = make_run("mine", 3)
    return run, evaluate(settings(run, world))


@pytest.mark.slow
def test_every_encoder_test_and_protocol_has_a_record(scored: tuple[Path, Scores]) -> None:
    run, scores = scored
    found = [(record.test, record.protocol, record.encoder) for record in scores.records]
    assert found == [
        (test, protocol, encoder)
        for test in TESTS
        for protocol in ("knn", "linear")
        for encoder in ("mine", "raw pixels", "untrained encoder")
    ]
    assert scores.benchmarks == {
        "icons": {"num_train": 63, "num_validation": 18, "num_classes": 3, "num_left_out": 0}
    }
    for record in scores.records:
        assert (
            0 <= record.mean_per_class.low <= record.mean_per_class.value <= record.mean_per_class.high <= 1
        )
        assert record.chosen_on == "validation"
        assert set(record.chosen) == {"k" if record.protocol == "knn" else "l2"}
        assert record.chance_mean_per_class == pytest.approx(1 / 3)
        assert (record.ahead is None) == (record.kind == "run")
    assert scores.records[0].fingerprint == load_encoder(run).fingerprint


def test_colours_are_told_apart_even_by_raw_pixels(scored: tuple[Path, Scores]) -> None:
    raw = [record for record in scored[1].records if record.encoder == "raw pixels"]
    assert len(raw) == 6
    assert min(record.top1.value for record in raw) > 0.9


def test_what_is_on_disk_is_what_was_returned(scored: tuple[Path, Scores]) -> None:
    run, scores = scored
    stored = json.loads((run / "scores.json").read_text())
    assert set(stored) == {
        "run", "path", "config", "precision", "benchmarks", "skipped", "provenance", "records",
        "measurements",
    }  # fmt: skip
    assert stored == json.loads(json.dumps(scores.to_json()))
    read = Scores.read(run)
    assert read.records == scores.records
    for ours, theirs in zip(scores.outcomes, read.outcomes, strict=True):
        for name in ("benchmark", "test", "encoder", "protocol"):
            assert getattr(ours, name) == getattr(theirs, name)
        for name in ("groups", "labels", "predicted"):
            assert np.array_equal(getattr(ours, name), getattr(theirs, name))


def test_scores_follow_from_the_stored_predictions(scored: tuple[Path, Scores]) -> None:
    outcomes = {(o.test, o.encoder, o.protocol): o for o in Scores.read(scored[0]).outcomes}
    for record in scored[1].records:
        outcome = outcomes[record.test, record.encoder, record.protocol]
        assert record.num_pictures == len(outcome.labels)
        assert record.top1.value == pytest.approx(outcome.correct.mean())


@pytest.mark.slow
def test_a_second_evaluation_reads_the_cache_and_gives_the_same_numbers(
    scored: tuple[Path, Scores], world: Path
) -> None:
    run, scores = scored
    entries = {path: path.stat().st_mtime_ns for path in (run / "features").iterdir()}
    assert len(entries) == 3 * 5  # encoders x (train, validation, three tests)
    again = evaluate(settings(run, world))
    assert {path: path.stat().st_mtime_ns for path in (run / "features").iterdir()} == entries
    assert again.records == scores.records


@pytest.mark.slow
def test_known_baselines_are_not_measured_again_and_score_the_same(
    world: Path, make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known: Known = {}
    asked = {"protocols": ("knn", "linear", "geometry"), "num_train": 40}
    evaluate(settings(make_run("first", 3), world, **asked), known=known)
    second = settings(make_run("second", 5), world, **asked, out=tmp_path / "known")
    found = evaluate(second, known=known, console=Console())
    assert "raw pixels" not in (said := capsys.readouterr().err) and "icons, linear: second" in said
    plain = evaluate(dataclasses.replace(second, out=tmp_path / "plain"))
    assert found.records == plain.records and found.measurements == plain.measurements
    assert [one.encoder for one in found.outcomes] == [one.encoder for one in plain.outcomes]
    # Fewer labelled pictures, another seed: other baselines.
    for change in ({"num_train": 30}, {"seed": 1}):
        evaluate(dataclasses.replace(second, **change), known=known, console=Console())
        assert "icons, knn: raw pixels" in capsys.readouterr().err


def test_new_weights_in_the_same_folder_are_measured_anew(world: Path, make_run: MakeRun) -> None:
    run = make_run("epoch_last", 3)
    first = evaluate(settings(run, world, baselines=False, protocols=("knn",)))
    save_encoder(untrained_encoder(TINY, 4), run / "encoder")
    second = evaluate(settings(run, world, baselines=False, protocols=("knn",)))
    assert first.records[0].fingerprint != second.records[0].fingerprint
    assert len(list((run / "features").iterdir())) == 2 * 5


def test_further_runs_stand_in_the_same_table(world: Path, make_run: MakeRun, tmp_path: Path) -> None:
    first, second = make_run("seed-0", 3), make_run("seed-1", 4)
    scores = evaluate(settings(first, world, also=(second,), baselines=False, out=tmp_path))
    assert [record.encoder for record in scores.records[:2]] == ["seed-0", "seed-1"]
    ours, other = scores.records[:2]
    assert other.ahead is not None
    assert other.ahead.value == pytest.approx(
        ours.mean_per_class.value - other.mean_per_class.value, abs=1e-6
    )
    assert (tmp_path / "scores.json").exists()
    assert not (first / "scores.json").exists()


def test_runs_of_the_same_name_are_told_apart(world: Path, make_run: MakeRun, tmp_path: Path) -> None:
    first, second = make_run("same", 3), make_run("same", 4)
    scores = evaluate(settings(first, world, also=(second,), baselines=False, out=tmp_path))
    assert {record.encoder for record in scores.records} == {str(first), str(second)}


def test_missing_data_are_skipped_with_a_sentence(world: Path, make_run: MakeRun) -> None:
    run = make_run("partial", 3)
    scores = evaluate(
        settings(run, world, benchmarks=("fashion", "icons"), baselines=False, protocols=("knn",))
    )
    assert {record.benchmark for record in scores.records} == {"icons"}
    assert "--fashion" in scores.skipped["fashion"]
    with pytest.raises(UserError, match="nothing to evaluate: benchmark fashion"):
        evaluate(settings(run, world, benchmarks=("fashion",)))


def test_a_fashion_world_given_as_world_is_measured_as_one(
    world: Path, make_run: MakeRun, tmp_path: Path
) -> None:
    """`--world` is any world, as everywhere else; the tables of the tiny world do for both."""
    fashion = tmp_path / "fashion"
    shutil.copytree(world, fashion)
    (fashion / "world.json").write_text(json.dumps({"world": "fashion"}))
    run = make_run("clothes", 3)
    quick = {"baselines": False, "protocols": ("knn",)}
    for more in ({"world": fashion}, {"world": fashion, "benchmarks": ("fashion",)}, {"fashion": fashion}):
        config = EvaluateConfig(
            run=run, num_bootstrap=10, device="cpu", out=tmp_path / "out", **quick, **more
        )
        assert {record.benchmark for record in evaluate(config).records} == {"fashion"}
    both = settings(run, world, fashion=fashion, benchmarks=("icons", "fashion"), **quick)
    assert {record.benchmark for record in evaluate(both).records} == {"icons", "fashion"}


def test_the_published_probe_sees_the_centre_and_the_scores_say_so(
    world: Path, make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run("seen", 3)
    quick = ProbeConfig(sgd=SgdConfig(num_epochs=1, crops=False))
    more = {"baselines": False, "probe": quick, "protocols": ("knn", "sgd", "few-shot"), "out": tmp_path}
    shots = FewShotConfig(ways=2, shots=1, episodes=2)
    for asked, expected in ((None, ("squash", "crop", "squash")), ("crop", ("crop", "crop", "crop"))):
        scores = evaluate(settings(run, world, resize=asked, few_shot=shots, **more))
        said = {one.protocol: one.settings["resize"] for one in (*scores.records, *scores.measurements)}
        assert tuple(said[name] for name in ("knn", "sgd", "few-shot")) == expected


def test_a_benchmark_named_twice_is_measured_once(world: Path, make_run: MakeRun) -> None:
    twice = settings(
        make_run("twice", 3), world, benchmarks=("icons", "icons"), protocols=("knn",), baselines=False
    )
    assert [record.test for record in evaluate(twice).records] == list(TESTS)


@pytest.mark.parametrize("protocol", PROBES)
def test_random_labels_score_at_chance(protocol: str) -> None:
    rng = np.random.default_rng(0)
    train, validation, test = (
        Labelled(rng.normal(size=(num, 20)).astype(np.float32), rng.integers(0, 5, num))
        for num in (400, 200, 3000)
    )
    probe = PROBES[protocol](train, validation, 5, ProbeConfig())
    bootstrap = GroupBootstrap(test.labels, np.arange(3000) // 3, num=300, seed=0)
    accuracies = bootstrap.accuracies(probe.probabilities(test.features).argmax(1) == test.labels)
    interval = accuracies.interval("mean_per_class")
    assert interval.low < 0.2 < interval.high < 0.23


def test_rows_are_text_under_the_header(scored: tuple[Path, Scores]) -> None:
    rows = scored[1].rows()
    assert len(rows) == 18
    assert all(len(row) == len(Scores.HEADER) for row in rows)
    assert rows[0][:3] == ["icons: test captions, training styles", "mine", "knn"]


def test_wrong_settings_and_paths_are_refused(tmp_path: Path, world: Path) -> None:
    with pytest.raises(ValueError, match=r"benchmarks must be among icons, fashion, digits.*, got imagenet"):
        EvaluateConfig(run=tmp_path, benchmarks=("imagenet",))
    with pytest.raises(ValueError, match="protocols"):
        EvaluateConfig(run=tmp_path, protocols=())
    with pytest.raises(ValueError, match=r"protocols must be among knn, .*, got  linear$"):
        EvaluateConfig(run=tmp_path, protocols=("knn", " linear"))
    with pytest.raises(ValueError, match=r"protocols must be among knn, .*, got torchvision:CIFAR10$"):
        EvaluateConfig(run=tmp_path, protocols=("torchvision:CIFAR10",))
    with pytest.raises(UserError, match=r"no run or encoder at .*nowhere"):
        evaluate(settings(tmp_path / "nowhere", world))
    with pytest.raises(UserError, match="give --out"):
        evaluate(settings(Path("icons"), world))
    with pytest.raises(UserError, match="no readable scores"):
        Scores.read(tmp_path)
