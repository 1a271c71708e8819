"""The circle at its smallest: every turn's painter comes from the pictures of the one before."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tomli_w
import torch
from PIL import Image

from learning.tiny_training import autoencoder_config, painter_of
from stablerep import config as config_module
from stablerep.captions.worlds import WorldConfig, write_world
from stablerep.learning.autoencoder import Autoencoder
from stablerep.models.encoder import load_encoder
from stablerep.run import Run
from stablerep.store import ImageTable
from stablerep.workflows.circle import Circle, CircleConfig, circle
from workflows.test_quickstart import ICONS, LABELS, NUM_CAPTIONS, small_recipe

QUICK = {"compile": False, "precision": "float32"}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., CircleConfig]:
    folder = tmp_path_factory.mktemp("circle")
    drawings = folder / "icons.parquet"
    pq.write_table(pq.read_table(ICONS, filters=[("label", "in", LABELS)]), drawings)
    write_world(WorldConfig(name="icons", out=folder / "world", source=drawings))
    torch.manual_seed(0)
    teacher = painter_of(Autoencoder(autoencoder_config()).export(folder)).export(folder / "first")
    settings = small_recipe()
    settings["generate"] |= {"num_inference_steps": 2, "guidance_scale": 1.0}
    settings["train"]["stablerep"]["data"] |= {"captions_per_batch": 4, "images_per_caption": 2}
    settings["train"]["supervised"] = {
        **QUICK,
        "data": settings["train"]["supervised"]["data"] | {"captions_per_batch": 8},
        "method": settings["train"]["stablerep"]["method"],
    }
    settings["train"]["supervised"]["data"]["view"] = {"image_size": 16}
    painter = config_module.read_recipe("teacher-icons")["train"]["text-to-image"]
    painter |= QUICK | {"save_every": 2, "log_every": 1}
    painter["data"] |= {"captions_per_batch": 4, "one_per_group": False, "view": {"image_size": 16}}
    painter["method"] = {
        "num_tokens": 8,
        "width": 16,
        "depth": 1,
        "num_heads": 2,
        "alignment": {"block": 1, "hidden": 8},
    }
    for name, content in (("world.toml", settings), ("painter.toml", {"train": {"text-to-image": painter}})):
        (folder / name).write_text(tomli_w.dumps(content))

    def make(**changes: Any) -> CircleConfig:
        sizes = {"num_captions": NUM_CAPTIONS, "num_images": 2, "encoder_steps": 2, "painter_steps": 2}
        places = {"out": folder / "out", "world": str(folder / "world"), "teacher": str(teacher)}
        recipes = {"settings": str(folder / "world.toml"), "painter": str(folder / "painter.toml")}
        return CircleConfig(**(places | sizes | recipes | {"num_turns": 1, "judge_steps": 2} | changes))

    return make


@pytest.fixture(scope="module")
def first(small: Callable[..., CircleConfig]) -> Circle:
    return circle(small())


def test_every_turn_is_measured_and_drawn(first: Circle, small: Callable[..., CircleConfig]) -> None:
    stored = json.loads(first.path.read_text())
    assert [turn["number"] for turn in stored["turns"]] == [0, 1]
    for turn in first.turns:
        assert len(turn.encoder) == 3
        assert 0 <= turn.fidelity.value <= 1
        assert turn.near_copies is not None
        assert turn.pictures.num_pictures == 2 * NUM_CAPTIONS
        assert turn.pictures.effective_rank >= 1
    assert first.turns[0].painter != first.turns[1].painter
    assert Image.open(first.figure).size[0] > 500
    assert len(first.rows()) == 2
    assert all(len(row) == len(Circle.HEADER) for row in first.rows())
    assert small().out == first.path.parent


def test_a_painter_learns_from_the_pictures_and_the_encoder_of_the_turn_before(
    first: Circle, small: Callable[..., CircleConfig]
) -> None:
    out = first.path.parent
    learned = Run.open(out / "turn-1" / "painter").description["config"]
    assert learned["data"]["images"] == [str(out / "turn-0" / "images.lance")]
    assert learned["method"]["alignment"]["encoder"] == str(out / "turn-0" / "stablerep")
    assert learned["method"]["start_from"] == small().teacher
    assert (
        load_encoder(out / "turn-0" / "stablerep").fingerprint
        != load_encoder(out / "turn-1" / "stablerep").fingerprint
    )


def test_again_trains_and_paints_nothing_and_a_turn_may_be_added(
    first: Circle, small: Callable[..., CircleConfig]
) -> None:
    out = first.path.parent
    before = {path: path.stat().st_mtime_ns for path in out.glob("**/checkpoint.pt")}
    version = ImageTable.open(out / "turn-1" / "images.lance").version
    again = circle(small(num_turns=2))
    assert again.turns[:2] == first.turns
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert ImageTable.open(out / "turn-1" / "images.lance").version == version


def test_a_painter_may_begin_anew_and_learn_from_both(
    small: Callable[..., CircleConfig], tmp_path: Path
) -> None:
    config = small(
        out=tmp_path / "other", begin_anew=True, learn_from="both", alignment=0.0, search_copies=False
    )
    found = circle(config)
    learned = Run.open(config.out / "turn-1" / "painter").description["config"]
    assert len(learned["data"]["images"]) == 2
    assert learned["method"].get("start_from") is None
    assert found.turns[1].near_copies is None


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"num_images": 0}, "num_images must be at least 1"), ({"alignment": -1.0}, "must not be negative")],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        CircleConfig(**changes)
