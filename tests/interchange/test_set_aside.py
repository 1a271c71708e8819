"""Records of foreign sets that cannot come in: set aside, counted and reported."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interchange.small_set import archive, picture
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.interchange import tables
from stablerep.interchange.convert import ConvertConfig, convert
from stablerep.store import CaptionTable, ImageTable


def test_samples_without_caption_or_picture_are_set_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = {"0.jpg": picture(0), "0.txt": b"a dog", "1.jpg": picture(1), "2.txt": b"a cat"}
    members |= {"3.jpg": picture(3), "3.json": b"{", "4.jpg": picture(4), "4.txt": b" \n"}
    members |= {"6.jpg": picture(6), "6.json": b'{"caption": " ", "text": "a cat"}'}
    path = archive(tmp_path / "a.tar", members | {"5.jpg": picture(5), "5.txt": b"a cat"})
    summary = convert(ConvertConfig(source=path, out=tmp_path / "out"), console=Console())
    rows = ImageTable.open(tmp_path / "out" / "images.lance").dataset.to_table()
    assert rows["image"].to_pylist() == [picture(0), picture(6), picture(5)]
    assert (summary.num_images, summary.num_captions, summary.num_set_aside) == (3, 2, 4)
    assert [(entry.record, entry.reason[:10]) for entry in summary.set_aside] == [
        ("sample 1", "no caption"),
        ("sample 2", "no picture"),
        ("sample 3", "no caption"),
        ("sample 4", "no caption"),
    ]
    said = " ".join(capsys.readouterr().err.split())
    assert f"set aside: {path}, sample 1: no caption (no txt, no caption or text in its json, no cls)" in said


def test_texts_that_are_no_utf8_are_set_aside(tmp_path: Path) -> None:
    members = {"0.jpg": picture(0), "0.json": b'{"caption": "\\ud800"}', "1.jpg": picture(1)}
    members |= {"1.txt": b"caf\xe9", "2.jpg": picture(2), "2.cls": b"3", "2.txt": b"\xef\xbb\xbfa cat\n"}
    source = archive(tmp_path / os.fsdecode(b"caf\xe9.tar"), members)
    summary = convert(ConvertConfig(source=source, out=tmp_path / "out"))
    assert [entry.reason for entry in summary.set_aside] == ["its caption or label is not valid UTF-8"] * 2
    captions = CaptionTable.open(tmp_path / "out" / "captions.lance").read(["text", "source"]).to_pylist()
    assert captions == [{"text": "a cat", "source": "caf?.tar"}]
    texts = pa.array([b"caf\xe9"]).cast(pa.binary()).view(pa.string())
    kind = pa.array([picture(0)], pa.large_binary())
    pq.write_table(pa.table({"image": kind, "text": texts}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: a text or label behind row 0 is not valid UTF-8"):
        convert(ConvertConfig(source=tmp_path / "a.parquet", out=tmp_path / "none"))


def test_pictures_whose_folder_names_no_label_are_set_aside(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    for place in ("cat/a.jpg", f"{odd}/b.jpg", "c.jpg"):
        (tmp_path / "in" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / place).write_bytes(picture(0))
    summary = convert(ConvertConfig(source=tmp_path / "in", out=tmp_path / "out"))
    assert (summary.num_images, summary.num_set_aside) == (1, 2)
    assert {entry.record: entry.reason for entry in summary.set_aside} == {
        "c.jpg": "it lies in no folder that would name its label",
        f"{odd}/b.jpg": "the name of its folder is not valid UTF-8",
    }


def test_rows_without_text_are_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_LISTED", 2)
    pictures = pa.array([*(picture(number) for number in range(5)), None], pa.binary())
    written = pa.table({"image": pictures, "text": [None, "a dog", "", " ", "a cat", "a bird"]})
    pq.write_table(written, tmp_path / "a.parquet")
    summary = convert(ConvertConfig(source=tmp_path / "a.parquet", out=tmp_path / "out"))
    assert (summary.num_images, summary.num_captions, summary.num_set_aside) == (2, 2, 4)
    assert [entry.record for entry in summary.set_aside] == ["row 1", "row 3"], "only the first are listed"
    pq.write_table(written.take([0, 2]), tmp_path / "b.parquet")
    with pytest.raises(
        UserError, match=r"holds no picture .*; 2 set aside; the first, .*b.parquet, row 1: the"
    ):
        convert(ConvertConfig(source=tmp_path / "b.parquet", out=tmp_path / "none"))
