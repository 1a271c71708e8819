"""What is shown, in which order, on which page; what the columns are."""

import numpy as np
import pyarrow as pa
import pytest
from small_gallery import EDITED, PAINTER, TEXTS

from stablerep.errors import UserError
from stablerep.gallery import page as page_module
from stablerep.gallery.columns import Between, ChoiceColumn, NumberColumn, OneOf, read_column, read_filter
from stablerep.gallery.facets import facets
from stablerep.gallery.index import Key
from stablerep.gallery.query import Query, page_of, select
from stablerep.gallery.search import by_words
from stablerep.gallery.session import Gallery, Wish
from stablerep.store import REAL, caption_id


def texts(gallery: Gallery, rows: np.ndarray) -> set[str]:
    return {gallery.main.text(code) for code in gallery.main.caption[rows]}


def test_columns_beyond_the_schema_are_found_by_their_kind(gallery: Gallery) -> None:
    kinds = {column.name: type(column) for column in gallery.main.columns()}
    assert kinds["match"] is kinds["copy_score"] is NumberColumn
    assert kinds["sharp"] is kinds["concern"] is kinds["copy_verdict"] is kinds["origin"] is ChoiceColumn
    assert "label" not in kinds, "a column without any value is not shown"
    match = gallery.main.column("match")
    assert isinstance(match, NumberColumn)
    assert match.num_missing == 1
    assert match.counts().sum() == len(gallery.main) - 1


def test_filters_keep_what_they_say_and_combine(gallery: Gallery) -> None:
    every = select(gallery.main, Query())
    assert len(every) == len(gallery.main) == 20
    high = select(gallery.main, Query(filters={"match": Between(low=0.5)}))
    assert set(high) == set(range(10, 20))
    both = select(gallery.main, Query(filters={"match": Between(0.1, 0.5), "sharp": OneOf(("yes",))}))
    assert sorted(both) == [2, 4, 6, 8, 10], "no number is in no range, and borders belong to it"
    none = select(gallery.main, Query(filters={"concern": OneOf(("(none)",))}))
    assert sorted(none) == [row for row in range(20) if row % 5]
    with pytest.raises(UserError, match="no column 'beauty'"):
        select(gallery.main, Query(filters={"beauty": Between(1)}))
    with pytest.raises(UserError, match="'sharp' holds no numbers"):
        select(gallery.main, Query(filters={"sharp": Between(1)}))


@pytest.mark.parametrize(("descending", "first"), [(False, 0), (True, 19)])
def test_sorting_puts_rows_without_a_value_last(gallery: Gallery, descending: bool, first: int) -> None:
    rows = select(gallery.main, Query(sort="match", descending=descending))
    assert rows[0] == first
    assert rows[-1] == 3


def test_captions_come_in_the_order_of_their_best_picture_real_ones_first(gallery: Gallery) -> None:
    shown = gallery.browse(Wish(sort="match", descending=True))
    assert [gallery.main.text(group.caption) for group in shown.groups] == list(reversed(TEXTS))
    origins = [gallery.main.origins[code] for code in gallery.main.origin[shown.groups[0].rows]]
    assert origins == [REAL, PAINTER, PAINTER, EDITED, EDITED]


def test_pages_stay_in_range() -> None:
    assert (page_of(100, 24, 3).start, page_of(100, 24, 3).stop) == (72, 96)
    assert page_of(100, 24, 99).number == 4
    assert page_of(100, 24, -1).number == 0
    assert page_of(0, 24, 5).num_pages == 1


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("red", {TEXTS[0], TEXTS[1], TEXTS[3]}),
        ("SQUARE red", {TEXTS[0], TEXTS[1]}),
        ("squ blu", {TEXTS[2]}),
        ("quare", set()),
        ("a.red", set()),
        ("${document", {TEXTS[3]}),
        ("(", set()),
    ],
)
def test_words_are_found_by_their_beginning(gallery: Gallery, said: str, found: set[str]) -> None:
    hits = by_words(gallery.main, said)
    assert hits is not None
    assert texts(gallery, np.flatnonzero(hits.found)) == found


def test_an_empty_search_is_none(gallery: Gallery) -> None:
    assert by_words(gallery.main, "  ") is None
    shown = gallery.browse(Wish(text="red", view="pictures"))
    assert (shown.num_pictures, shown.num_captions) == (15, 3)
    assert gallery.browse(Wish(text="zebra")).num_pictures == 0


def test_pictures_are_found_by_their_key(gallery: Gallery) -> None:
    for position in range(len(gallery.main)):
        key = gallery.main.key(position)
        assert gallery.main.find(key) == position
        assert Key.parse(str(key)) == key
    assert gallery.main.find(Key(REAL, caption_id("never seen"), 0)) is None
    assert gallery.main.find(Key(REAL, caption_id(TEXTS[0]), 7)) is None
    assert Key.parse("no key") is None
    assert Key.parse("a/b/c/1") == Key("a/b", "c", 1)


@pytest.mark.parametrize("said", ["data:image/png;base64,\xe9", "data:image/png;base64,A", "0/x", "here"])
def test_a_picture_that_the_browser_cannot_have_meant_is_refused(said: str) -> None:
    with pytest.raises(UserError, match=r"did not arrive whole|names no picture"):
        page_module._like(said)


def test_filters_from_the_browser() -> None:
    assert read_filter({"choices": ["a", "b"]}) == OneOf(("a", "b"))
    assert read_filter({"low": "0.5", "high": ""}) == Between(0.5, None)
    assert read_filter({"choices": []}) is None
    assert read_filter({"low": None}) is None
    with pytest.raises(UserError, match="'high' is no number"):
        read_filter({"low": "high"})


def test_facets_count_what_was_found_beside_everything(gallery: Gallery) -> None:
    wish = Wish(text="blue", filters={"sharp": OneOf(("yes",))})
    rows, _ = gallery.find(wish)
    side = {column["name"]: column for column in facets(gallery, wish, rows)["columns"]}
    assert sum(side["match"]["every"]) == 19
    assert sum(side["match"]["here"]) == len(rows) == 3
    chosen = {choice["name"]: choice for choice in side["sharp"]["choices"]}
    assert chosen["yes"] == {"name": "yes", "every": 10, "here": 3, "picked": True}
    assert side["match"]["edges"][0] == 0


def test_strings_that_are_all_different_are_present_or_not() -> None:
    many = read_column("why", pa.chunked_array([[f"reason {number}" for number in range(99)] + [None]]))
    assert isinstance(many, ChoiceColumn)
    assert many.choices == ("present", "(none)")
    assert many.counts().tolist() == [99, 1]
    assert read_column("vector", pa.chunked_array([[[1.0, 2.0]]])) is None
    constant = read_column("n", pa.chunked_array([[5, 5, 5]]))
    assert isinstance(constant, NumberColumn)
    assert constant.counts().sum() == 3
    infinite = read_column("x", pa.chunked_array([[1.0, float("inf"), float("nan")]]))
    assert isinstance(infinite, NumberColumn)
    assert infinite.num_missing == 2
