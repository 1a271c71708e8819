"""Contact sheets: which captions and pictures they show, and that they show them."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_icons import captions, image_row

from stablerep.errors import UserError
from stablerep.evaluation.contact_sheet import Block, SheetConfig, draw_sheet, write_sheet
from stablerep.store import CaptionTable, ImageTable


def plain(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(buffer, "PNG")
    return buffer.getvalue()


def shades(sheet: Image.Image) -> list[int]:
    """Red values of the painted pictures that the sheet shows; their green is 7, which nothing else has."""
    pixels = np.asarray(sheet)
    return sorted({int(red) for red in np.unique(pixels[pixels[..., 1] == 7][:, 0])})


def write(folder: Path) -> SheetConfig:
    """Six pictures of the first three captions, the last of them failed; red is 50 * caption + index."""
    CaptionTable.open_or_create(folder / "captions.lance").append(captions()[:5])
    rows = [
        image_row(caption, index, plain((50 * number + index, 7, 0)), origin="painter")
        for number, caption in enumerate(captions()[:3])
        for index in range(6)
    ]
    rows[1] |= {"status": "failed", "image": None, "reason": "blank"}
    ImageTable.open_or_create(folder / "images.lance").append(rows[::-1])
    return SheetConfig(
        images=folder / "images.lance",
        captions=folder / "captions.lance",
        out=folder / "sheet.png",
        num_captions=2,
    )


def test_first_pictures_of_first_captions(tmp_path: Path) -> None:
    summary = write_sheet(write(tmp_path))
    assert (summary.captions, summary.pictures, summary.captions_without_picture) == (2, 8, 2)
    with Image.open(summary.path) as sheet:
        assert shades(sheet) == [0, 2, 3, 4, 50, 51, 52, 53]
        assert sheet.getpixel((0, 0)) == (255, 255, 255)


def test_captions_that_were_not_painted(tmp_path: Path) -> None:
    write(tmp_path)
    CaptionTable.open_or_create(tmp_path / "others.lance").append(captions()[10:12])
    config = SheetConfig(
        images=tmp_path / "images.lance", captions=tmp_path / "others.lance", out=tmp_path / "x.png"
    )
    with pytest.raises(UserError, match=r"no picture of painter for a caption of .*others.lance"):
        write_sheet(config)


@pytest.mark.parametrize("text", ["short", "a very long caption " * 20, "x" * 300])
def test_text_stays_under_its_block(text: str) -> None:
    sheet = np.asarray(draw_sheet([Block((plain((9, 9, 9)),) * 2, text)], columns=3))
    dark = np.argwhere(sheet.min(2) < 128)
    assert dark.size and dark.min() >= 14 and (dark.max(0) < np.array(sheet.shape[:2]) - 12).all()


def test_one_small_picture_leaves_room_for_its_caption() -> None:
    blocks = [Block((plain((9, 9, 9)),), "a simple drawing")] * 2
    widths = [draw_sheet(blocks, columns=columns, pixels=16).width for columns in (1, 2)]
    assert widths[1] - widths[0] > 130


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    config = write(tmp_path)
    torn = image_row(captions()[1], 9, plain((1, 7, 0))[:40], origin="other")
    ImageTable.open(config.images).append([{**torn, "image_index": 0}, {**torn, "image_index": 1}])
    with pytest.raises(UserError, match=r"^picture 0 of 'apple number 1' cannot be decoded \("):
        write_sheet(dataclasses.replace(config, origin="other"))
    assert not config.out.exists()
