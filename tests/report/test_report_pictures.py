"""Pictures in the page: as they are if small, smaller if large, a reason if broken."""

import base64
import io
import struct
import zlib
from pathlib import Path

from PIL import Image
from report_project import CAPTIONS, png, write_paintings, write_world

from stablerep.report.pictures import Grid, caption_grid, choose, count_paintings, data_uri, to_picture
from stablerep.report.reading import Project, open_project
from stablerep.store import ImageTable, caption_id


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


def test_a_png_that_breaks_between_its_parts_becomes_a_reason() -> None:
    """Its header is whole, and what follows the first half of its pixels is no part of a PNG."""
    whole = png("red", size=64)
    begin, end = whole.index(b"IDAT") - 4, whole.index(b"IEND") - 4
    pixels = whole[begin + 8 : end - 4]
    half = pixels[: len(pixels) // 2]
    first = struct.pack(">I", len(half)) + b"IDAT" + half + struct.pack(">I", zlib.crc32(b"IDAT" + half))
    picture = to_picture(whole[:begin] + first + b"\0" * 24, "a description")
    assert picture.source is None
    assert picture.reason is not None and "the stored bytes cannot be read: broken PNG file" in picture.reason


def test_the_choice_depends_on_identities_alone() -> None:
    ids = [f"caption {number}" for number in range(100)]
    assert choose(ids, 10, 0) == choose(ids[::-1], 10, 0)
    assert choose(ids, 20, 0)[:10] == choose(ids, 10, 0)
    assert choose(ids, 10, 0) != choose(ids, 10, 1)
    assert choose(ids[:3], 10, 0) != ids[:3] or choose(ids[:3], 10, 1) != ids[:3]


def opened(folder: Path, captions: tuple[str, ...]) -> Project:
    write_world(folder / "world")
    write_paintings(folder / "images.lance", captions)
    return open_project((folder,), None, None, None)


def grid_of(project: Project, num_captions: int, seed: int = 0) -> Grid:
    [painting] = count_paintings(project)
    return caption_grid(project, painting, num_captions, seed)


def test_captions_are_chosen_by_hash_alone(tmp_path: Path) -> None:
    def shown(project: Project, seed: int) -> list[str]:
        return [row.caption for row in grid_of(project, 2, seed).rows]

    project = opened(tmp_path / "first", CAPTIONS)
    first = shown(project, 0)
    assert len(first) == 2
    assert shown(opened(tmp_path / "reversed", CAPTIONS[::-1]), 0) == first
    assert len({tuple(shown(project, seed)) for seed in range(5)}) > 1


def test_a_wording_without_pictures_borrows_those_of_its_concept(tmp_path: Path) -> None:
    opened(tmp_path, ("a red square",))
    images = ImageTable.open(tmp_path / "images.lance")
    row = images.read(images.schema.names, "image_index = 1").to_pylist()[0]
    images.append([{**row, "caption_id": caption_id("variant a red square")}])

    def real() -> dict[str, list[str | None]]:
        project = open_project((tmp_path,), None, None, None)
        return {row.caption: [cell.source for cell in row.real] for row in grid_of(project, 9).rows}

    borrowed = real()["variant a red square"]
    assert borrowed == real()["a red square"]
    assert len(borrowed) == 2
    world = ImageTable.open(tmp_path / "world/images.lance")
    own = {"caption_id": caption_id("variant a red square"), "image": png("pink")}
    world.append([{**world.read(world.schema.names, "image_index = 0").to_pylist()[0], **own}])
    assert real() == {"a red square": borrowed, "variant a red square": [data_uri(png("pink"))]}
