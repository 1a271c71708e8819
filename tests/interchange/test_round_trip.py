"""Out and back again: every byte and every column, in every layout, marked or not."""

import csv
import io
import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import datasets
import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torchvision
import webdataset
from PIL import Image

from interchange import small_set
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.interchange import convert as module
from stablerep.interchange.convert import LAYOUTS, ConvertConfig, convert
from stablerep.interchange.mark import DIGITAL_SOURCE_TYPE
from stablerep.store import CAPTION_SCHEMA, OK, REAL, CaptionTable, ImageTable, caption_id


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_set.write(tmp_path_factory.mktemp("world"))


def go(source: Path, out: Path, to: Any = None, **more: Any) -> Path:
    return convert(ConvertConfig(source=source, out=out, to=to, **more)).path


@pytest.mark.parametrize("mark", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_is_lost(layout: str, mark: bool, world: Path, tmp_path: Path) -> None:
    summary = convert(ConvertConfig(source=world, out=tmp_path / "set", to=layout, mark=mark))
    assert (summary.num_images, summary.num_captions) == (14, 5)
    assert summary.num_marked == (11 if mark and layout != "parquet" else 0), "painted and there"
    back = convert(ConvertConfig(source=tmp_path / "set", out=tmp_path / "back"))
    assert (back.num_images, back.num_captions) == (14, 5)
    assert small_set.content(tmp_path / "back") == small_set.content(world)
    leftovers = [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert not leftovers


def pictures_of(world: Path) -> dict[bytes, dict[str, Any]]:
    images, *_ = small_set.content(world)
    return {row["image"]: row for row in images.values() if row["image"]}


@pytest.mark.parametrize("mark", [True, False])
@pytest.mark.parametrize("layout", ["imagefolder", "official"])
def test_loose_files_are_the_pictures(layout: str, mark: bool, world: Path, tmp_path: Path) -> None:
    go(world, tmp_path / "set", layout, mark=mark)
    expected = pictures_of(world)
    files = [path for path in (tmp_path / "set").rglob("*") if path.suffix in (".jpg", ".png", ".webp")]
    assert len(files) == len(expected) == 13
    pixels = {small_set.pixels(image).tobytes(): image for image in expected}
    for path in files:
        original = pixels[small_set.pixels(path.read_bytes()).tobytes()]
        is_painted = expected[original]["origin"] != "real"
        assert (path.read_bytes() == original) is not (mark and is_painted)
        assert (DIGITAL_SOURCE_TYPE.encode() in path.read_bytes()) is (mark and is_painted)


def test_torchvision_reads_the_image_folder(world: Path, tmp_path: Path) -> None:
    go(world, tmp_path / "set", "imagefolder")
    data = torchvision.datasets.ImageFolder(str(tmp_path / "set" / "train"))
    assert data.classes == ["a-b-c-" + data.classes[0][6:], "apple", "unlabelled"]
    assert len(data) == 11
    assert data[0][0].size == (28, 24)
    assert {path.name for path in (tmp_path / "set").iterdir()} == {
        "train", "test", "README.md", "rows.parquet", "captions.parquet", "stablerep.json",
    }  # fmt: skip


def test_webdataset_reads_the_archives(world: Path, tmp_path: Path) -> None:
    go(world, tmp_path / "set", "webdataset", mark=False)
    samples = list(webdataset.WebDataset(str(tmp_path / "set" / "images-000000.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == sorted(
        caption_id(text) for text in small_set.TEXTS[:4]
    )
    images, *_ = small_set.content(world)
    by_key = {sample["__key__"]: sample for sample in samples}
    apple = by_key[caption_id("a red apple")]
    assert apple["txt"].decode() == "a red apple"
    assert {"0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg", "txt", "json"} <= set(apple)
    assert apple["0.jpg"] == images[small_set.ORIGIN, apple["__key__"], 0]["image"]
    described = json.loads(apple["json"])
    assert described["caption"]["source"] == "test.txt"
    assert [row["file"] for row in described["images"]] == [f"{number}.jpg" for number in range(5)]


def test_archives_are_cut_where_they_are_full(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = module.Options(mark=False, shard_bytes=4000, origin="real")
    monkeypatch.setattr(module, "Options", lambda **_: options)
    for layout, pattern in (("webdataset", "*.tar"), ("parquet", "data/*.parquet")):
        go(world, tmp_path / layout, layout)
        assert len(list((tmp_path / layout).glob(pattern))) > (1 if layout == "webdataset" else 0)
        go(tmp_path / layout, tmp_path / f"{layout} back")
        assert small_set.content(tmp_path / f"{layout} back") == small_set.content(world)


def test_datasets_shows_parquet_as_pictures(world: Path, tmp_path: Path) -> None:
    go(world, tmp_path / "set", "parquet")
    schema = pq.read_schema(next((tmp_path / "set" / "data").glob("*.parquet")))
    features = datasets.Features.from_arrow_schema(schema)
    assert isinstance(features["image"], datasets.Image)
    data = datasets.load_dataset(str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(data.features["image"], datasets.Image)
    images, *_ = small_set.content(world)
    assert data[0]["text"] == "a red apple"
    assert isinstance(data[0]["image"], Image.Image)
    assert len(data) == 14
    assert data[4]["image"] is None
    raw = data.cast_column("image", datasets.Image(decode=False))[0]["image"]
    assert raw["bytes"] == images[small_set.ORIGIN, caption_id("a red apple"), 0]["image"]
    captions = datasets.load_dataset(
        str(tmp_path / "set"), "captions", split="train", cache_dir=str(tmp_path / "cache")
    )
    assert sorted(captions["text"]) == sorted(row["text"] for row in small_set.content(world)[1].values())


def test_the_official_code_could_read_its_layout(world: Path, tmp_path: Path) -> None:
    go(world, tmp_path / "set", "official")
    folders = sorted(path for path in (tmp_path / "set").glob("*ddim_2.0_seed_*"))
    assert [path.name for path in folders] == [f"ddim_2.0_seed_{seed}" for seed in range(3)]
    with (tmp_path / "set" / "captions-ddim_2.0.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    # One caption lacks a picture: the official loader would fail on it.
    texts = {line[1] for line in lines}
    assert texts == {"a red apple", 'a sign that says "no, never"', "a café at night"}
    images, captions, *_ = small_set.content(world)
    for relative, text in lines:
        assert relative.endswith((".png", ".jpg", ".jpeg"))
        assert len(relative.split("/")) == 3
        for index, folder in enumerate(folders):
            with Image.open(folder / relative) as image:
                pixels = np.array(image.convert("RGBA"))
            original = images[small_set.ORIGIN, caption_id(text), index]["image"]
            assert np.array_equal(pixels, small_set.pixels(original))
    assert captions


def test_folders_are_named_after_the_sampler(tmp_path: Path) -> None:
    """The official script calls PNDM plms."""
    table = ImageTable.open_or_create(tmp_path / "images.lance")
    CaptionTable.open_or_create(tmp_path / "captions.lance").append(
        [{"id": caption_id("a cat"), "text": "a cat", "source": "test", "group": "cat"}]
    )
    for sampler, scale in (("PNDM", 2.0), ("PNDM", 7.5), ("DDIM", 2.0)):
        origin = f"{sampler}-{scale}"
        settings = {"scheduler": {"class": f"{sampler}Scheduler", "skip_prk_steps": True}}
        table.register_origin(origin, settings | {"guidance_scale": scale})
        picture = {"image": small_set.picture(0, "PNG"), "status": OK}
        table.append([{"origin": origin, "caption_id": caption_id("a cat"), "image_index": 0, **picture}])
    go(tmp_path, tmp_path / "set", "official")
    folders = {path.name for path in (tmp_path / "set").iterdir() if path.is_dir()}
    assert folders == {"plms_2.0_seed_0", "plms_7.5_seed_0", "ddim_2.0_seed_0"}


def test_the_card_says_who_painted_and_who_audited(world: Path, tmp_path: Path) -> None:
    go(world, tmp_path / "set", "webdataset")
    card = (tmp_path / "set" / "README.md").read_text()
    assert card.startswith("---\ntags:\n- stablerep\n- synthetic\n---\n")
    for said in (
        "13 pictures of 5 captions and 1 rows without one",
        '`icons-0123abcd`: 12 painted pictures. pipeline "PixArtAlphaPipeline"; scheduler {"class": "DDIMScheduler", ',
        "num_inference_steps 50; guidance_scale 2.0",
        "`real`: 2 pictures that no model painted",
        "11 painted pictures carry IPTC's digital source type",
        "CC0-1.0 2",
        "`keep` (bool): known of 13 pictures, true of 7",
    ):
        assert said in card, said


def test_the_card_of_photographs_alone_promises_nothing_else(tmp_path: Path) -> None:
    row = {"origin": REAL, "caption_id": "c", "image_index": 0, "image": small_set.picture(0), "status": OK}
    ImageTable.open_or_create(tmp_path / "images.lance").append([row])
    go(tmp_path, tmp_path / "set", "parquet")
    header = (tmp_path / "set" / "README.md").read_text().split("---\n")[1]
    assert "synthetic" not in header and "captions" not in header
    data = datasets.load_dataset(str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(data) == 1


def test_captions_may_lie_elsewhere_or_be_missing(world: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    (world / "images.lance").rename(alone)
    try:
        with pytest.raises(UserError, match=r"the official layout lists captions: give .* --captions"):
            go(alone, tmp_path / "a", "official")
        assert convert(ConvertConfig(source=alone, out=tmp_path / "b", to="webdataset")).num_captions == 0
        given = ConvertConfig(
            source=alone, out=tmp_path / "c", to="webdataset", captions=world / "captions.lance"
        )
        assert convert(given).num_captions == 5
        assert len(ImageTable.open(go(tmp_path / "b", tmp_path / "d") / "images.lance")) == 14
    finally:
        alone.rename(world / "images.lance")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_captions_that_were_left_behind_are_missed(layout: str, world: Path, tmp_path: Path) -> None:
    go(world, tmp_path / "set", layout)
    LAYOUTS[layout].caption_file(tmp_path / "set").unlink()
    said = r"set holds 0 captions, its stablerep\.json says 5; copy the whole folder"
    with pytest.raises(UserError, match=said):
        go(tmp_path / "set", tmp_path / "back")
    assert [path.name for path in tmp_path.iterdir()] == ["set"], "nothing half-written"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_captions_of_a_table_from_before_seeds_were_kept_come_back(
    layout: str, world: Path, tmp_path: Path
) -> None:
    schema = CAPTION_SCHEMA.remove(CAPTION_SCHEMA.get_field_index("seed"))
    rows = CaptionTable.open(world / "captions.lance").read(schema.names).cast(schema)
    lance.write_dataset(rows, str(tmp_path / "old.lance"))
    go(world / "images.lance", tmp_path / "set", layout, captions=tmp_path / "old.lance")
    back = CaptionTable.open(go(tmp_path / "set", tmp_path / "back") / "captions.lance")
    assert back.dataset.schema.names == schema.names
    assert back.read(schema.names).sort_by("id").equals(rows.sort_by("id"))


def test_captions_of_other_pictures_are_refused_and_missing_ones_are_counted(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = CaptionTable.open(world / "captions.lance").take(range(5)).to_pylist()
    text = "a caption of nothing that is there"
    other = {**captions[0], "id": caption_id(text), "text": text}
    for name, rows in (("others", [other]), ("some", [other, *captions[:2]])):
        CaptionTable.open_or_create(tmp_path / name).append(rows)
    asked = ConvertConfig(source=world, out=tmp_path / "a", to="webdataset", captions=tmp_path / "others")
    with pytest.raises(UserError, match=r"others holds none of the \d+ captions .*--captions"):
        convert(asked)
    assert not (tmp_path / "a").exists()
    some = ConvertConfig(source=world, out=tmp_path / "b", to="webdataset", captions=tmp_path / "some")
    convert(some, console=Console())
    assert re.search(r"\d of the \d captions of the pictures are not in", capsys.readouterr().err)


def test_an_empty_table_is_a_set_too(world: Path, tmp_path: Path) -> None:
    ImageTable.open_or_create(tmp_path / "images.lance")
    for layout in ("imagefolder", "webdataset", "parquet"):
        go(tmp_path / "images.lance", tmp_path / layout, layout)
        assert len(ImageTable.open(go(tmp_path / layout, tmp_path / f"{layout} b") / "images.lance")) == 0
    assert world.exists()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_marks_of_the_gallery_survive_with_their_time(layout: str, world: Path, tmp_path: Path) -> None:
    shutil.copytree(world, tmp_path / "marked")
    now = pa.array([datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)], pa.timestamp("us", "UTC"))
    columns = {"gallery_mark": pa.array(["keep"]), "gallery_marked_at": now}
    ImageTable.open(tmp_path / "marked" / "images.lance").write_columns([1], columns)
    back = go(go(tmp_path / "marked", tmp_path / "set", layout), tmp_path / "back")
    assert small_set.content(back) == small_set.content(tmp_path / "marked")


@pytest.mark.parametrize(("layout", "part"), [("webdataset", "images-000000.tar"), ("parquet", "data")])
def test_a_part_of_a_set_is_not_taken_for_photographs(
    layout: str, part: str, world: Path, tmp_path: Path
) -> None:
    source = go(world, tmp_path / "set", layout) / part
    with pytest.raises(UserError, match=r"is part of a set that stablerep wrote; give the whole folder"):
        convert(ConvertConfig(source=source, out=tmp_path / "out"))
    convert(ConvertConfig(source=source, out=tmp_path / "out", origin="theirs"))
    assert set(ImageTable.open(tmp_path / "out" / "images.lance").read(["origin"])["origin"].to_pylist()) == {
        "theirs"
    }


def test_equal_exports_are_equal_bytes(world: Path, tmp_path: Path) -> None:
    for out in ("a", "b"):
        go(world, tmp_path / out, "webdataset")
    name = "images-000000.tar"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert io.BytesIO((tmp_path / "a" / name).read_bytes()).getbuffer().nbytes > 10_000
