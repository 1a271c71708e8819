"""The command: open the tables, serve the page until it is stopped."""

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.gallery.guard import Application, Guard, is_loopback
from stablerep.gallery.index import PictureIndex
from stablerep.gallery.looking import open_looker
from stablerep.gallery.painting import Painter
from stablerep.gallery.session import Gallery
from stablerep.storage import file_beside
from stablerep.store import CaptionTable

PASSWORD = "STABLEREP_GALLERY_PASSWORD"


@dataclass(frozen=True, kw_only=True)
class GalleryConfig:
    """Browse, search and mark the pictures of a table in a local web page."""

    images: Positional[Path]
    """Table of pictures (images.lance); marks are written into it."""
    captions: Path | None = None
    """Table of their captions; where not given, captions.lance beside the pictures, if it is there."""
    beside: tuple[Path, ...] = ()
    """More tables of pictures to compare with, and to find the originals of copies in; they are only read."""
    run: Path | None = None
    """Run whose encoder finds similar pictures, or an encoder as `evaluate` takes it; one of clip or stablerep-plus, or
    of open_clip, also finds pictures by what a text means. Raw pixels and the words of captions where there is none."""
    teacher: str | None = None
    """Teacher that paints prompts on the page: a shipped name, a diffusers folder, or a hub id."""
    download: bool = False
    """Fetch a model given by its name from the hub if it is not in the local cache yet."""
    cache: Path | None = None
    """Folder for the vectors of the pictures; where not given, .NAME.gallery beside the table."""
    host: str = "127.0.0.1"
    """Address to listen at. Any other than this machine's own asks for a password."""
    port: int = 7860
    """Port to listen at; 0 takes a free one."""
    password: str | None = None
    """Password that the page asks for; better given as the environment variable STABLEREP_GALLERY_PASSWORD."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be in 0 to 65535, got {self.port}")


@dataclass(frozen=True, kw_only=True)
class GallerySummary:
    """What was shown, and where the marks are."""

    table: str
    pictures: int
    captions: int
    marked: dict[str, int]
    minutes: float


def serve_gallery(config: GalleryConfig, *, console: Console = Console(quiet=True)) -> GallerySummary:  # noqa: B008
    """Serve the gallery until it is interrupted.

    Raises ``UserError`` where a table or run cannot be opened, gradio is not installed, the port is taken, or an
    address of the network is given without a password.
    """
    begin = time.monotonic()
    password = checked_password(config)
    _require_gradio()
    gallery = open_gallery(config, console=console)
    gallery.vectors.start()
    try:
        _listen(guarded(gallery, host=config.host, password=password), config, console)
    finally:
        gallery.close()
    return GallerySummary(
        table=str(config.images),
        pictures=len(gallery.main),
        captions=gallery.main.num_captions,
        marked=gallery.num_marked(),
        minutes=round((time.monotonic() - begin) / 60, 1),
    )


def checked_password(config: GalleryConfig) -> str | None:
    """The password of the page; ``UserError`` where the address needs one and there is none."""
    password = config.password or os.environ.get(PASSWORD) or None
    if password is None and not is_loopback(config.host):
        raise UserError(
            f"host {config.host} can be reached from other machines; set a password in the environment variable "
            f"{PASSWORD}, or leave host out to serve this machine alone"
        )
    return password


def open_gallery(config: GalleryConfig, *, console: Console) -> Gallery:
    """The tables, the run and the teacher of a gallery, without a page."""
    captions = config.captions
    usual = config.images.parent / "captions.lance"
    if captions is None and CaptionTable.exists(usual):
        captions = usual
    if captions is None:
        console.say("no captions are known; give --captions to search by their words")
    main = PictureIndex.open(config.images, captions)
    if captions is not None and main.texts.null_count == main.num_captions:
        console.say(
            f"{captions} holds no caption of these pictures; give --captions, the table that they were painted from"
        )
    others = [PictureIndex.open(path, captions) for path in config.beside]
    looker = open_looker(config.run, download=config.download)
    cache = config.cache or file_beside(config.images, f".{config.images.stem}.gallery", "--cache")
    painter = None if config.teacher is None else Painter(config.teacher, download=config.download)
    console.say(f"{config.images}: {len(main):,} pictures of {main.num_captions:,} captions")
    return Gallery([main, *others], looker, cache, painter)


def guarded(gallery: Gallery, *, host: str, password: str | None) -> Application:
    """The whole application: gradio's page and the pictures, behind the guard."""
    # Read by gradio and the hub's client when they load: nothing is sent to anybody.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    from stablerep.gallery.page import application

    return Guard(application(gallery), host=host, password=password)


def _require_gradio() -> None:
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UserError(
            "the gallery needs gradio; pip install '.[gallery]' in the clone of stablerep"
        ) from error


def _listen(application: Any, config: GalleryConfig, console: Console) -> None:
    import uvicorn

    socket = _bound(config)
    port = socket.getsockname()[1]
    shown = f"[{config.host}]" if ":" in config.host else config.host
    console.say(f"open http://{shown}:{port} in a browser; Ctrl-C ends the gallery")
    server = uvicorn.Server(uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=2))
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it once more after it has closed
        server.run(sockets=[socket])


def _bound(config: GalleryConfig) -> Any:
    import socket

    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
        listener.listen()  # whoever comes before the server is up waits, and is not turned away
    except OSError as error:
        listener.close()
        raise UserError(
            f"{config.host} port {config.port} cannot be listened at ({error.strerror or error}); give another --port "
            "or --host"
        ) from error
    return listener
