"""The shipped recipes: every table fits its command, and nothing that trains sees what is held out."""

import dataclasses
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

MISSING = object()
TABLES = [
    pytest.param(name, words, id=f"{name}: {' '.join(words)}")
    for name in config.recipe_names()
    for words in COMMANDS
    if recipe_settings(words, name)
]
TRAINING = [case for case in TABLES if case.values[1][0] == "train"]
CHAIN = {
    "icons": {("generate",), ("train", "stablerep"), ("train", "simclr"), ("evaluate",)},
    "teacher-icons": {("train", "autoencoder"), ("train", "text-to-image")},
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


@pytest.mark.parametrize(("name", "words"), TRAINING)
def test_whatever_trains_sees_neither_the_held_out_style_nor_other_splits(
    name: str, words: tuple[str, ...]
) -> None:
    data = recipe_settings(words, name)["data"]
    assert HELD_OUT_STYLE in data["exclude_styles"]
    assert data["where"] == "split = 'train'"


@pytest.mark.parametrize("name", config.recipe_names())
def test_whatever_paints_paints_training_captions(name: str) -> None:
    where = recipe_settings(("generate",), name).get("where", "split = 'train'")
    assert "split = 'train'" in where
    assert " OR " not in where.upper()


def test_the_learners_that_are_compared_see_as_many_views() -> None:
    def views(data: Mapping[str, Any]) -> int:
        return int(data["captions_per_batch"] * data["images_per_caption"] * data.get("crops_per_image", 1))

    ours, theirs = (recipe_settings(("train", method), "icons") for method in ("stablerep", "simclr"))
    assert views(ours["data"]) == views(theirs["data"])
    for shared in ("num_steps", "optim", "method"):
        assert ours[shared] == theirs[shared]


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
