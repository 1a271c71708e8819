"""The tables: identity, append once from any number of processes, exact reading, and honest refusals."""

import multiprocessing
import os
import signal
import time
import unicodedata
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stablerep.errors import UserError
from stablerep.store import (
    CAPTION_SCHEMA,
    IMAGE_SCHEMA,
    OK,
    REAL,
    CaptionTable,
    ImageTable,
    caption_id,
    normalise_text,
)


def caption(text: str, **more: Any) -> dict[str, Any]:
    return {"id": caption_id(text), "text": text, "source": "test", "group": caption_id(text), **more}


def image(caption: str, index: int, **more: Any) -> dict[str, Any]:
    content = f"picture {index} of {caption}".encode()
    row = {"origin": REAL, "caption_id": caption, "image_index": index, "image": content, "status": OK}
    return {**row, **more}


def test_equal_captions_have_one_identity() -> None:
    composed, decomposed = "a café", unicodedata.normalize("NFD", "a café")
    assert composed != decomposed
    assert caption_id(composed) == caption_id(decomposed) == caption_id("  a\tcafé\n")
    assert caption_id("a café") != caption_id("A café"), "case is kept: names may differ in it alone"
    assert len(caption_id("x")) == 32
    assert caption_id("a red apple") == "932cd4e7e36fdb9d971e6be1d7c3e95f", (
        "identities are stored: never change them"
    )


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise_text(normalise_text(text)) == normalise_text(text)


def test_rows_come_back_exactly(tmp_path: Path) -> None:
    table = ImageTable.open_or_create(tmp_path / "images.lance")
    rows = [
        image(
            "a",
            0,
            seed=2**62,
            width=3,
            height=4,
            style="noto",
            split="train",
            group="g",
            label="l",
            licence="MIT",
        ),
        image("a", 1, image=bytes(range(256))),
        image("b", 0, image=None, status="failed", reason="the teacher ran out of memory"),
    ]
    assert table.append(rows) == 3
    assert len(table) == 0, "a table reads the version at which it was opened"
    table = table.reload()
    expected = [{name: row.get(name) for name in IMAGE_SCHEMA.names} for row in rows]
    assert table.read(IMAGE_SCHEMA.names).to_pylist() == expected
    assert table.read(["caption_id"], where="status = 'ok' AND image_index = 1").to_pylist() == [
        {"caption_id": "a"}
    ]


def test_a_second_append_adds_nothing_and_keeps_the_version(tmp_path: Path) -> None:
    table = CaptionTable.open_or_create(tmp_path / "captions.lance")
    rows = [caption("one"), caption("two")]
    assert table.append(rows) == 2
    version = table.reload().version
    assert table.append(rows) == 0
    assert table.append(reversed(rows)) == 0
    assert table.append([]) == 0
    assert table.reload().version == version
    assert table.append([caption("two"), caption("three")]) == 1
    assert sorted(table.reload().read(["text"])["text"].to_pylist()) == ["one", "three", "two"]


def test_of_rows_with_one_key_the_first_wins(tmp_path: Path) -> None:
    captions = CaptionTable.open_or_create(tmp_path / "captions.lance")
    rows = [caption("one", source="first"), caption("one", source="second"), caption("two", source="second")]
    assert captions.append(rows) == 2
    assert captions.append([caption("one", source="third")]) == 0
    found = captions.reload().read(["text", "source"]).to_pylist()
    assert found == [{"text": "one", "source": "first"}, {"text": "two", "source": "second"}]

    images = ImageTable.open_or_create(tmp_path / "images.lance")
    rows = [image("1", 11), image("11", 1), image("1", 11, image=b"other"), image("1", 11, origin="teacher")]
    assert images.append(rows) == 3, "the parts of a key are never read as one another"
    assert images.reload().keys(REAL) == {("1", 11), ("11", 1)}


def test_append_takes_arrow_tables_and_checks_them(tmp_path: Path) -> None:
    table = CaptionTable.open_or_create(tmp_path / "captions.lance")
    rows = pa.Table.from_pylist([caption("one")], schema=CAPTION_SCHEMA)
    assert table.append(pa.concat_tables([rows, rows])) == 1
    with pytest.raises(ValueError, match="null"):
        table.append([{**caption("two"), "source": None}])
    assert len(table.reload()) == 1


