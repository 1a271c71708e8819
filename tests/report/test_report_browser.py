"""The page in a real browser: it fits a phone, a tablet and a desk, light and dark, on screen and on paper."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browser import chromium, needs_axe, serious_faults

WIDTHS = (360, 768, 1440)
OVERFLOW = """[...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll > *, svg")
  && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map(e => e.outerHTML.slice(0, 120))"""
PLOTS = """[...new Set([...document.querySelectorAll(".plot .wide, .plot .narrow")]
  .filter(e => e.getClientRects().length).map(e => e.className))]"""
BROKEN = "[...document.images].filter(image => !image.naturalWidth).length"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def opened(
    browser: Any, request: pytest.FixtureRequest, written: Path, compared_and_turned: Path
) -> Iterator[Any]:
    """A page of the width and the colours that the test asks for; nothing may be complained of, nothing asked for."""
    width, colours, which = request.param
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=colours)
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda said: wrong.append(said.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: asked.url.startswith(("file:", "data:")) or wrong.append(asked.url))
    page.goto((written if which == "project" else compared_and_turned).as_uri())
    yield page
    context.close()
    assert wrong == []


@pytest.mark.parametrize(
    "opened",
    [(width, "light", which) for width in WIDTHS for which in ("project", "comparison")],
    indirect=True,
    ids=str,
)
def test_the_page_fits_its_window(opened: Any) -> None:
    width = opened.viewport_size["width"]
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    assert opened.evaluate(OVERFLOW) == []
    assert opened.evaluate(PLOTS) == ["narrow" if width < 700 else "wide"]
    assert opened.evaluate(BROKEN) == 0
    assert opened.evaluate("document.images.length") > 20
    opened.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert opened.evaluate(OVERFLOW) == []


@pytest.mark.parametrize("opened", [(360, "light", "project")], indirect=True, ids=str)
def test_the_measurement_sees_an_overflow(opened: Any) -> None:
    opened.evaluate(
        "document.querySelector('main').insertAdjacentHTML('afterbegin', '<div style=\"width: 2000px\">wide</div>')"
    )
    assert opened.evaluate("document.documentElement.scrollWidth") > 2000
    assert len(opened.evaluate(OVERFLOW)) == 1


@needs_axe
@pytest.mark.parametrize(
    "opened",
    [(360, "light", "comparison"), (1440, "dark", "comparison"), (1440, "dark", "project")],
    indirect=True,
    ids=str,
)
def test_axe_finds_no_serious_fault(opened: Any) -> None:
    opened.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert serious_faults(opened) == []


@pytest.mark.parametrize("opened", [(1440, "dark", "project")], indirect=True, ids=str)
def test_paper_is_white_whole_and_without_navigation(opened: Any) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    assert opened.evaluate(ground) != "rgb(255, 255, 255)"
    opened.emulate_media(media="print")
    opened.set_viewport_size({"width": 688, "height": 1000})  # A4 without its margins
    assert opened.evaluate(ground) == "rgb(255, 255, 255)"
    assert opened.evaluate("document.querySelector('nav').getClientRects().length") == 0
    folded = "document.querySelector('details .settings').getBoundingClientRect().height"
    assert opened.evaluate(folded) > 50  # what is folded on a screen is printed
    assert opened.evaluate("document.documentElement.scrollWidth") <= 688
    assert opened.evaluate(PLOTS) == ["wide"]
    assert opened.pdf(format="A4").startswith(b"%PDF")
