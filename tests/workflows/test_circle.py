"""The circle at its smallest: every turn's painter comes from the pictures of the one before."""

import dataclasses
import functools
import json
import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tomli_w
import torch
from PIL import Image

from learning.tiny_training import autoencoder_config, painter_of
from stablerep import config as config_module
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.evaluation.distances import DistanceConfig
from stablerep.evaluation.geometry import Geometry
from stablerep.evaluation.intervals import Interval
from stablerep.evaluation.near_copies import NearCopyConfig
from stablerep.learning.autoencoder import Autoencoder
from stablerep.models.encoder import load_encoder
from stablerep.probes import PathConfig, ProbeConfig
from stablerep.run import Run
from stablerep.store import OK, ImageTable
from stablerep.workflows import circle as module
from stablerep.workflows.circle import CircleConfig, circle
from stablerep.workflows.circle_turns import Circle, Turn, keep_turn, stored_turn
from stablerep.workflows.conditions import captions_to_paint
from workflows import tiny_drawings
from workflows.test_quickstart import NUM_CAPTIONS, QUICK_PATH, small_recipe

QUICK = {"compile": False, "precision": "float32"}
ATTRIBUTES = """
[attributes.kind]
accuracy = 0.3
[attributes.kind.values]
animal = 'cat|dog'
thing = 'sun|leaf|house|boat'
"""
FEW: dict[str, dict[str, Any]] = {
    "evaluate_painter": {
        "num_bootstrap": 20,
        "probe": ProbeConfig(linear=PathConfig(**QUICK_PATH, refit=False)),
        "distances": DistanceConfig(kid_splits=4),
    },
    "audit_bias": {"num_bootstrap": 20},
}
"""What no recipe of a circle says: how much of the pictures is measured."""

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", autouse=True)
def measured_on_few() -> Iterator[None]:
    """A circle measures with fewer pictures, replicates and constants."""
    with pytest.MonkeyPatch.context() as patch:
        for name, changes in FEW.items():
            patch.setattr(module, name, _with(getattr(module, name), changes))
        yield