def test_tables_with_score_columns_still_take_rows(tmp_path: Path) -> None:
    table = ImageTable.open_or_create(tmp_path / "images.lance")
    table.append([image("a", 0)])
    table.reload().dataset.add_columns(pa.schema([pa.field("blur", pa.float32())]))
    assert table.append([image("a", 0), image("a", 1)]) == 1
    assert table.reload().read(["image_index", "blur"]).to_pylist()[1] == {"image_index": 1, "blur": None}


def test_images_are_taken_by_position_in_the_order_asked(tmp_path: Path) -> None:
    table = ImageTable.open_or_create(tmp_path / "images.lance")
    for start in (0, 10):  # two fragments
        table.append(
            [image("a", index, split="train" if index % 2 else "test") for index in range(start, start + 10)]
        )
    table = table.reload()
    names = [content.decode() for content in table.take_images(np.array([13, 2, 13, 0]))]
    assert names == [f"picture {index} of a" for index in (13, 2, 13, 0)]
    positions = table.positions("split = 'train'")
    assert positions.tolist() == list(range(1, 20, 2))
    assert table.take_images(positions)[-1] == b"picture 19 of a"
    assert table.positions("split = 'nowhere'").tolist() == []


@pytest.mark.parametrize("where", ["colour = 'red'", "split =", "image_index = 'first'", "split"])
def test_a_filter_that_is_not_valid_is_named_with_its_table(tmp_path: Path, where: str) -> None:
    table = ImageTable.open_or_create(tmp_path / "images.lance")
    for attempt in (lambda: table.read(["origin"], where), lambda: table.positions(where)):
        with pytest.raises(UserError) as caught:
            attempt()
        message = str(caught.value)
        assert message.startswith(f"{table.path}: the filter {where!r} is not valid (")
        assert "\n" not in message and ".rs" not in message
    with pytest.raises(ValueError, match="nothing"):
        table.read(["nothing"])  # no filter: a mistake of this program, which keeps its traceback


@pytest.mark.parametrize("where", ["1 / 0 = 1", "cast(caption_id AS int) = 1"])
def test_a_filter_that_fails_on_a_row_is_named_and_the_table_is_not_called_damaged(
    tmp_path: Path, where: str
) -> None:
    table = ImageTable.open_or_create(tmp_path / "images.lance")
    table.append([image("a", 0)])
    table = table.reload()
    for attempt in (lambda: table.read(["origin"], where), lambda: table.positions(where)):
        with pytest.raises(UserError) as caught:
            attempt()
        assert str(caught.value).startswith(f"{table.path}: the filter {where!r} is not valid (")


def test_origins_are_recorded_in_the_table(tmp_path: Path) -> None:
    table = ImageTable.open_or_create(tmp_path / "images.lance")
    table.register_origin("tiny-1", {"steps": 20, "guidance_scale": 3.5})
    table.register_origin("tiny-2", {"steps": 50})
    assert table.reload().origins() == {
        "tiny-1": {"steps": 20, "guidance_scale": 3.5},
        "tiny-2": {"steps": 50},
    }
    table.append([image("a", 0, origin="it's"), image("a", 1)])
    assert table.keys("it's") == {("a", 0)}


def test_a_nullable_column_that_is_not_there_reads_as_nulls(tmp_path: Path) -> None:
    needed = [field for field in IMAGE_SCHEMA if not field.nullable]
    rows = [image("a", 0), image("b", 1)]
    by_hand = pa.Table.from_pylist(rows, schema=pa.schema([*needed, IMAGE_SCHEMA.field("image")]))
    lance.write_dataset(by_hand, tmp_path / "images.lance")
    table = ImageTable.open(tmp_path / "images.lance")
    assert table.read(["caption_id", "width"]).to_pylist() == [
        {"caption_id": "a", "width": None},
        {"caption_id": "b", "width": None},
    ]
    assert table.read(["width"]).column("width").to_pylist() == [None, None]
    assert table.read(["width"]).field("width").type == IMAGE_SCHEMA.field("width").type
    assert (
        table.take([1], ["width", "caption_id"]).to_pylist()[0].items()
        >= {"width": None, "caption_id": "b"}.items()
    )
    assert [batch.column("width").to_pylist() for batch in table.scan(["width"])] == [[None, None]]
    assert "width" not in next(iter(table.scan())).schema.names, "all columns are those that are stored"
    with pytest.raises(UserError, match="no column"):
        table.field("wdth")
    table.append([image("c", 2, width=7)])
    assert table.reload().read(["width"]).column("width").to_pylist() == [None, None, 7]


