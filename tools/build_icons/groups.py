"""What must stay together: union of bases, near-duplicate pictures and equal captions."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from .records import normalised
from .render import on_white

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
THUMBNAIL = 16
BLOCK = 512
MAX_DIFFERENCE = 0.05  # of the painted area, colours in [0, 1]
MAX_DIFFERENCE_CLIPART = 0.065  # clip art is copied and varied more freely
MIN_LIKENESS = 0.95
MIN_OVERLAP = 0.85
MAX_HASH_DISTANCE = 4  # of 64
MAX_COARSE_DIFFERENCE = 0.05


class UnionFind:
    """Disjoint sets of strings; the smallest member names its set."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def find(self, item: str) -> str:
        """The name of the set that holds ``item``."""
        parent = self._parent.setdefault(item, item)
        while parent != self._parent[parent]:
            self._parent[parent] = self._parent[self._parent[parent]]
            parent = self._parent[parent]
        self._parent[item] = parent
        return parent

    def union(self, first: str, second: str) -> None:
        """Make one set of the two that hold ``first`` and ``second``."""
        low, high = sorted((self.find(first), self.find(second)))
        self._parent[high] = low


class Signatures:
    """Thumbnails of every picture on white, and where it is painted."""

    def __init__(self, images: Iterable[Image.Image], clipart: Sequence[bool]) -> None:
        self.clipart = clipart
        shots, masks, kept = [], [], list(images)
        for image in kept:
            shots.append(_pool(on_white(image), 2))
            alpha: Floats = np.asarray(image.getchannel("A"), dtype=np.float32)[..., None] / np.float32(255)
            masks.append(_pool(alpha, 2)[..., 0] > 0.1)
        self.shots: Floats = np.stack(shots)  # (N, 32, 32, 3)
        self.masks: Mask = np.stack(masks)
        small: Floats = np.stack([_pool(shot, 32 // THUMBNAIL) for shot in shots])
        self.hashes = np.stack([_difference_hash(image) for image in kept])
        self.coarse: Floats = np.stack([_pool(shot, 4) for shot in shots])
        self.coarse_masks: Mask = np.stack(
            [_pool(mask[..., None].astype(np.float32), 4)[..., 0] > 0.1 for mask in masks]
        )
        self.colours = _standardised(small.reshape(len(shots), -1))
        self.shades = _standardised(small.mean(axis=-1).reshape(len(shots), -1))

    def near_pairs(self) -> Iterator[tuple[int, int]]:
        """Pairs that show the same drawing, minimally varied or recoloured."""
        for first, second in self._candidates():
            difference, likeness = self.compare(first, second)
            loose = self.clipart[first] and self.clipart[second]
            limit = MAX_DIFFERENCE_CLIPART if loose else MAX_DIFFERENCE
            if difference <= limit or likeness >= MIN_LIKENESS or self.same_gradients(first, second):
                yield first, second

    def same_gradients(self, first: int, second: int) -> bool:
        """Second opinion: difference hashes almost equal, coarse colours of the painted area alike."""
        if int((self.hashes[first] != self.hashes[second]).sum()) > MAX_HASH_DISTANCE:
            return False
        painted = self.coarse_masks[first] | self.coarse_masks[second]
        difference = np.abs(self.coarse[first] - self.coarse[second])[painted].mean()
        return bool(difference <= MAX_COARSE_DIFFERENCE)

    def compare(self, first: int, second: int) -> tuple[float, float]:
        """Over the painted area of the two: mean colour difference, and correlation of the shades."""
        painted = self.masks[first] | self.masks[second]
        one, two = self.shots[first][painted], self.shots[second][painted]
        difference = float(np.abs(one - two).mean())
        gray_one, gray_two = one.mean(axis=-1), two.mean(axis=-1)
        gray_one, gray_two = gray_one - gray_one.mean(), gray_two - gray_two.mean()
        norm = float(np.linalg.norm(gray_one) * np.linalg.norm(gray_two))
        overlap = (self.masks[first] & self.masks[second]).sum() / painted.sum()
        likeness = float(gray_one @ gray_two) / norm if norm > 1e-6 and overlap >= MIN_OVERLAP else 0.0
        return difference, likeness

    def _candidates(self) -> Iterator[tuple[int, int]]:
        for start in range(0, len(self.shots), BLOCK):
            rows = slice(start, start + BLOCK)
            near = (self.colours[rows] @ self.colours.T >= 0.9) | (self.shades[rows] @ self.shades.T >= 0.9)
            for row, column in zip(*np.nonzero(near), strict=True):
                if start + row < column:
                    yield start + int(row), int(column)


def _difference_hash(image: Image.Image) -> Mask:
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    gray = np.asarray(white.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return np.asarray(gray[:, 1:] > gray[:, :-1], dtype=np.bool_).ravel()


def _pool(pixels: Floats, factor: int) -> Floats:
    height, width, channels = pixels.shape
    blocks = pixels.reshape(height // factor, factor, width // factor, factor, channels)
    return np.asarray(blocks.mean(axis=(1, 3)), dtype=np.float32)


def _standardised(values: Floats) -> Floats:
    centred = values - values.mean(axis=1, keepdims=True)
    return np.asarray(centred / (np.linalg.norm(centred, axis=1, keepdims=True) + 1e-6), dtype=np.float32)


def join_equal_captions(sets: UnionFind, texts: dict[str, Sequence[str]]) -> int:
    """Concepts with an equal text are one group; returns how many texts were shared."""
    owners: dict[str, list[str]] = defaultdict(list)
    for concept in sorted(texts):
        for text in dict.fromkeys(normalised(text) for text in texts[concept]):
            owners[text].append(concept)
    for concepts in owners.values():
        for other in concepts[1:]:
            sets.union(concepts[0], other)
    return sum(len(concepts) > 1 for concepts in owners.values())
