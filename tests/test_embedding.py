"""Pictures to features: the command and the scikit-learn estimator, beside the encoder itself."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.base
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from stablerep.decoding import decode_image
from stablerep.embedding import EmbedConfig, Embedder, embed
from stablerep.errors import UserError
from stablerep.models.encoder import Encoder, EncoderConfig, save_encoder
from stablerep.store import ImageTable

SMALL = EncoderConfig(
    architecture="vit_tiny_patch16_224", image_size=16, patch_size=8, width=24, depth=1, num_heads=3
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, Path]:
    torch.manual_seed(0)
    model = Encoder(SMALL).eval()
    folder = tmp_path_factory.mktemp("run")
    save_encoder(model, folder)
    return model, folder


def picture(seed: int, size: tuple[int, int] = (16, 16)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def encoded(seed: int, kind: str = "PNG", size: tuple[int, int] = (16, 16)) -> bytes:
    buffer = io.BytesIO()
    picture(seed, size).save(buffer, kind)
    return buffer.getvalue()


@torch.inference_mode()
def expected(model: Encoder, images: list[bytes]) -> np.ndarray:
    return torch.cat([model(decode_image(image)[None].float() / 255) for image in images]).numpy()


def test_a_folder_in_the_order_of_its_paths(encoder: tuple[Encoder, Path], tmp_path: Path) -> None:
    model, run = encoder
    files = {"b.png": encoded(1), "a/z.jpg": encoded(2, "JPEG", (20, 30)), "a/Ä.webp": encoded(3, "WEBP")}
    for name, content in files.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    summary = embed(EmbedConfig(source=tmp_path / "in", encoder=run, out=tmp_path / "f.npy"))
    names = (tmp_path / "f.names.txt").read_text(encoding="utf-8").splitlines()
    assert names == ["a/z.jpg", "a/Ä.webp", "b.png"]
    features = np.load(summary.path)
    np.testing.assert_allclose(features, expected(model, [files[name] for name in names]), atol=1e-5)
    assert (summary.num_images, summary.num_features, features.dtype) == (3, 24, np.float32)
    assert summary.fingerprint == model.fingerprint


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Three pictures, two of them for tests, and one that was never painted."""
    rows = [
        {"origin": "real", "caption_id": "c", "image_index": index, "status": "ok", "image": encoded(index)}
        | {"split": "test" if index else "train"}
        for index in range(3)
    ]
    failed = {"origin": "real", "caption_id": "c", "image_index": 3, "status": "failed", "split": "test"}
    ImageTable.open_or_create(tmp_path / "images.lance").append([*rows, failed])
    return tmp_path / "images.lance"


def test_the_rows_of_a_table_that_match(encoder: tuple[Encoder, Path], table: Path, tmp_path: Path) -> None:
    model, run = encoder
    config = EmbedConfig(source=table, encoder=run, out=tmp_path / "f.npy", where="split = 'test'")
    embed(config)
    assert (tmp_path / "f.names.txt").read_text().splitlines() == ["real/c/1", "real/c/2"]
    np.testing.assert_allclose(np.load(config.out), expected(model, [encoded(1), encoded(2)]), atol=1e-5)