def test_wrong_paths_are_user_errors_and_stay_untouched(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "love.txt").write_text("dear", encoding="utf-8")
    for name in ("file", "folder"):
        with pytest.raises(UserError, match=r"exists and is not a table of captions"):
            CaptionTable.open_or_create(tmp_path / name)
    for name in ("file", "folder", "absent"):
        with pytest.raises(UserError, match="no caption table could be opened there"):
            CaptionTable.open(tmp_path / name)
    with pytest.raises(UserError, match="cannot create the caption table"):
        CaptionTable.open_or_create(tmp_path / "file" / "captions.lance")
    ImageTable.open_or_create(tmp_path / "images.lance")
    with pytest.raises(UserError, match=r"not a table of captions: it has no column id, text"):
        CaptionTable.open(tmp_path / "images.lance")
    assert sorted(entry.name for entry in tmp_path.rglob("*") if entry.name in ("love.txt", "file")) == [
        "file",
        "love.txt",
    ]


def test_a_file_is_refused_before_lance_looks_for_a_table_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lance looks again and again, for two seconds."""
    (tmp_path / "file").write_text("text", encoding="utf-8")
    asked: list[str] = []
    monkeypatch.setattr("lance.dataset", asked.append)
    monkeypatch.setattr("lance.write_dataset", lambda _, path, **__: asked.append(path))
    for path in (tmp_path / "file", tmp_path / "file" / "captions.lance"):
        with pytest.raises(UserError, match="no caption table could be opened there"):
            CaptionTable.open(path)
    with pytest.raises(UserError, match=r"cannot create the caption table .*: .*file is a file"):
        CaptionTable.open_or_create(tmp_path / "file" / "captions.lance")
    assert asked == []


def test_a_creation_that_was_killed_is_taken_up(tmp_path: Path) -> None:
    (tmp_path / "captions.lance" / "_transactions").mkdir(parents=True)
    table = CaptionTable.open_or_create(tmp_path / "captions.lance")
    assert table.append([caption("one")]) == 1


def append_captions(path: str, texts: list[str], batch: int, ready: Any) -> None:
    """What each spawned process does: create or open, wait for the other one, append."""
    table = CaptionTable.open_or_create(path)
    ready.wait()
    rows = [caption(text, source=str(os.getpid())) for text in texts]
    for start in range(0, len(rows), batch):
        table.append(rows[start : start + batch])


@pytest.mark.slow
def test_two_processes_append_the_same_rows_without_doubles(tmp_path: Path) -> None:
    path = tmp_path / "captions.lance"
    texts = [f"caption {number}" for number in range(200)]
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Barrier(2)
    # Shared and own rows in opposite orders: their commits collide on some keys and not on others.
    lists = ([*texts, "left"], [*texts[::-1], "right"])
    workers = [spawn.Process(target=append_captions, args=(str(path), part, 20, ready)) for part in lists]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    rows = CaptionTable.open(path).read(["id", "text", "source"])
    assert sorted(rows["text"].to_pylist()) == sorted([*texts, "left", "right"])
    assert len(set(rows["id"].to_pylist())) == len(rows)
    assert len(set(rows["source"].to_pylist())) == 2, "both processes must have written"


def append_forever(path: str) -> None:
    table = CaptionTable.open_or_create(path)
    for start in range(0, 1_000_000, 50):
        table.append([caption(f"caption {number}") for number in range(start, start + 50)])


@pytest.mark.slow
def test_a_killed_writer_leaves_whole_batches(tmp_path: Path) -> None:
    path = tmp_path / "captions.lance"
    worker = multiprocessing.get_context("spawn").Process(target=append_forever, args=(str(path),))
    worker.start()
    deadline = time.monotonic() + 60
    while not (path / "data").is_dir() or len(list((path / "data").iterdir())) < 5:
        assert time.monotonic() < deadline, "the writer never wrote"
        time.sleep(0.01)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    table = CaptionTable.open(path)
    rows = table.read(["text"])["text"].to_pylist()
    assert len(rows) > 0
    assert len(rows) % 50 == 0
    assert set(rows) == {f"caption {number}" for number in range(len(rows))}
    assert table.append([caption(f"caption {number}") for number in range(len(rows) + 1)]) == 1


def stored_bytes(path: str, suffix: str = ".lance") -> int:
    return sum(file.stat().st_size for file in (Path(path) / "data").glob(f"*{suffix}"))


def scored_table(path: Path) -> ImageTable:
    """Two fragments of two rows, with pictures large enough to be seen in the size of the files."""
    table = ImageTable.open_or_create(path)
    for caption in ("a", "b"):
        table.append([image(caption, index, image=os.urandom(100_000)) for index in (0, 1)])
    return table.reload()


def test_columns_are_written_beside_the_images(tmp_path: Path) -> None:
    table = scored_table(tmp_path / "images.lance")
    before = stored_bytes(table.path)
    scores = {"match": pa.array([0.5, 0.25], pa.float32()), "why": pa.array(["x", None])}
    newer = table.write_columns([3, 0], scores)
    assert newer.read(["match", "why"]).to_pylist() == [
        {"match": 0.25, "why": None},
        {"match": None, "why": None},
        {"match": None, "why": None},
        {"match": 0.5, "why": "x"},
    ]
    again = newer.write_columns([0, 1], {"match": pa.array([0.75, 1.0], pa.float32())})
    assert again.read(["match"])["match"].to_pylist() == [0.75, 1.0, None, 0.5]
    assert again.read(["why"])["why"].to_pylist() == [None, None, None, "x"]
    assert stored_bytes(table.path) < before + 20_000  # no picture was written again
    assert again.take_images([0, 3]) == table.take_images([0, 3])


def test_rows_appended_while_scores_are_computed_stay_and_have_none(tmp_path: Path) -> None:
    table = scored_table(tmp_path / "images.lance")
    table.reload().append([image("c", 0)])
    newer = table.write_columns([0, 1, 2, 3], {"sharp": pa.array([True, False, True, None])})
    assert newer.read(["sharp"])["sharp"].to_pylist() == [True, False, True, None, None]
    assert newer.append([image("d", 0), image("a", 0)]) == 1


def test_what_must_not_be_written_is_refused(tmp_path: Path) -> None:
    table = scored_table(tmp_path / "images.lance")
    with pytest.raises(UserError, match="'seed' belongs to every image table"):
        table.write_columns([0], {"seed": pa.array([1])})
    with pytest.raises(UserError, match="column 'match': 1 values for 2 rows"):
        table.write_columns([0, 1], {"match": pa.array([1.0])})
    newer = table.write_columns([0], {"match": pa.array([1.0])})
    with pytest.raises(UserError, match="'match' is there as double and cannot take string"):
        newer.write_columns([0], {"match": pa.array(["good"])})
    lance.dataset(table.path).optimize.compact_files()
    with pytest.raises(UserError, match="was compacted while"):
        newer.write_columns([0], {"match": pa.array([1.0])})
    assert newer.reload().write_columns([], {"match": pa.array([], pa.float64())}).version


def test_captions_take_columns_too(tmp_path: Path) -> None:
    table = CaptionTable.open_or_create(tmp_path / "captions.lance")
    table.append([caption("one"), caption("two")])
    table = table.reload()
    newer = table.write_columns(table.positions("text = 'two'"), {"fine": pa.array([False])})
    assert newer.read(["text", "fine"]).to_pylist() == [
        {"text": "one", "fine": None},
        {"text": "two", "fine": False},
    ]
    assert newer.append([caption("three"), caption("two")]) == 1
    with pytest.raises(UserError, match="'text' belongs to every caption table"):
        newer.write_columns([0], {"text": pa.array(["other"])})
