"""Every option of every command says in its help what it is for."""

import ast
import dataclasses
import inspect
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

import pytest

from stablerep.commands import COMMANDS


def classes_in(kind: Any) -> Iterator[type[Any]]:
    """The configuration classes that a type names, itself or within, with those of their fields."""
    for inner in typing.get_args(kind):
        yield from classes_in(inner)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        yield kind
        for hint in typing.get_type_hints(kind).values():
            yield from classes_in(hint)


def without_help(kind: type[Any]) -> Iterator[str]:
    """The fields that a class states itself and that no text follows."""
    [stated] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(stated, ast.ClassDef)
    for line, following in zip(stated.body, [*stated.body[1:], None], strict=True):
        has_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        if isinstance(line, ast.AnnAssign) and not has_text:
            yield f"{kind.__name__}.{ast.unparse(line.target)}"


@pytest.mark.slow
def test_every_option_has_a_help() -> None:
    found = {kind for command in COMMANDS.values() for kind in classes_in(command.load()[0])}
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
