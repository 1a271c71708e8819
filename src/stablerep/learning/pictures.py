"""Pictures of a batch: read together, decoded one by one when a view needs them."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stablerep.decoding import decode_image, image_size
from stablerep.errors import UserError
from stablerep.store import ImageTable


class Picture:
    """An encoded image that knows its size, and its place in a table for whoever must repair it."""

    def __init__(self, encoded: bytes, place: str) -> None:
        self._encoded, self._place = encoded, place
        with self._naming_the_place():
            self.size = image_size(encoded)

    def decode(self) -> Tensor:
        """Pixels uint8 (3, H, W); ``UserError`` for a damaged image."""
        with self._naming_the_place():
            return decode_image(self._encoded)

    @contextlib.contextmanager
    def _naming_the_place(self) -> Iterator[None]:
        try:
            yield
        except (OSError, SyntaxError, ValueError) as error:  # whatever PIL raises for a damaged file
            raise UserError(
                f"{self._place} cannot be decoded ({error}); leave it out with a filter (where)"
            ) from error


class Pictures(Sequence[Tensor]):
    """Images uint8 (3, H, W), some decoded before and the others when asked for.

    The one asked for last stays, so that several views of an image in a row decode it once and no batch of
    decoded images ever lies in memory.
    """

    def __init__(self, images: Sequence[Tensor | Picture]) -> None:
        self._images = images
        self._last: tuple[Picture, Tensor] | None = None

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(M, 2) height and width."""
        sizes = [image.size if isinstance(image, Picture) else image.shape[-2:] for image in self._images]
        return np.array(sizes, dtype=np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> "Pictures": ...
    def __getitem__(self, index: int | slice) -> "Tensor | Pictures":
        if isinstance(index, slice):
            return Pictures(self._images[index])
        image = self._images[index]
        if isinstance(image, Tensor):
            return image
        if self._last is None or self._last[0] is not image:
            self._last = image, image.decode()
        return self._last[1]


def decoded_bytes(table: ImageTable, positions: NDArray[np.int64]) -> int | None:
    """What the decoded pictures at these positions take; None where the table does not know all their sizes."""
    rows = table.read(["width", "height"]).take(positions)
    if rows["width"].null_count or rows["height"].null_count:
        return None
    width, height = (rows[name].to_numpy().astype(np.int64) for name in ("width", "height"))
    return int((3 * width * height).sum())
