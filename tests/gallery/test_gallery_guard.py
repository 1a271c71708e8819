"""Who may ask, for what: the guard alone, and in front of the real page."""

import asyncio
import base64
import builtins
import io
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_gallery import ATTACK, EDITED, PAINTER, TEXTS, picture

from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.gallery import GalleryConfig, render, serve_gallery
from stablerep.gallery.guard import Guard, is_loopback
from stablerep.gallery.painting import Painting
from stablerep.gallery.pairs import Lane
from stablerep.gallery.pictures import for_browser, open_picture
from stablerep.gallery.serve import PASSWORD, checked_password, guarded
from stablerep.gallery.session import Gallery, Wish

Answer = tuple[int, dict[str, str], bytes]


async def _inside(_scope: Any, _receive: Any, send: Any) -> None:
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"x-content-type-options", b"weak")]}
    )
    await send({"type": "http.response.body", "body": b"inside"})


def ask(guard: Any, path: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
    """One request through an ASGI application."""
    said: list[Any] = []
    named = {"host": "127.0.0.1:7860", **(headers or {})}
    raw_path, _, query = path.partition("?")
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": raw_path,
        "raw_path": raw_path.encode(), "query_string": query.encode(), "root_path": "", "scheme": "http",
        "server": ("127.0.0.1", 7860), "client": ("127.0.0.1", 5000),
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
    }  # fmt: skip

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        said.append(message)

    asyncio.run(guard(scope, receive, send))
    found = {name.decode().lower(): value.decode() for name, value in said[0]["headers"]}
    return said[0]["status"], found, b"".join(message.get("body", b"") for message in said[1:])


@pytest.fixture
def guard() -> Guard:
    return Guard(_inside, host="127.0.0.1", password=None)


@pytest.mark.parametrize(
    "path", ["/", "/config", "/gallery/picture/0/12", "/assets/index-1a.js", "/gradio_api/queue/data"]
)
def test_what_the_page_needs_passes(guard: Guard, path: str) -> None:
    status, headers, body = ask(guard, path)
    assert (status, body) == (200, b"inside")
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self'" in headers["content-security-policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/file=/etc/passwd",
        "/gradio_api/file/etc/passwd",
        "/assets/../../../../etc/passwd",
        "/gallery/static/../serve.py",
        "/assets/%2e%2e/%2e%2e/etc/passwd",
        "/gradio_api/proxy=http://127.0.0.1:80",
        "/gradio_api/upload_progress",
        "/gradio_api/openapi.json",
        "/docs",
        "/monitoring",
        "/gradio_api/deep_link",
        "/logout",
    ],
)
def test_everything_else_is_not_there(guard: Guard, path: str) -> None:
    assert ask(guard, path)[0] == 404


def test_only_two_addresses_take_anything(guard: Guard) -> None:
    assert ask(guard, "/gradio_api/queue/join", "POST")[0] == 200
    for path in ("/gradio_api/upload", "/gradio_api/run/predict", "/login", "/", "/gallery/picture/0/0"):
        assert ask(guard, path, "POST")[0] == 404
    assert ask(guard, "/", "DELETE")[0] == 404


def test_other_pages_cannot_act_in_its_name(guard: Guard) -> None:
    for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}):
        assert ask(guard, "/gradio_api/queue/join", "POST", headers)[0] == 403
    same = {"origin": "http://127.0.0.1:7860", "sec-fetch-site": "same-origin"}
    assert ask(guard, "/gradio_api/queue/join", "POST", same)[0] == 200


def test_a_name_that_points_here_is_not_this_machine(guard: Guard) -> None:
    assert ask(guard, "/", headers={"host": "evil.example:7860"})[0] == 403
    assert ask(guard, "/", headers={"host": "localhost:7860"})[0] == 200
    assert ask(guard, "/", headers={"host": "[::1]:7860"})[0] == 200


def basic(password: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"anyone:{password}".encode()).decode()}


