"""Importing captions: every kind of file, every kind of fault, and nothing half-written."""

import csv
import io
import json
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stablerep.captions import files, sources
from stablerep.captions.sources import ImportConfig, ImportSummary, SetAside, import_captions
from stablerep.captions.statistics import Lengths
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.store import CaptionTable, caption_id

CAPTIONS = ["a red apple", "two green pears, on a “plate”", 'a sign that says "stop"', "ein Frühstücksei"]


def write(path: Path, captions: list[str]) -> Path:
    """The captions as a file of the kind that its name asks for, with two further columns."""
    rows = [
        {"number": index, "caption": text, "topic": f"t{index % 2}"} for index, text in enumerate(captions)
    ]
    if path.suffix == ".txt":
        path.write_text("\n".join(captions) + "\n", encoding="utf-8")
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            if path.suffix == ".tsv":  # as they are published, and by the rules: nothing is quoted
                writer = csv.DictWriter(
                    file, list(rows[0]), delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None
                )
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix in (".jsonl", ".ndjson"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".tar":
        with tarfile.open(path, "w") as archive:
            for index, row in enumerate(rows):
                add_member(archive, f"part/{index:05}.jpg", b"a picture")
                add_member(archive, f"part/{index:05}.json", json.dumps(row).encode())
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def add_member(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def import_files(tmp_path: Path, *paths: Path, **options: str) -> ImportSummary:
    return import_captions(ImportConfig(files=paths, out=tmp_path / "out.lance", **options))


def texts(tmp_path: Path) -> list[str]:
    found: list[str] = CaptionTable.open(tmp_path / "out.lance").read(["text"])["text"].to_pylist()
    return found


def refusal(tmp_path: Path, *paths: Path, **options: str) -> str:
    """The message, after making sure that nothing was written."""
    with pytest.raises(UserError) as caught:
        import_files(tmp_path, *paths, **options)
    assert not (tmp_path / "out.lance").exists()
    return str(caught.value)


@pytest.mark.parametrize("suffix", list(files.FILE_KINDS))
def test_every_kind_of_file_is_read_and_a_second_time_adds_nothing(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"captions{suffix}", CAPTIONS)
    summary = import_files(tmp_path, path)
    assert summary == ImportSummary(
        path=tmp_path / "out.lance",
        read=4,
        new=4,
        duplicates=0,
        num_set_aside=0,
        scripts={"Latin": 4},
        characters=Lengths(mean=19.75, median=16, p95=29, longest=29),
        set_aside=(),
    )
    table = CaptionTable.open(tmp_path / "out.lance")
    rows = table.read(["id", "text", "source", "group", "concept", "template", "split", "label"]).to_pylist()
    assert [row["text"] for row in rows] == CAPTIONS
    for row in rows:
        assert row["id"] == row["group"] == caption_id(row["text"])
        assert row["source"] == path.name
        assert row["concept"] is row["template"] is row["split"] is row["label"] is None
    again = import_files(tmp_path, path)
    assert (again.read, again.new, again.duplicates) == (4, 0, 4)
    assert table.reload().version == table.version


def test_duplicates_are_merged_within_and_across_files(tmp_path: Path) -> None:
    one = write(tmp_path / "one.txt", ["a cat", "a  cat ", "a dog"])
    two = write(tmp_path / "two.csv", ["a dog", "a Cat", "a cat"])
    summary = import_files(tmp_path, one, two, one)
    assert (summary.read, summary.new, summary.duplicates, summary.num_set_aside) == (9, 3, 6, 0)
    assert texts(tmp_path) == ["a cat", "a dog", "a Cat"]


def test_a_file_may_have_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    import_files(tmp_path, write(tmp_path / os.fsdecode(b"caf\xe9.txt"), ["a cat"]))
    assert CaptionTable.open(tmp_path / "out.lance").read(["source"]).to_pylist() == [{"source": "caf?.txt"}]


def test_lines_end_as_they_like(tmp_path: Path) -> None:
    (tmp_path / "dos.txt").write_bytes(b"\xef\xbb\xbfa cat\r\na dog\r\nno end")
    import_files(tmp_path, tmp_path / "dos.txt")
    assert texts(tmp_path) == ["a cat", "a dog", "no end"]


def test_faulty_lines_of_text_are_set_aside_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "captions.txt"
    longest, too_long = "ä" * 10_000, "ä" * 10_001
    lines = [b"a cat", b"", b"caf\xe9", b" \t ", longest.encode(), too_long.encode(), b"x" * 2**20, b"last"]
    path.write_bytes(b"\n".join(lines) + b"\n")
    summary = import_files(tmp_path, path)
    assert texts(tmp_path) == ["a cat", longest, "last"]
    assert summary.set_aside == (
        SetAside(file=str(path), line=2, reason="blank"),
        SetAside(file=str(path), line=3, reason="not valid UTF-8"),
        SetAside(file=str(path), line=4, reason="blank"),
        SetAside(file=str(path), line=6, reason="more than 10,000 characters"),
        SetAside(file=str(path), line=7, reason="more than 10,000 characters"),
    )
    assert (summary.read, summary.new, summary.duplicates, summary.num_set_aside) == (8, 3, 0, 5)


def test_longest_four_byte_captions_are_not_cut(tmp_path: Path) -> None:
    path = tmp_path / "captions.txt"
    path.write_bytes(("😀" * 10_000).encode() + b"\r\n" + ("😀" * 10_001).encode() + b"\n")
    summary = import_files(tmp_path, path)
    assert texts(tmp_path) == ["😀" * 10_000]
    assert [(entry.line, entry.reason) for entry in summary.set_aside] == [(2, "more than 10,000 characters")]


def test_a_nul_far_inside_is_one_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "captions.txt"
    path.write_bytes(b"a caption\n" * 10_000 + b"a c\0t\n")
    summary = import_files(tmp_path, path)
    assert (summary.new, summary.duplicates) == (1, 9_999)
    assert summary.set_aside == (SetAside(file=str(path), line=10_001, reason="contains a NUL character"),)


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl"])
def test_a_line_without_end_does_not_fill_the_memory(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 2**18)
    path = write(tmp_path / f"captions{suffix}", ["a cat"])
    with path.open("ab") as file:
        file.write(b'{"caption": "' + b"x" * 2**20 + b'"}\n')
    with path.open("a", encoding="utf-8") as file:
        file.write({".txt": "a dog\n", ".csv": "1,a dog,t\n", ".jsonl": '{"caption": "a dog"}\n'}[suffix])
    summary = import_files(tmp_path, path)
    assert texts(tmp_path) == ["a cat", "a dog"]
    assert [entry.line for entry in summary.set_aside] == [2 if suffix != ".csv" else 3]
    assert max(len(line) for _, line in files._lines(path)) == 2**18


def test_faulty_records_of_csv_are_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_bytes(
        b"caption,n\n"  # line 1
        b'"two\nlines",1\n'  # 2
        b"a cat, sitting,2\n"  # 4: a comma without quotes
        b",3\n"  # 5
        b"caf\xe9,4\n"  # 6
        b"\n"  # 7
        b'"a "bad" quote",5\n' + b"y" * 2**20 + b",6\n"  # 8  # 9
        b"a dog,7\n"  # 10
        b'"never closed,8\nlost line,9\n'  # 11
    )
    summary = import_files(tmp_path, path)
    assert texts(tmp_path) == ["two lines", "a dog"]
    reasons = {entry.line: entry.reason for entry in summary.set_aside}
    assert list(reasons) == [4, 5, 6, 7, 8, 9, 11]
    assert reasons[4] == "3 fields where the header has 2"
    assert reasons[5] == reasons[7] == "blank"
    assert reasons[6] == "not valid UTF-8"
    assert "expected after" in reasons[8]
    assert reasons[9] == "more than 10,000 characters"
    assert reasons[11].endswith("(lines 11 to 12)")


def test_faulty_records_of_jsonl_are_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    lines = [
        b'{"caption": "a cat"}',
        b'{"caption": "a dog"',
        b'{"title": "a fish"}',
        b'{"caption": null}',
        b'{"caption": 7}',
        b'["caption"]',
        b'{"caption": "caf\xe9"}',
        rb'{"caption": "half a \ud83d smile"}',
        b"",
        b"[" * 100_000,
        rb'{"caption": "a whole \ud83d\ude00 smile"}',
    ]
    path.write_bytes(b"\n".join(lines))
    summary = import_files(tmp_path, path)
    assert texts(tmp_path) == ["a cat", "a whole 😀 smile"]
    reasons = {entry.line: entry.reason for entry in summary.set_aside}
    assert list(reasons) == list(range(2, 11))
    assert reasons[2].startswith("not JSON")
    assert reasons[3] == "no field 'caption'"
    assert reasons[4] == reasons[9] == "blank"
    assert reasons[5] == "not text but int"
    assert reasons[6] == "not a JSON object"
    assert reasons[7] == "not UTF-8 (byte 16)"
    assert reasons[8] == "not valid UTF-8"
    assert reasons[10].startswith("not JSON")


def test_faulty_rows_of_parquet_are_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "captions.parquet"
    raw = pa.array([b"a cat", b"caf\xe9", None, b"", b"a dog"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
    pq.write_table(pa.table({"caption": text}), path)
    summary = import_files(tmp_path, path)
    assert texts(tmp_path) == ["a cat", "a dog"]
    assert [(entry.line, entry.reason) for entry in summary.set_aside] == [
        (2, "not valid UTF-8"),
        (3, "blank"),
        (4, "blank"),
    ]


def test_parquet_dictionaries_are_text_too(tmp_path: Path) -> None:
    path = tmp_path / "captions.parquet"
    column = pa.array(["a cat", "a dog", "a cat"]).dictionary_encode()
    pq.write_table(pa.table({"n": [1, 2, 3], "words": column}), path)
    assert import_files(tmp_path, path).new == 2
    assert texts(tmp_path) == ["a cat", "a dog"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_groups_come_from_a_column(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"captions{suffix}", CAPTIONS)
    import_files(tmp_path, path, group_column="topic")
    rows = CaptionTable.open(tmp_path / "out.lance").read(["text", "group"]).to_pylist()
    assert [row["group"] for row in rows] == ["t0", "t1", "t0", "t1"]


def test_blank_groups_leave_the_caption_alone(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_text(
        '{"caption": "a", "g": 3}\n{"caption": "b", "g": " "}\n{"caption": "c"}\n', encoding="utf-8"
    )
    import_files(tmp_path, path, group_column="g")
    groups = CaptionTable.open(tmp_path / "out.lance").read(["group"])["group"].to_pylist()
    assert groups == ["3", caption_id("b"), caption_id("c")]


@pytest.mark.parametrize(
    ("header", "row", "chosen"),
    [
        ("id,Text,title", "img1,from text,from title", "from text"),
        ("id,n,words", "1,2.5,from words", "from words"),
        ("only", "from only", "from only"),
    ],
)
def test_the_caption_column_is_found(tmp_path: Path, header: str, row: str, chosen: str) -> None:
    (tmp_path / "a.csv").write_text(f"{header}\n{row}\n", encoding="utf-8")
    import_files(tmp_path, tmp_path / "a.csv")
    assert texts(tmp_path) == [chosen]


def test_the_caption_column_can_be_chosen(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("caption,french\na cat,un chat\n", encoding="utf-8")
    import_files(tmp_path, tmp_path / "a.csv", column="french")
    assert texts(tmp_path) == ["un chat"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_wrong_column_is_answered_with_the_right_ones(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"captions{suffix}", CAPTIONS)
    for option in ("column", "group_column"):
        message = refusal(tmp_path, path, **{option: "captoin"})
        assert f"{path} has no column 'captoin'; its columns are 'number', 'caption', 'topic'" in message
    assert "text files have no columns" in refusal(
        tmp_path, write(tmp_path / "a.txt", CAPTIONS), column="caption"
    )


def test_an_unclear_column_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("name,words\nx,y\n", encoding="utf-8")
    message = refusal(tmp_path, tmp_path / "a.csv")
    assert "its columns are 'name', 'words'; choose one with --column" in message


def test_files_that_cannot_be_imported_are_named_together(tmp_path: Path) -> None:
    good = write(tmp_path / "good.txt", CAPTIONS)
    contents = {
        "empty.txt": b"",
        "blank.txt": b"\n \n\n",
        "picture.txt": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        "garbage.txt": bytes(range(128, 256)) * 10,
        "utf16.csv": "caption\na cat\n".encode("utf-16"),
        "mac.txt": b"a cat\ra dog\r",
        "garbage.csv": b"\xff\xfa\xfb\n\xff\n",
        "header.csv": b"caption,n\n",
        "garbage.jsonl": b"this is no JSON\n",
        "garbage.parquet": b"PAR1 but no more",
        "captions.docx": b"PK",
        "folder.txt": None,
    }
    for name, content in contents.items():
        (tmp_path / name).mkdir() if content is None else (tmp_path / name).write_bytes(content)
    names = [*contents, "absent.txt"]
    message = refusal(tmp_path, good, *(tmp_path / name for name in names))
    assert "\n" not in message
    parts = message.split("; /")
    for name, reason in {
        "empty.txt": "is empty",
        "blank.txt": "holds no readable caption (3 set aside; the first, line 1: blank)",
        "picture.txt": "is not text (NUL byte at 8)",
        "garbage.txt": "holds no readable caption",
        "utf16.csv": "is UTF-16 text",
        "mac.txt": "has carriage returns for line ends; convert them first (tr '\\r' '\\n')",
        "garbage.csv": "line 1: no header could be read (not UTF-8)",
        "header.csv": "holds no readable caption (it has no rows)",
        "garbage.jsonl": "which column holds the captions is not clear",
        "garbage.parquet": "not readable as Parquet",
        "captions.docx": "unknown kind of file; known: .txt, .csv",
        "folder.txt": "is a folder without caption files",
        "absent.txt": "no such file",
    }.items():
        assert any(f"{tmp_path}/{name}".lstrip("/") in part and reason in part for part in parts), (
            name,
            message,
        )
    assert "good.txt" not in message
    assert "no caption files given" in refusal(tmp_path)


def test_a_damaged_name_of_a_column_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "captions.parquet", CAPTIONS)
    path.write_bytes(path.read_bytes().replace(b"number", b"numbe\xeb"))
    with pytest.raises(
        UserError, match=r"not readable as Parquet \(the name of a column is not UTF-8: b'numbe"
    ):
        sources._check(ImportConfig(files=(path,)))


def test_a_damaged_page_of_parquet_is_found_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "captions.parquet"
    captions = [f"caption number {index}" for index in range(30_000)]
    table = pa.table({"caption": captions})
    pq.write_table(table, path, row_group_size=10_000, compression="zstd", use_dictionary=False)
    content = bytearray(path.read_bytes())
    middle = pq.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
    content[middle + 100 : middle + 2_000] = bytes(1_900)
    path.write_bytes(content)
    assert "captions.parquet" in refusal(tmp_path, path)


def test_a_wrong_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out.lance").write_text("text", encoding="utf-8")
    with pytest.raises(UserError, match="exists and is not a table of captions"):
        import_files(tmp_path, write(tmp_path / "a.txt", CAPTIONS))


def test_a_huge_number_of_faults_is_counted_but_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "captions.txt"
    path.write_bytes(b"a cat\n" + b"\n" * 5_000)
    summary = import_files(tmp_path, path)
    assert summary.num_set_aside == 5_000
    assert len(summary.set_aside) == sources._LISTED
    assert summary.set_aside[-1].line == sources._LISTED + 1


def test_the_terminal_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "captions.csv"
    path.write_text("n,words\n1,a cat\n2,a cat\n3,\n", encoding="utf-8")
    import_captions(ImportConfig(files=(path,), out=tmp_path / "out.lance"), console=Console())
    said = " ".join(capsys.readouterr().err.split())
    assert "captions from column 'words'" in said
    assert "line 4: blank" in said
    assert "3 captions read: 1 new, 1 already known, 1 set aside" in said
