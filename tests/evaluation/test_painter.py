"""A painter is measured by its run, folder or name: it paints what it is then judged by."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_icons import COLOURS, QUICK_PROBE, captions

from generation import tiny_pipelines
from stablerep.errors import UserError
from stablerep.evaluation.asked import read_asked
from stablerep.evaluation.painter import captions_to_paint, find_painter, scores_of
from stablerep.evaluation.painting import PainterConfig, evaluate_painter
from stablerep.generation.pictures import Painted, judge
from stablerep.generation.teacher import TEACHERS
from stablerep.store import ImageTable


def empty_run(folder: Path) -> Path:
    """The folder of a run that has exported nothing."""
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    return folder


def settings(images: Path, world: Path, **more: Any) -> PainterConfig:
    quick: dict[str, Any] = {
        "judge": "raw-pixels",
        "num_bootstrap": 20,
        "precision": "float32",
        "probe": QUICK_PROBE,
        "search_copies": False,
    }
    return PainterConfig(images=images, world=world, **(quick | {"device": "cpu"} | more))


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_run_paints_what_it_is_judged_by_and_goes_on(world: Path, tmp_path: Path) -> None:
    run = empty_run(tmp_path / "run")
    tiny_pipelines.pixart(run / "teacher")
    (run / "teacher" / "stablerep.json").write_text(json.dumps({"num_inference_steps": 2, "batch_size": 4}))
    asked: dict[str, Any] = {"split": "train", "num_captions": 6, "num_images": 2}
    scores = evaluate_painter(settings(run, world, **asked))
    assert (scores.fidelity.num_captions, scores.fidelity.num_pictures) == (6, 12)
    assert json.loads((run / "painter-scores.json").read_text()) == scores.to_json()
    table = ImageTable.open(run / "painter-scores-painted.lance")
    assert set(table.origins()) == {scores.origin} and len(table) == 12
    assert evaluate_painter(settings(run, world, **asked)) == scores
    assert table.reload().version == table.version, "nothing is painted again"
    # What it painted for others is not judged with these.
    other = evaluate_painter(settings(run, world, **(asked | {"split": "validation", "num_captions": 3})))
    assert (other.fidelity.num_captions, len(table.reload())) == (3, 18)
    judged_before = settings(run / "painter-scores-painted.lance", world, split="train")
    assert evaluate_painter(judged_before).fidelity == scores.fidelity


class Reader:
    """A teacher that paints the colour of the label that its prompt begins with."""

    name = "reader"
    batch_size = 4
    styles: tuple[str, ...] = ()
    num_truncated = 0
    truncated_example: str | None = None

    def __init__(self) -> None:
        names = ("num_inference_steps", "guidance_scale", "dtype", "device")
        self.settings: dict[str, Any] = {**dict.fromkeys(names, 0), "scheduler": {"class": "none"}}

    def encode(self, prompts: Any) -> list[Any]:
        return [{"prompt": prompt} for prompt in prompts]

    def paint(self, conditionings: Any, seeds: Any) -> Painted:
        noise = [np.random.default_rng(seed).normal(0, 45, (16, 16, 3)) for seed in seeds]
        colours = [COLOURS[one["prompt"].split()[0]] for one in conditionings]
        pictures = [np.clip(colour + some, 0, 255) / 255 for colour, some in zip(colours, noise, strict=True)]
        return judge(np.stack(pictures), None)


def test_a_teacher_by_name_needs_a_place_for_its_pictures(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TEACHERS, "reader", lambda _: Reader())
    asked: dict[str, Any] = {"num_captions": 9, "num_images": 3}
    with pytest.raises(
        UserError, match=r"reader is a painter but no run, .* give --out, such as --out judged/"
    ):
        evaluate_painter(settings(Path("reader"), world, **asked))
    out = tmp_path / "judged" / "reader.json"
    scores = evaluate_painter(settings(Path("reader"), world, out=out, **asked))
    assert scores.fidelity.num_pictures == 27 and scores.fidelity.mean_per_class.value > 0.8
    assert sorted(path.name for path in out.parent.iterdir() if path.name.startswith("reader")) == [
        "reader-named.parquet",
        "reader-painted.costs.jsonl",
        "reader-painted.lance",
        "reader.json",
    ]
    fewer = evaluate_painter(settings(Path("reader"), world, out=out, num_captions=9, num_images=1))
    assert fewer.fidelity.num_pictures == 9, "what it painted for more is not judged with these"
    with pytest.raises(UserError, match="--origin x chooses a painter of a table, and reader is one painter"):
        evaluate_painter(settings(Path("reader"), world, out=out, origin="x", **asked))
    with pytest.raises(
        UserError, match=r"reader-painted.lance holds pictures painted with other settings \(seed"
    ):
        evaluate_painter(settings(Path("reader"), world, out=out, seed=1, **asked))


def test_painters_are_told_from_tables_and_other_runs(world: Path, tmp_path: Path) -> None:
    assert find_painter(world / "images.lance") is None
    assert find_painter(tmp_path / "nowhere.lance") is None
    assert find_painter(Path("icons")) == "icons"
    folder = tmp_path / "run" / "teacher"
    with pytest.raises(UserError, match=r"is a run without a painter: .* `stablerep evaluate` measures"):
        find_painter(empty_run(folder.parent))
    folder.mkdir()
    (folder / "model_index.json").touch()
    assert find_painter(folder) == find_painter(folder.parent) == str(folder)
    assert scores_of(folder.parent, None) == folder.parent / "painter-scores.json"
    assert scores_of(folder, tmp_path / "a.json") == tmp_path / "a.json"


def test_a_painter_on_the_hub_is_known_by_its_id(
    fetched: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_painter(Path("owner/absent.lance")) is None and not fetched, "a table's name"
    with pytest.raises(UserError, match=r"'owner/name' is neither shipped, nor a folder, .* add --download"):
        find_painter(Path("owner/name"))
    with pytest.raises(UserError, match="check the id"):
        find_painter(Path("owner/name"), download=True)
    assert fetched == [False, True]
    monkeypatch.setattr("diffusers.DiffusionPipeline.download", lambda *_, **__: str(tmp_path))
    assert find_painter(Path("owner/name")) == "owner/name"


def test_it_paints_captions_with_real_pictures_that_the_judge_knows(world: Path) -> None:
    asked = read_asked(world, "test", seen_words=False)
    apples = captions_to_paint(world, asked, ["apple"])
    of_test = [caption for caption in captions() if caption["split"] == "test"]
    assert apples == sorted(str(row["id"]) for row in of_test if row["label"] == "apple")
    assert set(asked.only(apples, 1).labels.values()) == {"apple"}
    with pytest.raises(
        UserError, match=r"of 9 captions that are judged none has a label that the judge knows"
    ):
        captions_to_paint(world, asked, ["quince"])
