"""What stands in the documentation: its pages, their fenced blocks and the command lines in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stablerep.commands import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

SHELL = ("", "bash")
"""Languages of blocks whose every line is a command; in ``console`` only what follows a ``$`` is one."""

_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^(?: {4}|\t)(?:stablerep|python|torchrun|make|import|from|\$) .*$", re.MULTILINE)
_INLINE = re.compile(r"(?<!`)`(stablerep [^`\n]+)`(?!`)")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: Path
    number: int
    language: str
    """The first word behind the fence; that of ``{ .python }`` is ``include``: the page shows a file."""
    text: str

    @property
    def name(self) -> str:
        """For the name of a test, and for messages."""
        return f"{self.page.relative_to(ROOT)}, block {self.number}"

    @property
    def lines(self) -> list[str]:
        """The command lines of a block of commands; of any other there are none."""
        if self.language in SHELL:
            return logical_lines(self.text)
        if self.language == "console":
            typed = [line for line in self.text.splitlines() if line.startswith("$ ")]
            return logical_lines("\n".join(typed))
        return []


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
    def words(self) -> list[str]:
        """As the shell would split it."""
        return shlex.split(self.text, comments=True)

    @property
    def arguments(self) -> list[str]:
        """What follows ``stablerep``."""
        words = self.words
        first = next(place for place, word in enumerate(words) if Path(word).name == "stablerep")
        return words[first + 1 :]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page in their order."""
    found = _FENCE.findall(page.read_text(encoding="utf-8"))
    return [Block(page, number, _language(info), text) for number, (info, text) in enumerate(found)]


def _language(info: str) -> str:
    return "include" if info.strip().startswith("{") else info.strip().partition(" ")[0]


def indented_code(page: Path) -> list[str]:
    """Code that is set off by spaces instead of a fence, which no test would run."""
    return _INDENTED.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))


def command_lines(page: Path) -> list[Line]:
    """Every ``stablerep ...`` of a page: in fenced blocks, and in running text where it is a whole command.

    Of scripts for Slurm, which are shown as text, those that ``srun`` starts.
    """
    fenced = [line for block in blocks(page) for line in block.lines if _is_command(line)]
    shown = [block.text for block in blocks(page) if block.language == "text"]
    fenced += [line for text in shown for line in logical_lines(text) if line.startswith("srun ")]
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    prose = [line for line in _INLINE.findall(text) if _is_whole(line)]
    return [Line(page, line) for line in [*fenced, *prose]]


def logical_lines(block: str) -> list[str]:
    """Lines without prompts, with continued ones joined."""
    joined = re.sub(r"\\\n\s*", "", block)
    return [line.strip().removeprefix("$ ") for line in joined.splitlines() if line.strip()]


def is_stablerep(line: str) -> bool:
    """Whether a line of a block is one of the project's commands, perhaps behind variables that are set for it."""
    return re.match(r"(?:[A-Z_]+=\S+ )*stablerep ", line) is not None


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
