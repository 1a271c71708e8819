"""CSV and TSV files with and without a header line: what is read by number, and what is noticed."""

from pathlib import Path

import pytest

from captions.test_sources import import_files, refusal, texts
from stablerep.store import CaptionTable

CC12M = (
    "https://example.org/1.jpg\ta red apple\n"
    'https://example.org/2.jpg\t"Stop, said the sign\n'
    'https://example.org/3.jpg\ta 5" nail and "another one"\n'
    "https://example.org/4.jpg\ta cat\tand a dog\n"
    "https://example.org/5.jpg\tthe last one\n"
)
"""The layout in which CC12M is published: no header, and captions as the web had them."""


def test_a_table_without_header_is_read_by_the_number_of_its_column(tmp_path: Path) -> None:
    (tmp_path / "cc12m.tsv").write_text(CC12M, encoding="utf-8")
    summary = import_files(tmp_path, tmp_path / "cc12m.tsv", column="2", group_column="1")
    found = CaptionTable.open(tmp_path / "out.lance").read(["text", "group"]).to_pylist()
    assert [row["text"] for row in found] == [
        "a red apple",
        '"Stop, said the sign',
        'a 5" nail and "another one"',
        "the last one",
    ]
    assert [row["group"] for row in found] == [f"https://example.org/{number}.jpg" for number in (1, 2, 3, 5)]
    assert [(entry.line, entry.reason) for entry in summary.set_aside] == [
        (4, "3 fields where the first line has 2")
    ]


def test_a_number_that_is_no_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",,a cat\n,,a dog\n", encoding="utf-8")
    message = refusal(tmp_path, tmp_path / "a.csv", column="4")
    assert "has no column '4'; without a header line its columns are 1, 2, 3" in message
    assert "has no column 'n'" in refusal(tmp_path, tmp_path / "a.csv", column="3", group_column="n")
    import_files(tmp_path, tmp_path / "a.csv", column="3")
    assert texts(tmp_path) == ["a cat", "a dog"]


def test_a_column_named_by_a_number_is_that_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("2,3\na cat,1\n", encoding="utf-8")
    import_files(tmp_path, tmp_path / "a.csv", column="2")
    assert texts(tmp_path) == ["a cat"]


@pytest.mark.parametrize("text", [CC12M, "7\ta cat\n8\ta dog\n", f"a picture of {'x' * 90}\nb\n"])
def test_a_missing_header_is_noticed_before_the_first_caption_is_lost(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.tsv").write_text(text, encoding="utf-8")
    message = refusal(tmp_path, tmp_path / "a.tsv")
    assert "a.tsv seems to have no header line, as the first one reads '" in message
    assert "by its number, such as --column 2, or by its name if this is one" in message
    assert "x" * 61 not in message
    first = text.splitlines()[0].split("\t")[-1]
    import_files(tmp_path, tmp_path / "a.tsv", column=first)
    assert first not in texts(tmp_path), "named, it is a header"
