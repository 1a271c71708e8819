"""The mark of painted pictures: other programs find it, no pixel moves, and it comes out again to the byte."""

import io
import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from interchange.small_set import picture, pixels
from stablerep.interchange.mark import DIGITAL_SOURCE_TYPE, mark, unmark

IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
EXIF = Image.Exif()
EXIF[270] = "a description"
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg": ("JPEG", {"quality": 90}),
    "jpeg with exif": ("JPEG", {"exif": EXIF}),
    "progressive jpeg": ("JPEG", {"progressive": True}),
    "grey jpeg": ("JPEG", {"mode": "L"}),
    "png": ("PNG", {}),
    "png with transparency": ("PNG", {"mode": "RGBA"}),
    "webp": ("WEBP", {"quality": 80}),
    "lossless webp": ("WEBP", {"lossless": True}),
    "webp with transparency": ("WEBP", {"mode": "RGBA"}),
    "lossless webp with transparency": ("WEBP", {"mode": "RGBA", "lossless": True}),
    "webp with exif": ("WEBP", {"exif": EXIF}),
}


@pytest.mark.parametrize("size", [24, 33])
@pytest.mark.parametrize("kind", KINDS)
def test_marked_it_says_so_and_is_the_same_picture(kind: str, size: int) -> None:
    name, options = KINDS[kind]
    original = picture(1, name, size, **options)
    marked = mark(original)
    with Image.open(io.BytesIO(marked)) as image:
        image.load()
        packet = ElementTree.fromstring(image.info["xmp"])
        (description,) = packet.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
        assert description.attrib[f"{{{IPTC}}}DigitalSourceType"] == DIGITAL_SOURCE_TYPE
        assert image.format == name
        if "exif" in kind:
            assert image.getexif()[270] == "a description"
    assert np.array_equal(pixels(marked), pixels(original))
    assert unmark(marked) == original
    assert mark(marked) == marked, "once is enough"
    assert unmark(original) == original


def test_a_webp_that_announces_metadata_that_it_has_not_comes_back() -> None:
    image = bytearray(picture(1, "WEBP", exif=EXIF))
    assert image[12:16] == b"VP8X"
    image[20] |= 0x04
    for crafted in (bytes(image), b"RIFF\4\0\0\0WEBP", b"RIFF\x0c\0\0\0WEBPVP8X\0\0\0\0"):
        assert mark(crafted) == crafted


def test_metadata_of_others_stays() -> None:
    own = PngImagePlugin.PngInfo()
    own.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta xmlns:x='adobe:ns:meta/'/>")
    for image in (
        picture(1, "PNG", pnginfo=own),
        picture(1, "JPEG", xmp=b"<x/>"),
        picture(1, "WEBP", xmp=b"<x/>"),
    ):
        assert mark(image) is image
        assert unmark(image) == image


@pytest.mark.parametrize(
    "image",
    [picture(1, "GIF", mode="L"), b"", b"RIFF", b"\xff\xd8", b"no picture", b"RIFF0000WEBPVP8 "],
)
def test_what_has_no_place_for_it_passes_through(image: bytes) -> None:
    assert unmark(mark(image)) == image
