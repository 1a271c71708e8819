"""The fashion world: measurements with known answers, unambiguous wordings, clean splits, and the real data."""

import gzip
import io
import itertools
import re
import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_erosion

from stablerep.captions import fashion
from stablerep.captions.fashion import fashion_material, measure
from stablerep.captions.fashion_files import DEBIAN_FOLDER, FILES, HOME_FOLDER, read_fashion_files
from stablerep.captions.fashion_words import (
    KINDS,
    TEST_WORDINGS,
    TEXTURES,
    TONES,
    TRAIN_WORDINGS,
    UNNAMED,
    Traits,
)
from stablerep.captions.worlds import WorldConfig, write_world
from stablerep.errors import UserError
from stablerep.store import CAPTION_SCHEMA, CaptionTable, ImageTable, caption_id

CLASS_WORDS = ("shirt", "trouser", "pullover", "dress", "coat", "sandal", "sneaker", "bag", "boot", "shoe")


def blank() -> np.ndarray:
    return np.zeros((1, 28, 28), np.uint8)


def test_measurements_of_a_rectangle() -> None:
    images = blank()
    images[0, 4:24, 10:15] = 100
    found = {name: float(values[0]) for name, values in measure(images).items()}
    assert found == {
        "tone": 100,
        "energy": 0,
        "across": 0,
        "mean_width": 5,
        "shape": 5 / 20,
        "fill": 1,
    }


def test_lines_across_and_down_are_told_apart() -> None:
    images = np.repeat(blank(), 2, axis=0)
    images[:, 4:24, 4:24] = 100
    images[0, 4:24:2, 4:24] = 200  # rows alternate
    images[1, 4:24, 4:24:2] = 200  # columns alternate
    found = measure(images)
    assert found["across"].tolist() == [1, 0]
    assert found["energy"][0] == found["energy"][1]
    assert found["energy"][0] > 50


def test_the_outline_is_no_pattern() -> None:
    images = blank()
    yy, xx = np.mgrid[:28, :28]
    disc = (yy - 14) ** 2 + (xx - 14) ** 2 < 100
    images[0][disc] = 120  # the half-covered pixels along an outline
    images[0][binary_erosion(disc)] = 250
    assert measure(images)["energy"].tolist() == [0]


def test_an_empty_picture_can_be_measured() -> None:
    assert all(np.isfinite(values).all() for values in measure(blank()).values())


def all_traits(hide_class: bool) -> Iterator[Traits]:
    for kind in (UNNAMED,) if hide_class else KINDS:
        for tone, texture, build, shape in itertools.product(TONES, TEXTURES, kind.builds, kind.shapes):
            yield Traits(kind=kind, tone=tone, texture=texture, build=build, shape=shape)


@pytest.mark.parametrize("hide_class", [False, True])
def test_no_two_traits_or_wordings_share_a_text(hide_class: bool) -> None:
    wordings = [*TRAIN_WORDINGS.values(), *TEST_WORDINGS.values()]
    texts = [wording(traits) for traits in all_traits(hide_class) for wording in wordings]
    assert len(texts) == (1 if hide_class else 10) * 108 * 6
    assert len({caption_id(text) for text in texts}) == len(texts)
    assert len({traits.concept for traits in all_traits(hide_class)}) == len(texts) // 6
    for text in texts:
        assert "  " not in text
        assert " ," not in text
        assert not text.endswith((" ", ","))
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text)


def test_hidden_classes_are_never_named() -> None:
    wordings = [*TRAIN_WORDINGS.values(), *TEST_WORDINGS.values()]
    texts = [wording(traits) for traits in all_traits(hide_class=True) for wording in wordings]
    assert not [text for text in texts if any(word in text for word in CLASS_WORDS)]
    named = [wording(traits) for traits in all_traits(hide_class=False) for wording in wordings]
    assert all(any(word in text for word in CLASS_WORDS) for text in named), (
        "the check above must be able to fail"
    )


