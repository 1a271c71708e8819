"""The last step: twins, one drawing in other colours or fillings, come into one group and one split.

It sees only the finished rows. The groups and splits assigned before stay what they are, but where two pictures
of different groups are twins, the two groups become one, which goes to the most trained split of its members. So
nothing ever leaves the training split.
"""

import io
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from .groups import UnionFind

Floats = npt.NDArray[np.float32]
Row = dict[str, Any]
MOST_TRAINED_FIRST = ("train", "validation", "test")
BLOCK = 1024
COLOUR_SIDE, COLOUR_SHIFT, SAME_COLOURS = 16, 1, 0.974
EDGE_SIDE, EDGE_SHIFT, SAME_DRAWING = 32, 2, 0.92
FULL_EDGE = 0.5  # of the largest contrast: stronger edges count the same, so that fillings matter less
BLUR = np.exp(-0.5 * np.arange(-4, 5, dtype=np.float32) ** 2)  # Gaussian of one pixel
BLUR /= BLUR.sum()


def join_twins(rows: Sequence[Row]) -> dict[str, object]:
    """Change ``group`` and ``split`` of the rows in place; returns what was done, for the report."""
    groups = [str(row["group"]) for row in rows]
    sets = UnionFind()
    joined = Counter[str]()
    for measure, pairs in twin_pairs([row["image"] for row in rows]).items():
        for first, second in pairs:
            joined[measure] += sets.find(groups[first]) != sets.find(groups[second])
            sets.union(groups[first], groups[second])
    splits: dict[str, set[str]] = defaultdict(set)
    for row, group in zip(rows, groups, strict=True):
        splits[sets.find(group)].add(row["split"])
    moved = Counter[str]()
    for row, group in zip(rows, groups, strict=True):
        name = sets.find(group)
        split = min(splits[name], key=MOST_TRAINED_FIRST.index)
        if split != row["split"]:
            moved[f"{row['split']} to {split}"] += 1
        row |= {"group": name, "split": split}
    return {"groups joined as twins": dict(joined), "pictures moved as twins": dict(moved)}


def twin_pairs(pictures: Sequence[bytes]) -> dict[str, list[tuple[int, int]]]:
    """By measure, the pairs (lower position first) that show the same colours, or the same edges."""
    colours = np.empty((len(pictures), COLOUR_SIDE, COLOUR_SIDE, 3), np.float32)
    edges = np.empty((len(pictures), EDGE_SIDE, EDGE_SIDE, 1), np.float32)
    for number, content in enumerate(pictures):
        shown = _on_white(content)
        colours[number] = _pooled(shown, COLOUR_SIDE)
        edges[number] = _pooled(_edge_strength(shown)[..., None], EDGE_SIDE)
    return {
        "same colours": sorted(_correlated(colours, COLOUR_SHIFT, SAME_COLOURS)),
        "same drawing": sorted(_correlated(edges, EDGE_SHIFT, SAME_DRAWING)),
    }


def _on_white(content: bytes) -> Floats:
    """The stored picture, as shown: (H, W, 3) in [0, 1], rounded to bytes."""
    with Image.open(io.BytesIO(content)) as image:
        pixels = np.asarray(image.convert("RGBA"), np.float32)
    alpha = pixels[..., 3:] / np.float32(255)
    shown = np.rint(pixels[..., :3] * alpha + 255 * (1 - alpha)) / 255
    return np.asarray(shown, np.float32)


def _edge_strength(shown: Floats) -> Floats:
    """Where colours change, whichever they are: (H, W)."""
    strength = np.zeros(shown.shape[:2], np.float32)
    strength[1:, :] += np.abs(np.diff(shown, axis=0)).max(axis=-1)
    strength[:, 1:] += np.abs(np.diff(shown, axis=1)).max(axis=-1)
    return _blurred(_blurred(np.minimum(strength, FULL_EDGE)).T).T


def _blurred(values: Floats) -> Floats:
    """Smoothed along the columns, the margins mirrored."""
    reach = len(BLUR) // 2
    padded = np.pad(values, ((reach, reach), (0, 0)), mode="symmetric")
    height = len(values)
    parts = [weight * padded[start : start + height] for start, weight in enumerate(BLUR)]
    return np.asarray(np.sum(parts, axis=0), np.float32)


def _pooled(maps: Floats, side: int) -> Floats:
    factor = maps.shape[0] // side
    blocks = maps.reshape(side, factor, side, factor, maps.shape[-1])
    return np.asarray(blocks.mean(axis=(1, 3)), np.float32)


def _standardised(maps: Floats) -> Floats:
    """Rows of zero mean and unit length, the products of which are correlations."""
    flat = maps.reshape(len(maps), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return np.asarray(flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-6), np.float32)


def _windows(maps: Floats, shift: int) -> Iterator[Floats]:
    """The inner part of all maps at every shift."""
    inner = maps.shape[1] - 2 * shift
    for down in range(2 * shift + 1):
        for right in range(2 * shift + 1):
            yield maps[:, down : down + inner, right : right + inner]


def _correlated(maps: Floats, shift: int, limit: float) -> set[tuple[int, int]]:
    """Pairs of which one's middle correlates with the other, somewhat shifted, by more than the limit."""
    middle = _standardised(maps[:, shift : maps.shape[1] - shift, shift : maps.shape[2] - shift])
    found: set[tuple[int, int]] = set()
    for window in _windows(maps, shift):
        shifted = _standardised(window).T
        for start in range(0, len(maps), BLOCK):
            ours, theirs = np.nonzero(middle[start : start + BLOCK] @ shifted > limit)
            ours += start
            apart = ours != theirs
            low, high = np.minimum(ours, theirs)[apart], np.maximum(ours, theirs)[apart]
            found.update(zip(low.tolist(), high.tolist(), strict=True))
    return found