@pytest.mark.parametrize("where", [None, "1=1) OR (1=1", "split = 'train' OR split = 'test'"])
def test_no_filter_lets_rows_without_a_picture_through(
    where: str | None, encoder: tuple[Encoder, Path], table: Path, tmp_path: Path
) -> None:
    embed(EmbedConfig(source=table, encoder=encoder[1], out=tmp_path / "f.npy", where=where))
    names = (tmp_path / "f.names.txt").read_text().splitlines()
    assert names == ["real/c/0", "real/c/1", "real/c/2"]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("colour = 1", "images.lance: the filter 'colour = 1' is not valid"),
        ("split = 'none'", "images.lance has no picture that matches \"split = 'none'\""),
        ("status = 'failed'", "has no picture that matches \"status = 'failed'\""),
    ],
)
def test_a_filter_that_leaves_nothing_is_named(
    where: str, message: str, encoder: tuple[Encoder, Path], table: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        embed(EmbedConfig(source=table, encoder=encoder[1], out=tmp_path / "f.npy", where=where))
    assert not (tmp_path / "f.npy").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "gone"}, "is no folder of pictures and no image table"),
        ({"source": "."}, r"holds no pictures \(.jpg"),
        ({"source": "bad"}, r"bad/x.png cannot be read as a picture .* repair or remove it"),
        ({"source": "odd"}, r"odd.png' has a line break or is not UTF-8"),
        ({"source": "good", "where": "split = 'test'"}, "filters the rows of an image table"),
        ({"source": "good", "encoder": "nobody"}, "no encoder 'nobody'"),
    ],
)
def test_what_cannot_be_read_is_named(
    change: dict[str, Any], message: str, encoder: tuple[Encoder, Path], tmp_path: Path
) -> None:
    root = tmp_path / "x"
    for name, content in {
        "bad/x.png": b"nothing",
        "good/y.png": encoded(1),
        os.fsdecode(b"odd/caf\xe9odd.png"): encoded(1),
    }.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(content)
    root.mkdir()
    source = root if change["source"] == "." else tmp_path / change["source"]
    given = {"encoder": encoder[1], "out": tmp_path / "f.npy"} | change | {"source": source}
    given["encoder"] = Path(given["encoder"])
    with pytest.raises(UserError, match=message):
        embed(EmbedConfig(**given))
    assert not (tmp_path / "f.npy").exists()


def test_every_kind_of_picture_gives_the_same_features(encoder: tuple[Encoder, Path], tmp_path: Path) -> None:
    model, run = encoder
    image = picture(5)
    (tmp_path / "p.png").write_bytes(encoded(5))
    array = np.array(image)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    kinds = [tmp_path / "p.png", str(tmp_path / "p.png"), encoded(5), image, array, tensor, tensor / 255]
    features = Embedder(run, batch_size=2).transform(kinds)
    assert features.shape == (7, 24)
    np.testing.assert_allclose(features, np.repeat(expected(model, [encoded(5)]), 7, 0), atol=1e-5)
    clear = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    np.testing.assert_allclose(
        Embedder(model).transform([clear]), Embedder(model).transform([Image.new("RGB", (16, 16), "white")])
    )
    whole = Embedder(model).transform(np.stack([array, array]))
    np.testing.assert_allclose(whole, features[:2], atol=1e-5)
    assert Embedder(model).transform([]).shape == (0, 24)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            np.zeros((3, 16, 16), np.uint8),
            r"picture 1 cannot be read \(its shape is \(3, 16, 16\), not \(H, W, 3\)",
        ),
        (np.zeros((16, 16), np.uint8), r"picture 1 .*its shape is \(16, 16\), not \(H, W, 3\)"),
        (np.full((16, 16, 3), np.nan), r"picture 1 .*floats in \[0, 1\]"),
        (np.full((16, 16, 3), 200.0), r"picture 1 .*bytes, or floats in \[0, 1\]"),
        (b"nothing", "picture 1 cannot be read"),
        ("gone.png", "gone.png cannot be read"),
    ],
)
def test_a_wrong_picture_is_named(wrong: Any, message: str, encoder: tuple[Encoder, Path]) -> None:
    with pytest.raises(UserError, match=message):
        Embedder(encoder[0]).transform([picture(1), wrong])


def test_it_is_an_estimator_of_scikit_learn(encoder: tuple[Encoder, Path]) -> None:
    _, run = encoder
    pictures = [picture(number) for number in range(6)]
    embedder = Embedder(run, batch_size=4)
    copy = sklearn.base.clone(embedder)
    assert copy.get_params() == embedder.get_params()
    pipeline = make_pipeline(copy, LogisticRegression(C=100.0, max_iter=1000))
    labels = [0, 1, 0, 1, 0, 1]
    assert pipeline.fit(pictures, labels).predict(pictures).shape == (6,)
    np.testing.assert_array_equal(embedder.fit_transform(pictures), copy.transform(pictures))
    assert list(embedder.get_feature_names_out()[:2]) == ["feature0", "feature1"]
