"""Every block of every page, commands and Python, as a reader would run them one after the other, only smaller.

The command lines and the Python are those of the pages; what they would take long over (steps, sizes, the painter) is
made small behind them, once the configuration is built; what pages ask for again is made once (kept.py).
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import belongings
import pytest
from pages import PAGES, ROOT, Line, blocks
from reader import RUNNERS, reading

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
START = ROOT / "docs" / "index.md"
WALKED = [
    page
    for page in PAGES
    if page != START and any(block.lines or block.language in RUNNERS for block in blocks(page))
]
ALONE = "README.md"
"""It begins with nothing but the reader's own files, and makes all else itself."""
ATTRIBUTES = "copies-and-bias.md"
"""It needs drawings of people."""
FROM_OTHER_PAGES: Mapping[str, Mapping[str, str]] = {
    "report.md": {"compare": "README.md", "circle": "README.md"},
}
"""What a page shows that other pages have made: by page, what, and the page that made it."""


def walk(page: Path, folder: Path, material: Path) -> None:
    """Run the blocks of a page in a folder."""
    with reading(folder, material, figures=page == START) as reader:
        for block in blocks(page):
            reader.run(block)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawings of two labels, small data and a painter with random weights."""
    return belongings.prepare(tmp_path_factory.mktemp("material"))


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory, material: Path) -> Path:
    """What the start page leaves, and what a reader of the guides has at hand besides."""
    folder = tmp_path_factory.mktemp("walked")
    belongings.before_the_first_page(folder)
    walk(START, folder, material)
    with reading(folder, material) as reader:
        belongings.after_the_first_page(reader)
    return folder


def test_the_start_page_leads_to_scores_and_a_report(walked: Path) -> None:
    scores = json.loads((walked / "runs" / "stablerep" / "scores.json").read_text(encoding="utf-8"))
    assert {record["benchmark"] for record in scores["records"]} == {"icons"}
    page = (walked / "report" / "index.html").read_text(encoding="utf-8")
    assert "train stablerep" in page[page.index("What it cost") :]


@pytest.fixture(scope="module")
def left(
    walked: Path, material: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Callable[[str], Path]:
    """The folder in which a page was walked, once; others go on from what it holds."""
    folders: dict[str, Path] = {}

    def folder_of(name: str) -> Path:
        if name not in folders:
            page = next(page for page in WALKED if page.name == name)
            folder = tmp_path_factory.mktemp(page.stem) / "reader"
            shutil.copytree(walked, folder, symlinks=True)
            used = material
            for what, source in FROM_OTHER_PAGES.get(name, {}).items():
                shutil.copytree(folder_of(source) / what, folder / what)
            if name == ALONE:
                for made in ("icons", "images.lance", "captions.lance", "runs"):
                    shutil.rmtree(folder / made)
            if name == ATTRIBUTES:
                used = belongings.people(tmp_path_factory.mktemp("people"), material)
                shutil.rmtree(folder / "icons")
                with reading(folder, used) as reader:
                    for line in belongings.PEOPLE:
                        reader.type(Line(page, line))
            if any("s3://" in block.text for block in blocks(page)):
                request.getfixturevalue("bucket")
            walk(page, folder, used)
            folders[name] = folder
        return folders[name]

    return folder_of


@pytest.fixture(scope="module")
def bucket(server: tuple[str, Any]) -> None:
    """A bucket on a server of this machine."""
    import object_store

    object_store.make_bucket(server[0], "BUCKET")


@pytest.mark.parametrize("page", WALKED, ids=lambda page: page.name)
def test_the_blocks_of_a_page_run(page: Path, left: Callable[[str], Path]) -> None:
    left(page.name)
