"""The page in a real browser: at no width does it overflow, and the figure that fits is the one that shows."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1400,1000",
    "--virtual-time-budget=4000",
)  # fmt: skip
MEASURE = """<script>addEventListener("load", () => {
  const shown = [...document.querySelectorAll(".plot .wide, .plot .narrow")].filter(e => e.getClientRects().length);
  const broken = [...document.images].filter(i => !i.naturalWidth).length;
  parent.postMessage({width: innerWidth, content: document.documentElement.scrollWidth, broken,
    images: document.images.length, plots: [...new Set(shown.map(e => e.className))]}, "*");
})</script></body>"""
FRAME = """<!doctype html><body><script>
addEventListener("message", event => { document.title = JSON.stringify(event.data) })
</script><iframe src="PAGE" style="width: WIDTHpx; height: 900px; border: 0"></iframe></body>"""

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium or Chrome is installed to render the report"
)


def measured(page: Path, width: int, folder: Path) -> dict[str, object]:
    """What the page says of itself in a frame of this width; windows themselves cannot be narrower than 500 px."""
    instrumented = folder / "instrumented.html"
    instrumented.write_text(page.read_text(encoding="utf-8").replace("</body>", MEASURE), encoding="utf-8")
    frame = folder / "frame.html"
    frame.write_text(FRAME.replace("PAGE", instrumented.name).replace("WIDTH", str(width)), encoding="utf-8")
    assert BROWSER is not None
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--dump-dom", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None, done.stderr
    result: dict[str, object] = json.loads(html.unescape(title[1]))
    return result


@pytest.mark.parametrize(("width", "plot"), [(390, "narrow"), (820, "wide"), (1280, "wide")])
def test_the_page_fits_its_window(written: Path, tmp_path: Path, width: int, plot: str) -> None:
    page = measured(written, width, tmp_path)
    assert page["width"] == width
    assert page["content"] == width
    assert page["plots"] == [plot]
    assert page["broken"] == 0
    assert isinstance(page["images"], int) and page["images"] > 20


def test_the_measurement_sees_an_overflow(written: Path, tmp_path: Path) -> None:
    wide = tmp_path / "wide.html"
    text = written.read_text(encoding="utf-8")
    wide.write_text(
        text.replace("<main>", '<main><div style="width: 2000px">too wide</div>'), encoding="utf-8"
    )
    page = measured(wide, 390, tmp_path)
    assert isinstance(page["content"], int) and page["content"] > 2000
