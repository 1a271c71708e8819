"""Equal conditions: the same captions for all arms, as many pictures that count, and nothing painted in vain."""

import json
import shutil
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.generation.settings import GenerateConfig
from stablerep.generation.wanted import read_captions
from stablerep.learning.data import DataConfig, ViewSource
from stablerep.run import Run
from stablerep.store import OK, CaptionTable, ImageTable
from stablerep.workflows import matrix as module
from stablerep.workflows.compare import compare
from stablerep.workflows.conditions import Views, captions_to_paint, refuse_unequal, without
from stablerep.workflows.matrix import CompareConfig
from workflows import tiny_drawings
from workflows.test_quickstart import small_recipe

pytestmark = pytest.mark.usefixtures("one_thread")

ARMS = ("simclr:real", "stablerep:painted")


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., CompareConfig]:
    """A comparison on the tiny drawings, 12 captions with two real pictures each, one of them in a held-out style."""
    world = tiny_drawings.write_world(tmp_path / "world")
    settings = small_recipe()
    settings["evaluate"] |= {"protocols": ["knn"], "baselines": False}
    for method, images, crops in (("stablerep", 2, 1), ("simclr", 1, 2)):
        settings["train"][method]["data"] |= {
            "captions_per_batch": 4,
            "images_per_caption": images,
            "crops_per_image": crops,
        }

    def make(
        *, data: dict[str, Any] | None = None, where: str = "split = 'train'", **changes: Any
    ) -> CompareConfig:
        settings["generate"] = {"where": where}
        settings["train"]["stablerep"]["data"] |= data or {}
        (tmp_path / "small.toml").write_text(tomli_w.dumps(settings))
        sizes = {"num_captions": (6,), "num_images": 2, "num_steps": 1, "seeds": (0,), "arms": ARMS}
        places = {"out": tmp_path / "out", "world": str(world), "settings": str(tmp_path / "small.toml")}
        return CompareConfig(**(places | sizes | changes))

    return make


