"""What the search of copies spares changes nothing that is found."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stablerep.audit import copy_finder
from stablerep.audit.copy_alignment import GRID, Pairs, blurred
from stablerep.audit.copy_finder import Bank, find_earlier, find_matches
from stablerep.audit.copy_frames import find_frames
from stablerep.audit.copy_index import CopyIndex
from stablerep.audit.copy_views import EXPLANATIONS
from stablerep.captions.icons import icons_material

SIDE = 64


@pytest.fixture(scope="module")
def drawings() -> Tensor:
    """A hundred by one hand."""
    pictures = [picture for picture in icons_material().pictures if picture.style == "noto"][::12][:100]
    assert len(pictures) == 100
    return torch.stack([torch.from_numpy(np.array(one.draw())).permute(2, 0, 1) for one in pictures])


@pytest.fixture(scope="module")
def bank(drawings: Tensor) -> Bank:
    return Bank.build([drawings[:70]], np.arange(70))


def moved(pictures: Tensor) -> Tensor:
    """A little to one side, the border repeated."""
    return torch.cat([pictures[..., :1].expand(-1, -1, -1, 2), pictures[..., :-2]], 3)


@pytest.mark.slow
def test_what_is_not_moved_would_have_been_no_copy(
    drawings: Tensor, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = torch.cat([moved(drawings[:12]), drawings[60:]])  # ten of the latter are in the bank
    quick = find_matches(pictures, bank)
    monkeypatch.setattr(copy_finder, "_UNLIKELY", np.inf)
    whole = find_matches(pictures, bank)
    alike = whole.score > 0.3
    assert alike[:12].any(1).all() and not alike[-30:].any(1).all()
    np.testing.assert_allclose(quick.score[alike], whole.score[alike], atol=1e-4)
    np.testing.assert_array_equal(quick.index[alike], whole.index[alike])
    assert (quick.score[~alike] < 0.35).all()


@pytest.mark.parametrize(("area", "is_seen"), [(0.76, True), (0.69, False)])
def test_a_crop_is_seen_that_keeps_more_than_seven_tenths(
    drawings: Tensor, bank: Bank, area: float, is_seen: bool
) -> None:
    """As the guide says: less overlap could be that of any two pictures with one thing in common."""
    cut = round(512 * (1 - area**0.5) / 2)
    large = F.interpolate(drawings[:8].float(), size=512, mode="bicubic", antialias=True)
    crops = F.interpolate(large[..., cut:-cut, cut:-cut], size=SIDE, mode="bicubic", antialias=True)
    found = find_matches(crops.round().clamp(0, 255).byte(), bank)
    is_found = (found.score > 0.65) & (found.index == np.arange(8)[:, None])
    assert is_found.any(1).tolist() == [is_seen] * 8


def test_explanations_that_share_windows_find_what_each_finds_alone(drawings: Tensor, bank: Bank) -> None:
    pictures = drawings[40:90]
    together = find_matches(pictures, bank)
    for number in (0, 2):
        alone = find_matches(pictures, bank, EXPLANATIONS[number : number + 1])
        np.testing.assert_allclose(together.score[:, number], alone.score[:, 0], atol=1e-4)


@pytest.mark.parametrize("is_indexed", [False, True])
def test_blank_pictures_resemble_nothing_beside_others(
    drawings: Tensor, bank: Bank, is_indexed: bool
) -> None:
    if is_indexed:
        bank = Bank(
            bank.descriptor, bank.descriptors, bank.grids, bank.groups, CopyIndex.build(bank.descriptors)
        )
    blank = torch.full((2, 3, SIDE, SIDE), 255, dtype=torch.uint8)
    found = find_matches(torch.cat([blank[:1], drawings[:3], blank[1:]]), bank)
    assert not found.score[[0, 4]].any()
    assert found.index[1:4, 0].tolist() == [0, 1, 2] and (found.score[1:4, 0] > 1).all()
    assert not find_matches(blank, bank).score.any()


def test_the_first_pictures_are_no_twins_for_want_of_others_before_them(drawings: Tensor) -> None:
    """Twelve that resemble one another, runners-up of each other; then a twin, at the same place in the table."""
    plain = EXPLANATIONS[0]
    alike = (0.85 * drawings[0].float() + 0.15 * drawings[1:13].float()).round().to(torch.uint8)
    table = torch.cat([alike, drawings[40:]])
    found = find_earlier(table, Bank.build([table], np.arange(len(table))), plain)
    assert (found.score[:8] < plain.usual_threshold).all()
    table = torch.cat([drawings[:1], moved(drawings[:1]), drawings[40:]])
    found = find_earlier(table, Bank.build([table], np.arange(len(table))), plain)
    assert found.index[1, 0] == 0 and found.score[1, 0] > plain.usual_threshold
    assert found.score[0, 0] <= 0, "nothing stands before it"


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_a_picture_that_lies_on_the_real_one_need_not_be_sampled_again(
    drawings: Tensor, is_mirrored: bool
) -> None:
    real = torch.zeros(5, 3, GRID, GRID)
    pairs = Pairs(
        blurred(drawings[:3]),
        real,
        torch.tensor([[1.0, 1.0, 0.0, 0.0]]).repeat(5, 1),
        is_mirrored,
        which=torch.tensor([2, 0, 1, 1, 2]),
    )
    patch, inside = pairs.colours()
    sampled, counts = pairs.sample(pairs.of(pairs.pictures.colours), pairs.placements)
    torch.testing.assert_close(patch, sampled, atol=1e-5, rtol=0)
    assert torch.equal(inside, counts)
    assert torch.equal(pairs.rows(torch.tensor([0, 4])).colours()[0], patch[[0, 4]])


def test_frames_are_ranked_only_where_one_is_strong(drawings: Tensor) -> None:
    every = find_frames(drawings[:60], 3)
    limit = float(every.strength[:, 0].median())
    some = find_frames(drawings[:60], 3, above=limit)
    is_strong = every.strength[:, 0] > limit
    assert torch.equal(some.placements[is_strong], every.placements[is_strong])
    assert torch.equal(some.strength[is_strong], every.strength[is_strong])
    assert not some.strength[~is_strong].any()
