"""The index of images by caption against the plain way: a dict of lists."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_training import image_row, write_images

from stablerep.learning.index import ImageIndex, ImageRef
from stablerep.store import REAL, ImageTable

Refs = dict[str, list[ImageRef]]


def rows_of(table: int) -> list[dict[str, Any]]:
    """Captions of different numbers of images from three origins; some images are in both tables."""
    rng = np.random.default_rng(table)
    rows = []
    for number in range(9):
        for origin in (REAL, "teacher-a", f"teacher-{table}"):
            for index in rng.permutation(4)[: rng.integers(0, 4)]:
                style = [None, "ink", "brush"][int(rng.integers(3))]
                changes = {"origin": origin, "style": style, "group": None if number % 2 else f"g{number}"}
                rows.append(image_row(number, int(index), **changes))
    return list({(row["origin"], row["caption_id"], row["image_index"]): row for row in rows}.values())


@pytest.fixture
def tables(tmp_path: Path) -> list[ImageTable]:
    return [ImageTable.open(write_images(tmp_path / f"{n}.lance", rows_of(n))) for n in range(2)]


def plain(
    tables: list[ImageTable], positions: list[np.ndarray], num_real: int | None, num_painted: int | None
) -> Refs:
    names = ["caption_id", "origin", "image_index", "style", "label", "group"]
    found: dict[str, dict[tuple[str, int], ImageRef]] = {}
    for number, (table, some) in enumerate(zip(tables, positions, strict=True)):
        rows = table.read(names).to_pylist()
        for position in some.tolist():
            ref = ImageRef(number, position, *(rows[position][name] for name in names))
            found.setdefault(ref.caption, {}).setdefault((ref.origin, ref.image_index), ref)
    kept: Refs = {}
    for caption in sorted(found):
        of_origin: dict[str, list[ImageRef]] = {}
        for key in sorted(found[caption]):
            of_origin.setdefault(key[0], []).append(found[caption][key])
        kept[caption] = [
            ref
            for origin, refs in of_origin.items()
            for ref in refs[: num_real if origin == REAL else num_painted]
        ]
    return kept


@pytest.mark.parametrize("num_real", [None, 1])
@pytest.mark.parametrize("num_painted", [None, 2])
def test_it_is_the_dict_of_lists(
    tables: list[ImageTable], num_real: int | None, num_painted: int | None
) -> None:
    positions = [np.arange(len(table))[::2] if n else np.arange(len(table)) for n, table in enumerate(tables)]
    index = ImageIndex.read(tables, positions, num_real, num_painted)
    expected = plain(tables, positions, num_real, num_painted)
    assert list(index.captions) == list(expected)
    assert [index.images_of(row) for row in range(len(expected))] == list(expected.values())
    assert index.counts.tolist() == [len(refs) for refs in expected.values()]
    labels = [ref.label for refs in expected.values() for ref in refs]
    assert index.num_values_with_several("label") == sum(labels.count(label) > 1 for label in set(labels))
    some = index.first(4)
    assert [some.images_of(row) for row in range(4)] == list(expected.values())[:4]
    assert len(some.captions) == 4 and len(some.table) == some.starts[-1] < len(index.table)


def test_the_digest_is_of_what_is_in_it_and_not_of_where_or_of_what_else_there_is(
    tables: list[ImageTable],
) -> None:
    positions = [np.arange(len(table)) for table in tables]
    index = ImageIndex.read(tables, positions, None, None)
    few = index.first(3)
    captions = {f"'{caption}'" for caption in few.captions}
    alone = [table.positions(f"caption_id IN ({', '.join(sorted(captions))})") for table in tables]
    assert ImageIndex.read(tables, alone, None, None).digest() == few.digest() != index.digest()


def test_no_image_at_all(tables: list[ImageTable]) -> None:
    index = ImageIndex.read(tables, [np.array([], dtype=np.int64)] * 2, None, None)
    assert list(index.captions) == [] and index.starts.tolist() == [0]
