"""Pairs of pictures side by side, as one PNG to look at."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from stablerep.decoding import decode_image
from stablerep.run import write_atomically

_SIDE, _GAP, _LINE, _COLUMNS = 96, 12, 18, 5


def save_pairs(path: Path, pairs: Sequence[tuple[bytes, bytes, str]]) -> None:
    """Write encoded pictures (painted, real) with the text under each pair."""
    columns = min(_COLUMNS, max(1, len(pairs)))
    width, height = 2 * _SIDE + 2, _SIDE + _LINE
    rows = -(-len(pairs) // columns)
    sheet = Image.new("RGB", (_GAP + columns * (width + _GAP), _GAP + rows * (height + _GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), 11)
    for number, (painted, real, text) in enumerate(pairs):
        left = _GAP + number % columns * (width + _GAP)
        top = _GAP + number // columns * (height + _GAP)
        for place, encoded in ((left, painted), (left + _SIDE + 2, real)):
            picture = Image.fromarray(decode_image(encoded).permute(1, 2, 0).numpy())
            sheet.paste(picture.resize((_SIDE, _SIDE)), (place, top))
            pen.rectangle((place, top, place + _SIDE - 1, top + _SIDE - 1), outline="#d8d8d8")
        pen.text((left, top + _SIDE + 2), text, fill="#202020", font=font)
    write_atomically(path, lambda temporary: sheet.save(temporary, "PNG"))
