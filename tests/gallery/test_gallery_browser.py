"""The page in a real browser: searched, filtered, marked, painted on; by mouse, by keys alone, narrow and dark."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_gallery import COLOURS, TEXTS, open_small, picture

from browser import chromium, needs_axe, serious_faults
from generation.tiny_pipelines import BUILDERS
from stablerep.gallery.guard import Application
from stablerep.gallery.serve import guarded
from stablerep.gallery.session import Gallery
from stablerep.store import ImageTable

pytestmark = pytest.mark.slow
TABS = ("Browse", "Compare", "Copies", "Map", "Paint")
TILE = "#sg-results-part .sg-tile"


class Site:
    """A gallery that is served on a free port of this machine."""

    def __init__(self, gallery: Gallery, application: Application) -> None:
        import uvicorn

        self.gallery = gallery
        config = uvicorn.Config(application, port=0, log_level="warning", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 60
        while not self._server.started:
            assert time.monotonic() < deadline, "the server never started"
            time.sleep(0.05)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.address = f"http://127.0.0.1:{port}/"

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=20)
        self.gallery.close()

    def marks(self) -> dict[int, str]:
        """What a fresh reader of the table sees."""
        table = ImageTable.open(self.gallery.main.table.path)
        if "gallery_mark" not in table.dataset.schema.names:
            return {}
        return {
            row: mark
            for row, mark in enumerate(table.read(["gallery_mark"])["gallery_mark"].to_pylist())
            if mark
        }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    BUILDERS["pixart"](folder / "teacher")
    gallery = open_small(folder, teacher=str(folder / "teacher"))
    gallery.vectors.compute()
    served = Site(gallery, guarded(gallery, host="127.0.0.1", password=None))
    yield served
    served.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    pytest.importorskip("gradio", reason="gradio is not installed; pip install '.[gallery]'")
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def context(browser: Any) -> Iterator[Any]:
    """One for all pages, so that its cache has the scripts of the page from the second time on."""
    opened = browser.new_context(viewport={"width": 1280, "height": 900})
    yield opened
    opened.close()


@pytest.fixture
def page(context: Any, site: Site) -> Iterator[Any]:
    """The first tab with its pictures; whatever a test does, nothing may be complained of or asked of others."""
    opened = context.new_page()
    opened.set_default_timeout(20_000)
    wrong: list[str] = []
    opened.on("console", lambda said: said.type in ("error", "warning") and wrong.append(said.text))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on(
        "response", lambda answer: answer.status >= 400 and wrong.append(f"{answer.status} {answer.url}")
    )
    opened.on("request", lambda asked: _is_outside(asked.url, site) and wrong.append(f"asked {asked.url}"))
    come(opened, site)
    yield opened
    opened.evaluate("localStorage.clear()")
    opened.close()
    assert wrong == []


def _is_outside(url: str, site: Site) -> bool:
    return not url.startswith((site.address, "data:", "blob:"))


def come(page: Any, site: Site) -> None:
    page.goto(site.address)
    page.wait_for_selector(TILE)
    page.wait_for_selector(".sg-controls select")


def captions(page: Any) -> list[str]:
    return [text.strip() for text in page.locator("#sg-results-part h3").all_inner_texts()]


def until(page: Any, script: str, argument: Any = None) -> None:
    page.wait_for_function(script, arg=argument)


def shows(page: Any, sentence: str) -> None:
    page.locator("#sg-results-part .sg-summary", has_text=sentence).wait_for()


def search(page: Any, text: str) -> None:
    page.locator("#sg-search").locator("input, textarea").fill(text)
    page.keyboard.press("Enter")


def go(page: Any, tab: str) -> None:
    page.get_by_role("tab", name=tab).click()


def test_a_reader_searches_filters_marks_and_comes_back(page: Any, site: Site) -> None:
    shows(page, "All 20 pictures of 4 captions")
    assert len(captions(page)) == 4
    search(page, "blue")
    shows(page, "5 pictures of 1 caption: captions with 'blue'")
    assert captions(page) == ["a blue square"]
    search(page, "")
    shows(page, "All 20")

    page.locator("[data-column=sharp] summary").click()
    page.locator("[data-column=sharp] label", has_text="yes").locator("input").check()
    shows(page, "10 pictures of 4 captions pass the filters")
    page.locator("[data-column=match] summary").click()
    page.get_by_label("match from", exact=True).fill("0.5")
    page.keyboard.press("Tab")
    shows(page, "5 pictures of 2 captions pass the filters")
    page.get_by_role("button", name="Clear 2 filters").click()
    shows(page, "All 20")

    page.get_by_label("Sort by", exact=True).select_option("match")
    page.get_by_label("Order", exact=True).select_option("down")  # before the first answer can be there
    until(page, "() => document.querySelector('.sg-note')?.textContent === '0.95'")

    tile = page.locator(f"{TILE}[data-place='0/12']")
    tile.click()
    page.locator(".sg-box").get_by_role("button", name="reject").click()
    page.locator(".sg-marked [data-mark=reject] b", has_text="1").wait_for()
    assert site.marks() == {12: "reject"}
    page.keyboard.press("Escape")
    card = page.locator(".sg-card", has=page.locator("h3", has_text="a blue square"))
    card.get_by_role("button", name="keep all").click()
    page.locator(".sg-marked [data-mark=keep] b", has_text="5").wait_for()
    blue = {row for row, mark in site.marks().items() if mark == "keep"}
    assert {site.gallery.main.text(site.gallery.main.caption[row]) for row in blue} == {"a blue square"}

    come(page, site)
    before = site.marks()
    for row, mark in before.items():
        assert page.locator(f"{TILE}[data-place='0/{row}']").get_attribute("data-mark") == mark
    assert page.locator(".sg-marked [data-mark=keep] b").inner_text() == "5"
    page.locator("[data-column=gallery_mark] summary").click()
    page.locator("[data-column=gallery_mark] label", has_text="keep").locator("input").check()
    shows(page, "5 pictures of 1 caption pass the filters")


def test_keys_alone_are_enough(page: Any, site: Site) -> None:
    page.keyboard.press("/")
    page.keyboard.type("dark red")
    page.keyboard.press("Enter")
    shows(page, "5 pictures of 1 caption")
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('sg-tile')"):
            break
    first = page.evaluate("document.activeElement.dataset.place")
    page.keyboard.press("ArrowRight")
    second = page.evaluate("document.activeElement.dataset.place")
    assert first != second
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.dataset.place") == first
    page.keyboard.press("p")
    until(
        page, "place => document.querySelector(`[data-place='${place}']`).dataset.mark === 'repaint'", first
    )
    page.locator(".sg-notice", has_text="1 picture: repaint").wait_for()
    assert site.marks()[int(first.split("/")[1])] == "repaint"
    page.keyboard.press("Enter")
    page.locator(".sg-box[open]").wait_for()
    assert page.locator(".sg-box [data-choose=repaint]").get_attribute("aria-pressed") == "true"
    page.keyboard.press("p")
    page.locator(".sg-notice", has_text="mark taken away").wait_for()
    page.keyboard.press("ArrowRight")
    until(page, "place => document.querySelector('.sg-box').dataset.place === place", second)
    page.keyboard.press("Escape")  # the browser gives the focus back first, the page then moves it
    until(page, "place => document.activeElement.dataset.place === place", second)
    assert int(first.split("/")[1]) not in site.marks()
    page.keyboard.press("s")
    shows(page, "pictures nearest to image")
    page.keyboard.press("?")
    page.locator(".sg-keys[open]").wait_for()
    page.keyboard.press("Escape")
    page.locator("#sg-tabs").get_by_role("tab", name="Browse").focus()
    page.keyboard.press("ArrowRight")
    page.locator("[role=tab][aria-selected=true]", has_text="Compare").wait_for()


def test_a_caption_that_attacks_is_text(page: Any) -> None:
    title = page.title()
    assert TEXTS[3] in captions(page)
    page.locator(".sg-card", has=page.locator("h3", has_text="onerror")).locator(".sg-tile").first.click()
    page.locator(".sg-box h2", has_text="onerror").wait_for()
    page.keyboard.press("Escape")
    for tab in TABS[1:3]:
        go(page, tab)
        page.locator(".sg-found:visible").wait_for()
    assert page.locator("img[src=x]").count() == 0
    assert page.title() == title


def test_a_picture_is_searched_by(page: Any) -> None:
    page.locator(".sg-picker input").set_input_files(
        {"name": "blue.png", "mimeType": "image/png", "buffer": picture(COLOURS["a blue square"], 2)}
    )
    shows(page, "pictures nearest to yours by raw pixels")
    assert captions(page)[0] == "a blue square"
    assert page.get_by_label("Sort by", exact=True).locator("option").first.inner_text() == "best match"
    assert not page.get_by_label("Order", exact=True).is_visible()
    page.get_by_role("button", name="Nearest to your picture").click()
    shows(page, "All 20")


def test_a_chosen_box_looks_chosen(page: Any) -> None:
    page.locator("[data-column=sharp] summary").click()
    box = page.locator("[data-column=sharp] label", has_text="yes").locator("input")
    free = box.screenshot()
    box.check()
    shows(page, "10 pictures")
    page.evaluate("document.activeElement.blur()")
    page.mouse.move(0, 0)
    assert box.screenshot() != free


def test_a_search_before_the_first_vectors_answers_by_itself(browser: Any, tmp_path: Path) -> None:
    gallery = open_small(tmp_path)
    site = Site(gallery, guarded(gallery, host="127.0.0.1", password=None))
    page = browser.new_page()
    come(page, site)
    page.locator(TILE).first.focus()
    page.keyboard.press("s")
    page.locator(".sg-empty", has_text="None of them was looked at yet").wait_for()
    gallery.vectors.compute()
    shows(page, "19 pictures of 4 captions: pictures nearest to image")
    page.close()
    site.close()


def test_pairs_copies_map_and_paint(page: Any) -> None:
    go(page, "Compare")
    page.locator(".sg-summary:visible", has_text="4 captions have pictures of both").wait_for()
    assert page.locator(".sg-compared:visible .sg-card").count() == 4
    go(page, "Copies")
    page.locator(".sg-summary:visible", has_text="2 pictures repeat another").wait_for()
    assert page.locator(".sg-away:visible").inner_text() == "not in an open table"
    go(page, "Map")
    page.get_by_label("PCA").check()
    page.get_by_role("button", name="Draw the map").click()
    page.locator(".sg-map canvas:visible").focus()
    page.keyboard.press("ArrowRight")
    page.locator(".sg-map-card:visible img").wait_for()
    page.keyboard.press("Enter")
    page.locator(".sg-box[open]").wait_for()
    page.keyboard.press("Escape")
    go(page, "Paint")
    page.locator("#sg-prompt").locator("input, textarea").fill("a red boat")
    page.get_by_label("Pictures", exact=True).fill("2")
    page.get_by_role("button", name="Paint", exact=True).click()
    page.locator(".sg-painted img").nth(1).wait_for()
    sizes = page.evaluate(
        "[...document.querySelectorAll('.sg-painted img')].map(image => image.naturalWidth)"
    )
    assert len(sizes) == 2 and min(sizes) > 0


def test_dark_is_remembered(page: Any, site: Site) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.get_by_role("button", name="Dark", exact=True).click()
    dark = page.evaluate(ground)
    assert light != dark
    come(page, site)
    assert page.evaluate(ground) == dark
    assert page.get_by_role("button", name="Dark", exact=True).get_attribute("aria-pressed") == "true"


def test_nothing_overflows_a_narrow_window(page: Any) -> None:
    seen = []
    for width in (800, 360):
        page.set_viewport_size({"width": width, "height": 800})
        for tab in TABS:
            if not page.get_by_role("tab", name=tab).is_visible():
                continue  # gradio moves it into a menu
            go(page, tab)
            page.wait_for_timeout(300)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (width, tab)
            seen.append((width, tab))
    assert {(800, "Browse"), (360, "Browse"), (800, "Compare"), (360, "Compare")} <= {*seen}


@needs_axe
@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
def test_axe_finds_no_serious_fault(page: Any, is_dark: bool) -> None:
    if is_dark:
        page.get_by_role("button", name="Dark", exact=True).click()
    page.locator(".sg-facet summary").first.click()
    for tab in TABS:
        go(page, tab)
        page.wait_for_timeout(700)
        assert serious_faults(page) == [], tab
