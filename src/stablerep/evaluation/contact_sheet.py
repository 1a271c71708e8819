"""Contact sheets: captions with their pictures, as one PNG to look at."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont
from tyro.conf import Positional

from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.evaluation.asked import choose_origin
from stablerep.evaluation.pictures import readable
from stablerep.run import write_atomically
from stablerep.store import OK, REAL, CaptionTable, ImageTable

_GAP = 3  # pixels between the pictures of a block
_MARGIN = 14  # around the sheet and between blocks
_TEXT = 13
_LINE = 17
_MOST_LINES = 2
_LEAST_WIDTH = 130  # of a block: room for two or three words on a line, however few and small its pictures
_FRAME = "#d8d8d8"
_INK = "#202020"


@dataclass(frozen=True, kw_only=True)
class SheetConfig:
    """Draw captions with their pictures as one PNG."""

    images: Positional[Path]
    """Table of painted pictures (images.lance)."""
    captions: Path
    """Table of the captions to show, in its order."""
    out: Path = Path("sheet.png")
    """The sheet."""
    origin: str | None = None
    """Which painter's pictures, or real; needed where the table holds those of several painters."""
    num_captions: int = 48
    """At most so many captions: the first of the table that have pictures."""
    num_pictures: int = 4
    """Pictures per caption: the first by image index."""
    columns: int = 4
    """Captions side by side."""
    pixels: int = 64
    """Side of each picture on the sheet."""

    def __post_init__(self) -> None:
        if min(self.num_captions, self.num_pictures, self.columns) < 1 or self.pixels < 16:
            raise ValueError("num_captions, num_pictures and columns must be positive, pixels at least 16")


@dataclass(frozen=True)
class Block:
    """Encoded pictures side by side, and the text under them."""

    images: tuple[bytes, ...]
    text: str


@dataclass(frozen=True, kw_only=True)
class SheetSummary:
    """What the sheet shows."""

    path: Path
    origin: str
    captions: int
    pictures: int
    captions_without_picture: int


def write_sheet(config: SheetConfig, *, console: Console = Console(quiet=True)) -> SheetSummary:  # noqa: B008
    """Write the contact sheet of a caption table to ``config.out``.

    Raises ``UserError`` where no caption has a picture, or the table has several painters and none is chosen.
    """
    table = ImageTable.open(config.images)
    rows = table.read(["origin", "caption_id", "image_index", "status"])  # row i is at position i
    found = set(rows["origin"].to_pylist())
    painters = found if config.origin == REAL else found - {REAL}
    origin = choose_origin(sorted(painters), config.origin, config.images)
    positions: dict[str, list[tuple[int, int]]] = {}
    for position, row in enumerate(rows.to_pylist()):
        if row["origin"] == origin and row["status"] == OK:
            positions.setdefault(row["caption_id"], []).append((row["image_index"], position))
    captions = CaptionTable.open(config.captions).read(["id", "text"]).to_pylist()
    painted = [caption for caption in captions if caption["id"] in positions]
    if not painted:
        raise UserError(
            f"{config.images} has no picture of {origin} for a caption of {config.captions}; "
            "give the captions that were painted"
        )
    blocks = []
    for caption in painted[: config.num_captions]:
        first = [position for _, position in sorted(positions[caption["id"]])[: config.num_pictures]]
        blocks.append(Block(tuple(table.take_images(first)), caption["text"]))
    save_sheet(config.out, blocks, columns=config.columns, pixels=config.pixels)
    console.say(f"{len(blocks)} captions by {origin}: {config.out}")
    return SheetSummary(
        path=config.out,
        origin=origin,
        captions=len(blocks),
        pictures=sum(len(block.images) for block in blocks),
        captions_without_picture=len(captions) - len(painted),
    )


def save_sheet(path: Path, blocks: Sequence[Block], *, columns: int, pixels: int = 64) -> None:
    """Draw the blocks and write them as PNG."""
    sheet = draw_sheet(blocks, columns=columns, pixels=pixels)
    write_atomically(path, lambda temporary: sheet.save(temporary, "PNG"))


def draw_sheet(blocks: Sequence[Block], *, columns: int, pixels: int = 64) -> Image.Image:
    """Blocks row by row on white; a text that is too long ends in dots after its second line."""
    font = ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), _TEXT
    )
    num_pictures = max(len(block.images) for block in blocks)
    width = max(num_pictures * pixels + (num_pictures - 1) * _GAP, _LEAST_WIDTH)
    height = pixels + 4 + _MOST_LINES * _LINE
    columns = min(columns, len(blocks))
    rows = -(-len(blocks) // columns)
    size = (_MARGIN + columns * (width + _MARGIN), _MARGIN + rows * (height + _MARGIN))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for number, block in enumerate(blocks):
        left = _MARGIN + number % columns * (width + _MARGIN)
        top = _MARGIN + number // columns * (height + _MARGIN)
        for index, encoded in enumerate(block.images):
            x = left + index * (pixels + _GAP)
            sheet.paste(_picture(encoded, pixels, f"picture {index} of {block.text!r}"), (x, top))
            pen.rectangle((x - 1, top - 1, x + pixels, top + pixels), outline=_FRAME)
        for line, text in enumerate(_lines(block.text, width, font)):
            pen.text((left, top + pixels + 4 + line * _LINE), text, fill=_INK, font=font)
    return sheet


def _picture(encoded: bytes, pixels: int, which: str) -> Image.Image:
    """A picture on white, in the size of the sheet; small ones are enlarged without smoothing."""
    picture = Image.fromarray(readable(encoded, which).permute(1, 2, 0).numpy())
    grows = max(picture.size) < pixels
    return picture.resize((pixels, pixels), Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS)


def _lines(text: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    """The text in lines that fit the width."""
    characters = len(text)
    while characters > 1:
        lines = textwrap.wrap(text, characters, max_lines=_MOST_LINES, placeholder=" …")
        if all(font.getlength(line) <= width for line in lines):
            return lines
        characters -= 1
    return [text[:1]]
