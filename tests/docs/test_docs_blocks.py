"""Every block of the documentation is run by test_docs_walk.py, or stands with its reason in not_run.py."""

import subprocess
from pathlib import Path

import pytest
from not_run import NOT_RUN
from pages import PAGES, ROOT, SHELL, blocks, indented_code
from reader import RUNNERS
from scripts import SIZES
from test_docs_walk import START, WALKED

NO_CODE = {"text", "math"}
"""Languages of blocks that show something, and say nothing to do."""


def lines_of(page: Path) -> list[str]:
    """Every command line in the blocks of a page."""
    return [line for block in blocks(page) for line in block.lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_is_of_a_kind_that_is_run(page: Path) -> None:
    known = {*SHELL, "console", *RUNNERS, *NO_CODE}
    assert [block.name for block in blocks(page) if block.language not in known] == []
    assert [block.name for block in blocks(page) if block.language == "console" and not block.lines] == []
    assert indented_code(page) == [], "code stands between fences, or no test runs it"
    anything = any(block.language not in NO_CODE for block in blocks(page))
    assert anything == (page in {START, *WALKED})


def test_every_exception_stands_on_its_page_once() -> None:
    stale = [place for place in NOT_RUN if lines_of(ROOT / place[0]).count(place[1]) != 1]
    assert stale == []
    assert all(NOT_RUN.values())


@pytest.mark.parametrize("line", [line for _, line in NOT_RUN if line.startswith("make ")])
def test_what_make_is_asked_for_is_there(line: str) -> None:
    asked = ["bash", "-c", line.replace("make ", "make --dry-run ", 1)]
    assert subprocess.run(asked, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_every_script_of_the_pages_has_sizes_and_no_other() -> None:
    called = {
        line.split()[1]
        for page in PAGES
        for line in lines_of(page)
        if line.startswith("python ") and (str(page.relative_to(ROOT)), line) not in NOT_RUN
    }
    assert called == set(SIZES)


@pytest.mark.parametrize(
    ("text", "languages", "lines"),
    [
        ("```\n$ a \\\n  b\nc\n```\n", [""], ["a b", "c"]),
        ("```console\n$ a\nout\n```\n", ["console"], ["a"]),
        ("x\n``` { .python }\n--8<--\n```\n```toml\na = 1\n```\n", ["include", "toml"], []),
    ],
)
def test_blocks_are_read_as_they_stand(
    text: str, languages: list[str], lines: list[str], tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    assert [block.language for block in blocks(page)] == languages
    assert lines_of(page) == lines


def test_code_behind_spaces_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Do\n\n    stablerep report .\n\n```\n    stablerep report x\n```\n")
    assert indented_code(page) == ["    stablerep report ."]
