"""Marks are columns of the table; pairs, maps and paintings are what they say."""

import functools
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small_gallery import COLOURS, EDITED, PAINTER, TEXTS, open_small, picture

from generation import tiny_pipelines
from stablerep.console import Console
from stablerep.decoding import decode_image
from stablerep.errors import UserError
from stablerep.gallery import projection, render
from stablerep.gallery.columns import OneOf
from stablerep.gallery.painting import Painter
from stablerep.gallery.pairs import Lane, Place, lanes
from stablerep.gallery.projection import Projection, projections
from stablerep.gallery.serve import GalleryConfig, open_gallery
from stablerep.gallery.session import Gallery, Wish
from stablerep.store import OK, REAL, ImageTable, caption_id


def test_marks_are_written_into_the_table_and_seen_at_once(tmp_path: Path) -> None:
    gallery = open_small(tmp_path)
    before = ImageTable.open(gallery.main.table.path).version
    assert gallery.num_marked() == {}
    gallery.mark([Place(0, 3), Place(0, 12)], "reject")
    gallery.mark([Place(0, 0)], "keep")
    table = ImageTable.open(gallery.main.table.path)
    assert table.version > before
    written = table.read(["gallery_mark", "gallery_marked_at"]).to_pylist()
    assert {row: known["gallery_mark"] for row, known in enumerate(written) if known["gallery_mark"]} == {
        0: "keep",
        3: "reject",
        12: "reject",
    }
    age = datetime.now(UTC) - written[3]["gallery_marked_at"]
    assert 0 <= age.total_seconds() < 60
    assert gallery.num_marked() == {"keep": 1, "reject": 2}
    assert gallery.main.columns()[0].name == "gallery_mark"
    assert set(gallery.find(Wish(filters={"gallery_mark": OneOf(("reject",))}))[0]) == {3, 12}
    gallery.mark([Place(0, 3)], None)
    assert ImageTable.open(gallery.main.table.path).read(["gallery_mark"])["gallery_mark"][3].as_py() is None
    assert set(gallery.find(Wish(filters={"gallery_mark": OneOf(("reject",))}))[0]) == {12}


def test_marks_meet_rows_that_others_append(tmp_path: Path) -> None:
    gallery = open_small(tmp_path)
    row = {"origin": "new", "caption_id": "c", "image_index": 0, "status": OK, "image": b""}
    ImageTable.open(gallery.main.table.path).append([row])
    gallery.mark([Place(0, 19)], "repaint")
    assert len(gallery.main) == 20
    assert gallery.num_marked() == {"repaint": 1}
    assert gallery.refresh()
    assert len(gallery.main) == 21
    assert gallery.num_marked() == {"repaint": 1}
    assert not gallery.refresh()


def test_pictures_that_are_no_copies_are_not_called_copies(tmp_path: Path) -> None:
    gallery = open_small(tmp_path)
    assert "2 pictures repeat another" in render.copies(gallery, *gallery.copies([], 0))
    gallery.main.table.write_columns([5], {"copy_verdict": pa.array(["none"])})
    assert gallery.refresh()
    page = render.copies(gallery, *gallery.copies([], 0))
    assert "Of the whole table 1 repeat another." in page
    assert page.count("is most like image") == 1 and page.count("repeats image") == 1 and "no copy" in page


def test_marks_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    gallery = open_small(tmp_path / "one", beside=(open_small(tmp_path / "two").main.table.path,))
    with pytest.raises(UserError, match="no mark 'love'"):
        gallery.mark([Place(0, 0)], "love")
    with pytest.raises(UserError, match=r"only pictures of images\.lance can be marked"):
        gallery.mark([Place(1, 0)], "keep")
    with pytest.raises(UserError, match="no picture at place 20"):
        gallery.mark([Place(0, 20)], "keep")
    gallery.mark([], "keep")
    assert "gallery_mark" not in ImageTable.open(gallery.main.table.path).dataset.schema.names


def test_two_painters_side_by_side(gallery: Gallery) -> None:
    rows, page, total = gallery.compare(Lane(0, PAINTER), Lane(0, EDITED), 0)
    assert (total, page.num_pages) == (4, 1)
    assert [gallery.main.text_of(row[0].caption_id) for row in rows] == list(TEXTS)
    assert [pair.same_seed for pair in rows[0]] == [True, True]
    assert [(pair.left, pair.right) for pair in rows[0]] == [
        (Place(0, 0), Place(0, 2)),
        (Place(0, 1), Place(0, 3)),
    ]
    assert rows[3][1].right is None, "a failure has no picture to show"
    real, _, _ = gallery.compare(Lane(0, REAL), Lane(0, PAINTER), 0)
    assert [pair.same_seed for pair in real[0]] == [False, False]
    assert real[0][1].left is None


