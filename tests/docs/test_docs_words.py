"""What the page of concepts says of prefixes is so."""

import re
import typing
from typing import Any

import pytest
from pages import ROOT

from stablerep.commands import COMMANDS

_ROWS = re.findall(
    r"^\| (`--[^|]*\.`[^|]*) \| ([^|]*) \|", (ROOT / "docs" / "concepts.md").read_text("utf-8"), re.M
)
PREFIXES = [
    (prefix, words)
    for prefixes, commands in _ROWS
    for prefix in re.findall(r"`--([\w.-]+)\.`", prefixes)
    for words in COMMANDS
    if {" ".join(words), *(words[:1] if words[:1] not in COMMANDS else ())}
    & set(re.findall(r"`([^`]+)`", commands))
]


def part_of(kind: Any, prefix: str) -> Any:
    """The class of the part that a prefix names."""
    for name in prefix.replace("-", "_").split("."):
        kind = typing.get_type_hints(kind)[name]
    return kind


@pytest.mark.parametrize(("prefix", "words"), PREFIXES)
def test_every_prefix_is_one_of_its_commands(prefix: str, words: tuple[str, ...]) -> None:
    assert typing.get_type_hints(part_of(COMMANDS[words].load()[0], prefix))


def test_the_prefixes_of_the_table_are_found() -> None:
    assert {("rules", ("audit", "quality")), ("data.view", ("train", "clip"))} <= set(PREFIXES)
    with pytest.raises(KeyError):
        part_of(COMMANDS["audit", "all"].load()[0], "rules")