def test_the_password_is_asked_of_every_address() -> None:
    guard = Guard(_inside, host="0.0.0.0", password="correct horse:é")
    for path in ("/", "/gallery/picture/0/0", "/gradio_api/queue/data", "/nothing"):
        status, headers, _ = ask(guard, path, headers={"host": "gallery.example"})
        assert status == 401
        assert headers["www-authenticate"].startswith("Basic")
    for wrong in (basic("wrong"), basic(""), {"authorization": "Basic %%%"}, {"authorization": "Bearer x"}):
        assert ask(guard, "/", headers=wrong)[0] == 401
    assert ask(guard, "/", headers={"host": "gallery.example", **basic("correct horse:é")})[0] == 200


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("[::1]", True), ("127.8.8.8", True), ("0.0.0.0", False),
     ("::", False), ("192.168.1.4", False), ("localhost.example", False), ("", False)],
)  # fmt: skip
def test_loopback_is_known(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_an_address_of_the_network_needs_a_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(PASSWORD, raising=False)
    config = GalleryConfig(images=tmp_path / "images.lance", host="0.0.0.0")
    with pytest.raises(
        UserError, match=f"other machines; set a password in the environment variable {PASSWORD}"
    ):
        serve_gallery(config)
    monkeypatch.setenv(PASSWORD, "secret")
    assert checked_password(config) == "secret"
    assert checked_password(GalleryConfig(images=tmp_path, host="127.0.0.1")) == "secret"
    monkeypatch.setenv(PASSWORD, "")
    assert checked_password(GalleryConfig(images=tmp_path, host="localhost")) is None


def test_without_gradio_one_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "gradio":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install '\.\[gallery\]'"):
        serve_gallery(GalleryConfig(images=tmp_path), console=Console(quiet=True))


def test_captions_are_text_wherever_they_stand(gallery: Gallery) -> None:
    shown = gallery.browse(Wish(text="document"))
    content = render.results(gallery, shown, "match")
    assert "onerror" in content
    assert "<img src=x" not in content
    assert "&lt;img src=x onerror=" in content
    assert render.note("a", ATTACK).count("&lt;") == 1
    assert "failed: the picture is blank" in render.results(gallery, gallery.browse(Wish()), "")


def test_pairs_and_copies_are_drawn(gallery: Gallery) -> None:
    painter, edited = (Lane(0, name) for name in (PAINTER, EDITED))
    rows, page, total = gallery.compare(painter, edited, 0)
    content = render.comparison(gallery, rows, page, ("before", "after"), total)
    assert "4 captions have pictures of both. Above and below were painted from the same noise." in content
    assert content.count('class="sg-tile"') == 15 and content.count('class="sg-gap"') == 1
    found, page, total = gallery.copies((), 0)
    content = render.copies(gallery, found, page, total)
    assert "score 0.980 · copy" in content
    assert content.count("not in an open table") == 1
    failed = render.paintings([Painting(ATTACK, 1, None, "the picture is blank")], 1.0, "icons")
    assert "<img" not in failed and "the picture is blank" in failed and "so long a prompt" not in failed


def test_pictures_are_sent_as_what_they_are_or_not_at_all() -> None:
    png = picture((1, 2, 3))
    assert for_browser(png) == (png, "image/png")
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    for content in (svg, b"<html><script>alert(1)</script>", b""):
        with pytest.raises(UserError, match="no picture that can be read"):
            for_browser(content)


def test_an_old_format_runs_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PIL reads EPS by Ghostscript, where that is installed, and a table may hold anything."""
    program, was_run = tmp_path / "gs", tmp_path / "was-run"
    program.write_text(f"#!/bin/sh\ntouch {was_run}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # not looked for yet
    encoded = io.BytesIO()
    Image.new("RGB", (8, 8)).save(encoded, "EPS")
    with pytest.raises(UserError, match="no picture that can be read"):
        for_browser(encoded.getvalue())
    assert open_picture(encoded.getvalue()) is None
    assert not was_run.exists()


def test_a_damaged_png_is_no_picture() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(noise).save(encoded, "PNG")
    whole, short = encoded.getvalue(), struct.pack(">I4sBI", 1, b"gAMA", 1, zlib.crc32(b"gAMA\1"))
    damaged = whole[:-12] + short + whole[-12:]  # a gamma of one byte in place of four
    assert open_picture(whole) is not None and open_picture(damaged) is None
    with pytest.raises(UserError, match="no picture that can be read"):
        for_browser(damaged, 256)


@pytest.mark.slow
def test_the_real_page_gives_nothing_but_the_tables(gallery: Gallery) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed; pip install '.[gallery]'")
    page = guarded(gallery, host="127.0.0.1", password=None)
    status, headers, body = ask(page, "/")
    assert status == 200 and b"stablerep" in body
    status, headers, body = ask(page, "/gallery/picture/0/0?v=1&side=256")
    assert (status, headers["content-type"]) == (200, "image/png")
    assert body == gallery.main.table.take_images([0])[0]
    status, _, body = ask(page, "/gallery/details/0/0")
    assert status == 200 and TEXTS[0].encode() in body
    absent = [
        "/gallery/picture/0/20",
        "/gallery/picture/7/0",
        "/gallery/picture/0/-1",
        "/gallery/static/serve.py",
    ]
    failed = int((~gallery.main.has_picture).nonzero()[0][0])
    assert ask(page, f"/gallery/picture/0/0?side={'9' * 5000}")[0] == 200
    for path in (
        *absent,
        f"/gallery/picture/0/{failed}",
        "/gallery/atlas/none",
        "/gallery/static/..%2fserve.py",
        f"/gallery/picture/0/{'9' * 5000}",
    ):
        assert ask(page, path)[0] == 404, path
    own = Path(__file__).as_posix()
    for path in (f"/gradio_api/file={own}", f"/static/{own}", f"/assets/..{own}", f"/svelte/../../..{own}"):
        status, _, body = ask(page, path)
        assert status in (403, 404) and b"Who may ask" not in body, path
