"""A comparison at its smallest: equal conditions or none, every stage once, one table and one figure."""

import json
import re
import shutil
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from PIL import Image

import processes
from generation import tiny_pipelines
from less import do_less
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.evaluation.scores import Scores
from stablerep.run import Run
from stablerep.store import ImageTable
from stablerep.workflows.compare import compare
from stablerep.workflows.matrix import CompareConfig, Matrix
from workflows import tiny_drawings
from workflows.test_quickstart import NUM_CAPTIONS, small_recipe

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def changed(small: Callable[..., CompareConfig], tmp_path: Path) -> Callable[..., str]:
    """The recipe of the comparison with other settings of a command."""

    def write(**tables: dict[str, Any]) -> str:
        content = tomllib.loads(Path(small().settings).read_text())
        path = tmp_path / "changed.toml"
        path.write_text(
            tomli_w.dumps({**content, **{name: content[name] | one for name, one in tables.items()}})
        )
        return str(path)

    return write


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., CompareConfig]:
    """A comparison on the tiny drawings, with a random painter and the smallest encoder."""
    folder = tmp_path_factory.mktemp("compare")
    recipe, teacher = folder / "small.toml", folder / "teacher"
    tiny_drawings.write_world(folder / "world")
    tiny_pipelines.pixart(teacher)
    (teacher / "stablerep.json").write_text(json.dumps({"num_inference_steps": 2}))
    settings = small_recipe()
    settings["generate"]["teacher"] = str(teacher)
    for method, captions, images, crops in (("stablerep", 4, 2, 1), ("simclr", 4, 1, 2)):
        settings["train"][method]["data"] |= {
            "captions_per_batch": captions,
            "images_per_caption": images,
            "crops_per_image": crops,
        }
    settings["train"]["clip"] |= {
        **{name: settings["train"]["simclr"][name] for name in ("compile", "precision")},
        "method": {
            "encoder": settings["train"]["simclr"]["method"]["encoder"],
            "text": {
                "width": 16,
                "depth": 1,
                "num_heads": 2,
                "num_tokens": 8,
                "vocabulary": 64,
                "joint_width": 8,
            },
        },
    }
    settings["train"]["clip"]["data"] |= {"captions_per_batch": 8, "view": {"image_size": 16}}
    recipe.write_text(tomli_w.dumps(settings))

    def make(**changes: Any) -> CompareConfig:
        sizes = {"num_captions": (6, NUM_CAPTIONS), "num_images": 2, "num_steps": 2, "seeds": (0, 1)}
        places = {"out": folder / "compare", "world": str(folder / "world"), "settings": str(recipe)}
        return CompareConfig(**(places | sizes | changes))

    return make


