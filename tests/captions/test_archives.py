"""Captions in WebDataset archives: samples, faults, and nothing that a crafted archive could reach."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from stablerep.captions.archives import tar_columns, tar_entries
from stablerep.captions.entries import MAX_LINE_BYTES, Columns
from stablerep.captions.sources import ImportConfig, import_captions
from stablerep.errors import UserError
from stablerep.store import CaptionTable

TEXT = Columns(caption="txt")


def archive(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def test_samples_are_members_that_share_their_key(tmp_path: Path) -> None:
    members = [
        ("a/0.jpg", b"picture"),
        ("a/0.txt", "ein Ei\nzum Frühstück".encode()),
        ("a/0.json", b'{"topic": "food", "width": 3}'),
        ("b/0.JPG", b"picture"),
        ("b/0.TXT", b"\xef\xbb\xbfa cat"),
        ("b/1.jpg", b"no caption"),
    ]
    path = archive(tmp_path / "x.tar", members)
    assert tar_columns(path) == {"txt": True, "topic": True, "width": False}
    entries = list(tar_entries(path, Columns(caption="txt", group="topic")))
    assert [(entry.line, entry.text, entry.group, entry.fault) for entry in entries] == [
        (1, "ein Ei\nzum Frühstück", "food", None),
        (2, "a cat", None, None),
        (3, "", None, "no member .txt"),
    ]


def test_what_is_wrong_with_a_sample_is_said(tmp_path: Path) -> None:
    members = [
        ("0.json", b"{"),
        ("1.json", b"[]"),
        ("2.json", b'{"caption": 3}'),
        ("3.json", b'{"title": "x"}'),
        ("4.json", b'{"caption": "\\ud800"}'),
        ("5.json", b'{"caption": "good"}'),
        ("6.json", b" " * (MAX_LINE_BYTES + 1)),
    ]
    path = archive(tmp_path / "x.tar", members)
    entries = list(tar_entries(path, Columns(caption="caption")))
    assert entries[0].fault is not None and entries[0].fault.startswith("member .json is not JSON")
    assert [entry.fault for entry in entries[1:]] == [
        "member .json is not a JSON object",
        "not text but int",
        "no field 'caption'",
        "not valid UTF-8",
        None,
        f"member .json is larger than {MAX_LINE_BYTES:,} bytes",
    ]
    assert entries[5].text == "good"


def test_links_and_paths_lead_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("not to be read")
    path = tmp_path / "sub" / "x.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as file:
        for name, kind in (
            ("0.txt", tarfile.SYMTYPE),
            ("1.txt", tarfile.LNKTYPE),
            ("2.txt", tarfile.CHRTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, str(secret)
            file.addfile(member)
        member = tarfile.TarInfo("../../escaped.txt")
        member.size = 4
        file.addfile(member, io.BytesIO(b"text"))
    assert [entry.text for entry in tar_entries(path, TEXT)] == ["text"]
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["secret.txt", "sub", "x.tar"]


@pytest.mark.parametrize("damage", ["cut", "cut in a member", "header", "size", "not tar"])
def test_a_damaged_archive_is_refused_before_the_table_is_touched(tmp_path: Path, damage: str) -> None:
    path = archive(tmp_path / "x.tar", [(f"{index}.txt", b"caption %d" % index) for index in range(500)])
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: 1024 * 300 + 100]
    elif damage == "cut in a member":
        content = content[: 1024 * 300 + 512 + 3]
    elif damage == "header":
        content[1024 * 300 : 1024 * 300 + 512] = b"\xff" * 512
    elif damage == "size":  # of 2^70 bytes, with a sum that is right
        header = content[1024 * 300 : 1024 * 300 + 512]
        header[124:136], header[148:156] = b"\x80" + (2**70).to_bytes(11, "big"), b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        content[1024 * 300 : 1024 * 300 + 512] = header
    else:
        content = bytearray(b"x" * 5000)
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=r"x\.tar: (not readable|damaged at byte|member 300.txt cannot be read)"
    ):
        import_captions(ImportConfig(files=(path,), out=tmp_path / "out.lance"))
    assert not (tmp_path / "out.lance").exists()


def test_a_folder_of_archives_is_one_source_without_doubles(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in range(2):
        samples = [
            (f"{index}.json", json.dumps({"caption": f"picture {index}"}).encode()) for index in range(5)
        ]
        archive(folder / f"{shard:05}.tar", samples)
    (folder / "more.txt").write_text("picture 1\npicture 9\n")
    (folder / "stats.log").write_text("not captions")
    summary = import_captions(ImportConfig(files=(folder,), out=tmp_path / "out.lance"))
    assert (summary.read, summary.new, summary.duplicates) == (12, 6, 6)
    rows = CaptionTable.open(tmp_path / "out.lance").read(["text", "source"]).to_pylist()
    assert [row["source"] for row in rows] == ["00000.tar"] * 5 + ["more.txt"]
