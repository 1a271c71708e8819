"""The methods by name: every entry can be configured, built and trained, and what cannot learn is refused."""

from pathlib import Path

import pytest
from tiny_training import World, train_config

from stablerep.config import build
from stablerep.errors import UserError
from stablerep.learning.autoencoder import Autoencoder
from stablerep.learning.contrastive import Contrastive
from stablerep.learning.distillation import Distillation
from stablerep.learning.image_text import Clip, StableRepPlus
from stablerep.learning.lora import Lora
from stablerep.learning.methods import (
    METHODS,
    AutoencoderTrainConfig,
    ClipTrainConfig,
    SimCLRConfig,
    StableRepConfig,
    StableRepPlusTrainConfig,
    SupervisedConfig,
    train,
)
from stablerep.learning.text_to_image import TextToImage
from stablerep.learning.trainer import TrainConfig

IMAGES = {"data": {"images": ["images.lance"]}, "num_steps": 1, "out": "run"}


def test_every_method_builds_what_its_name_says(world: World) -> None:
    kinds = {
        "stablerep": Contrastive,
        "stablerep-plus": StableRepPlus,
        "simclr": Contrastive,
        "clip": Clip,
        "supervised": Contrastive,
        "autoencoder": Autoencoder,
        "text-to-image": TextToImage,
        "lora": Lora,
        "distillation": Distillation,
    }
    assert kinds.keys() == METHODS.keys()
    for method, entry in METHODS.items():
        config = train_config(method, world, Path("unused"))
        assert isinstance(config, entry.config)
        built = entry.build(config)
        assert type(built) is kinds[method]
        assert built.reads_text == (
            method
            in (
                "stablerep-plus",
                "clip",
                "text-to-image",
                "lora",
                "distillation",
            )
        )
        assert (built.encoder() is not None) == isinstance(built, Contrastive | Clip)


def test_contrastive_methods_differ_in_their_positives() -> None:
    config = build(StableRepConfig, IMAGES, origin="test")
    assert config.method.positives == "caption"
    assert build(SimCLRConfig, IMAGES, origin="test").method.positives == "image"
    assert build(SupervisedConfig, IMAGES, origin="test").method.positives == "label"


@pytest.mark.parametrize(
    ("method", "images", "crops"),
    [("stablerep", 6, 1), ("stablerep-plus", 6, 1), ("simclr", 1, 2), ("clip", 1, 1), ("supervised", 1, 1)],
)
def test_a_method_draws_what_it_needs_where_nothing_else_is_asked(
    method: str, images: int, crops: int
) -> None:
    config = build(METHODS[method].config, IMAGES, origin="test")
    assert (config.data.images_per_caption, config.data.crops_per_image) == (images, crops)


@pytest.mark.parametrize("method", ["autoencoder", "text-to-image", "lora", "distillation"])
def test_painters_are_shown_whole_pictures_where_nothing_else_is_asked(method: str) -> None:
    own = {"autoencoder": {}, "text-to-image": {"autoencoder": "x"}}.get(method, {"teacher": "icons"})
    config = build(METHODS[method].config, IMAGES, {"method": own}, origin="test")
    assert (config.data.images_per_caption, config.data.view.augmentation) == (1, "none")
    asked = {"data": {"view": {"image_size": 32}, "captions_per_batch": 8}}
    sized = build(METHODS[method].config, IMAGES, {"method": own}, asked, origin="test")
    assert (sized.data.view.image_size, sized.data.view.augmentation) == (32, "none")
    mirrored = {"data": {"view": {"augmentation": "flip"}, "images_per_caption": 2}}
    other = build(AutoencoderTrainConfig, IMAGES, mirrored, origin="test")
    assert (other.data.images_per_caption, other.data.view.augmentation) == (2, "flip")
    assert build(StableRepConfig, IMAGES, origin="test").data.view.augmentation == "simclr"


def test_an_unknown_method_answers_with_the_known_ones(world: World) -> None:
    config = train_config("simclr", world, Path("unused"))
    with pytest.raises(
        UserError,
        match="unknown method 'dino'; there are: stablerep, stablerep-plus, simclr, clip, supervised, autoenc",
    ):
        train("dino", config)


