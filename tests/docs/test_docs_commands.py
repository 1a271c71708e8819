"""Every command line of the documentation parses as the command line would parse it."""

from pathlib import Path

import pytest
from pages import PAGES, ROOT, Line, command_lines, logical_lines

from stablerep import cli
from stablerep.commands import COMMANDS
from stablerep.errors import UserError

LINES = {tuple(line.arguments): line for page in PAGES for line in command_lines(page)}.values()
"""Each once, though several pages say it."""


def parse(line: Line) -> None:
    """Build the configuration of a command line, recipes included; nothing is executed."""
    words = cli._command_words(line.arguments)
    if words is None:
        raise UserError(f"no command: {' '.join(line.arguments[:2])}")
    shared, rest = cli._shared_options(line.arguments[len(words) :])
    config, _ = COMMANDS[words].load()
    cli._parse(words, config, shared.recipe, rest)


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.name)
def test_every_command_line_parses(line: Line) -> None:
    if "--help" in line.arguments or line.arguments[:1] == ["--version"]:
        return
    parse(line)


def test_command_lines_are_found_in_every_form(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Use `stablerep report .` or `stablerep train clip`, see `stablerep COMMAND --help`.\n\n"
        "```\n$ stablerep generate a.lance \\\n    --limit 3   # a few\n"
        "torchrun --nproc-per-node 2 bin/stablerep report x\n```\n"
        "```python\nstablerep report y\n```\n"
        "```text\n#!/bin/bash\nsrun torchrun --nnodes $N \\\n    --at $(a | b):1 -m stablerep report z\n```\n"
    )
    found = [line.arguments for line in command_lines(page)]
    assert found[:3] == [["generate", "a.lance", "--limit", "3"], ["report", "x"], ["report", "z"]]
    assert ["report", "y"] not in found


@pytest.mark.parametrize("text", ["stablerep paint a.lance", "stablerep report . --no-such-option 3"])
def test_a_wrong_command_line_is_noticed(text: str) -> None:
    with pytest.raises(UserError):
        parse(Line(ROOT / "README.md", text))


def test_continued_lines_are_one() -> None:
    assert logical_lines("a \\\n   b\n\n$ c\n") == ["a b", "c"]
