"""The shipped recipes: every table fits its command, and nothing that trains sees what is held out."""

import dataclasses
import math
import re
import shlex
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from stablerep import config
from stablerep.cli import COMMANDS, recipe_settings, run
from stablerep.errors import UserError
from stablerep.evaluation.benchmarks import HELD_OUT_STYLE
from stablerep.generation.settings import GenerateConfig
from stablerep.learning.methods import METHODS
from stablerep.learning.optim import peak_lr
from stablerep.models.encoder import EncoderConfig

MISSING = object()
RECIPES = {name: config.read_recipe(name) for name in config.recipe_names()}
TABLES = [
    pytest.param(name, words, id=f"{name}: {' '.join(words)}")
    for name, recipe in RECIPES.items()
    for words in COMMANDS
    if config.recipe_table(recipe, words, name)
]
# Captions of the web with no split, for which only settings are published, and no pictures.
PUBLISHED = ["cc12m", "cc12m-2x", "cc12m-3x", "redcaps", "redcaps-2x", "redcaps-3x", "laion"]
TRAINING = [case for case in TABLES if case.values[1][0] == "train"]
IN_A_WORLD = [case for case in TRAINING if case.values[0] not in PUBLISHED]
COMPARED = ("stablerep", "stablerep-plus", "simclr", "clip")
OF_THE_PAPER = {("generate",), *(("train", method) for method in COMPARED)}
CHAIN = {
    "icons": {("generate",), ("evaluate",), *(("train", method) for method in COMPARED)},
    "teacher-icons": {("train", method) for method in ("autoencoder", "text-to-image", "distillation")},
    **dict.fromkeys(PUBLISHED, OF_THE_PAPER),
}


@pytest.mark.parametrize("name", CHAIN)
def test_a_recipe_covers_its_chain(name: str) -> None:
    assert CHAIN[name] <= {case.values[1] for case in TABLES if case.values[0] == name}


@pytest.mark.parametrize(("name", "words"), TABLES)
def test_every_table_fits_its_command(name: str, words: tuple[str, ...]) -> None:
    config_class, _ = COMMANDS[words].load()
    partial = config.build_partial(config_class, recipe_settings(words, name), missing=MISSING, origin=name)
    needed = _filled(partial)
    built = config.build(config_class, recipe_settings(words, name), needed, origin=name)
    flat = config.differing_fields(config.to_dict(built), recipe_settings(words, name))
    assert not [line for line in flat if "None asked" not in line], "what the recipe says is what results"


def _filled(partial: Any) -> dict[str, Any]:
    """Something for every required field that the recipe leaves open."""
    filled: dict[str, Any] = {}
    for field in dataclasses.fields(partial):
        value = getattr(partial, field.name)
        if value is MISSING:
            filled[field.name] = ["images.lance"] if field.name == "images" else "somewhere"
        elif dataclasses.is_dataclass(value) and (inner := _filled(value)):
            filled[field.name] = inner
    return filled


@pytest.mark.parametrize(("name", "words"), TABLES)
def test_an_unknown_key_fails(name: str, words: tuple[str, ...]) -> None:
    config_class, _ = COMMANDS[words].load()
    table = recipe_settings(words, name) | {"num_stepz": 3}
    with pytest.raises(UserError, match="unknown key 'num_stepz'"):
        config.build_partial(config_class, table, missing=MISSING, origin=name)


@pytest.mark.parametrize(("name", "words"), IN_A_WORLD)
def test_whatever_trains_sees_neither_the_held_out_style_nor_other_splits(
    name: str, words: tuple[str, ...]
) -> None:
    data = recipe_settings(words, name)["data"]
    if "icons" in name:  # the world that has styles
        assert HELD_OUT_STYLE in data["exclude_styles"]
    assert data["where"] == "split = 'train'"