def _with(function: Callable[..., Any], changes: dict[str, Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(config: Any, **more: Any) -> Any:
        return function(dataclasses.replace(config, **changes), **more)

    return call


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., CircleConfig]:
    folder = tmp_path_factory.mktemp("circle")
    tiny_drawings.write_world(folder / "world")
    torch.manual_seed(0)
    teacher = painter_of(Autoencoder(autoencoder_config()).export(folder)).export(folder / "first")
    settings = small_recipe()
    settings["generate"] |= {"num_inference_steps": 2, "guidance_scale": 1.0}
    settings["train"]["stablerep"]["data"] |= {"captions_per_batch": 4, "images_per_caption": 2}
    settings["train"]["stablerep"]["num_epochs"] = 3.0  # as recipes of the paper count; a turn takes steps
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
    (folder / "attributes.toml").write_text(ATTRIBUTES)
    for name, content in (("world.toml", settings), ("painter.toml", {"train": {"text-to-image": painter}})):
        (folder / name).write_text(tomli_w.dumps(content))

    def make(**changes: Any) -> CircleConfig:
        sizes = {"num_captions": NUM_CAPTIONS, "num_images": 2, "encoder_steps": 2, "painter_steps": 2}
        searched = {"copies": NearCopyConfig(num_pictures=6, num_planted=4, num_shown=2)}
        places = {"out": folder / "out", "world": str(folder / "world"), "teacher": str(teacher)}
        recipes = {"settings": str(folder / "world.toml"), "painter": str(folder / "painter.toml")}
        more = {"num_turns": 1, "judge_steps": 2, "attributes": folder / "attributes.toml"}
        return CircleConfig(**(places | sizes | searched | recipes | more | changes))

    return make


@pytest.fixture(scope="module")
def first(small: Callable[..., CircleConfig]) -> Circle:
    return circle(small())


def searched_in(turn: Path) -> int:
    """How many paintings of a turn were compared with real pictures."""
    return int(json.loads((turn / "painter-scores.json").read_text())["near_copies"]["num_painted"])


@pytest.mark.slow
def test_every_turn_is_measured_and_drawn(first: Circle, small: Callable[..., CircleConfig]) -> None:
    stored = json.loads(first.path.read_text())
    assert [turn["number"] for turn in stored["turns"]] == [0, 1]
    for turn in first.turns:
        assert len(turn.encoder) == 3
        assert 0 <= turn.fidelity.value <= 1
        assert turn.near_copies is not None
        assert searched_in(small().out / f"turn-{turn.number}") == small().copies.num_pictures
        assert turn.pictures.num_pictures == 2 * NUM_CAPTIONS
        assert turn.pictures.effective_rank >= 1
        assert turn.shares.keys() == {"kind, animal", "kind, thing"}
        assert sum(share.value for share in turn.shares.values()) == pytest.approx(1)
    assert first.turns[0].painter != first.turns[1].painter
    assert Image.open(first.figure).size[0] > 500
    assert len(first.rows()) == 2
    assert all(len(row) == len(Circle.HEADER) for row in first.rows())
    shown = dict(zip(Circle.HEADER, first.rows()[0], strict=True))
    assert shown["shares, %"] == "kind, animal {:.0f}; kind, thing {:.0f}".format(
        *(100 * share.value for share in first.turns[0].shares.values())
    )
    assert {"kind, animal, %", "kind, thing, %", "prompt fidelity, %"} <= first.curves.keys()
    assert small().out == first.path.parent


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_again_nothing_is_done_twice_and_a_turn_may_be_added(
    first: Circle, small: Callable[..., CircleConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = first.path.parent
    before = {path: path.stat().st_mtime_ns for path in out.glob("**/checkpoint.pt")}
    version = ImageTable.open(out / "turn-1" / "images.lance").version
    measured = []
    for name in ("evaluate", "evaluate_painter", "audit_bias"):
        function = getattr(module, name)

        def counted(config: Any, *, console: Any, function: Callable[..., Any] = function) -> Any:
            measured.append((function.__name__, str(getattr(config, "run", None) or config.images)))
            return function(config, console=console)

        monkeypatch.setattr(module, name, counted)
    again = circle(small(num_turns=2))
    assert again.turns[:2] == first.turns
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert ImageTable.open(out / "turn-1" / "images.lance").version == version
    last = out / "turn-2"
    assert measured == [
        ("audit_bias", str(last / "images.lance")),
        ("evaluate", str(last / "stablerep")),
        ("evaluate_painter", str(last / "images.lance")),
    ]


def test_a_caption_whose_paintings_all_failed_is_left_out(
    small: Callable[..., CircleConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: dict[str, Any] = {}

    def train(method: str, config: Any, *, console: Any) -> Any:
        trained[method] = config.data
        return SimpleNamespace(run=config.out, console=console)

    monkeypatch.setattr(module, "train", train)
    chain = module._Chain(small(out=tmp_path / "out"), Console(quiet=True))
    captions = captions_to_paint(chain._painting(0))[:NUM_CAPTIONS]
    ImageTable.open_or_create(chain.folder(0) / "images.lance").append(
        {
            "origin": "a painter",
            "caption_id": caption,
            "image_index": index,
            "split": "train",
            **({"status": OK, "image": b"unread"} if caption != captions[3] else {"status": "blank"}),
        }
        for caption in captions
        for index in range(2)
    )
    chain._train_encoder(0)
    assert trained["supervised"].num_captions is None
    assert (trained["stablerep"].num_captions, trained["stablerep"].num_painted) == (NUM_CAPTIONS - 1, 2)


def test_attributes_that_the_judge_does_not_read_stop_no_circle(
    small: Callable[..., CircleConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unread(*_: object, **__: object) -> None:
        raise UserError("attribute kind: the encoder does not see it")

    monkeypatch.setattr(module, "train", lambda _, config, **__: SimpleNamespace(run=config.out))
    monkeypatch.setattr(module, "audit_bias", unread)
    said: list[str] = []
    console = Console(quiet=True)
    console.say = said.append  # type: ignore[method-assign]
    chain = module._Chain(small(out=tmp_path / "out"), console)
    (tmp_path / "bias.json").write_text("of an earlier audit")
    assert chain._shares(tmp_path / "images.lance") == {}
    assert said[-1].endswith("are not followed: attribute kind: the encoder does not see it")


def test_a_turn_is_kept_beside_what_determined_it(tmp_path: Path) -> None:
    interval = Interval(value=0.5, low=0.4, high=0.6)
    geometry = Geometry(
        effective_rank=2.0,
        alignment=None,
        uniformity=-1.0,
        concept_variance=None,
        style_variance=None,
        same_concept=None,
        same_style=None,
        num_pictures=2,
    )
    turn = Turn(
        number=1,
        painter="a painter",
        encoder={"icons: test": interval},
        fidelity=interval,
        kid=None,
        kid_floor=None,
        recall=0.1,
        coverage=0.2,
        near_copies=None,
        shares={"gender of doctors, woman": interval},
        pictures=geometry,
    )
    path, inputs = tmp_path / "turn.json", {"encoder": "abc", "protocols": ("knn", "linear")}
    assert stored_turn(path, inputs) is None
    keep_turn(path, inputs, turn)
    assert stored_turn(path, inputs) == turn
    assert stored_turn(path, inputs | {"encoder": "other"}) is None
    found = Circle(path=path, figure=path, turns=(turn, turn))
    assert found.rows()[0][4:6] == ["0.10", "0.20"]
    assert found.curves["gender of doctors, woman, %"] == [pytest.approx((50, 40, 60))] * 2


@pytest.mark.parametrize(
    ("changes", "evaluate", "what"),
    [
        (
            {},
            {"protocols": ["geometry", "knn"]},
            "a circle follows the linear probe, .* by geometry, knn on icons",
        ),
        ({"num_captions": 5000}, {}, "captions can be painted .* num_captions asks for 5000; lower it"),
        (
            {"num_captions": 3},
            {},
            "3 captions are to be painted, fewer than one batch of stablerep, .* 4; raise",
        ),
        ({"attributes": Path("missing.toml")}, {}, "attributes file missing.toml"),
    ],
)
def test_what_would_fail_late_is_refused_before_anything_is_painted(
    small: Callable[..., CircleConfig],
    tmp_path: Path,
    changes: dict[str, Any],
    evaluate: dict[str, Any],
    what: str,
) -> None:
    recipe = tomllib.loads(Path(small().settings).read_text())
    recipe["evaluate"] |= evaluate
    (tmp_path / "changed.toml").write_text(tomli_w.dumps(recipe))
    with pytest.raises(UserError, match=what):
        circle(small(settings=str(tmp_path / "changed.toml"), out=tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        (
            {"data": {"captions_per_batch": 13}},
            "12 captions are to be painted, fewer than one batch of text-to-image",
        ),
        (
            {"data": {"captions_per_batch": 13, "one_per_group": True}},
            "12 groups of captions are to be painted, fewer than one batch of text-to-image, which takes 13",
        ),
        ({"data": {"view": {"image_size": 32}}}, "image_size is 32, but the size of .* is 16"),
        ({"method": {"width": 8}}, "transformer cannot be trained further with these settings"),
    ],
)
def test_a_painters_recipe_that_does_not_fit_is_refused_before_anything_is_painted(
    small: Callable[..., CircleConfig], tmp_path: Path, changes: dict[str, Any], what: str
) -> None:
    recipe = tomllib.loads(Path(small().painter).read_text())
    for name, settings in changes.items():
        recipe["train"]["text-to-image"][name] |= settings
    (tmp_path / "changed.toml").write_text(tomli_w.dumps(recipe))
    with pytest.raises(UserError, match=what):
        circle(small(painter=str(tmp_path / "changed.toml"), out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_world_that_does_not_say_which_it_is_is_refused_before_anything_is_painted(
    small: Callable[..., CircleConfig], tmp_path: Path
) -> None:
    world = shutil.copytree(small().world, tmp_path / "world")
    (world / "world.json").unlink()
    with pytest.raises(UserError, match=r"world holds no world \(world\.json\)"):
        circle(small(world=str(world), out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_painter_may_begin_anew_and_learn_from_both(
    small: Callable[..., CircleConfig], tmp_path: Path
) -> None:
    config = small(
        out=tmp_path / "other",
        begin_anew=True,
        learn_from="both",
        alignment=0.0,
        search_copies=False,
        attributes=None,
    )
    found = circle(config)
    learned = Run.open(config.out / "turn-1" / "painter").description["config"]
    assert len(learned["data"]["images"]) == 2
    assert learned["method"].get("start_from") is None
    assert found.turns[1].near_copies is None
    assert not found.turns[1].shares


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"num_images": 0}, "num_images must be at least 1"), ({"alignment": -1.0}, "must not be negative")],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        CircleConfig(**changes)