def test_a_wording_reads_well() -> None:
    traits = Traits(kind=KINDS[9], tone="light", texture="plain", build="", shape="high")
    said = {name: wording(traits) for name, wording in (TRAIN_WORDINGS | TEST_WORDINGS).items()}
    assert said == {
        "plainly": "a light ankle boot without a pattern, high shape",
        "as photo": "photo of an ankle boot without a pattern, light, high shape",
        "texture first": "a plain light ankle boot, high shape",
        "as entry": "ankle boot: light, plain, high shape",
        "as showing": "a picture showing a light plain ankle boot, high shape",
        "as shade": "an ankle boot in a light shade, plain, high shape",
    }


def write_files(folder: Path, *, num_train: int = 600, num_test: int = 100, packed: bool = True) -> Path:
    """Made-up data in the format of the real ones: rectangles of every tone and shape."""
    folder.mkdir(parents=True)
    for name, count in zip(FILES, (num_train, num_train, num_test, num_test), strict=True):
        rng = np.random.default_rng([count, "images" in name])
        if "images" in name:
            images = np.zeros((count, 28, 28), np.uint8)
            for image in images:
                height, width = rng.integers(5, 28, 2)
                image[:height, :width] = rng.integers(40, 255) + rng.integers(-20, 1, (height, width))
            content = struct.pack(">IIII", 2051, count, 28, 28) + images.tobytes()
        else:
            content = struct.pack(">II", 2049, count) + (np.arange(count) % 10).astype(np.uint8).tobytes()
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)
    return folder


def test_packed_and_plain_files_are_the_same_data(tmp_path: Path) -> None:
    packed = read_fashion_files(write_files(tmp_path / "packed"))
    plain = read_fashion_files(write_files(tmp_path / "plain", packed=False))
    assert packed.digest == plain.digest
    assert packed.train_images.shape == (600, 28, 28)
    assert np.array_equal(packed.test_labels, plain.test_labels)


def test_absent_files_are_answered_with_the_way_to_get_them(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "data")
    (folder / f"{FILES[3]}.gz").unlink()
    for source in (folder, tmp_path / "nowhere"):
        with pytest.raises(UserError) as caught:
            write_world(WorldConfig(name="fashion", out=tmp_path / "world", source=source))
        assert "apt-get install dataset-fashion-mnist" in str(caught.value)
        assert f"or put {', '.join(FILES)}" in str(caught.value)
    assert not (tmp_path / "world").exists()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "longer"])
