"""Pictures that stand in the reference several times hide no copy, and of many twins one is left."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_audit_copies import encoded
from test_audit_copies import row as image_row

from stablerep.audit.copies import CopyAuditConfig, audit_copies
from stablerep.audit.copy_alignment import on_grid
from stablerep.audit.copy_duplicates import joined
from stablerep.audit.copy_finder import Bank, find_matches
from stablerep.audit.copy_index import CopyIndex
from stablerep.audit.copy_network import NETWORK
from stablerep.audit.copy_thresholds import far_above, thresholds
from stablerep.audit.copy_views import EXPLANATIONS, SIDE, ViewDescriptor, thumbnails
from stablerep.captions.icons import icons_material
from stablerep.copies import to_side
from stablerep.errors import UserError
from stablerep.store import ImageTable

PLAIN = EXPLANATIONS[:1]


@pytest.fixture(scope="module")
def drawings() -> list[Image.Image]:
    """150 by one hand, of different groups."""
    of_hand = [picture for picture in icons_material().pictures if picture.style == "noto"]
    by_group = {picture.group: picture for picture in of_hand[::5]}
    return [picture.draw() for picture in list(by_group.values())[:150]]


def again(picture: Image.Image, number: int) -> bytes:
    """The same drawing as another file."""
    return encoded(picture, "JPEG", quality=(92, 75, 60)[number % 3])


@pytest.fixture(scope="module")
def small(drawings: list[Image.Image]) -> torch.Tensor:
    """The drawings; then three times the first ten of them."""
    repeats = [again(picture, number) for number in range(3) for picture in drawings[:10]]
    return to_side([*map(encoded, drawings), *repeats], SIDE)


def test_groups_that_hold_the_same_picture_are_one_and_others_are_not(small: torch.Tensor) -> None:
    cells = thumbnails(small)[:, 0]
    groups = np.concatenate([np.arange(1000, 1150), np.arange(30)])
    found = joined(groups, ViewDescriptor.fit(cells)(cells), on_grid(small))
    for number in range(10):
        assert len({found[number], *found[150 + number :: 10].tolist()}) == 1
    assert len(np.unique(found)) == 150
    own = np.arange(150) // 2
    alone = joined(own, ViewDescriptor.fit(cells)(cells)[:150], on_grid(small[:150]))
    np.testing.assert_array_equal(alone, own)


def test_a_copy_of_a_picture_that_stands_there_several_times_scores_as_one_that_stands_there_once(
    small: torch.Tensor, drawings: list[Image.Image]
) -> None:
    copies = to_side([encoded(picture, "JPEG", quality=30) for picture in drawings[:10]], SIDE)
    once = find_matches(copies, Bank.build([small[:150]], np.arange(150)), PLAIN)
    often = find_matches(copies, Bank.build([small], np.arange(180)), PLAIN)
    found = once.score > PLAIN[0].usual_threshold
    assert found.sum() >= 8
    assert (often.score > PLAIN[0].usual_threshold)[found].all()
    assert (often.score > once.score - 0.05).all()


def test_repeated_pictures_set_no_threshold(small: torch.Tensor) -> None:
    """A fifth of the reference stands there under another caption; 3 % of duplicates were enough to lift thresholds."""
    bank = Bank.build([small], np.arange(180))
    known = find_matches(small, bank, PLAIN, excluded=bank.groups)
    many = np.repeat(known.score, 3, axis=0)  # enough to set a threshold
    limit = thresholds(many, PLAIN, 0.001)
    assert not far_above(limit, PLAIN).any()
    assert far_above(np.array([1.0]), PLAIN).all()


def test_scores_of_a_network_have_no_floor_of_pixels() -> None:
    """Real pictures that are nothing alike set a threshold below the usual one, and no copy is said to be missed."""
    scores = 0.05 + np.random.default_rng(0).exponential(0.01, (500, 1)).repeat(2, axis=1)
    pixels, network = thresholds(scores, (PLAIN[0], NETWORK), 1e-3)
    assert pixels == PLAIN[0].least_threshold and 0.05 < network < 0.2
    assert not far_above(np.array([network]), (NETWORK,)).any()


@pytest.fixture
def tables(tmp_path: Path, drawings: list[Image.Image]) -> dict[str, Any]:
    """Real: drawings. Painted: others, one of them five times."""
    real = [image_row("real", n, encoded(one), f"group {n}") for n, one in enumerate(drawings[:60])]
    painted = [encoded(one) for one in drawings[100:112]]
    painted += [again(drawings[105], number) for number in range(4)]
    rows = [image_row("painter", number, image) for number, image in enumerate(painted)]
    for name, content in (("real", real), ("images", rows)):
        ImageTable.open_or_create(tmp_path / f"{name}.lance").append(content)
    return {
        "images": tmp_path / "images.lance",
        "reference": tmp_path / "real.lance",
        "num_calibration": 1,
        "pasted": False,
    }


@pytest.mark.parametrize("exact_up_to", [10, 100])
def test_of_many_twins_the_first_alone_is_kept(
    tables: dict[str, Any], monkeypatch: pytest.MonkeyPatch, exact_up_to: int
) -> None:
    build, indexed = CopyIndex.build, []

    def spy(references: torch.Tensor) -> CopyIndex:
        indexed.append(len(references))
        return build(references)

    monkeypatch.setattr(CopyIndex, "build", spy)
    result = audit_copies(CopyAuditConfig(**tables, reject_twins=True, exact_up_to=exact_up_to))
    assert indexed == ([60, 16] if exact_up_to == 10 else [])
    found = ImageTable.open(tables["images"]).read(["image_index", "copy_twin", "keep"]).to_pylist()
    assert [row["image_index"] for row in found if not row["keep"]] == [12, 13, 14, 15]
    first = {f"painter/c/{index}" for index in (5, 12, 13, 14)}
    assert {row["copy_twin"] for row in found[12:]} <= first
    assert all(row["copy_twin"] is None for row in found[:12]) and result.num_rejected == 4


@pytest.mark.slow
def test_pictures_that_cannot_be_decoded_are_rejected_or_not_searched(tables: dict[str, Any]) -> None:
    for name, origin in (("images", "painter"), ("reference", "real")):
        broken = [image_row(origin, 90 + k, image) for k, image in enumerate([b"no picture", b""])]
        ImageTable.open(tables[name]).append(broken)
    result = audit_copies(CopyAuditConfig(**tables))
    assert result.facts["cannot be decoded"] == result.facts["real pictures that cannot be decoded"] == 2
    assert (result.num_pictures, result.num_rejected, result.facts["real pictures searched"]) == (18, 2, 60)
    names = ["image_index", "copies_ok", "copies_reason", "copy_verdict", "copy_score", "keep"]
    rows = ImageTable.open(tables["images"]).read(names).to_pylist()
    for row in rows:
        is_broken = row["image_index"] >= 90
        assert row["keep"] == row["copies_ok"] == (not is_broken)
        assert (row["copy_verdict"] is None) == (row["copy_score"] is None) == is_broken
        assert not is_broken or row["copies_reason"].startswith("cannot be decoded")
    with pytest.raises(UserError, match="none of the 2 real pictures can be decoded"):
        audit_copies(CopyAuditConfig(**tables, reference_where="image_index >= 90"))
