"""Worlds on small made-up data: exact pictures, merged captions, restarts, and refusals that touch nothing."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stablerep.captions import worlds
from stablerep.captions.material import running_numbers
from stablerep.captions.worlds import WorldConfig, WorldSummary, write_world
from stablerep.errors import UserError
from stablerep.store import CAPTION_SCHEMA, IMAGE_SCHEMA, CaptionTable, ImageTable, caption_id


def picture(number: int) -> Image.Image:
    """Noise with every degree of transparency."""
    pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 4), dtype=np.uint8)
    return Image.fromarray(pixels, "RGBA")


def icon(number: int, concept: str, caption: str, variants: list[str], **more: Any) -> dict[str, Any]:
    encoded = io.BytesIO()
    picture(number).save(encoded, "WEBP", lossless=True, exact=True)
    row = {
        "picture_id": f"hand/{number}",
        "image": encoded.getvalue(),
        "style": "noto",
        "concept": concept,
        "caption": caption,
        "variants": variants,
        "group": "fruit",
        "label": "food",
        "category": "Food",
        "split": "train",
        "licence": "Apache-2.0",
        "title": "t",
        "author": None,
        "tags": ["x"],
    }
    return {**row, **more}


ICONS = [
    icon(3, "pear", "a pear", ["a green pear", "an apple"]),  # its variant equals another concept's primary
    icon(1, "apple", "an apple", ["a red apple", "fruit"]),
    icon(2, "apple", "an apple", ["a red apple", "fruit"], style="fluent"),
    icon(0, "boskoop", "an  apple", ["fruit"]),  # a second concept with an equal primary caption
    icon(
        4, "bus", "a bus", [], group="bus", split="test", label="traffic", style="clipart", licence="CC0-1.0"
    ),
]


@pytest.fixture
def icons(tmp_path: Path) -> Path:
    path = tmp_path / "icons.parquet"
    pq.write_table(pa.Table.from_pylist(ICONS), path)
    return path


def write(icons: Path, out: Path, **options: Any) -> WorldSummary:
    return write_world(WorldConfig(name="icons", out=out, source=icons, **options))


def test_captions_are_merged_and_a_primary_wins(tmp_path: Path, icons: Path) -> None:
    write(icons, tmp_path / "world")
    rows = CaptionTable.open(tmp_path / "world" / "captions.lance").read(CAPTION_SCHEMA.names).to_pylist()
    by_text = {row["text"]: row for row in rows}
    assert len(by_text) == len(rows)
    templates = {text: (row["template"], row["concept"]) for text, row in by_text.items()}
    assert templates == {
        "an apple": ("primary", "apple"),
        "a bus": ("primary", "bus"),
        "a pear": ("primary", "pear"),
        "a red apple": ("variant-1", "apple"),
        "fruit": ("variant-2", "apple"),
        "a green pear": ("variant-1", "pear"),
    }
    for row in rows:
        assert row["id"] == caption_id(row["text"])
        assert row["source"] == "icons"
    bus = by_text["a bus"]
    assert (bus["group"], bus["split"], bus["label"]) == ("bus", "test", "traffic")


def test_pictures_are_stored_exactly_and_numbered_within_their_caption(tmp_path: Path, icons: Path) -> None:
    write(icons, tmp_path / "world")
    rows = ImageTable.open(tmp_path / "world" / "images.lance").read(IMAGE_SCHEMA.names).to_pylist()
    found = {(row["caption_id"], row["image_index"]): row for row in rows}
    apple, pear, bus = (caption_id(text) for text in ("an apple", "a pear", "a bus"))
    expected = {(apple, 0): 0, (apple, 1): 1, (apple, 2): 2, (pear, 0): 3, (bus, 0): 4}
    assert found.keys() == expected.keys()
    for key, number in expected.items():
        row = found[key]
        stored = Image.open(io.BytesIO(row["image"]))
        rgba = np.asarray(picture(number)).astype(float)
        alpha = rgba[..., 3:] / 255
        assert stored.format == "PNG"
        assert stored.mode == "RGB"
        assert np.abs(np.asarray(stored) - (rgba[..., :3] * alpha + 255 * (1 - alpha))).max() < 1
        assert (row["origin"], row["status"], row["seed"], row["reason"]) == ("real", "ok", None, None)
        assert (row["width"], row["height"]) == stored.size == (64, 64)
        source = next(each for each in ICONS if each["picture_id"] == f"hand/{number}")
        for name in ("style", "split", "group", "label", "licence"):
            assert row[name] == source[name]


def test_the_summary_counts_what_is_in_the_tables(tmp_path: Path, icons: Path) -> None:
    assert write(icons, tmp_path / "world") == WorldSummary(
        name="icons",
        path=tmp_path / "world",
        captions=6,
        new_captions=6,
        pictures=5,
        new_pictures=5,
        captions_by_split={"test": 1, "train": 5},
        pictures_by_split={"test": 1, "train": 4},
        pictures_by_style={"clipart": 1, "fluent": 1, "noto": 3},
        pictures_by_label={"food": 4, "traffic": 1},
    )


def test_writing_again_changes_nothing(tmp_path: Path, icons: Path) -> None:
    write(icons, tmp_path / "world")

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in sorted((tmp_path / "world").rglob("*")) if path.is_file()}

    before = files()
    again = write(icons, tmp_path / "world")
    assert (again.captions, again.new_captions, again.pictures, again.new_pictures) == (6, 0, 5, 0)
    assert files() == before


def test_an_interrupted_world_is_completed(
    tmp_path: Path, icons: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    write(icons, whole)
    monkeypatch.setattr(worlds, "_BATCH", 2)
    append = ImageTable.append

    def append_once_then_die(self: ImageTable, rows: Any) -> int:
        if len(self.reload()):
            raise KeyboardInterrupt
        return append(self, rows)

    monkeypatch.setattr(ImageTable, "append", append_once_then_die)
    with pytest.raises(KeyboardInterrupt):
        write(icons, tmp_path / "broken")
    monkeypatch.setattr(ImageTable, "append", append)
    assert len(ImageTable.open(tmp_path / "broken" / "images.lance")) == 2
    summary = write(icons, tmp_path / "broken")
    assert (summary.pictures, summary.new_pictures) == (5, 3)
    tables = [
        ImageTable.open(folder / "images.lance").read(IMAGE_SCHEMA.names)
        for folder in (whole, tmp_path / "broken")
    ]
    assert tables[0].to_pylist() == tables[1].to_pylist()


def test_size_is_the_side_of_the_stored_pictures(tmp_path: Path, icons: Path) -> None:
    write(icons, tmp_path / "world", size=32)
    table = ImageTable.open(tmp_path / "world" / "images.lance")
    for content in table.take_images(range(len(table))):
        assert Image.open(io.BytesIO(content)).size == (32, 32)
    with pytest.raises(UserError, match="size 2 is too small"):
        write(icons, tmp_path / "other", size=2)


def test_a_folder_holds_one_world(tmp_path: Path, icons: Path) -> None:
    write(icons, tmp_path / "world")
    with pytest.raises(UserError, match=r"holds another world \(size: 64 there, 32 asked\)"):
        write(icons, tmp_path / "world", size=32)
    other = tmp_path / "other.parquet"
    pq.write_table(pa.Table.from_pylist(ICONS[:2]), other)
    with pytest.raises(UserError, match=r"holds another world \(data: "):
        write(other, tmp_path / "world")
    (tmp_path / "world" / "world.json").write_text('{"world": ')
    with pytest.raises(UserError, match=r"world\.json cannot be read as JSON .* restore or remove it"):
        write(icons, tmp_path / "world")
    assert len(ImageTable.open(tmp_path / "world" / "images.lance")) == 5
    CaptionTable.open_or_create(tmp_path / "mine" / "captions.lance")
    with pytest.raises(UserError, match=r"already holds captions\.lance of something else"):
        write(icons, tmp_path / "mine")
    (tmp_path / "file").write_text("text", encoding="utf-8")
    with pytest.raises(UserError, match="cannot write into the folder"):
        write(icons, tmp_path / "file")


def test_the_folder_says_which_world_it_holds(tmp_path: Path, icons: Path) -> None:
    write(icons, tmp_path / "world")
    identity = json.loads((tmp_path / "world" / "world.json").read_text(encoding="utf-8"))
    assert len(identity.pop("data")) == 32
    assert identity == {"world": "icons", "size": 64, "hide_class": False}


def test_wrong_icons_files_are_user_errors(tmp_path: Path) -> None:
    out = tmp_path / "world"
    with pytest.raises(UserError, match=r"absent\.parquet cannot be read: No such file"):
        write(tmp_path / "absent.parquet", out)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="not readable as Parquet"):
        write(tmp_path / "bad.parquet", out)
    pq.write_table(pa.table({"picture_id": ["a"], "image": [b""]}), tmp_path / "poor.parquet")
    with pytest.raises(UserError, match="has no column style, concept"):
        write(tmp_path / "poor.parquet", out)
    with pytest.raises(UserError, match="hide-class belongs to the fashion world"):
        write(tmp_path / "poor.parquet", out, hide_class=True)
    assert not out.exists()


def test_running_numbers() -> None:
    assert running_numbers(["a", "b", "a", "a", "b"]) == [0, 0, 1, 2, 1]
