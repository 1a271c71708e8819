"""Sets of others come in, and what is damaged or leads out of its place is refused in one sentence."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from interchange import small_set
from interchange.small_set import archive, picture
from stablerep.errors import UserError
from stablerep.interchange import tables, tars
from stablerep.interchange.convert import ConvertConfig, convert
from stablerep.interchange.layouts import safe_name
from stablerep.store import REAL, CaptionTable, ImageTable, caption_id


def come_in(source: Path, out: Path, **more: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    folder = convert(ConvertConfig(source=source, out=out, **more)).path
    images = ImageTable.open(folder / "images.lance").dataset.to_table().to_pylist()
    return images, CaptionTable.open(folder / "captions.lance").dataset.to_table().to_pylist()


def test_an_image_folder_of_labels(tmp_path: Path) -> None:
    for number, place in enumerate(["train/red_fox/a.jpg", "train/red_fox/b.png", "val/cat/c.webp"]):
        path = tmp_path / "in" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[path.suffix[1:]]
        path.write_bytes(picture(number, kind))
    (tmp_path / "in" / "val" / "cat" / "d.jpg").write_bytes(b"no picture")
    images, captions = come_in(tmp_path / "in", tmp_path / "out")
    assert [(row["split"], row["label"], row["image_index"], row["status"]) for row in images] == [
        ("train", "red_fox", 0, "ok"),
        ("train", "red_fox", 1, "ok"),
        ("val", "cat", 0, "ok"),
        ("val", "cat", 1, "failed"),
    ]
    assert images[0]["image"] == picture(0)
    assert (images[0]["width"], images[0]["height"], images[0]["origin"]) == (28, 24, "real")
    assert images[3]["image"] is None
    assert "cannot be read" in images[3]["reason"]
    assert [row["text"] for row in captions] == ["red fox", "cat"]
    assert images[0]["caption_id"] == captions[0]["id"] == caption_id("red fox")


def test_the_official_layout(tmp_path: Path) -> None:
    for seed in (2, 10):
        for number in range(3):
            path = tmp_path / "in" / f"ddim_2.0_seed_{seed}" / f"000000/000000/{number:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(seed + number, "PNG"))
    (tmp_path / "in" / "ddim_2.0_seed_10" / "000000/000000/00002.png").unlink()
    lines = ["path,caption", '000000/000000/00000.png,"a dog, sleeping"', "000000/000000/00001.png,a cat"]
    (tmp_path / "in" / "cc12m.csv").write_text("\n".join([*lines, "000000/000000/00002.png,a cat"]) + "\n")
    images, captions = come_in(tmp_path / "in", tmp_path / "out")
    assert [row["text"] for row in captions] == ["a dog, sleeping", "a cat"]
    assert {row["origin"] for row in images} == {"official-ddim_2.0"}
    dog = [row for row in images if row["caption_id"] == caption_id("a dog, sleeping")]
    assert [row["image"] for row in dog] == [picture(2, "PNG"), picture(10, "PNG")], "in the order of seeds"
    cat = [row for row in images if row["caption_id"] == caption_id("a cat")]
    assert [row["image_index"] for row in cat] == [0, 1, 2, 3], "equal captions are one caption"
    assert cat[3]["reason"] == "ddim_2.0_seed_10/000000/000000/00002.png is not there"
    origins = ImageTable.open(tmp_path / "out" / "images.lance").origins()
    assert origins == {"official-ddim_2.0": {"folders": ["ddim_2.0_seed_2", "ddim_2.0_seed_10"]}}


def official(folder: Path, samplers: tuple[str, ...]) -> Path:
    """Two pictures of one caption by each sampler, the second of a seed of its own."""
    for place, sampler in enumerate(samplers):
        for seed in range(2):
            path = folder / f"{sampler}_seed_{seed}" / "00000.png"
            path.parent.mkdir(parents=True)
            path.write_bytes(picture(10 * place + seed, "PNG"))
    (folder / "cc12m.csv").write_text("path,caption\n00000.png,a dog\n")
    return folder


def test_a_csv_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    source = official(tmp_path / "in", ("ddim_2.0",))
    (source / "cc12m.csv").write_text("00000.png,a dog\n", encoding="utf-8-sig")
    images, _ = come_in(source, tmp_path / "out")
    assert [row["status"] for row in images] == ["ok", "ok"]
    with pytest.raises(UserError, match=r"cc12m\.csv lists pictures .* give the folder that it lies in"):
        convert(ConvertConfig(source=source / "cc12m.csv", out=tmp_path / "none"))


def test_every_sampler_of_an_official_set_counts_its_own_images(tmp_path: Path) -> None:
    images, captions = come_in(official(tmp_path / "in", ("ddim_2.0", "plms_7.5")), tmp_path / "out")
    assert [row["text"] for row in captions] == ["a dog"]
    assert {(row["origin"], row["image_index"]): row["image"] for row in images} == {
        (f"official-{sampler}", seed): picture(10 * place + seed, "PNG")
        for place, sampler in enumerate(("ddim_2.0", "plms_7.5"))
        for seed in range(2)
    }


def test_an_official_set_under_an_origin_of_ones_own_says_its_folders(tmp_path: Path) -> None:
    source = official(tmp_path / "in", ("ddim_2.0", "plms_7.5"))
    images, _ = come_in(source, tmp_path / "out", origin="theirs")
    assert [(row["origin"], row["image_index"]) for row in images] == [("theirs", n) for n in range(4)]
    origins = ImageTable.open(tmp_path / "out" / "images.lance").origins()
    folders = ["ddim_2.0_seed_0", "ddim_2.0_seed_1", "plms_7.5_seed_0", "plms_7.5_seed_1"]
    assert origins == {"theirs": {"folders": folders}}


def test_an_official_set_that_is_said_to_be_real_is_real(tmp_path: Path) -> None:
    images, _ = come_in(official(tmp_path / "in", ("ddim_2.0",)), tmp_path / "out", origin="real")
    assert {row["origin"] for row in images} == {REAL}


@pytest.mark.parametrize("place", ["photos/", ""], ids=["in a folder", "named with their folder"])
def test_photographs_that_a_csv_lists_are_real(place: str, tmp_path: Path) -> None:
    (tmp_path / "in" / "photos").mkdir(parents=True)
    for number in range(2):
        (tmp_path / "in" / "photos" / f"{number}.jpg").write_bytes(picture(number))
    named = "" if place else "photos/"
    lines = [f"{named}0.jpg,a dog", f"{named}1.jpg, ", f"{named}1.jpg,a cat"]
    (tmp_path / "in" / "photos.csv").write_text("\n".join(lines) + "\n")
    images, captions = come_in(tmp_path / "in", tmp_path / "out")
    assert [(row["origin"], row["image"]) for row in images] == [(REAL, picture(0)), (REAL, picture(1))]
    assert [row["text"] for row in captions] == ["a dog", "a cat"]
    assert ImageTable.open(tmp_path / "out" / "images.lance").origins() == {}


def test_painted_pictures_of_others_say_where_they_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs").mkdir()
    archive(tmp_path / "theirs" / "a.tar", {"0.jpg": picture(0), "0.txt": b"a dog"})
    monkeypatch.chdir(tmp_path / "theirs")
    _, captions = come_in(Path(), tmp_path / "out", origin="painter")
    assert captions[0]["source"] == "theirs"
    assert ImageTable.open(tmp_path / "out" / "images.lance").origins() == {
        "painter": {"folders": ["theirs"]}
    }
    come_in(Path(), tmp_path / "real", origin=REAL)
    assert ImageTable.open(tmp_path / "real" / "images.lance").origins() == {}


def test_pictures_that_would_not_be_decoded_come_in_as_failures(tmp_path: Path) -> None:
    """One of more pixels than are decoded, one of a format whose decoders are never run."""
    folder = tmp_path / "in" / "cat"
    folder.mkdir(parents=True)
    Image.new("1", (8193, 8193)).save(folder / "huge.png")
    Image.new("RGB", (8, 8)).save(folder / "odd.bmp", "PCX")
    assert Image.open(folder / "odd.bmp").size == (8, 8), "PIL alone would take it"
    images, _ = come_in(tmp_path / "in", tmp_path / "out")
    assert [(row["status"], row["image"], row["width"]) for row in images] == [("failed", None, None)] * 2
    assert images[0]["reason"] == "the picture cannot be read (8193 x 8193 pixels are more than 67,108,864)"
    assert images[1]["reason"] == "the picture cannot be read (cannot identify image file)"


def test_a_webdataset_of_others(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    first = {"0001.jpg": picture(1), "0001.txt": b"a dog\n", "0002.png": picture(2, "PNG")}
    archive(
        tmp_path / "in" / "00000.tar",
        first | {"0002.json": json.dumps({"caption": "a cat", "url": "x"}).encode()},
    )
    several = {f"x/0001.{number}.jpg": picture(number) for number in (10, 2)}
    archive(tmp_path / "in" / "00001.tar", several | {"x/0001.cls": b"7"})
    images, captions = come_in(tmp_path / "in", tmp_path / "out", origin="web")
    assert [row["text"] for row in captions] == ["a dog", "a cat", "7"]
    assert [row["image"] for row in images] == [picture(1), picture(2, "PNG"), picture(2), picture(10)]
    assert [row["image_index"] for row in images] == [0, 0, 0, 1]
    assert images[3]["label"] == "7"
    assert {row["origin"] for row in images} == {"web"}


def test_parquet_of_others(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pictures = pa.array([{"bytes": picture(number), "path": None} for number in range(2)], kind)
    table = pa.table({"image": pictures, "caption": ["a dog", "a cat"], "label": [3, None]})
    pq.write_table(table, tmp_path / "train.parquet")
    images, captions = come_in(tmp_path / "train.parquet", tmp_path / "out")
    assert [row["image"] for row in images] == [picture(0), picture(1)]
    assert [row["label"] for row in images] == ["3", None]
    assert [row["text"] for row in captions] == ["a dog", "a cat"]


# -- what is refused --------------------------------------------------------------------------------


def link(name: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    return member


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (tarfile.TarInfo("../0001.jpg"), r"'../0001.jpg' leads out of the archive"),
        (tarfile.TarInfo("/0001.jpg"), r"'/0001.jpg' leads out of the archive"),
        (link("0001.jpg", tarfile.SYMTYPE), "is a link or a device"),
        (link("0001.jpg", tarfile.LNKTYPE), "is a link or a device"),
        (link("0001.jpg", tarfile.CHRTYPE), "is a link or a device"),
    ],
)
def test_members_that_lead_elsewhere(member: tarfile.TarInfo, message: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(member)
    with pytest.raises(UserError, match=message):
        convert(ConvertConfig(source=tmp_path / "a.tar", out=tmp_path / "out"))
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar"}


def test_huge_and_repeated_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path / "a.tar", {"0001.jpg": picture(1), "0001.txt": b"a dog"})
    with tarfile.open(path, "a") as tar:
        tar.addfile(tarfile.TarInfo("0001.txt"))
    with pytest.raises(UserError, match=r"holds two members 0001.txt"):
        convert(ConvertConfig(source=path, out=tmp_path / "out"))
    monkeypatch.setattr(tars, "MAX_MEMBER_BYTES", 100)
    with pytest.raises(UserError, match=r"member 0001.jpg has .* bytes; at most 100 are read"):
        convert(ConvertConfig(source=path, out=tmp_path / "out"))


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    return data[:1200] + b"\xff" * 100 + data[1300:]


@pytest.mark.parametrize("damage", [cut, flip, lambda _: b"no archive", lambda _: b""])
@pytest.mark.parametrize("layout", ["webdataset", "parquet"])
def test_damage_is_one_sentence(layout: str, damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    world = small_set.write(tmp_path / "world")
    convert(ConvertConfig(source=world, out=tmp_path / "set", to=layout))
    path = next(path for path in (tmp_path / "set").rglob("images-*"))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError) as caught:
        convert(ConvertConfig(source=tmp_path / "set", out=tmp_path / "out"))
    assert str(tmp_path / "set") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"world", "set"}, "nothing half-written"


@pytest.mark.parametrize(
    "name", ["../outside.jpg", "/etc/passwd", "train/../../outside.jpg", "link/outside.jpg", "gone.jpg"]
)
def test_a_table_of_files_names_none_outside(name: str, tmp_path: Path) -> None:
    (tmp_path / "outside.jpg").write_bytes(picture(1))
    world = small_set.write(tmp_path / "world")
    folder = tmp_path / "set"
    convert(ConvertConfig(source=world, out=folder, to="imagefolder"))
    (folder / "link").symlink_to(tmp_path)
    rows = pq.read_table(folder / "rows.parquet")
    place = rows.column_names.index("file_name")
    rows = rows.set_column(place, rows.field(place), pa.array([name] * len(rows)))
    pq.write_table(rows, folder / "rows.parquet")
    with pytest.raises(UserError, match="is not there" if name == "gone.jpg" else "lies outside of"):
        convert(ConvertConfig(source=folder, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_csv_names_no_file_outside(tmp_path: Path) -> None:
    (tmp_path / "in" / "seed_0").mkdir(parents=True)
    (tmp_path / "in" / "a.csv").write_text("../../secret.png,a dog\n")
    with pytest.raises(UserError, match="lies outside of"):
        convert(ConvertConfig(source=tmp_path / "in", out=tmp_path / "out"))


@pytest.mark.parametrize(
    "text", ["..", ".", "", "a/b", "a\\b", "a\0b", "x" * 300, "c:", "con ", "..hidden", "-rf", "画" * 99]
)
def test_names_are_harmless_parts_of_paths(text: str) -> None:
    name = safe_name(text)
    assert name not in ("", ".", "..")
    assert not set(name) & set("/\\\0:")
    assert len(name.encode()) <= 100
    assert not name.startswith((".", "-"))
    assert name != safe_name(text + "."), "different texts have different names"


def test_what_is_no_set_is_refused(tmp_path: Path) -> None:
    world = small_set.write(tmp_path / "world")
    (tmp_path / "empty").mkdir()
    cases = [
        (tmp_path / "gone", None, "is not there"),
        (tmp_path / "empty", None, "neither an image table nor a set"),
        (world, None, "one side must be tables .* choose one with --to"),
        (tmp_path / "set", "webdataset", "convert to tables first"),
    ]
    convert(ConvertConfig(source=world, out=tmp_path / "set", to="parquet"))
    with pytest.raises(
        UserError, match=r"--captions c\.lance goes with an image table, and .*set holds parquet"
    ):
        convert(ConvertConfig(source=tmp_path / "set", out=tmp_path / "back", captions=Path("c.lance")))
    for source in (world, tmp_path / "set"):
        to = "webdataset" if source == world else None
        with pytest.raises(UserError, match=r"--origin x is for sets of other programs, and .* leave it out"):
            convert(ConvertConfig(source=source, out=tmp_path / "out", to=to, origin="x"))  # type: ignore[arg-type]
    for source, to, message in cases:
        with pytest.raises(UserError, match=message):
            convert(ConvertConfig(source=source, out=tmp_path / "out", to=to))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="exists; give another place"):
        convert(ConvertConfig(source=world, out=tmp_path / "set", to="webdataset"))
    manifest = json.loads((tmp_path / "set" / "stablerep.json").read_text())
    (tmp_path / "set" / "stablerep.json").write_text(json.dumps(manifest | {"num_images": 99}))
    with pytest.raises(
        UserError, match=r"holds 14 images, its stablerep.json says 99; copy the whole folder"
    ):
        convert(ConvertConfig(source=tmp_path / "set", out=tmp_path / "out"))
    (tmp_path / "set" / "stablerep.json").write_text("{")
    with pytest.raises(UserError, match=r"stablerep.json is damaged"):
        convert(ConvertConfig(source=tmp_path / "set", out=tmp_path / "out"))


def test_an_identity_is_there_once(tmp_path: Path) -> None:
    world = small_set.write(tmp_path / "world")
    convert(ConvertConfig(source=world, out=tmp_path / "set", to="parquet"))
    path = next((tmp_path / "set" / "data").iterdir())
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), path)
    with pytest.raises(UserError, match=r"two pictures with one identity \(caption \w+, image index 0\)"):
        convert(ConvertConfig(source=tmp_path / "set", out=tmp_path / "out"))


def test_a_disk_that_is_full_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("LanceError(IO): No space left on device (os error 28), /src/x.rs:254:9")

    convert(ConvertConfig(source=small_set.write(tmp_path / "world"), out=tmp_path / "set", to="parquet"))
    monkeypatch.setattr(lance, "write_dataset", full)
    with pytest.raises(
        UserError, match=r"images\.lance could not be written \(.*No space left .* 28\)\); mend"
    ):
        convert(ConvertConfig(source=tmp_path / "set", out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_picture_that_was_edited_is_noticed(tmp_path: Path) -> None:
    world = small_set.write(tmp_path / "world")
    convert(ConvertConfig(source=world, out=tmp_path / "set", to="imagefolder"))
    path = next((tmp_path / "set" / "train" / "apple").iterdir())
    path.write_bytes(picture(7))
    with pytest.raises(
        UserError, match=r"apple/.* is not the picture that was exported .* remove stablerep.json"
    ):
        convert(ConvertConfig(source=tmp_path / "set", out=tmp_path / "out"))


def test_a_damaged_name_of_a_parquet_column_is_said(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    pq.write_table(pa.table({"number": [1]}), path)
    path.write_bytes(path.read_bytes().replace(b"number", b"numbe\xeb"))
    for read in (tables.parquet_schema, lambda file: list(tables.parquet_batches(file, 1))):
        with pytest.raises(UserError, match=r"part.parquet is damaged or no Parquet file .*copy it again"):
            read(path)