def test_a_method_takes_its_own_configuration(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="method stablerep takes a StableRepConfig, got a SimCLRConfig"):
        train("stablerep", train_config("simclr", world, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


# -- what would train in good order and learn nothing ------------------------------------------------


def test_a_view_without_positives_is_refused() -> None:
    with pytest.raises(UserError, match=r"data.crops_per_image is 1: give at least 2"):
        build(SimCLRConfig, IMAGES, {"data": {"crops_per_image": 1}}, origin="test")
    single = {"data": {"images_per_caption": 1}}
    with pytest.raises(UserError, match=r"data.images_per_caption is 1: give at least 2"):
        build(StableRepConfig, IMAGES, single, origin="test")
    with pytest.raises(UserError, match=r"data.images_per_caption is 1: give at least 2"):
        build(StableRepPlusTrainConfig, IMAGES, single, origin="test")
    assert build(ClipTrainConfig, IMAGES, single, origin="test")
    assert build(StableRepConfig, IMAGES, single, {"data": {"crops_per_image": 2}}, origin="test")
    with pytest.raises(UserError, match=r"data.crops_per_image is 1"):
        build(StableRepConfig, IMAGES, {"method": {"positives": "image"}}, origin="test")


@pytest.mark.parametrize("config", [SimCLRConfig, ClipTrainConfig, StableRepConfig, StableRepPlusTrainConfig])
def test_a_batch_in_which_nothing_repels_is_refused(config: type[TrainConfig]) -> None:
    with pytest.raises(UserError, match=r"captions_per_batch is 1.* lower micro_batch instead"):
        build(config, IMAGES, {"data": {"captions_per_batch": 1}}, origin="test")
    several = {"data": {"captions_per_batch": 1, "images_per_caption": 2}}
    assert build(SimCLRConfig, IMAGES, several, origin="test"), "of one caption are other images"


@pytest.mark.parametrize(
    ("positives", "data", "what"),
    [
        (
            "image",
            {"images_per_caption": 2, "crops_per_image": 1},
            "data.crops_per_image is 1: give at least 2",
        ),
        (
            "caption",
            {"images_per_caption": 1, "crops_per_image": 1},
            "data.images_per_caption is 1: give at least 2",
        ),
    ],
)
def test_what_attracts_is_looked_at_and_not_the_name_of_the_method(
    positives: str, data: dict[str, int], what: str
) -> None:
    asked = {"data": data, "method": {"positives": positives}}
    for config in (StableRepConfig, SimCLRConfig, SupervisedConfig, StableRepPlusTrainConfig):
        with pytest.raises(UserError, match=what):
            build(config, IMAGES, asked, origin="test")
        labelled = build(config, IMAGES, asked, {"method": {"positives": "label"}}, origin="test")
        assert labelled.method.positives == "label", "captions of one image share labels"


@pytest.mark.parametrize("patch_size", [3, 0])
def test_patches_that_do_not_fill_the_latents_are_refused(
    world: World, tmp_path: Path, patch_size: int
) -> None:
    config = train_config("text-to-image", world, tmp_path / "run", method={"patch_size": patch_size})
    with pytest.raises(UserError, match=f"patch_size {patch_size} must divide the 8 latents on a side"):
        train("text-to-image", config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("split = 'nowhere'", "no caption matches \"split = 'nowhere'\""),
        ("colour = 'red'", "the filter \"colour = 'red'\" is not valid"),
    ],
)
@pytest.mark.parametrize("method", ["clip", "text-to-image"])
def test_a_vocabulary_of_no_caption_is_refused(
    method: str, world: World, tmp_path: Path, where: str, what: str
) -> None:
    config = train_config(method, world, tmp_path / "run", method={"vocabulary_from": where})
    with pytest.raises(UserError, match=what) as caught:
        train(method, config)
    assert str(caught.value).startswith(str(world.captions))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["stablerep-plus", "clip", "text-to-image"])
@pytest.mark.parametrize("vocabulary", [64, None])
def test_what_reads_text_needs_captions(
    method: str, vocabulary: int | None, world: World, tmp_path: Path
) -> None:
    own = {} if method == "text-to-image" else {"text": {"vocabulary": vocabulary}}
    config = train_config(method, world, tmp_path / "run", data={"captions": None}, method=own)
    with pytest.raises(UserError, match=r"give the caption table, such as --data.captions captions.lance"):
        train(method, config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["autoencoder", "text-to-image"])
def test_views_of_another_size_than_the_pictures_are_refused(
    method: str, world: World, tmp_path: Path
) -> None:
    """The pictures would be painted at the old size, whatever was trained."""
    config = train_config(method, world, tmp_path / "run", data={"view": {"image_size": 32}})
    with pytest.raises(UserError, match=r"data.view.image_size is 32, but .* is 16; give the same size"):
        train(method, config)
    assert not (tmp_path / "run").exists()