def test_damaged_files_are_refused(tmp_path: Path, name: str, damage: str) -> None:
    folder = write_files(tmp_path / "data", num_train=20, num_test=10)
    path = folder / f"{name}.gz"
    content = path.read_bytes()
    plain = gzip.decompress(content)
    path.write_bytes(
        {
            "cut": content[: len(content) // 2],
            "empty": b"",
            "noise": bytes(range(256)),
            "longer": gzip.compress(plain + plain[-1:]),
        }[damage]
    )
    with pytest.raises(UserError, match=f"{name}.*damaged"):
        read_fashion_files(folder)


def check_rules(captions: list[dict[str, Any]], pictures: list[dict[str, Any]], num_test: int) -> None:
    """What must hold of any fashion world: clean splits, and pictures that agree with their captions."""
    by_id = {row["id"]: row for row in captions}
    assert len(by_id) == len(captions) == len({row["text"] for row in captions})
    splits_of_group = defaultdict(set)
    for row in captions:
        splits_of_group[row["group"]].add(row["split"])
        assert row["source"] == ("fashion-test" if row["split"] == "test" else "fashion")
        assert (row["template"] in TEST_WORDINGS) == (row["split"] == "test")
    assert all(len(splits) == 1 for splits in splits_of_group.values())
    indices = defaultdict(list)
    for row in pictures:
        caption = by_id[row["caption_id"]]
        assert (row["split"], row["group"]) == (caption["split"], caption["group"])
        assert caption["label"] in (row["label"], None)
        indices[row["caption_id"]].append(row["image_index"])
    assert indices.keys() == by_id.keys(), "every caption has pictures"
    assert all(sorted(found) == list(range(len(found))) for found in indices.values())
    assert Counter(row["split"] for row in pictures)["test"] == num_test


@pytest.mark.slow
@pytest.mark.parametrize("hide_class", [False, True])
def test_rules_on_made_up_data(tmp_path: Path, hide_class: bool) -> None:
    source = write_files(tmp_path / "data", num_train=900, num_test=150)
    config = WorldConfig(name="fashion", out=tmp_path / "world", source=source, hide_class=hide_class)
    summary = write_world(config)
    captions = CaptionTable.open(config.out / "captions.lance").read(CAPTION_SCHEMA.names).to_pylist()
    images = ImageTable.open(config.out / "images.lance")
    pictures = images.read(["caption_id", "image_index", "split", "group", "label", "image"]).to_pylist()
    check_rules(captions, pictures, num_test=150)
    assert summary.pictures == summary.new_pictures == 1050
    assert all(row["label"] is None for row in captions) == hide_class
    data = read_fashion_files(source)
    originals = Counter(image.tobytes() for image in (*data.train_images, *data.test_images))
    stored = [Image.open(io.BytesIO(row["image"])) for row in pictures]
    assert {picture.mode for picture in stored} == {"L"}
    assert Counter(picture.tobytes() for picture in stored) == originals
    again = write_world(config)
    assert (again.new_captions, again.new_pictures) == (0, 0)
    assert again.captions == summary.captions


@pytest.mark.slow
def test_captions_say_what_is_measured(tmp_path: Path) -> None:
    source = write_files(tmp_path / "data", num_train=3000)
    material = fashion_material(source)
    text_of = {row["id"]: str(row["concept"]) for row in material.captions}
    tones = defaultdict(list)
    widths = defaultdict(list)
    for picture in material.pictures:
        pixels = np.asarray(picture.draw())
        words = text_of[picture.caption_id].split("/")
        if picture.label == "coat" and picture.split != "test":
            tones[words[1]].append(pixels[pixels > 20].mean())
            widths[words[3]].append((pixels > 20).sum() / (pixels > 20).any(1).sum())
    assert max(tones["dark"]) <= min(tones["grey"])
    assert max(tones["grey"]) <= min(tones["light"])
    assert max(widths["slim"]) <= min(widths["regular"])
    assert max(widths["regular"]) <= min(widths["wide"])
    assert [len(tones[word]) for word in TONES] == [100, 100, 100]


def once(function: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray], Any]:
    """The function, computed once for each array that stays in memory."""
    known: dict[int, Any] = {}

    def result(images: np.ndarray) -> Any:
        if id(images) not in known:
            known[id(images)] = function(images)
        return known[id(images)]

    return result


REAL_DATA = any(
    all((folder.expanduser() / f"{name}{end}").exists() for name in FILES)
    for folder in (HOME_FOLDER, DEBIAN_FOLDER)
    for end in (".gz", "")
)


@pytest.mark.slow
@pytest.mark.skipif(
    not REAL_DATA, reason="Fashion-MNIST is not installed (apt-get install dataset-fashion-mnist)"
)
def test_the_real_data(monkeypatch: pytest.MonkeyPatch) -> None:
    data = read_fashion_files()
    # Read and measured once for both worlds.
    monkeypatch.setattr(fashion, "read_fashion_files", lambda _: data)
    monkeypatch.setattr(fashion, "measure", once(measure))
    material = fashion_material()
    captions = [dict(row) for row in material.captions]
    names = ("caption_id", "image_index", "split", "group", "label")
    pictures = [{name: getattr(picture, name) for name in names} for picture in material.pictures]
    check_rules(captions, pictures, num_test=10_000)
    counts = Counter(row["split"] for row in pictures)
    assert len(pictures) == 70_000
    assert 0.05 < counts["validation"] / 60_000 < 0.15
    assert sum(row["split"] != "test" for row in captions) >= 1_500
    assert len(captions) <= 6_000
    assert set(Counter(row["label"] for row in pictures).values()) == {7_000}
    assert np.array_equal(np.asarray(material.pictures[12_345].draw()), data.train_images[12_345])
    assert np.array_equal(np.asarray(material.pictures[60_777].draw()), data.test_images[777])
    assert material.pictures[60_777].split == "test"

    hidden = fashion_material(hide_class=True)
    assert not [
        row["text"] for row in hidden.captions if any(word in str(row["text"]) for word in CLASS_WORDS)
    ]
    labels = defaultdict(set)
    for picture in hidden.pictures:
        labels[picture.caption_id].add(picture.label)
    assert np.mean([len(found) for found in labels.values()]) > 3, (
        "a hidden class must not follow from the caption"
    )
