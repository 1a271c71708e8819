"""The whole chain at its smallest: real tables, a painter with random weights, two learners, scores, a report."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tomli_w

from generation import tiny_pipelines
from stablerep import config as config_module
from stablerep.captions.worlds import write_world
from stablerep.cli import run
from stablerep.errors import UserError
from stablerep.learning.data import DataConfig
from stablerep.learning.methods import METHODS
from stablerep.run import Run
from stablerep.store import CaptionTable, ImageTable
from stablerep.workflows import quickstart as module
from stablerep.workflows.quickstart import QuickstartConfig, QuickstartSummary, quickstart

ICONS = Path(module.__file__).parents[1] / "data" / "icons.parquet"
LABELS = ["food-fruit", "heart"]
METHOD = {"head_hidden": 16, "head_out": 8}
ENCODER = {"architecture": "vit_tiny_patch16_224", "image_size": 16, "width": 24, "depth": 1, "num_heads": 3}
QUICK_PATH = {"num_l2": 2, "max_iterations": 5}
NUM_CAPTIONS = 12


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., QuickstartConfig]]:
    """Settings of a quickstart on the drawings of two labels, with a random painter and the smallest encoder."""
    folder = tmp_path_factory.mktemp("quickstart")
    drawings, recipe, teacher = folder / "icons.parquet", folder / "small.toml", folder / "teacher"
    pq.write_table(pq.read_table(ICONS, filters=[("label", "in", LABELS)]), drawings)
    recipe.write_text(tomli_w.dumps(small_recipe()))
    tiny_pipelines.pixart(teacher)
    (teacher / "stablerep.json").write_text(json.dumps({"num_inference_steps": 2}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_RECIPE", str(recipe))
        patch.setattr(
            module, "write_world", lambda asked: write_world(dataclasses.replace(asked, source=drawings))
        )
        yield lambda **changes: QuickstartConfig(
            **{
                "out": folder / "project",
                "teacher": str(teacher),
                "num_captions": NUM_CAPTIONS,
                "num_images": 3,
                "num_steps": 2,
            }
            | changes
        )


def small_recipe() -> dict[str, Any]:
    """The shipped recipe with a smaller encoder, one benchmark, and a short path to its linear probe."""
    recipe = config_module.read_recipe("icons")
    for method in ("stablerep", "simclr"):
        table = recipe["train"][method]
        table |= {
            "compile": False,
            "precision": "float32",
            "method": METHOD | {"encoder": ENCODER | {"patch_size": 8}},
        }
        table["data"]["view"]["image_size"] = 16
    recipe["evaluate"] = {
        "benchmarks": ["icons"],
        "num_bootstrap": 20,
        "precision": "float32",
        "probe": {"linear": QUICK_PATH},
        "geometry": {"folds": 3},
    }
    return recipe


@pytest.fixture(scope="module")
def first(small: Callable[..., QuickstartConfig]) -> QuickstartSummary:
    """The first quickstart in its folder."""
    return quickstart(small())


def content(folder: Path, *patterns: str) -> dict[str, str]:
    paths = sorted(path for pattern in patterns for path in folder.rglob(pattern) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def data_of(run_folder: Path) -> DataConfig:
    """The data settings that a run was trained with."""
    description = Run.open(run_folder)
    config_class = METHODS[description.kind].config
    data: DataConfig = config_module.build(
        config_class, description.description["config"], origin="run.json"
    ).data
    return data


@pytest.mark.slow
def test_the_chain_runs_from_captions_to_the_report(
    first: QuickstartSummary, small: Callable[..., Any]
) -> None:
    project = small().out
    assert first.report == project / "report" / "index.html"
    page = first.report.read_text(encoding="utf-8")
    assert "simclr-real" in page
    tests = {(record.test, record.protocol) for record in first.scores.records}
    assert len(tests) == 6
    encoders = ["stablerep", "simclr-real", "raw pixels", "untrained encoder"]
    for test in tests:
        assert [r.encoder for r in first.scores.records if (r.test, r.protocol) == test] == encoders
    painted = ImageTable.open(project / "images.lance").read(["split", "status", "caption_id"]).to_pydict()
    assert set(painted["split"]) == {"train"}
    assert set(painted["status"]) == {"ok"}
    assert len(painted["split"]) == 3 * NUM_CAPTIONS


@pytest.mark.slow
def test_both_learners_see_the_same_captions_and_as_many_views(
    first: QuickstartSummary, small: Callable[..., QuickstartConfig]
) -> None:
    """What `generate` takes first is what training takes first: the captions in the order of their ids."""
    del first
    from stablerep.learning.data import ViewSource

    project = small().out
    ours, theirs = (data_of(project / "runs" / name) for name in ("stablerep", "simclr-real"))
    assert ours.images == (project / "images.lance",)
    assert theirs.images == (project / "world" / "images.lance",)
    assert (ours.num_painted, theirs.num_painted) == (3, None), "nothing is painted among the real ones"
    captions = [ViewSource(data, seed=0).caption_ids for data in (ours, theirs)]
    primary = CaptionTable.open(project / "world" / "captions.lance").read(
        ["id"], "split = 'train' AND template = 'primary'"
    )
    assert captions[0] == captions[1] == sorted(primary["id"].to_pylist())[:NUM_CAPTIONS]
    for data in (ours, theirs):
        assert data.captions_per_batch * data.images_per_caption * data.crops_per_image == 2 * NUM_CAPTIONS


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_second_run_paints_and_trains_nothing_and_finds_the_same(
    first: QuickstartSummary, small: Callable[..., QuickstartConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    project = small().out
    made = ("*.lance/**", "metrics.jsonl", "checkpoint.pt", "encoder/*", "predictions.parquet", "features/*")
    before, version = content(project, *made), ImageTable.open(project / "images.lance").version
    again = quickstart(small())
    assert content(project, *made) == before
    assert ImageTable.open(project / "images.lance").version == version
    assert again.scores.rows() == first.scores.rows()
    assert capsys.readouterr() == ("", ""), "without a console nothing is said"


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_the_command_shows_the_table_and_the_page(
    first: QuickstartSummary, small: Callable[..., QuickstartConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    del first
    asked = small()
    line = ["quickstart", "--out", str(asked.out), "--teacher", asked.teacher]
    line += ["--num-captions", str(NUM_CAPTIONS), "--num-images", "3", "--num-steps", "2"]
    assert run(line) == 0
    out, err = capsys.readouterr()
    assert "icons: test captions, held-out style" in out
    assert f"\nreport    {asked.out}/report/index.html\nseconds   " in out
    assert [line[:3] for line in err.splitlines() if line[1:2] == "/"] == [
        f"{step}/5" for step in range(1, 6)
    ]
    assert run([*line, "--json", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    result = json.loads(out)
    assert result["report"] == f"{asked.out}/report/index.html"
    assert len(result["scores"]["records"]) == 24


@pytest.mark.slow
def test_other_settings_in_the_same_folder_are_refused(
    first: QuickstartSummary, small: Callable[..., QuickstartConfig]
) -> None:
    del first
    with pytest.raises(UserError, match="num_steps: 2 there, 3 asked"):
        quickstart(small(num_steps=3))
    with pytest.raises(UserError, match="seed: 0 there, 1 asked"):
        quickstart(small(seed=1))


@pytest.mark.slow
def test_more_captions_than_there_are_is_refused_before_anything_is_painted(
    small: Callable[..., QuickstartConfig], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"captions can be painted .* num_captions asks for 5000; lower it"):
        quickstart(small(out=tmp_path / "project", num_captions=5000))
    assert not (tmp_path / "project" / "images.lance").exists()


@pytest.mark.parametrize("field", ["num_captions", "num_images", "num_steps"])
def test_sizes_that_teach_nothing_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be at least"):
        QuickstartConfig(**{field: 0})


@pytest.mark.parametrize(
    ("num_captions", "num_images", "ours", "theirs"),
    [
        (500, 4, (64, 4), (128, 1)),  # as the recipe has them
        (500, 10, (64, 4), (128, 1)),
        (500, 2, (128, 2), (128, 1)),
        (100, 4, (50, 4), (100, 1)),
        (12, 3, (8, 3), (12, 1)),
    ],
)
def test_batches_shrink_alike_for_both_learners(
    num_captions: int, num_images: int, ours: tuple[int, int], theirs: tuple[int, int]
) -> None:
    asked = QuickstartConfig(num_captions=num_captions, num_images=num_images)
    for method, expected in (("stablerep", ours), ("simclr", theirs)):
        settings = {"out": "r", "data": {"images": ["i"]}}
        recipe = config_module.read_recipe("icons")["train"][method]
        data = module._fitted(
            config_module.build(METHODS[method].config, recipe, settings, origin="x").data, asked
        )
        assert (data.captions_per_batch, data.images_per_caption) == expected
        assert data.crops_per_image == (1 if method == "stablerep" else 2)
