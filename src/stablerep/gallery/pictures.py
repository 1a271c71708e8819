"""Encoded pictures of a table as a browser may have them."""

import io

from PIL import Image

from stablerep.decoding import open_image
from stablerep.errors import UserError

_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}
_LARGE = 96 * 1024  # bytes; what is smaller costs less to send than to shrink
_UNREADABLE = (OSError, SyntaxError, ValueError)


def media_type(encoded: bytes) -> str | None:
    """The type of a picture by its content, where it is one that browsers show and that cannot hold a script."""
    try:
        with open_image(encoded) as image:
            return _TYPES.get(image.format or "")
    except _UNREADABLE:
        return None


def open_picture(encoded: bytes, side: int | None = None) -> Image.Image | None:
    """A picture as RGB on white; None where it cannot be decoded. ``side`` lets a JPEG be read at a smaller scale."""
    try:
        with open_image(encoded) as image:
            if side is not None:
                image.draft("RGB", (side, side))
            if image.has_transparency_data:
                rgba = image.convert("RGBA")
                return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
            return image.convert("RGB")
    except _UNREADABLE:
        return None


def for_browser(encoded: bytes, side: int | None = None) -> tuple[bytes, str]:
    """Content and type to send: as stored, or shrunk to ``side`` where it is large; ``UserError`` if no picture."""
    kind = media_type(encoded)
    if kind is not None and (side is None or len(encoded) <= _LARGE):
        return encoded, kind
    picture = open_picture(encoded, side)
    if picture is None:
        raise UserError("the bytes of this row are no picture that can be read")
    if side is not None:
        picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return buffer.getvalue(), "image/jpeg"
