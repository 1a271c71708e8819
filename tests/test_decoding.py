"""Encoded pictures to pixels: what PIL reads, as PIL reads it, and nothing that a crafted header promises."""

import io
import struct
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stablerep.decoding import MAX_PIXELS, decode_image, image_size


def png(colour: object, *, mode: str = "RGB", size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("encoded", "rgb"),
    [
        (png((10, 20, 30)), (10, 20, 30)),
        (png((0, 0, 0, 0), mode="RGBA"), (255, 255, 255)),
        (png((255, 0, 0, 255), mode="RGBA"), (255, 0, 0)),
        (png((0, 128), mode="LA"), (127, 127, 127)),
        (png(77, mode="L"), (77, 77, 77)),
    ],
)
def test_transparent_lies_on_white_and_grey_becomes_rgb(encoded: bytes, rgb: tuple[int, int, int]) -> None:
    picture = decode_image(encoded)
    assert picture.dtype == torch.uint8
    assert picture.shape == (3, 8, 8)
    assert picture[:, 4, 4].tolist() == list(rgb)


def test_palette_with_a_transparent_colour() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([9, 9, 9, 200, 0, 0])
    image.putpixel((0, 0), 0)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=0)
    picture = decode_image(buffer.getvalue())
    assert picture[:, 0, 0].tolist() == [255, 255, 255]
    assert picture[:, 1, 1].tolist() == [200, 0, 0]


def jpeg(mode: str = "RGB", **options: Any) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (45, 70, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "encoded",
    [
        jpeg(),
        jpeg(quality=95, subsampling=0),
        jpeg(progressive=True),
        jpeg("L"),
        jpeg("CMYK"),
        jpeg(exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
    ],
    ids=["plain", "fine", "progressive", "grey", "four colours", "turned by its camera"],
)
def test_a_jpeg_has_the_pixels_and_the_size_that_pil_gives_it(encoded: bytes) -> None:
    expected = np.array(Image.open(io.BytesIO(encoded)).convert("RGB"))
    assert torch.equal(decode_image(encoded), torch.from_numpy(expected).permute(2, 0, 1))
    assert image_size(encoded) == (45, 70)


@pytest.mark.parametrize("kept", [0.9, 0.5, 0.02])
def test_a_torn_jpeg_is_no_picture(kept: float) -> None:
    whole = jpeg()
    with pytest.raises((OSError, SyntaxError, ValueError)):
        decode_image(whole[: int(kept * len(whole))])


def test_a_jpeg_that_promises_too_many_pixels_is_refused_by_its_header() -> None:
    whole = bytearray(jpeg())
    frame = whole.index(b"\xff\xc0")
    struct.pack_into(">HH", whole, frame + 5, 2**13, 2**13 + 1)
    for read in (image_size, decode_image):
        with pytest.raises(ValueError, match=f"more than {MAX_PIXELS:,}"):
            read(bytes(whole))


def test_a_jpeg_may_have_bytes_between_its_segments() -> None:
    whole = jpeg()
    frame = whole.index(b"\xff\xc0")
    filled = whole[:frame] + b"\xff" * 3 + whole[frame:]
    assert image_size(filled) == (45, 70)
    assert torch.equal(decode_image(filled), decode_image(whole))


def test_channels_of_a_pixel_lie_together() -> None:
    for encoded in (jpeg(), jpeg("L"), png((10, 20, 30))):
        assert decode_image(encoded).permute(1, 2, 0).is_contiguous()
