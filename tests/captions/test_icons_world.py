"""The shipped icons: nothing of the test split is known from the others, by name, text, pixel or drawing.

Near-duplicates are looked for by two measures, independent of the ones by which the groups were made, each the best
correlation over small shifts: the same colours (16 x 16 thumbnails on white, above 0.975), and the same drawing in
whatever colours or filling (32 x 32 maps of edge strength, above 0.93).
"""

import hashlib
import io
from collections import defaultdict
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from stablerep.captions.icons import icons_material
from stablerep.captions.worlds import WorldConfig, write_world
from stablerep.store import CAPTION_SCHEMA, CaptionTable, ImageTable, normalise_text

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

PATH = Path(str(resources.files("stablerep") / "data" / "icons.parquet"))
LICENCES = {"Apache-2.0", "CC-BY-4.0", "CC0-1.0", "MIT", "LicenseRef-PublicDomain"}
TRAINING_STYLES = {"noto", "twemoji", "clipart"}
HELD_OUT_STYLE = "fluent"
SAME_COLOURS = 0.975
SAME_DRAWING = 0.93

pytestmark = pytest.mark.skipif(
    not PATH.exists(), reason="icons.parquet has not been built (tools/build_icons)"
)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(PATH).to_pylist()
    return found


@pytest.fixture(scope="module")
def on_white(rows: list[dict[str, Any]]) -> Bytes:
    """All pictures composited on white, (N, 64, 64, 3)."""
    return np.stack([composited(row["image"]) for row in rows])


