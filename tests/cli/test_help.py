"""Every option of every command says in its help what it is for."""

import ast
import dataclasses
import functools
import inspect
import sys
import typing
from collections.abc import Iterator
from typing import Any

import pytest

from stablerep.commands import COMMANDS


def add_classes(kind: Any, found: set[type[Any]]) -> None:
    """Add the configuration classes that a type names, itself or within, with those of their fields."""
    for inner in typing.get_args(kind):
        add_classes(inner, found)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type) and kind not in found:
        found.add(kind)
        for hint in typing.get_type_hints(kind).values():
            add_classes(hint, found)


@functools.cache
def stated_in(module: str) -> dict[str, ast.ClassDef]:
    """The classes that a module states, by name."""
    nodes = ast.walk(ast.parse(inspect.getsource(sys.modules[module])))
    return {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}


def without_help(kind: type[Any]) -> Iterator[str]:
    """The fields that a class states itself and that no text follows."""
    stated = stated_in(kind.__module__)[kind.__name__]
    for line, following in zip(stated.body, [*stated.body[1:], None], strict=True):
        has_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        if isinstance(line, ast.AnnAssign) and not has_text:
            yield f"{kind.__name__}.{ast.unparse(line.target)}"


@pytest.mark.slow
def test_every_option_has_a_help() -> None:
    found = set[type[Any]]()
    for command in COMMANDS.values():
        add_classes(command.load()[0], found)
    found |= {base for kind in found for base in kind.__mro__ if dataclasses.is_dataclass(base)}
    assert "OptimConfig" in {kind.__name__ for kind in found}
    assert sorted(name for kind in found for name in without_help(kind)) == []


def test_a_missing_help_is_noticed() -> None:
    @dataclasses.dataclass
    class Asked:
        told: int
        """What it is."""
        untold: int

    assert list(without_help(Asked)) == ["Asked.untold"]
