"""What the page fetches beside gradio: pictures, what is known of them, small files. Nothing here reads a path."""

import json
from typing import Any

import numpy as np

from stablerep.errors import UserError
from stablerep.gallery.index import MARK, MARKED_AT
from stablerep.gallery.marks import marks_of
from stablerep.gallery.pictures import for_browser
from stablerep.gallery.render import resource
from stablerep.gallery.session import Gallery

_FILES = {"gallery.js": "text/javascript", "map.js": "text/javascript", "gallery.css": "text/css"}
_FOREVER = {"cache-control": "private, max-age=86400, immutable"}
_MOST_SIDE = 1024


def add_routes(application: Any, gallery: Gallery) -> None:
    """Add the addresses below ``/gallery/`` to a FastAPI application."""
    from starlette.requests import Request
    from starlette.responses import Response

    def picture(request: Request) -> Response:
        try:
            place = _place(gallery, request)
            side = request.query_params.get("side")
            content, kind = for_browser(gallery.picture(place), None if side is None else _side(side))
        except UserError as error:
            return Response(str(error), 404, media_type="text/plain")
        return Response(content, media_type=kind, headers=_FOREVER if "v" in request.query_params else None)

    def details(request: Request) -> Response:
        try:
            place = _place(gallery, request)
        except UserError as error:
            return Response(str(error), 404, media_type="text/plain")
        content = json.dumps(facts(gallery, place.table, place.position))
        return Response(content, media_type="application/json", headers={"cache-control": "no-store"})

    def atlas(request: Request) -> Response:
        content = gallery.atlas(request.path_params["name"])
        if content is None:
            return Response("that map is gone; draw it again", 404, media_type="text/plain")
        return Response(content, media_type="image/jpeg", headers=_FOREVER)

    def file(request: Request) -> Response:
        kind = _FILES.get(request.path_params["name"])
        if kind is None:
            return Response("there is no such file", 404, media_type="text/plain")
        return Response(resource(request.path_params["name"]), media_type=kind)

    application.add_route("/gallery/picture/{table:int}/{position:int}", picture)
    application.add_route("/gallery/details/{table:int}/{position:int}", details)
    application.add_route("/gallery/atlas/{name}", atlas)
    application.add_route("/gallery/static/{name}", file)


def facts(gallery: Gallery, table: int, position: int) -> dict[str, Any]:
    """What is known of one picture, as plain values."""
    index = gallery.tables[table]
    known = index.details([position])[0]
    key = index.key(position)
    return {
        "place": f"{table}/{position}",
        "src": f"/gallery/picture/{table}/{position}?v={index.token}"
        if index.has_picture[position]
        else None,
        "caption": index.text(index.caption[position]),
        "mark": marks_of(index, np.array([position]))[0],
        "markable": table == 0,
        "facts": [
            ["origin", key.origin],
            ["caption id", key.caption_id],
            ["image index", str(key.image_index)],
            *([name, _in_words(value)] for name, value in known.items() if name not in (MARK, MARKED_AT)),
        ],
    }


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]} …"


def _place(gallery: Gallery, request: Any) -> Any:
    return gallery.place(request.path_params["table"], request.path_params["position"])


def _side(said: str) -> int:
    return min(max(int(said), 16), _MOST_SIDE) if said.isdecimal() and len(said) < 5 else _MOST_SIDE
