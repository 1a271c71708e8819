"""After an audit: further pictures under new image indices, until enough are kept, and no further than that."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from some_captions import TEXTS

from stablerep.errors import UserError
from stablerep.generation.execute import GenerateConfig, generate
from stablerep.generation.plan import indices_with_repaints
from stablerep.runtime import seed_for
from stablerep.store import ImageTable, caption_id

Make = Callable[..., GenerateConfig]
CAT, DOG = caption_id(TEXTS[0]), caption_id(TEXTS[1])


def judge(path: Path, verdicts: dict[tuple[str, int], bool], column: str = "keep") -> None:
    """Write a mask as an audit does, null where there is no verdict."""
    table = ImageTable.open(path)
    keys = table.read(["caption_id", "image_index"]).to_pylist()
    places = {(row["caption_id"], row["image_index"]): place for place, row in enumerate(keys)}
    positions = np.array([places[key] for key in verdicts])
    table.write_columns(positions, {column: pa.array(list(verdicts.values()), pa.bool_())})


def painted(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    table = ImageTable.open(path)
    rows = table.read(["caption_id", "image_index", "seed", "image", "status"]).to_pylist()
    return {(row["caption_id"], row["image_index"]): row for row in rows}


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.integers(0, 9), st.booleans()), st.integers(1, 5), st.integers(5, 9))
def test_indices_are_the_good_ones_and_the_smallest_unused(
    judged: dict[int, bool], wanted: int, most: int
) -> None:
    found = indices_with_repaints(judged, wanted, most)
    good = {index for index, counts in judged.items() if counts}
    new = [index for index in found if index not in judged]
    assert found == sorted(set(found)) and good <= set(found)
    assert not {index for index in found if judged.get(index) is False}
    unused = [index for index in range(most) if index not in judged]
    assert new == unused[: max(0, wanted - len(good))]


@pytest.mark.slow
def test_rejected_pictures_are_replaced_under_new_indices(config: Make) -> None:
    generate(config())
    before = painted(config().out)
    judge(config().out, {(CAT, 0): False, (CAT, 1): False, (DOG, 1): False, (DOG, 0): True})
    foreseen = generate(config(repaint=True, dry_run=True))
    assert (foreseen.missing, foreseen.already_there) == (3, 2 * len(TEXTS) - 3)
    summary = generate(config(repaint=True))
    assert (summary.painted, summary.already_there) == (3, 2 * len(TEXTS) - 3)
    after = painted(config().out)
    assert set(after) - set(before) == {(CAT, 2), (CAT, 3), (DOG, 2)}
    assert {key: row for key, row in after.items() if key in before} == before, (
        "nothing is deleted or painted over"
    )
    for (caption, index), row in after.items():
        assert row["seed"] == seed_for(0, caption, index)


@pytest.mark.slow
def test_the_same_command_again_paints_nothing_until_there_are_new_verdicts(config: Make) -> None:
    generate(config())
    judge(config().out, {(CAT, 0): False})
    assert generate(config(repaint=True)).painted == 1
    version = ImageTable.open(config().out).version
    assert generate(config(repaint=True)).painted == 0, "the new picture has no verdict and counts as kept"
    assert ImageTable.open(config().out).version == version
    judge(config().out, {(CAT, 2): False})
    assert generate(config(repaint=True)).painted == 1
    assert {index for caption, index in painted(config().out) if caption == CAT} == {0, 1, 2, 3}


@pytest.mark.slow
def test_the_budget_of_indices_ends_it(config: Make) -> None:
    generate(config(num_images=1))
    judge(config().out, {(CAT, 0): False})
    budget = config(num_images=1, repaint=True, max_images=2)
    assert generate(budget).painted == 1
    judge(config().out, {(CAT, 1): False})
    assert generate(budget).painted == 0
    assert generate(config(num_images=1, repaint=True, max_images=3)).painted == 1
    assert GenerateConfig(num_images=3).budget == 6
    with pytest.raises(ValueError, match="max_images must be at least num_images"):
        GenerateConfig(num_images=3, max_images=2)
    with pytest.raises(ValueError, match="max_images limits what repaint adds"):
        GenerateConfig(num_images=3, max_images=6)


@pytest.mark.slow
def test_a_repainted_picture_is_the_one_that_a_larger_number_would_have_given(
    config: Make, tmp_path: Path
) -> None:
    generate(config(num_images=1))
    judge(config().out, {(CAT, 0): False})
    generate(config(num_images=1, repaint=True))
    generate(config(num_images=2, out=tmp_path / "at once.lance"))
    mine, theirs = painted(config().out), painted(tmp_path / "at once.lance")
    assert mine[CAT, 1] == theirs[CAT, 1]
    generate(config(num_images=2))
    assert painted(config().out) == theirs, "and what is painted later fits in"


@pytest.mark.slow
def test_failures_do_not_count_and_are_repainted_up_to_the_budget(
    config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The painter fails at the first new image; its replacement is painted within the same command."""
    from stablerep.generation import pipelines
    from stablerep.generation.pictures import Painted

    generate(config(num_images=1, where="split = 'test'"))
    [(test, _)] = painted(config().out)
    judge(config().out, {(test, 0): False})
    original = pipelines.DiffusersTeacher.paint
    failing = seed_for(0, test, 1)

    def paint(self: Any, conditionings: Any, seeds: Any) -> Painted:
        result = original(self, conditionings, seeds)
        return Painted(result.pictures, ["withheld" if seed == failing else None for seed in seeds])

    monkeypatch.setattr(pipelines.DiffusersTeacher, "paint", paint)
    again = config(num_images=1, repaint=True, max_images=5, where="split = 'test'")
    summary = generate(again)
    assert (summary.painted, summary.failed) == (1, 1)
    assert {index: row["status"] for (_, index), row in painted(config().out).items()} == {
        0: "ok",
        1: "failed",
        2: "ok",
    }
    assert generate(again).painted == 0


@pytest.mark.slow
def test_without_a_mask_there_is_nothing_to_repaint(config: Make) -> None:
    with pytest.raises(UserError, match="no image table"):
        generate(config(repaint=True))
    assert not config().out.exists()
    generate(config(num_images=1))
    for dry_run in (True, False):
        with pytest.raises(UserError, match=r"has no mask 'keep' .*: run `stablerep audit` on it first"):
            generate(config(repaint=True, dry_run=dry_run))
    judge(config().out, {(DOG, 0): False}, column="mine")
    assert generate(config(num_images=1, repaint=True, keep="mine")).painted == 1