@pytest.mark.parametrize("name", config.recipe_names())
def test_whatever_paints_paints_training_captions(name: str) -> None:
    where = recipe_settings(("generate",), name).get("where", "split = 'train'")
    assert "split = 'train'" in where
    assert " OR " not in where.upper()


@pytest.mark.parametrize("method", COMPARED)
def test_the_learners_that_are_compared_differ_in_nothing_but_the_method(method: str) -> None:
    def views(data: Mapping[str, Any]) -> int:
        return int(data["captions_per_batch"] * data["images_per_caption"] * data.get("crops_per_image", 1))

    ours, first = (recipe_settings(("train", name), "icons") for name in (method, "stablerep"))
    assert views(ours["data"]) == views(first["data"]) == 256
    assert ours["data"]["view"] == first["data"]["view"]
    for shared in ("num_steps", "optim"):
        assert ours[shared] == first[shared]
    for name, value in ours["method"].items():
        if name != "text":
            assert value == first["method"][name]
    text = recipe_settings(("train", "stablerep-plus"), "icons")["method"]["text"]
    assert ours["method"].get("text", text) == text


# -- what is published -------------------------------------------------------------------------------


def resolved(name: str, method: str) -> Any:
    """The configuration that a recipe gives, with what a user must add."""
    needed = {"out": "run", "data": {"images": ["images.lance"]}}
    return config.build(METHODS[method].config, recipe_settings(("train", method), name), needed, origin=name)


@pytest.mark.parametrize("method", ["stablerep", "stablerep-plus"])
@pytest.mark.parametrize(
    ("name", "epochs", "warmup"),
    [
        ("cc12m", 15, 0.5),
        ("cc12m-2x", 31, 1.0),
        ("cc12m-3x", 46, 1.5),
        ("redcaps", 13, 0.45),
        ("redcaps-2x", 27, 0.9),
        ("redcaps-3x", 40, 1.35),
    ],
)
def test_the_settings_of_stablerep_are_the_published_ones(
    name: str, method: str, epochs: int, warmup: float
) -> None:
    """The command in the README of the official code, and its defaults."""
    settings = resolved(name, method)
    data, view, optim, learner = settings.data, settings.data.view, settings.optim, settings.method
    assert settings.num_epochs == epochs
    assert optim.warmup_fraction * epochs == pytest.approx(warmup, abs=1e-4)
    assert (data.captions_per_batch, data.images_per_caption, data.crops_per_image) == (1376, 6, 1)
    rate = peak_lr(optim, captions=1376, images_per_caption=6, crops_per_image=1)
    assert rate == pytest.approx(3.225e-3, rel=1e-12)
    assert (optim.schedule, optim.beta1, optim.beta2, optim.weight_decay) == ("cosine", 0.9, 0.98, 0.1)
    assert optim.clip_norm is None
    assert learner.encoder == EncoderConfig(architecture="vit_base_patch16_224")
    assert learner.positives == "caption"
    assert (learner.head_layers, learner.head_hidden, learner.head_out) == (3, 4096, 256)
    assert learner.temperature == 0.1
    assert (view.image_size, view.augmentation, view.downsample_probability) == (224, "simclr", 0.0)