@pytest.fixture
def painting(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Stands in for the painter: real drawings, but for captions whose paintings all fail; the limits it was given."""

    def stand_in(failing: Container[str] = ()) -> list[int]:
        limits: list[int] = []

        def generate(config: GenerateConfig, *, console: Console) -> None:
            assert config.limit is not None and console is not None
            limits.append(config.limit)
            captions = read_captions(config)
            ImageTable.open_or_create(config.out).append(
                {
                    "origin": "a painter",
                    "caption_id": caption,
                    "image_index": index,
                    "seed": index,
                    "width": 16,
                    "height": 16,
                    **captions.facts[caption],
                    **(
                        {"status": "failed", "reason": "blank"}
                        if caption in failing
                        else {"status": OK, "image": tiny_drawings.drawing(text.split()[-1], index)}
                    ),
                }
                for caption, text in captions
                for index in range(config.num_images)
            )

        monkeypatch.setattr(module, "generate", generate)
        return limits

    return stand_in


def prepared(config: CompareConfig) -> Any:
    """The comparison as it stands before anything is trained."""
    matrix = module.Matrix(config, {}, Console(quiet=True))
    matrix.prepare()
    return matrix


def to_paint(config: CompareConfig) -> list[str]:
    table = Path(config.world) / "captions.lance"
    return captions_to_paint(GenerateConfig(captions=table, where="split = 'train'"))


# -- the same captions -------------------------------------------------------------------------------


def test_a_caption_whose_paintings_all_failed_is_replaced_for_all_arms(
    small: Callable[..., CompareConfig], painting: Callable[..., list[int]]
) -> None:
    config = small(num_captions=(4, 6))
    captions = to_paint(config)
    limits = painting(failing=captions[4:5])
    matrix = prepared(config)
    expected = [*captions[:4], *captions[5:7]]
    for num in config.num_captions:
        for arm in config.arms:
            data: DataConfig = matrix._run_config(arm, num, 0, None).data
            assert ViewSource(data, seed=0).caption_ids == expected[:num]
            assert (captions[4] in (data.where or "")) == ((arm, num) == ("simclr:real", 6))
    assert limits == [6, 7]


def test_captions_that_an_arm_has_no_real_pictures_of_are_passed_over_in_painting(
    small: Callable[..., CompareConfig], painting: Callable[..., list[int]]
) -> None:
    config = small()
    captions = to_paint(config)
    ImageTable.open(Path(config.world) / "images.lance").dataset.delete(f"caption_id = '{captions[1]}'")
    limits = painting()
    matrix = prepared(config)
    expected = [captions[0], *captions[2:7]]
    for arm in config.arms:
        assert ViewSource(matrix._run_config(arm, 6, 0, None).data, seed=0).caption_ids == expected
    assert limits == [7]


def test_an_arm_with_both_learns_from_captions_that_are_painted(
    small: Callable[..., CompareConfig], painting: Callable[..., list[int]]
) -> None:
    limits, config = painting(), small(arms=("stablerep:both",), where="split = 'train' AND label != 'cat'")
    matrix = prepared(config)
    rows = CaptionTable.open(Path(config.world) / "captions.lance").read(["id"], "label != 'cat'")["id"]
    expected = [caption for caption in to_paint(config) if caption in rows.to_pylist()][:6]
    assert ViewSource(matrix._run_config("stablerep:both", 6, 0, None).data, seed=0).caption_ids == expected
    assert limits == [6]


@pytest.mark.parametrize("arms", [ARMS, ARMS[:1], ARMS[1:]])
def test_more_captions_than_there_are_is_refused_before_anything_is_painted(
    small: Callable[..., CompareConfig], painting: Callable[..., list[int]], arms: tuple[str, ...]
) -> None:
    limits, config = painting(), small(arms=arms, num_captions=(6, 5000))
    with pytest.raises(UserError, match=r"^12 captions .* 12.*num_captions asks for 5000; lower it"):
        compare(config)
    assert not config.out.exists() and not limits


def test_where_further_paintings_do_not_help_a_caption_is_named(
    small: Callable[..., CompareConfig], painting: Callable[..., list[int]]
) -> None:
    """As where an audit, whose column is empty in new rows, would have to judge them first."""
    config = small(data={"where": "split = 'train' AND label != 'cat'"}, num_captions=(12,))
    painting()
    with pytest.raises(
        UserError,
        match=r"simclr:real 12, stablerep:painted 10, stablerep:painted has none of caption \w+\)",
    ):
        compare(config)


def test_left_out_captions_keep_the_filter() -> None:
    data = DataConfig(images=(Path("images.lance"),), where="a = 1 OR b = 2")
    assert without(data, []) == data
    assert without(data, ["x", "y'z"]).where == "(a = 1 OR b = 2) AND caption_id NOT IN ('x', 'y''z')"


# -- as many pictures --------------------------------------------------------------------------------


def test_real_pictures_are_counted_where_asked(
    small: Callable[..., CompareConfig], painting: Callable[..., list[int]], tmp_path: Path
) -> None:
    painting()
    arms = ("simclr:real", "stablerep:painted", "stablerep:both")
    world = shutil.copytree(small().world or "", tmp_path / "more")
    table = ImageTable.open(world / "images.lance")
    rows = [row for batch in table.scan(filter="image_index = 0") for row in batch.to_pylist()]
    table.append([{**row, "image_index": 7} for row in rows])

    def pictures(**changes: int) -> list[int]:
        matrix = prepared(small(arms=arms, world=str(world), **changes))
        runs = [matrix._run_config(arm, 6, 0, None) for arm in arms]
        return [ViewSource(run.data, seed=0).num_images for run in runs]

    real, painted, both = pictures()
    assert real == 12 and both == real + painted
    assert pictures(num_real=1) == [6, painted, 6 + painted]


@pytest.mark.parametrize(("num_images", "what"), [(1, "4 of 8"), (3, "12")])
def test_unequal_numbers_of_pictures_are_refused_before_anything_is_painted(
    small: Callable[..., CompareConfig], painting: Callable[..., list[int]], num_images: int, what: str
) -> None:
    data = {"images_per_caption": max(2, num_images)}
    limits, config = painting(), small(num_images=num_images, data=data)
    with pytest.raises(
        UserError, match=rf"per step \(simclr:real 8, stablerep:painted {what}\); give recipe"
    ):
        compare(config)
    assert not config.out.exists() and not limits


def test_paintings_that_a_filter_takes_away_count_for_none(
    small: Callable[..., CompareConfig], painting: Callable[..., list[int]]
) -> None:
    painting()
    with pytest.raises(UserError, match=r"\(simclr:real 8, stablerep:painted 4 of 8\)"):
        compare(small(data={"where": "split = 'train' AND image_index = 0"}))


def test_real_pictures_make_up_for_too_few_painted_ones(
    small: Callable[..., CompareConfig], painting: Callable[..., list[int]]
) -> None:
    painting()
    matrix = prepared(small(arms=("simclr:real", "stablerep:both"), num_images=1))
    assert matrix.views["stablerep:both", 6] == Views(8, 1.0)


def test_a_few_pictures_less_are_tolerated() -> None:
    refuse_unequal({"simclr:real": Views(256, 1.0), "stablerep:painted": Views(256, 0.96)}, "icons")
    with pytest.raises(UserError, match=r"stablerep:painted 238\.1 of 256"):
        refuse_unequal({"simclr:real": Views(256, 1.0), "stablerep:painted": Views(256, 0.93)}, "icons")


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_as_many_paintings_are_learned_from_as_are_asked_for(
    small: Callable[..., CompareConfig], painting: Callable[..., list[int]], tmp_path: Path
) -> None:
    """Of a table that holds more; and a run that learned from more is not taken for one of these."""
    painting()
    arms, batch = ("stablerep:painted",), {"images_per_caption": 2}
    compare(small(arms=arms, num_images=3, data=batch))
    with pytest.raises(UserError, match="num_painted: 3 there, 2 asked"):
        compare(small(arms=arms, num_images=2, data=batch))
    again = small(
        arms=arms, num_images=2, data=batch, out=tmp_path / "again", painted=tmp_path / "out/images.lance"
    )
    compare(again)
    run = Run.open(again.out / "runs" / "stablerep-painted-6-seed-0")
    assert json.loads((run.path / "resolved.json").read_text())["data"]["images"] == 2 * 6
