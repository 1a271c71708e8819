"""Pictures in the page: as they are if small, smaller if large, a reason if broken."""

import base64
import io

from PIL import Image
from report_project import png

from stablerep.report.pictures import choose, data_uri, to_picture


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_small_pictures_are_embedded_byte_for_byte() -> None:
    image = png("red", size=64)
    assert data_uri(image) == "data:image/png;base64," + base64.b64encode(image).decode()


def test_large_pictures_are_made_smaller_and_keep_their_shape() -> None:
    file = io.BytesIO()
    Image.new("RGB", (512, 256), "red").save(file, "JPEG")
    small = decoded(data_uri(file.getvalue()))
    assert small.size == (128, 64)
    red, green, blue = small.convert("RGB").getpixel((60, 30))
    assert red > 240 and max(green, blue) < 15


def test_formats_that_browsers_do_not_know_are_converted() -> None:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "blue").save(file, "TIFF")
    assert data_uri(file.getvalue()).startswith("data:image/webp;")


def test_transparency_survives() -> None:
    file = io.BytesIO()
    Image.new("RGBA", (300, 300), (255, 0, 0, 0)).save(file, "PNG")
    assert decoded(data_uri(file.getvalue())).convert("RGBA").getpixel((5, 5))[3] == 0


def test_broken_bytes_become_a_reason() -> None:
    for image in (b"no picture", png("red")[:60], None):
        picture = to_picture(image, "a description")
        assert picture.source is None
        assert picture.reason


def test_the_choice_depends_on_identities_alone() -> None:
    ids = [f"caption {number}" for number in range(100)]
    assert choose(ids, 10, 0) == choose(ids[::-1], 10, 0)
    assert choose(ids, 20, 0)[:10] == choose(ids, 10, 0)
    assert choose(ids, 10, 0) != choose(ids, 10, 1)
    assert choose(ids[:3], 10, 0) != ids[:3] or choose(ids[:3], 10, 1) != ids[:3]
