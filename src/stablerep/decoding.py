"""Encoded pictures of untrusted origin, as all pictures are, to pixels.

Shapes: H and W pixels.
"""

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

MAX_PIXELS = 2**26
"""The largest picture that is decoded: 192 MiB as bytes; a crafted header may promise any number."""

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# What PIL's decoders let through from a crafted file, beside the errors that they promise.
_DAMAGED = (
    EOFError,
    struct.error,
    zlib.error,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    AttributeError,
)
_JPEG = b"\xff\xd8\xff"
_FRAMES = (0xC0, 0xC1, 0xC2)
"""Markers behind which the size of a JPEG stands: sequential and progressive ones, which everybody decodes."""
_SCAN, _FILL = 0xDA, 0xFF


@contextlib.contextmanager
def open_image(encoded: bytes) -> Iterator[Image.Image]:
    """A picture of which only the header has been read.

    Raises ``OSError``, ``SyntaxError`` or ``ValueError`` for what is no picture of a known format or has more than
    ``MAX_PIXELS`` pixels, here or while its pixels are read.
    """
    try:
        # PIL's other decoders are rarely used and old, and one of them runs an external program.
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
            _check_size(image.height, image.width)
            yield image
    except Image.DecompressionBombError as error:
        raise ValueError(f"more than {MAX_PIXELS:,} pixels ({error})") from error
    except _DAMAGED as error:
        raise ValueError(f"damaged ({type(error).__name__}: {error})") from error


def decode_image(encoded: bytes) -> Tensor:
    """Encoded bytes as uint8 (3, H, W), the transparent on white, grey as RGB; raises as ``open_image``.

    The channels of a pixel lie together in memory.
    """
    size = _jpeg_size(encoded)
    if size is not None:
        return _decode_jpeg(encoded, size)
    with open_image(encoded) as image:
        return on_white(image)


def on_white(image: Image.Image) -> Tensor:
    """A picture as uint8 (3, H, W); what is transparent lies on white, grey becomes RGB."""
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        paper = Image.new("RGBA", rgba.size, "white")
        rgb = Image.alpha_composite(paper, rgba).convert("RGB")
    else:
        rgb = image.convert("RGB")
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)


def image_size(encoded: bytes) -> tuple[int, int]:
    """Height and width, from the header alone; raises as ``open_image``."""
    size = _jpeg_size(encoded)
    if size is not None:
        return size
    with open_image(encoded) as image:
        return image.height, image.width


def _jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    """Height and width of an ordinary JPEG in grey or colour of 8 bits, None for any other picture.

    PIL reads the whole header for it, in Python, which takes as long as decoding 256 x 256 pixels.
    """
    if not (encoded and encoded.startswith(_JPEG)):  # a table may hold null in place of a picture
        return None
    position = 2
    while position + 10 <= len(encoded) and encoded[position] == 0xFF:
        marker = encoded[position + 1]
        if marker in _FRAMES:
            precision, height, width, components = struct.unpack_from(">BHHB", encoded, position + 4)
            if precision != 8 or components not in (1, 3) or not height or not width:
                return None
            _check_size(height, width)
            return height, width
        if marker == _SCAN:
            break
        position += 1 if marker == _FILL else 2 + int.from_bytes(encoded[position + 2 : position + 4])
    return None


def _decode_jpeg(encoded: bytes, size: tuple[int, int]) -> Tensor:
    """The same pixels as PIL's, to the bit, in half to two thirds of the time."""
    pixels = cv2.imdecode(
        np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    )
    if pixels is None or pixels.shape[:2] != size:
        raise ValueError("incomplete or damaged")
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _check_size(height: int, width: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels are more than {MAX_PIXELS:,}")