@pytest.mark.slow
def test_arms_sizes_and_seeds_make_two_tables_and_one_figure(
    small: Callable[..., CompareConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    config = small()
    found = compare(config)
    stored = json.loads(found.path.read_text())
    assert stored["config"]["world"] == config.world
    arms = {(row["arm"], row["num_captions"]) for row in stored["rows"]}
    names = (*config.arms, "raw pixels", "untrained encoder")
    assert arms == {(arm, num) for arm in names for num in config.num_captions}
    for row in found.rows_found:
        trained = row.arm in config.arms
        assert row.summary.num_runs == (len(config.seeds) if trained else 1)
        assert (row.summary.ahead is None) == (row.arm == config.arms[0])
    assert len(found.rows()) == len(found.rows_found)
    assert Image.open(found.figure).size[0] > 500
    runs = {path.name for path in (config.out / "runs").iterdir()}
    assert len(runs) == len(config.arms) * len(config.num_captions) * len(config.seeds)
    assert "stablerep-painted-12-seed-1" in runs
    assert stored["views_per_step"] == {
        f"{arm} {num}": 8 for arm in config.arms for num in config.num_captions
    }
    geometry = {(row["arm"], row["num_captions"]) for row in stored["measurements"]}
    assert geometry == arms, "measured without being asked for"
    assert {len(row["per_run"]) for row in stored["measurements"] if row["arm"] in config.arms} == {2}
    header, rows = found.concepts()
    assert header[2:] == ("rank", "align", "uniform", "ratio", "concept, %", "style, %")
    assert {(row[0], row[1]) for row in rows} == {
        (f"icons: all tests, {num} captions", arm) for arm, num in arms
    }
    assert all(len(row) == len(header) and all(row) for row in rows)
    capsys.readouterr()
    Console().show(found)
    accuracies, concepts = capsys.readouterr().out.split("Concept, not pixels")
    assert "against first" in accuracies and "ratio" in concepts


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_recipe_that_counts_epochs_is_compared_by_steps(
    small: Callable[..., CompareConfig], tmp_path: Path
) -> None:
    content = tomllib.loads(Path(small().settings).read_text())
    for table in content["train"].values():
        table["num_epochs"] = table.pop("num_steps")
    content["evaluate"] |= {"protocols": ["knn"], "baselines": False}
    recipe = tmp_path / "epochs.toml"
    recipe.write_text(tomli_w.dumps(content))
    sizes = {"num_captions": (8,), "seeds": (0,), "arms": ("simclr:real",)}
    compare(small(settings=str(recipe), out=tmp_path / "out", **sizes))
    (run,) = (tmp_path / "out" / "runs").iterdir()
    assert Run.open(run).description["config"]["num_steps"] == 2


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_again_trains_and_paints_nothing(small: Callable[..., CompareConfig]) -> None:
    config = small(num_captions=(6,), seeds=(0,))
    first = compare(config)
    weights = {path: path.stat().st_mtime_ns for path in config.out.glob("runs/*/checkpoint.pt")}
    version = ImageTable.open(config.out / "images.lance").version
    again = compare(config)
    assert again.to_json() == first.to_json()
    assert weights == {path: path.stat().st_mtime_ns for path in config.out.glob("runs/*/checkpoint.pt")}
    assert ImageTable.open(config.out / "images.lance").version == version


@pytest.mark.slow
def test_processes_that_are_given_one_comparison_share_its_runs(
    small: Callable[..., CompareConfig], tmp_path: Path
) -> None:
    config = small(num_captions=(6,), out=tmp_path / "shared", num_steps=4)
    both = [processes.start(partial(_compared, config, tmp_path / name)) for name in "ab"]
    for process in both:
        process.join(300)
    assert [process.exitcode for process in both] == [0, 0]
    one, other = (json.loads((tmp_path / name).read_text()) for name in "ab")
    assert one == other
    alone = compare(
        small(**{**vars(config), "out": tmp_path / "alone", "painted": config.out / "images.lance"})
    )
    assert json.loads(json.dumps(alone.to_json()))["rows"] == one["rows"]
    runs = sorted((config.out / "runs").iterdir())
    assert len(runs) == len(config.arms) * len(config.seeds)
    for run in runs:
        steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert steps == sorted(set(steps)), "no step was taken by both"


def _compared(config: CompareConfig, out: Path) -> None:
    do_less(pytest.MonkeyPatch())
    out.write_text(json.dumps(compare(config).to_json()))


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_what_a_process_beside_this_one_measured_is_read(
    small: Callable[..., CompareConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(num_captions=(6,), seeds=(0,))
    waiting = Matrix(config, {}, Console(quiet=True))
    compare(config)
    late = Matrix(config, {}, Console(quiet=True))
    for matrix in (waiting, late):
        matrix.prepare()
    monkeypatch.setattr("stablerep.workflows.matrix.evaluate", lambda *_, **__: pytest.fail("measured again"))
    there = Scores.read(config.out / "scores" / "6-captions-seed-0")
    assert waiting.measure(6, 0, {}).records == there.records
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        late.measure(6, 0, {})


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_every_arm_has_as_many_tries_at_its_learning_rate(small: Callable[..., CompareConfig]) -> None:
    config = small(num_captions=(NUM_CAPTIONS,), seeds=(0,), learning_rates=(1e-4, 1e-2))
    found = compare(config)
    assert found.learning_rates.keys() == {f"{arm} {NUM_CAPTIONS}" for arm in config.arms}
    assert set(found.learning_rates.values()) <= set(config.learning_rates)
    tried = {path.name for path in (config.out / "search").iterdir()}
    assert len(tried) == len(config.arms) * 2
    for arm in config.arms:
        folder = f"{arm.replace(':', '-')}-{NUM_CAPTIONS}-seed-0-lr-"
        reached = {
            rate: json.loads((config.out / "search" / f"{folder}{rate:g}" / "scores.json").read_text())[
                "records"
            ]
            for rate in config.learning_rates
        }
        linear = {
            rate: max(
                one["validation_accuracy"]
                for one in records
                if one["kind"] == "run" and one["protocol"] == "linear"
            )
            for rate, records in reached.items()
        }
        assert linear[found.learning_rates[f"{arm} {NUM_CAPTIONS}"]] == max(linear.values())


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_learning_rate_at_which_the_loss_is_not_finite_loses(
    small: Callable[..., CompareConfig], changed: Callable[..., str], tmp_path: Path
) -> None:
    """The recipe measures by neighbours on something else too; rates are chosen by linear probe on the world."""
    recipe = changed(
        evaluate={
            "benchmarks": ["digits", "icons"],
            "protocols": ["knn"],
            "num_train": 40,
            "baselines": False,
        }
    )
    config = small(
        settings=recipe,
        out=tmp_path / "out",
        arms=("simclr:real",),
        num_captions=(6,),
        seeds=(0,),
        learning_rates=(1e30, 1e-3),
    )
    found = compare(config)
    assert found.learning_rates == {"simclr:real 6": 1e-3}
    reached = found.searched["simclr:real 6"]
    assert reached["1e+30"] is None
    stored = json.loads((config.out / "search" / "simclr-real-6-seed-0-lr-0.001" / "scores.json").read_text())
    assert {(record["benchmark"], record["protocol"]) for record in stored["records"]} == {
        ("icons", "linear")
    }
    assert reached["0.001"] == stored["records"][0]["validation_accuracy"]
    assert compare(config).searched == found.searched, "what was lost stays lost, and stops nothing"
    with pytest.raises(UserError, match=r"simclr:real with 6 captions: the loss did not stay finite at any"):
        compare(small(**{**vars(config), "learning_rates": (1e30,)}))


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_protocol_that_the_first_arm_lacks_has_rows_without_a_difference(
    small: Callable[..., CompareConfig], changed: Callable[..., str], tmp_path: Path
) -> None:
    recipe = changed(evaluate={"protocols": ["knn", "zero-shot", "geometry"], "baselines": False})
    arms = ("simclr:real", "clip:real")
    found = compare(small(settings=recipe, out=tmp_path / "out", arms=arms, num_captions=(8,), seeds=(0,)))
    zero_shot = [row for row in found.rows_found if row.summary.protocol == "zero-shot"]
    assert {row.arm for row in zero_shot} == {"clip:real"}
    assert all(row.summary.ahead is None for row in zero_shot)
    by_neighbours = [row for row in found.rows_found if row.summary.protocol == "knn"]
    assert {row.arm for row in by_neighbours if row.summary.ahead is None} == {"simclr:real"}
    assert set(arms) <= {row.arm for row in found.metrics_found}


@pytest.mark.parametrize(
    ("evaluate", "what"),
    [
        ({"protocols": ["geometry", "few-shot"]}, r"none of .* \(geometry, few-shot\) names classes"),
        ({"benchmarks": ["aro"]}, r"on one of its benchmarks \(aro\)"),
        ({"benchmarks": ["voc2007"], "protocols": ["logistic"]}, r"on one of its benchmarks \(voc2007\)"),
        ({"protocols": ["zero-shot", "geometry"]}, "simclr:real, stablerep:painted reads no text"),
    ],
)
def test_protocols_that_compare_no_accuracy_are_refused_before_anything_is_painted(
    small: Callable[..., CompareConfig],
    changed: Callable[..., str],
    tmp_path: Path,
    evaluate: dict[str, Any],
    what: str,
) -> None:
    with pytest.raises(UserError, match=what):
        compare(small(settings=changed(evaluate=evaluate), out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"arms": ("dino:real",)}, "arms must be METHOD:SOURCE .*got 'dino:real'"),
        ({"arms": ("simclr:photos",)}, "got 'simclr:photos'"),
        ({"arms": ("text-to-image:real",)}, "of stablerep, .*, supervised and .*got 'text-to-image:real'"),
        ({"seeds": (0, 0)}, "seeds must hold different values"),
        ({"num_captions": ()}, "num_captions must hold different values"),
        ({"num_steps": 0}, "num_steps must be at least 1"),
        ({"learning_rates": (1e-3, 0.0)}, r"learning_rates must be positive, got \(0.001, 0.0\)"),
        (
            {"settings": "cc12m"},
            "world must name icons, fashion, .* recipe cc12m is not named like a world",
        ),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        CompareConfig(out=Path("unused"), **changes)


def test_a_folder_that_is_no_world_is_named(small: Callable[..., CompareConfig], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        compare(small(world=str(tmp_path), out=tmp_path / "out"))


def test_a_recipe_that_is_named_like_a_world_is_for_it() -> None:
    assert CompareConfig(out=Path("unused"), settings="fashion").chosen_world == "fashion"
    assert CompareConfig(out=Path("unused"), settings="fashion", world="icons").chosen_world == "icons"


# -- captions and pictures of a user's own ---------------------------------------------------------------


@pytest.fixture
def own(small: Callable[..., CompareConfig], tmp_path: Path) -> Path:
    """Both tables, and no word of which world they are."""
    world = shutil.copytree(str(small().world), tmp_path / "own")
    (world / "world.json").unlink()
    return world


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_own_tables_are_compared_and_chosen_by_on_their_own_pictures(
    small: Callable[..., CompareConfig], changed: Callable[..., str], own: Path, tmp_path: Path
) -> None:
    sizes = {"num_captions": (6,), "seeds": (0,), "arms": ("simclr:real",), "learning_rates": (1e-3,)}
    recipe = changed(evaluate={"benchmarks": ["table"], "baselines": False})
    found = compare(small(world=str(own), settings=recipe, out=tmp_path / "out", **sizes))
    assert {row.summary.benchmark for row in found.rows_found} == {"table"}
    (search,) = (tmp_path / "out" / "search").glob("*/scores.json")
    assert {record["benchmark"] for record in json.loads(search.read_text())["records"]} == {"table"}


def test_own_tables_are_not_measured_on_a_world(
    small: Callable[..., CompareConfig], own: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"benchmarks \(icons\) that .*own has pictures for, .* and table"):
        compare(small(world=str(own), out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_own_pictures_without_splits_are_refused_before_anything_is_painted(
    small: Callable[..., CompareConfig], changed: Callable[..., str], own: Path, tmp_path: Path
) -> None:
    recipe, table = changed(evaluate={"benchmarks": ["table"]}), ImageTable.open(own / "images.lance")
    rows = [row for batch in table.scan(filter="split <> 'test'") for row in batch.to_pylist()]
    shutil.rmtree(own / "images.lance")
    with pytest.raises(UserError, match=r"own holds no world: .* nor images\.lance of your own"):
        compare(small(world=str(own), settings=recipe, out=tmp_path / "out"))
    ImageTable.open_or_create(own / "images.lance").append(rows)
    with pytest.raises(UserError, match="benchmark table: there are no labelled pictures for test"):
        compare(small(world=str(own), settings=recipe, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
