"""Draw the pictures of pages in docs/images anew: ``python -m tools.draw_pages --gallery ADDRESS --report FILE``.

The gallery is one that is being served (``stablerep gallery``), over a table that ``stablerep audit quality`` has seen;
the report is the page of a quickstart. What is not given is left as it is. Needs playwright and Chromium.
"""

import argparse
import io
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

_OUT = Path(__file__).parents[1] / "docs" / "images"
_WAIT = 1500  # milliseconds until pictures in sight are drawn
_PATIENCE = 300_000


def main() -> None:
    """Draw what was asked for."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gallery", help="address of a gallery that is being served")
    parser.add_argument("--column", default="quality_spread", help="column of its table with a histogram")
    parser.add_argument("--report", type=Path, help="index.html of a report")
    asked = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        if asked.gallery:
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.set_default_timeout(_PATIENCE)
            page.goto(asked.gallery)
            _browse(page, asked.column)
            _map(page)
        if asked.report:
            page = browser.new_page(viewport={"width": 1120, "height": 620})
            page.goto(asked.report.resolve().as_uri())
            _save(page, "report")
        browser.close()


def _browse(page: Any, column: str) -> None:
    """Captions with their pictures, some of them marked, and the histogram of a column."""
    page.locator(".sg-tile img").first.wait_for()
    for number, key in ((4, "k"), (8, "r"), (12, "k"), (13, "p")):
        tile = page.locator("#sg-results-part .sg-tile").nth(number)
        if tile.get_attribute("data-mark") is None:  # the same key again would take the mark away
            tile.focus()
            page.keyboard.press(key)
            page.wait_for_timeout(_WAIT)
    page.locator(f"[data-column={column}] summary").click()
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.wait_for_timeout(4 * _WAIT)  # until the notice of the last mark is gone
    _save(page, "gallery")


def _map(page: Any) -> None:
    """The map of all, with one picture looked at."""
    page.get_by_role("tab", name="Map").click()
    page.get_by_label("t-SNE").check()
    page.get_by_role("button", name="Draw the map").click()
    canvas = page.locator(".sg-map canvas:visible")
    canvas.wait_for()
    canvas.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(2 * _WAIT)
    _save(page, "gallery-map")


def _save(page: Any, name: str) -> None:
    drawn = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    drawn.quantize(256).save(_OUT / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
