"""Features: order, cache identity, evaluation mode."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from stablerep.errors import UserError
from stablerep.features import (
    Extraction,
    RawPixels,
    TableImages,
    cached,
    extract,
    extract_decodable,
    extract_with,
    untrained_encoder,
)
from stablerep.models.encoder import Encoder, EncoderConfig
from stablerep.store import OK, ImageTable

TINY = EncoderConfig(
    architecture="vit_tiny_patch16_224", image_size=16, patch_size=8, width=32, depth=1, num_heads=2
)


def png(colour: object, *, mode: str = "RGB", size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def noise(seed: int, size: int = 16) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


class MeanColour(nn.Module):
    """Features that say which picture they came from; counts its calls."""

    fingerprint = "mean colour"

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(255.0))
        self.dropout = nn.Dropout(0.5)
        self.num_seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.num_seen += len(images)
        return self.dropout(images.mean((2, 3)) * self.gain)


def test_order_is_the_data_order_whatever_the_sizes_and_batches() -> None:
    images = [png((i, 2 * i, 0), size=[(8, 8), (6, 6), (8, 5)][i % 3]) for i in range(23)]
    expected = [[i, 2 * i, 0] for i in range(23)]
    for batch_size in (1, 5, 64):
        features = extract(MeanColour(), images, batch_size=batch_size)
        assert features.dtype == np.float32
        np.testing.assert_allclose(features, expected, atol=1e-3)


def test_evaluation_mode_for_the_time_of_the_extraction_only() -> None:
    encoder = MeanColour().train()
    np.testing.assert_allclose(extract(encoder, [png((9, 8, 7))]), [[9, 8, 7]], atol=1e-3)
    assert encoder.training
    assert encoder.gain.grad is None
    encoder.eval()
    extract(encoder, [png((9, 8, 7))])
    assert not encoder.training


def test_cache_gives_the_same_numbers_without_the_encoder(tmp_path: Path) -> None:
    images = [noise(i) for i in range(7)]
    encoder = MeanColour()
    first = extract(encoder, images, cache=tmp_path)
    second = extract(encoder, images, cache=tmp_path, batch_size=2)
    assert encoder.num_seen == 7
    np.testing.assert_array_equal(first, second)


def test_what_the_cache_holds_can_be_asked_without_computing_it(tmp_path: Path) -> None:
    images, encoder = [noise(i) for i in range(3)], MeanColour()
    how = Extraction(cache=tmp_path)
    assert cached(encoder, images, how) is None and encoder.num_seen == 0
    features = extract(encoder, images, cache=tmp_path)
    found = cached(encoder, images, how)
    assert found is not None and encoder.num_seen == 3
    np.testing.assert_array_equal(found, features)
    assert cached(encoder, images[:2], how) is None
    assert cached(encoder, images, Extraction()) is None


def test_different_weights_never_share_a_cache_entry(tmp_path: Path) -> None:
    images = [noise(i) for i in range(3)]
    left, right = untrained_encoder(TINY, seed=0), untrained_encoder(TINY, seed=1)
    first = extract(left, images, cache=tmp_path)
    second = extract(right, images, cache=tmp_path)
    assert np.abs(first - second).max() > 0.1
    with torch.no_grad():
        left.backbone.norm.bias[3] += 1.0
    third = extract(left, images, cache=tmp_path)
    np.testing.assert_allclose(third[:, 3], first[:, 3] + 1, atol=1e-5)
    assert len(list(tmp_path.iterdir())) == 3


def test_different_data_and_precision_never_share_a_cache_entry(tmp_path: Path) -> None:
    images = [noise(i) for i in range(3)]
    encoder = MeanColour()
    extract(encoder, images, cache=tmp_path)
    reordered = extract(encoder, images[::-1], cache=tmp_path)
    np.testing.assert_array_equal(reordered, extract(encoder, images, cache=tmp_path)[::-1])
    extract(encoder, images[:2], cache=tmp_path)
    extract(encoder, images, cache=tmp_path, precision="bfloat16")
    assert len(list(tmp_path.iterdir())) == 4


def test_the_centre_and_the_whole_picture_never_share_a_cache_entry(tmp_path: Path) -> None:
    striped = np.zeros((32, 64, 3), np.uint8)
    striped[:, :8] = striped[:, -8:] = 255  # outside the centre
    buffer = io.BytesIO()
    Image.fromarray(striped).save(buffer, "PNG")
    images = [buffer.getvalue(), png((9, 8, 7))]
    squashed, centred = Extraction(cache=tmp_path), Extraction(cache=tmp_path, resize="crop")
    whole = extract_with(MeanColour(), images, squashed)
    centre = extract_with(MeanColour(), images, centred)
    np.testing.assert_allclose(whole, [[63.75] * 3, [9, 8, 7]], atol=1e-3)
    np.testing.assert_allclose(centre, [[0] * 3, [9, 8, 7]], atol=1e-3)
    assert len(list(tmp_path.iterdir())) == 2
    encoder = MeanColour()
    np.testing.assert_array_equal(extract_with(encoder, images, squashed), whole)
    np.testing.assert_array_equal(extract_with(encoder, images, centred), centre)
    assert encoder.num_seen == 0


def test_features_do_not_depend_on_names_or_paths(tmp_path: Path) -> None:
    images = [noise(i) for i in range(3)]
    same = untrained_encoder(TINY, seed=5)
    copy = Encoder(TINY)
    copy.load_state_dict(same.state_dict())
    extract(same, images, cache=tmp_path)
    (entry,) = tmp_path.iterdir()
    before = entry.stat().st_mtime_ns
    extract(copy, images, cache=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [entry.name]
    assert entry.stat().st_mtime_ns == before


def test_damaged_cache_is_named(tmp_path: Path) -> None:
    extract(MeanColour(), [noise(0)], cache=tmp_path)
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(entry.read_bytes()[:-4])
    with pytest.raises(UserError, match=f"{entry.name}.*delete"):
        extract(MeanColour(), [noise(0)], cache=tmp_path)


def test_broken_image_is_named() -> None:
    with pytest.raises(UserError, match="image 5 "):
        extract(MeanColour(), [noise(i) for i in range(5)] + [b"no picture"], batch_size=2)


def broken_png() -> bytes:
    """PIL's reader of PNG says of a damaged chunk that it is no syntax."""
    whole = noise(0)
    return whole[:16] + b"\0\0\0\0" + whole[20:]