def test_tables_of_one_name_are_told_apart_by_their_places(tmp_path: Path) -> None:
    for name in ("first", "second"):
        ImageTable.open_or_create(tmp_path / name / "images.lance").append(
            [{"origin": REAL, "caption_id": "c", "image_index": 0, "image": picture((0, 0, 0)), "status": OK}]
        )
    paths = [tmp_path / name / "images.lance" for name in ("first", "second")]
    opened = open_gallery(GalleryConfig(images=paths[0], beside=(paths[1],)), console=Console(quiet=True))
    assert lanes(opened.tables) == {f"real ({path})": Lane(place, REAL) for place, path in enumerate(paths)}


def test_copies_stand_beside_their_originals(gallery: Gallery) -> None:
    found, _, total = gallery.copies((), 0)
    assert total == 2
    assert [pair.copy for pair in found] == [Place(0, 0), Place(0, 5)]
    assert found[0].found == Place(0, gallery.main.find(found[0].original) or 0) == Place(0, 4)
    assert found[0].original.caption_id == caption_id(TEXTS[0])
    assert (found[0].score, found[0].verdict) == (0.98, "copy")
    assert found[1].found is None, "its original is in no open table"
    assert gallery.copies(("no such verdict",), 0)[2] == 0


@pytest.mark.parametrize(
    "how", [pytest.param(how, marks=pytest.mark.slow if how == "umap" else ()) for how in projections()]
)
def test_alike_pictures_lie_together(
    gallery: Gallery, how: Projection, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "umap":
        # It compiles itself for a minute and a half; nineteen pictures need neither that nor its 500 rounds.
        monkeypatch.setattr(pytest.importorskip("numba").config, "DISABLE_JIT", True)
        umap = pytest.importorskip("umap")
        monkeypatch.setattr(umap, "UMAP", functools.partial(umap.UMAP, n_epochs=60))
    drawn, atlas = gallery.draw_map(Wish(), how)
    assert len(drawn.rows) == 19 and drawn.how == how
    assert drawn.places.min() >= 0 and drawn.places.max() <= 1
    again, _ = gallery.draw_map(Wish(), how)
    np.testing.assert_array_equal(drawn.places, again.places)
    sheet = gallery.atlas(atlas)
    assert sheet is not None
    tile = decode_image(sheet)[:, : projection.TILE, : projection.TILE].float()
    assert tile[:, 12, 12].tolist() == pytest.approx(COLOURS[TEXTS[0]], abs=30)
    codes = gallery.main.caption[drawn.rows]
    apart = np.linalg.norm(drawn.places[:, None] - drawn.places[None], axis=-1)
    alike = codes[:, None] == codes[None]
    others = ~np.eye(len(codes), dtype=bool)
    assert apart[alike & others].mean() < apart[~alike].mean()
    if how == "pca":
        middles = np.stack([drawn.places[codes == code].mean(axis=0) for code in range(4)])
        blue = TEXTS.index("a blue square")
        assert all(
            np.linalg.norm(middles[0] - middles[1]) < np.linalg.norm(middles[0] - middles[row])
            for row in (blue, 3)
        )


def test_a_map_needs_pictures(gallery: Gallery) -> None:
    with pytest.raises(UserError, match="nothing was found to draw"):
        gallery.draw_map(Wish(text="zebra"), "pca")
    rows = np.arange(5000)
    chosen = projection.sample(rows, 100)
    assert len(set(chosen.tolist())) == 100
    np.testing.assert_array_equal(chosen, projection.sample(rows, 100))


@pytest.mark.slow
def test_a_prompt_that_is_cut_says_so(tmp_path: Path) -> None:
    tiny_pipelines.pixart(tmp_path / "teacher")
    painter = Painter(str(tmp_path / "teacher"))
    for prompt, is_cut in (("a red heart", False), ("a red heart and " * 20, True)):
        (painted,) = painter.paint(prompt, 1, 0)
        assert painted.png is not None and painted.is_cut == is_cut
        assert ("which reads only the beginning" in render.paintings([painted], 1.0, "icons")) == is_cut


@pytest.mark.parametrize(
    ("prompt", "count", "what"),
    [("  ", 1, "has 0 letters"), ("x", 99, "99 pictures"), ("y" * 2000, 1, "2000 letters")],
)
def test_prompts_out_of_reach_are_refused(prompt: str, count: int, what: str) -> None:
    with pytest.raises(UserError, match=what):
        Painter("icons").paint(prompt, count, 0)
