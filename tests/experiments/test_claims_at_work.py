"""Parts of claims.py at their smallest, from the world to the numbers: on captions that never name the class."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

import claims
import tables
from captions.test_fashion import write_files
from claims_parts import Claims
from generation import tiny_pipelines
from learning.tiny_training import ENCODER, HEAD, SIZE, TEXT
from less import do_less, write_no_figures
from stablerep.captions.worlds import WorldConfig, write_world
from stablerep.cost import read_costs
from stablerep.store import ImageTable

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
METHODS: dict[str, dict[str, Any]] = {
    "stablerep": HEAD,
    "stablerep-plus": {**HEAD, "text": TEXT},
    "simclr": HEAD,
    "clip": {"text": TEXT},
    "supervised": HEAD,
}


def small_recipe(teacher: Path) -> dict[str, Any]:
    """The shipped recipe with the smallest encoder, eight views in a batch and a painter with random weights."""
    batches = {"stablerep": 2, "stablerep-plus": 2, "simclr": 4, "clip": 8, "supervised": 4}
    learners = {
        name: {
            "compile": False,
            "precision": "float32",
            "attention": "fused",
            "data": {"captions_per_batch": batches[name], "view": {"image_size": SIZE}},
            "method": {"encoder": ENCODER, **method},
        }
        for name, method in METHODS.items()
    }
    return {
        "extends": "fashion",
        "generate": {"teacher": str(teacher), "num_inference_steps": 1, "height": SIZE, "width": SIZE},
        "train": learners,
        "evaluate": {
            "benchmarks": ["fashion"],
            "num_bootstrap": 20,
            "precision": "float32",
            "baselines": False,
            "probe": {"linear": {"num_l2": 2, "max_iterations": 5}},
            "geometry": {"folds": 3},
        },
    }


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    """Fewer batches in which real pictures are counted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "NUM_DRAWN", 10)
        do_less(patch)
        write_no_figures(patch)
        yield


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which six parts were measured."""
    folder = tmp_path_factory.mktemp("claims")
    source = write_files(folder / "files", num_train=600, num_test=60)
    write_world(WorldConfig(name="fashion", out=folder / "world", source=source, hide_class=True))
    tiny_pipelines.pixart(folder / "teacher")
    (folder / "small.toml").write_text(tomli_w.dumps(small_recipe(folder / "teacher")))
    claims.main(
        Claims(
            world=folder / "world",
            settings=str(folder / "small.toml"),
            out=folder / "out",
            parts=("matrix", "headline", "mix", "kept", "weights", "teachers"),
            num_captions=8,
            headline=(16,),
            times=(1.0, 1.5),
            real_shares=(0.5,),
            kept=(0.5,),
            kept_of=4,
            teacher_steps=(2,),
            teachers=(str(folder / "teacher"),),
            num_steps=1,
            num_train=60,
            seeds=(0,),
        )
    )
    return folder / "out"


def test_the_matrix_runs_on_captions_without_a_class(measured: Path) -> None:
    found = json.loads((measured / "matrix.json").read_text())
    learned = found["points"][0]["learned_from"]
    assert learned["simclr-real-8-seed-0"] == {"captions": 8, "pictures": 8, "real_share": 1}
    assert learned["stablerep-painted-8-seed-0"] == {"captions": 8, "pictures": 32, "real_share": 0}
    assert learned["stablerep-plus-both-8-seed-0"]["pictures"] == 40
    assert {one["ours"] for one in found["against"]} >= {"stablerep:painted", "stablerep-plus:both"}


def test_the_headline_says_captions_and_how_many_real_pictures_are_needed(measured: Path) -> None:
    found = json.loads((measured / "headline.json").read_text())
    learned = {name: one for point in found["points"] for name, one in point["learned_from"].items()}
    counts = {name: (one["captions"], one["pictures"]) for name, one in learned.items()}
    assert counts == {
        "stablerep-plus-painted-8-seed-0": (8, 16),
        "clip-real-8-seed-0": (8, 16),
        "clip-real-12-seed-0": (12, 24),
    }
    assert {(one["painted"], one["real"]) for one in found["against"]} == {(16, 16), (16, 24)}
    assert [one["protocol"] for one in found["needed"]] == ["knn", "linear"]
    lines = tables.tables(found, "headline")
    assert sum(line.startswith("| 16 | fashion: official test") for line in lines) == 2


def test_teachers_are_held_against_the_time_that_they_took(measured: Path) -> None:
    found = json.loads((measured / "teachers.json").read_text())
    (slow, fast), name = found["points"], measured.parent.name
    assert (slow["value"], fast["value"]) == ("2 steps", name)
    for point, table in ((slow, "teacher-2-steps"), (fast, f"teacher-{name}")):
        assert point["place"] == sum(
            one.seconds for one in read_costs(measured / "painted" / f"{table}.costs.jsonl")
        )
    assert found["seconds"]["generate"] == pytest.approx(slow["place"] + fast["place"], abs=0.01)
    assert set(found["seconds"]) == {"generate", "train stablerep", "evaluate"}
    lines = tables.tables(found, "teachers")
    assert any(line.startswith("| teacher | seconds of painting | arm |") for line in lines)
    assert lines[-2].startswith("Total time: ")


def test_the_time_of_a_part_counts_what_it_shares(measured: Path) -> None:
    for part in ("kept", "weights"):
        seconds = json.loads((measured / f"{part}.json").read_text())["seconds"]
        assert seconds["generate"] > 0 and seconds["train clip"] > 0, part


def test_the_mixture_is_half_real(measured: Path) -> None:
    (point,) = json.loads((measured / "mix.json").read_text())["points"]
    assert point["learned_from"]["stablerep-plus-both-8-seed-0"] == {
        "captions": 8,
        "pictures": 64,
        "real_share": pytest.approx(0.5, abs=0.15),
    }


def test_the_best_half_and_another_are_kept_of_the_same_pictures(measured: Path) -> None:
    points = json.loads((measured / "kept.json").read_text())["points"]
    learned = {point["value"]: point["learned_from"]["stablerep-painted-8-seed-0"] for point in points}
    half = {"captions": 8, "pictures": 16, "real_share": 0}
    assert learned == {"random 2 of 4": half, "best 2 of 4": half}
    assert len(ImageTable.open(measured / "painted" / "audited-4.lance")) == 32


def test_weights_change_nothing_but_what_pictures_count(measured: Path) -> None:
    points = json.loads((measured / "weights.json").read_text())["points"]
    assert [point["value"] for point in points] == ["uniform", "match level"]
    assert points[0]["learned_from"] == points[1]["learned_from"]
    against = json.loads((measured / "weights.json").read_text())["against"]
    arms = {"stablerep:painted", "stablerep-plus:painted"}
    assert {(one["ours"], one["theirs"]) for one in against} == {
        (f"{arm}, match level", f"{arm}, uniform") for arm in arms
    }
    levels = ImageTable.open(measured / "painted" / "audited-4.lance").read(["match_level"])["match_level"]
    assert all(0 <= level <= 1 for level in levels.to_pylist())