def test_what_cannot_be_decoded_is_left_out_where_asked_and_refused_elsewhere(tmp_path: Path) -> None:
    images = [noise(1), b"no picture", broken_png(), noise(2), b"", noise(3)]
    how = Extraction(batch_size=2, cache=tmp_path)
    with pytest.raises(UserError, match=r"image 1 of the list cannot be decoded \(no known picture format\)"):
        extract(MeanColour(), images, batch_size=2, cache=tmp_path)
    assert not list(tmp_path.iterdir())
    encoder = MeanColour()
    for _ in range(2):  # computed, and from the cache
        features, undecoded = extract_decodable(encoder, images, how)
        assert sorted(undecoded) == [1, 2, 4] and all(
            "cannot be decoded" in why for why in undecoded.values()
        )
        assert np.isnan(features[[1, 2, 4]]).all()
        np.testing.assert_array_equal(
            features[[0, 3, 5]], extract(encoder, [images[0], images[3], images[5]])
        )
    assert encoder.num_seen == 3 + 3 * 2, "the cache is asked"
    with pytest.raises(UserError, match="image 1 of the list cannot be decoded"):
        extract(encoder, images, batch_size=2, cache=tmp_path)
    with pytest.raises(UserError, match="none of the 2 images can be decoded"):
        extract_decodable(encoder, images[1:3], how)


def test_features_that_are_not_finite_are_refused() -> None:
    encoder = MeanColour()
    with torch.no_grad():
        encoder.gain.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite, first for image 0"):
        extract(encoder, [noise(0)])


def test_no_images_is_an_error() -> None:
    with pytest.raises(UserError, match="no images"):
        extract(MeanColour(), [])


def test_raw_pixels_are_the_shrunk_picture() -> None:
    features = extract(RawPixels(size=2), [png((255, 0, 51), size=(8, 8))])
    np.testing.assert_allclose(features, [[1] * 4 + [0] * 4 + [0.2] * 4], atol=1e-6)


def test_untrained_encoder_is_reproducible_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = untrained_encoder(TINY)
    assert torch.equal(torch.rand(2), expected)
    assert untrained_encoder(TINY).fingerprint == first.fingerprint
    assert untrained_encoder(TINY, seed=1).fingerprint != first.fingerprint


def test_an_untrained_encoder_leaves_no_path_out() -> None:
    encoder = untrained_encoder(dataclasses.replace(TINY, depth=4, drop_path=0.5))
    images = torch.rand(8, 3, 16, 16)
    assert not encoder.training
    assert torch.equal(encoder(images), encoder(images))


def test_rows_of_a_table_in_the_order_asked(tmp_path: Path) -> None:
    table = ImageTable.open_or_create(tmp_path / "images.lance")
    for start in (0, 4):  # two commits, two fragments
        rows = [
            {
                "origin": "a",
                "caption_id": str(i),
                "image_index": 0,
                "image": png((i, 0, 0)),
                "status": OK,
            }
            for i in range(start, start + 4)
        ]
        table.append(rows)
    table = table.reload()
    ids = table.read(["caption_id"])["caption_id"].to_pylist()
    positions = [6, 1, 3, 1]
    images = TableImages(table, positions)
    assert len(images) == 4
    assert images[0] == png((int(ids[6]), 0, 0))
    features = extract(MeanColour(), images, batch_size=3, cache=tmp_path / "cache")
    np.testing.assert_allclose(features[:, 0], [int(ids[position]) for position in positions], atol=1e-3)
