"""Pages hang together: no dead link, no missing picture, every page in the navigation, and the site builds."""

import importlib.util
import os
import re
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from pages import PAGES, ROOT, links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_link_is_dead(page: Path) -> None:
    announced = {f"{ROOT}/docs/{target}" for target in in_navigation()}
    dead = [
        target
        for target in links(page)
        if not (page.parent / unquote(target)).exists()
        and os.path.normpath(page.parent / target) not in announced
    ]
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_takes_in_are_there(page: Path) -> None:
    """A formatter that takes the line for Python breaks it; then the page shows the line, and not the file."""
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("--8"):
            taken = re.fullmatch(r'--8<-- "([^"]+)"', line)
            assert taken is not None and (ROOT / taken[1]).is_file(), line


def test_a_dead_link_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md#x) ![b](b.png) [c](https://x.y) [d](#here) `[e](f.md)`\n\n```\n[g](h.md)\n```\n"
    )
    assert list(links(page)) == ["there.md", "b.png"]


def in_navigation() -> set[str]:
    """The pages that the navigation names."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    nav = yaml.safe_load(text[text.index("\nnav:") :])["nav"]
    found: set[str] = set()
    ahead = list(nav)
    while ahead:
        for target in ahead.pop().values():
            if isinstance(target, str):
                found.add(target)
            else:
                ahead.extend(target)
    return found


def test_every_page_is_in_the_navigation() -> None:
    pages = {str(page.relative_to(ROOT / "docs")) for page in PAGES if page != ROOT / "README.md"}
    assert pages - in_navigation() == set()


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not all(map(importlib.util.find_spec, ("mkdocs", "material", "mkdocstrings", "latex2mathml"))):
        pytest.skip("the extra `docs` is not installed")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    for formatter in ("black", "ruff"):  # which would be started anew for every long signature
        monkeypatch.setitem(sys.modules, formatter, None)
    config = load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(tmp_path / "site"))
    config.plugins.on_startup(command="build", dirty=False)
    try:
        build(config)  # which a warning aborts
    finally:
        config.plugins.on_shutdown()
    for page in (tmp_path / "site").rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        for opening in (
            '<script src="http',
            '<img src="http',
            'rel="stylesheet" href="http',
            "$`",
            "```math",
        ):
            assert opening not in html, f"{page.name}: {opening}"
    extend = (tmp_path / "site" / "extend.html").read_text(encoding="utf-8")
    assert "AlignUniform" in extend and "--8" not in extend
    assert "<math" in (tmp_path / "site" / "mathematics.html").read_text(encoding="utf-8")
