"""Encoded pictures that are read when asked for: files, parts of files, and items of a torchvision data set."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, overload

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from stablerep.errors import UserError
from stablerep.features import decoded
from stablerep.models.encoder import Resize

Box = tuple[int, int, int, int]


class LazyPictures(Sequence[bytes]):
    """M pictures, each given by a function of its place."""

    def __init__(self, num: int, read: Callable[[int], bytes]) -> None:
        self._num, self._read = num, read

    def __len__(self) -> int:
        return self._num

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self._read(place) for place in range(*index.indices(self._num))]
        if not -self._num <= index < self._num:
            raise IndexError(index)
        return self._read(index % self._num)


def picture_files(paths: Sequence[Path]) -> LazyPictures:
    """The files as they are."""
    return LazyPictures(len(paths), lambda place: read_file(paths[place]))


def cropped_files(boxes: Sequence[tuple[Path, Box]]) -> LazyPictures:
    """A box (left, top, right, bottom) of each file, encoded as PNG."""

    def read(place: int) -> bytes:
        path, box = boxes[place]
        with Image.open(io.BytesIO(read_file(path))) as picture:
            return as_png(picture.convert("RGB").crop(box))

    return LazyPictures(len(boxes), read)


def some_of(images: Sequence[bytes], places: Sequence[int]) -> LazyPictures:
    """Some pictures of a sequence, in this order."""
    return LazyPictures(len(places), lambda place: images[places[place]])


def joined(first: Sequence[bytes], second: Sequence[bytes]) -> LazyPictures:
    """The pictures of both, one after the other."""
    num = len(first)
    return LazyPictures(num + len(second), lambda place: first[place] if place < num else second[place - num])


def items_of(dataset: Any, places: Sequence[int]) -> LazyPictures:
    """The pictures of items (picture, target) of a data set, as they are in a file where it gives a path."""

    def read(place: int) -> bytes:
        picture = dataset[places[place]][0]
        return read_file(Path(picture)) if isinstance(picture, str | Path) else as_png(picture)

    return LazyPictures(len(places), read)


def readable(encoded: bytes, which: str, crop: int | None = None) -> Tensor:
    """A picture as ``features.decoded`` gives it; ``UserError`` that says which one where it cannot be decoded."""
    picture = decoded(encoded, crop)
    if isinstance(picture, str):
        raise UserError(f"{which} {picture}; repair or leave it out")
    return picture


def square(encoded: bytes, size: int, which: str, resize: Resize = "squash") -> Tensor:
    """A picture of any shape as (3, size, size) in [0, 1], as an encoder gets it; errors as ``readable``."""
    pixels = readable(encoded, which, size if resize == "crop" else None)[None].float() / 255
    return F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)[0]


def as_png(picture: Image.Image) -> bytes:
    """Encoded without loss."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def read_file(path: Path) -> bytes:
    """The bytes of a file; ``UserError`` that names it where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"picture {path} cannot be read ({error.strerror or error}); restore it") from error
