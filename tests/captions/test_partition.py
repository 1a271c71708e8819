"""Many captions through files on disk: the same rows as through memory, in bounded memory, leaving nothing behind."""

from pathlib import Path

import pytest

from stablerep.captions import partition
from stablerep.captions.partition import Partitions
from stablerep.captions.sources import ImportConfig, import_captions
from stablerep.captions.statistics import Lengths, Statistics, main_script, script_of
from stablerep.store import CaptionTable, caption_id


def row(text: str, source: str = "test") -> dict[str, str]:
    return {"id": caption_id(text), "text": text, "source": source, "group": "g"}


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "ROWS_IN_MEMORY", 50)


def test_few_rows_come_back_as_they_came(tmp_path: Path) -> None:
    with Partitions(tmp_path) as partitions:
        partitions.put([row("b"), row("a")])
        partitions.put([row("c")])
        assert [part["text"].to_pylist() for part in partitions.parts()] == [["b", "a", "c"]]
    with Partitions(tmp_path) as partitions:
        assert list(partitions.parts()) == []


@pytest.mark.usefixtures("little_memory")
def test_many_rows_come_back_once_in_parts_that_share_no_caption(tmp_path: Path) -> None:
    texts = [f"caption {index % 300}" for index in range(700)]
    with Partitions(tmp_path) as partitions:
        for begin in range(0, len(texts), 40):
            partitions.put(
                [row(text, f"source {begin + i}") for i, text in enumerate(texts[begin : begin + 40])]
            )
        assert any(tmp_path.iterdir())
        parts = [part.to_pylist() for part in partitions.parts()]
    assert not any(tmp_path.iterdir())
    assert sorted(entry["text"] for part in parts for entry in part) == sorted(texts)
    ids = [{entry["id"] for entry in part} for part in parts]
    assert sum(map(len, ids)) == len(set().union(*ids)) == 300
    assert len(parts) > 5 and all(len(part) <= 60 for part in parts)
    for part in parts:
        first: dict[str, int] = {}
        for entry in part:
            first.setdefault(entry["text"], int(entry["source"].split()[1]))
        assert all(number == texts.index(text) for text, number in first.items()), "the first comes first"


@pytest.mark.usefixtures("little_memory")
def test_files_that_cannot_be_finished_are_removed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Partitions) -> None:
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"), Partitions(tmp_path) as partitions:
        partitions.put([row(f"caption {index}") for index in range(60)])
        monkeypatch.setattr(Partitions, "_close", full)
    assert not any(tmp_path.iterdir())


@pytest.mark.usefixtures("little_memory")
def test_an_import_through_files_equals_one_through_memory(tmp_path: Path) -> None:
    files = []
    for number in range(3):
        files.append(tmp_path / f"{number}.txt")
        files[-1].write_text("".join(f"caption {index}\n" for index in range(number * 30, number * 30 + 90)))
    summary = import_captions(ImportConfig(files=tuple(files), out=tmp_path / "out.lance"))
    assert (summary.read, summary.new, summary.duplicates) == (270, 150, 120)
    rows = CaptionTable.open(tmp_path / "out.lance").read(["id", "text", "source"]).to_pylist()
    source = {row["text"]: row["source"] for row in rows}
    assert source == {f"caption {index}": f"{max(0, (index - 60) // 30)}.txt" for index in range(150)}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["0.txt", "1.txt", "2.txt", "out.lance"]
    again = import_captions(ImportConfig(files=tuple(files), out=tmp_path / "out.lance"))
    assert (again.new, again.duplicates) == (0, 270)


def test_scripts_are_named_by_most_letters() -> None:
    assert main_script("a red apple, 3 of them") == main_script("ein Frühstücksei") == "Latin"
    assert main_script("красное яблоко (apple)") == "Cyrillic"
    assert main_script("一只红苹果") == "CJK"
    assert main_script("りんごが ひとつ") == "Hiragana"
    assert main_script("12 + 30!") == main_script("🍎 🍏") == "no letters"
    assert script_of("\u03b1") == "Greek" and script_of("1") is None


def test_lengths_are_exact() -> None:
    statistics = Statistics()
    assert statistics.lengths() == Lengths() and statistics.scripts() == {}
    for length in range(1, 101):
        statistics.add("x" * length)
    statistics.add("яблоко")
    assert statistics.lengths() == Lengths(mean=50.06, median=50, p95=95, longest=100)
    assert statistics.scripts() == {"Latin": 100, "Cyrillic": 1}