def composited(content: bytes) -> Bytes:
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"), np.float32)
    alpha = pixels[..., 3:] / 255
    return np.rint(pixels[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def test_the_file_is_small_and_complete(rows: list[dict[str, Any]]) -> None:
    assert PATH.stat().st_size <= 20 * 2**20
    assert len({row["picture_id"] for row in rows}) == len(rows)
    assert {row["split"] for row in rows} == {"train", "validation", "test"}
    for row in rows:
        for name in ("picture_id", "style", "concept", "caption", "group", "label", "licence", "title"):
            assert row[name], (name, row["picture_id"])
        texts = [row["caption"], *row["variants"]]
        assert all(text == normalise_text(text) != "" for text in texts)
        assert len(set(texts)) == len(texts)


def test_licences_allow_redistribution(rows: list[dict[str, Any]]) -> None:
    assert {row["licence"] for row in rows} <= LICENCES
    assert all(row["author"] for row in rows if row["licence"] == "CC-BY-4.0")


def test_styles_are_those_promised_and_one_is_held_out(rows: list[dict[str, Any]]) -> None:
    splits = defaultdict(set)
    for row in rows:
        splits[row["style"]].add(row["split"])
    assert splits.keys() == TRAINING_STYLES | {HELD_OUT_STYLE}
    assert all(found == {"train", "validation", "test"} for found in splits.values())
    trained = {row["concept"] for row in rows if row["style"] in TRAINING_STYLES}
    held_out = {row["concept"] for row in rows if row["style"] == HELD_OUT_STYLE}
    assert held_out <= trained, "every concept of the held-out style must be drawn by a training style too"


def test_no_group_concept_or_caption_is_in_two_splits(rows: list[dict[str, Any]]) -> None:
    splits, groups = defaultdict(set), defaultdict(set)
    for row in rows:
        splits["group", row["group"]].add(row["split"])
        splits["concept", row["concept"]].add(row["split"])
        groups["concept", row["concept"]].add(row["group"])
        for text in (row["caption"], *row["variants"]):
            groups["text", normalise_text(text).casefold()].add(row["group"])
    assert not [name for name, found in splits.items() if len(found) > 1]
    assert not [name for name, found in groups.items() if len(found) > 1]


def test_one_concept_has_one_caption_and_one_label(rows: list[dict[str, Any]]) -> None:
    said = defaultdict(set)
    for row in rows:
        said[row["concept"]].add((row["caption"], tuple(row["variants"]), row["label"]))
    assert not [concept for concept, found in said.items() if len(found) > 1]


@pytest.mark.slow
def test_no_pixels_are_in_two_groups(rows: list[dict[str, Any]], on_white: Bytes) -> None:
    groups = defaultdict(set)
    for row, picture in zip(rows, on_white, strict=True):
        groups[hashlib.sha256(picture.tobytes()).digest()].add(row["group"])
    assert not [found for found in groups.values() if len(found) > 1]


def centred(pictures: Floats) -> Floats:
    """Rows (N, D) of zero mean and unit length: their products are correlations."""
    flat = pictures.reshape(len(pictures), -1)
    flat = flat - flat.mean(1, keepdims=True)
    return flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-6)


def thumbnails(maps: npt.NDArray[Any], side: int) -> Floats:
    factor = maps.shape[1] // side
    shape = (len(maps), side, factor, side, factor, *maps.shape[3:])
    return maps.reshape(shape).mean((2, 4), dtype=np.float32)


def best_correlation(ours: Floats, theirs: Floats, shift: int, limit: float) -> Floats:
    """(N, M): correlation of the inner parts, ours in the middle and theirs at the best of all small shifts.

    Computed where it may exceed the limit, -1 elsewhere.
    """
    inner = ours.shape[1] - 2 * shift
    middle = centred(ours[:, shift : shift + inner, shift : shift + inner])
    directions = np.linalg.svd(middle, full_matrices=False)[2][:64].T
    bound = bounds(middle, directions)
    best = np.full((len(ours), len(theirs)), -1, np.float32)
    for down in range(2 * shift + 1):
        for right in range(2 * shift + 1):
            shifted = centred(theirs[:, down : down + inner, right : right + inner])
            rounding = 1e-3
            possible = bound @ bounds(shifted, directions).T > limit - rounding
            for i in np.flatnonzero(possible.any(1)):
                best[i, possible[i]] = np.maximum(best[i, possible[i]], shifted[possible[i]] @ middle[i])
    return best


def bounds(rows: Floats, directions: Floats) -> Floats:
    """Rows of unit length (N, D) along some directions (D, K), and the length of the rest: (N, K + 1).

    The product of two of them is at least that of the whole rows.
    """
    along = rows @ directions
    return np.hstack([along, np.sqrt(np.maximum(0, 1 - np.square(along).sum(1, keepdims=True)))])


def edge_map(picture: Bytes) -> Floats:
    """Blurred strength of the edges of one picture, (64, 64); half of full contrast counts as full."""
    channels = picture.transpose(2, 0, 1).astype(np.float32, order="C") / 255
    strength = np.zeros(channels.shape[1:], np.float32)
    strength[1:, :] += np.abs(np.diff(channels, axis=1)).max(0)
    strength[:, 1:] += np.abs(np.diff(channels, axis=2)).max(0)
    blurred: Floats = gaussian_filter(np.minimum(strength, 0.5), 1)
    return blurred


def compare(ours: Bytes, theirs: Bytes, measure: str) -> Floats:
    """(N, M): how far above its limit each pair is that may be; positive is a near-duplicate."""
    if measure == "same colours":
        small = (thumbnails(part, 16) for part in (ours, theirs))
        return best_correlation(*small, 1, SAME_COLOURS) - SAME_COLOURS
    maps = (thumbnails(np.stack([edge_map(each) for each in part]), 32) for part in (ours, theirs))
    return best_correlation(*maps, 2, SAME_DRAWING) - SAME_DRAWING


@pytest.mark.parametrize("measure", ["same colours", "same drawing"])
def test_the_search_for_near_duplicates_finds_them_and_nothing_else(
    rows: list[dict[str, Any]], measure: str
) -> None:
    some = np.stack([composited(row["image"]) for row in rows[::97]])
    if measure == "same colours":
        small = [Image.fromarray(each).resize((40, 40), Image.Resampling.LANCZOS) for each in some]
        copies = np.stack([np.asarray(each.resize((64, 64), Image.Resampling.LANCZOS)) for each in small])
    else:
        copies = np.roll((255 - 0.6 * (255.0 - some[..., [2, 0, 1]])).astype(np.uint8), (2, -2), (1, 2))
    found = compare(some, copies, measure) > 0
    assert found.diagonal().mean() > 0.95
    assert (found.sum() - found.diagonal().sum()) / found.size < 0.002


@pytest.mark.slow
@pytest.mark.parametrize("measure", ["same colours", "same drawing"])
def test_no_drawing_of_the_test_split_is_in_another(
    rows: list[dict[str, Any]], on_white: Bytes, measure: str
) -> None:
    is_test = np.array([row["split"] == "test" for row in rows])
    ours, theirs = np.flatnonzero(is_test), np.flatnonzero(~is_test)
    excess = compare(on_white[ours], on_white[theirs], measure)
    found = [
        f"{excess[i, j]:+.3f} {rows[ours[i]]['picture_id']} ~ {rows[theirs[j]]['picture_id']}"
        for i, j in np.argwhere(excess > 0)
    ]
    assert not found, "\n".join(sorted(found, reverse=True))


def test_the_world_keeps_the_splits(rows: list[dict[str, Any]]) -> None:
    material = icons_material()
    assert len(material.pictures) == len(rows)
    by_id = {row["id"]: row for row in material.captions}
    assert len(by_id) == len(material.captions)
    primaries = {normalise_text(row["caption"]) for row in rows}
    assert {row["text"] for row in material.captions if row["template"] == "primary"} == primaries
    for picture in material.pictures:
        caption = by_id[picture.caption_id]
        assert caption["template"] == "primary"
        assert (picture.split, picture.group) == (caption["split"], caption["group"])
    splits = defaultdict(set)
    for row in material.captions:
        splits[row["group"]].add(row["split"])
    assert all(len(found) == 1 for found in splits.values())


@pytest.mark.slow
def test_the_world_can_be_written_and_read_back(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    """A part of it, as all are written in the same way."""
    some = sorted(rows[::12], key=lambda row: str(row["picture_id"]))
    pq.write_table(pa.Table.from_pylist(rows[::12], pq.read_schema(PATH)), tmp_path / "some.parquet")
    config = WorldConfig(name="icons", out=tmp_path / "world", source=tmp_path / "some.parquet")
    summary = write_world(config)
    images = ImageTable.open(config.out / "images.lance")
    captions = CaptionTable.open(config.out / "captions.lance").read(CAPTION_SCHEMA.names)
    assert summary.pictures == len(images) == len(some)
    assert summary.captions == len(captions)
    positions = range(0, len(some), 7)
    for position, content in zip(positions, images.take_images([*positions]), strict=True):
        stored = np.asarray(Image.open(io.BytesIO(content)), int)
        expected = composited(some[position]["image"])
        assert np.abs(stored - expected).max() <= 1  # of 255: rounding
    again = write_world(config)
    assert (again.new_captions, again.new_pictures) == (0, 0)
