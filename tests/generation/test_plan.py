"""The plan: pure, complete, in full batches."""

from hypothesis import given, settings
from hypothesis import strategies as st

from stablerep.generation.plan import num_missing, plan, rotated, share
from stablerep.runtime import seed_for

CAPTIONS = [(f"id-{index}", f"text {index}") for index in range(7)]


def test_first_batch_is_known() -> None:
    first = next(plan(CAPTIONS, 3, frozenset(), batch_size=4, seed=5))
    assert [(item.caption_id, item.image_index) for item in first] == [
        (f"id-{index}", 0) for index in range(4)
    ]
    assert [item.text for item in first] == [f"text {index}" for index in range(4)]
    assert [item.seed for item in first] == [seed_for(5, f"id-{index}", 0) for index in range(4)]


@settings(max_examples=30, deadline=None)
@given(
    num_images=st.integers(1, 4),
    batch_size=st.integers(1, 9),
    done=st.sets(st.tuples(st.sampled_from([identity for identity, _ in CAPTIONS]), st.integers(0, 5))),
)
def test_every_missing_picture_is_planned_once_in_full_batches(
    num_images: int, batch_size: int, done: set[tuple[str, int]]
) -> None:
    batches = list(plan(CAPTIONS, num_images, done, batch_size=batch_size, seed=0))
    asked = {(identity, index) for identity, _ in CAPTIONS for index in range(num_images)}
    planned = [item.key for batch in batches for item in batch]
    assert len(planned) == len(set(planned)) == num_missing(CAPTIONS, num_images, done)
    assert set(planned) == asked - done
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert all(1 <= len(batch) <= batch_size for batch in batches)


def test_seed_depends_on_identity_alone() -> None:
    whole = {
        item.key: item for batch in plan(CAPTIONS, 3, frozenset(), batch_size=4, seed=0) for item in batch
    }
    other_order = plan(CAPTIONS[::-1], 5, {("id-2", 0)}, batch_size=3, seed=0)
    again = {item.key: item for batch in other_order for item in batch}
    assert len(again) == 7 * 5 - 1
    assert all(again[key] == item for key, item in whole.items() if key != ("id-2", 0))
    reseeded = {
        item.key: item.seed for b in plan(CAPTIONS, 3, frozenset(), batch_size=4, seed=1) for item in b
    }
    assert not {item.seed for item in whole.values()} & set(reseeded.values())


def test_done_may_grow_while_the_plan_is_followed() -> None:
    done: set[tuple[str, int]] = set()
    batches = plan(CAPTIONS, 1, done, batch_size=3, seed=0)
    next(batches)
    done |= {("id-3", 0), ("id-4", 0)}
    assert [item.caption_id for batch in batches for item in batch] == ["id-5", "id-6"]


@given(length=st.integers(0, 20), count=st.integers(1, 6))
def test_shares_cover_everything_once(length: int, count: int) -> None:
    items = list(range(length))
    parts = [share(items, index, count) for index in range(count)]
    assert [item for part in parts for item in part] == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_rotation_keeps_every_item() -> None:
    assert list(rotated([1, 2, 3, 4], 1)) == [2, 3, 4, 1]
    assert list(rotated([1, 2, 3, 4], 6)) == [3, 4, 1, 2]
    assert list(rotated([], 3)) == []