@pytest.mark.parametrize("method", ["stablerep-plus", "simclr", "clip"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_rivals_learn_under_the_conditions_of_stablerep(name: str, method: str) -> None:
    """Nothing of them is published with the code: as many views in a batch, as many steps, and equal settings."""
    theirs, ours = resolved(name, method), resolved(name, "stablerep")
    sizes = [
        (data.captions_per_batch, data.images_per_caption, data.crops_per_image)
        for data in (theirs.data, ours.data)
    ]
    assert {math.prod(size) for size in sizes} == {8256}
    # Steps of an epoch are captions over captions_per_batch.
    assert theirs.num_epochs / sizes[0][0] == pytest.approx(ours.num_epochs / sizes[1][0], rel=1e-12)
    rates = [
        peak_lr(optim, captions=size[0], images_per_caption=size[1], crops_per_image=size[2])
        for optim, size in zip((theirs.optim, ours.optim), sizes, strict=True)
    ]
    assert rates == pytest.approx([3.225e-3] * 2, rel=1e-12)
    assert (theirs.optim, theirs.data.view) == (ours.optim, ours.data.view)
    shared = config.to_dict(ours.method) if method != "clip" else {"encoder": ours.method.encoder}
    for setting in shared.keys() - {"positives"}:
        assert getattr(theirs.method, setting) == getattr(ours.method, setting)
    plus = resolved(name, "stablerep-plus").method
    for setting in ("text", "initial_temperature", "min_temperature") if method == "clip" else ():
        assert getattr(theirs.method, setting) == getattr(plus, setting)


def test_the_augmentations_are_the_published_ones() -> None:
    """The strong crop is the default of the augmentation, as the weak one is: see ``ViewConfig.crop_scale``."""
    view = resolved("cc12m", "stablerep").data.view
    assert view.crop_scale is None
    assert (view.brightness, view.contrast, view.saturation, view.hue) == (0.4, 0.4, 0.4, 0.1)
    assert (view.jitter_probability, view.grayscale_probability, view.flip_probability) == (0.8, 0.2, 0.5)
    assert (view.blur_probability, view.blur_sigma) == (0.5, (0.1, 2.0))
    assert (view.downsample_sizes, view.upsample_size) == ((64, 128), 256)
    (coarse,) = [line for line in recipe_examples() if "downsample" in line]
    assert "--data.view.downsample-probability 0.05 " in coarse
    assert [line for line in recipe_examples() if "--data.view.augmentation weak " in line]


def test_stablerep_plus_has_the_published_texts() -> None:
    learner = resolved("cc12m", "stablerep-plus").method
    text = learner.text
    assert (text.depth, text.width, text.num_heads, text.num_tokens) == (12, 512, 8, 77)
    assert (text.vocabulary, text.projection, text.joint_width) == (None, "linear", 512)
    assert (learner.image_weight, learner.text_weight) == (1.0, 1.0)
    assert (learner.initial_temperature, learner.min_temperature) == (0.07, 0.01)


@pytest.mark.parametrize(("name", "num_images"), [("cc12m", 10), ("redcaps-3x", 10), ("laion", 2)])
def test_pictures_are_painted_as_published(name: str, num_images: int) -> None:
    painting = config.build(GenerateConfig, recipe_settings(("generate",), name), origin=name)
    assert painting.num_images == num_images
    assert (painting.scheduler, painting.num_inference_steps, painting.guidance_scale) == ("ddim", 50, 2.0)
    assert painting.size == 256


def test_laion_uses_both_pictures_in_as_many_views() -> None:
    data = resolved("laion", "stablerep-plus").data
    assert data.images_per_caption == 2
    assert data.captions_per_batch * data.images_per_caption == 8256


def recipe_examples() -> list[str]:
    """The command lines in the comments at the head of each recipe."""
    folder = resources.files("stablerep") / "recipes"
    texts = [(folder / f"{name}.toml").read_text(encoding="utf-8") for name in config.recipe_names()]
    return [line for text in texts for line in re.findall(r"^# +stablerep (.+)$", text, re.MULTILINE)]


@pytest.mark.parametrize("line", recipe_examples())
def test_the_commands_in_the_comments_parse(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = shlex.split(line)
    (words,) = [words for words in COMMANDS if arguments[: len(words)] == list(words)]
    config_class, _ = COMMANDS[words].load()
    received: list[Any] = []

    def function(settings: Any, *, console: Any) -> Path:
        del console
        received.append(settings)
        return Path("result")

    command = dataclasses.replace(COMMANDS[words], load=lambda: (config_class, function))
    monkeypatch.setitem(COMMANDS, words, command)
    assert run(arguments) == 0
    assert [type(settings) for settings in received] == [config_class]


def test_there_are_examples() -> None:
    assert len(recipe_examples()) >= 7
