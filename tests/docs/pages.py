"""What stands in the documentation: its pages, their fenced blocks and the command lines in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stablerep.commands import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_RUN = re.compile(r"<!-- run(?:: ([^\n]*?))? -->\n```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_WALK = re.compile(r"^<!-- walk -->\n```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`(stablerep [^`\n]+)`(?!`)")
_SHELL = {"", "bash", "sh", "console", "shell"}


@dataclass(frozen=True)
class Line:
    """One command line of a page."""

    page: Path
    text: str

    @property
    def name(self) -> str:
        """For the name of a test."""
        return f"{self.page.relative_to(ROOT)}: {self.text}"

    @property
    def arguments(self) -> list[str]:
        """What follows ``stablerep``."""
        words = shlex.split(self.text, comments=True)
        first = next(place for place, word in enumerate(words) if Path(word).name == "stablerep")
        return words[first + 1 :]


def command_lines(page: Path) -> list[Line]:
    """Every ``stablerep ...`` of a page: in fenced blocks, and in running text where it is a whole command."""
    text = page.read_text(encoding="utf-8")
    fenced = [
        line
        for language, block in _FENCE.findall(text)
        if language in _SHELL
        for line in logical_lines(block)
        if _is_command(line)
    ]
    prose = [line for line in _INLINE.findall(_FENCE.sub("", text)) if _is_whole(line)]
    return [Line(page, line) for line in [*fenced, *prose]]


def runnable_blocks(page: Path) -> list[tuple[list[str], list[str]]]:
    """Blocks behind ``<!-- run -->``: their lines, and the arguments after ``run:`` that make commands small."""
    text = page.read_text(encoding="utf-8")
    return [(logical_lines(block), shlex.split(extra)) for extra, block in _RUN.findall(text)]


def walked_blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of the blocks behind ``<!-- walk -->``, which run in a folder where all is at hand."""
    return _WALK.findall(page.read_text(encoding="utf-8"))


def logical_lines(block: str) -> list[str]:
    """Lines without prompts, with continued ones joined."""
    joined = re.sub(r"\\\n\s*", "", block)
    return [line.strip().removeprefix("$ ") for line in joined.splitlines() if line.strip()]


def is_stablerep(line: str) -> bool:
    """Whether a line of a block is one of the project's commands."""
    return line.startswith("stablerep ")


def _is_command(line: str) -> bool:
    return is_stablerep(line) or (line.startswith("torchrun ") and "stablerep" in line)


def _is_whole(line: str) -> bool:
    """Not the bare name of a command, and nothing left open."""
    words = tuple(line.split()[1:])
    if "..." in line or "|" in line or {"NAME", "COMMAND", "METHOD"} & set(words):
        return False
    return words not in COMMANDS


def links(page: Path) -> Iterator[str]:
    """Targets of the links and images of a page, without anchors; code is no link."""
    text = re.sub(r"`[^`\n]*`", "`code`", _FENCE.sub("", page.read_text(encoding="utf-8")))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"\w+:|#", target):
            yield target.split("#")[0]
