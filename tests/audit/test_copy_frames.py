"""Frames: where a picture was pasted is found, flush with the border too, and nothing in what has no such edges."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from stablerep.audit.copy_alignment import Pairs, blurred, difference, on_grid
from stablerep.audit.copy_frames import FAINTEST, find_frames
from stablerep.audit.copy_views import EXPLANATIONS, ViewDescriptor, thumbnails

SIDE = 64


def ground(seed: int) -> Image.Image:
    colours = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def drawing(seed: int) -> Image.Image:
    """A few blocks in the middle of white paper."""
    picture = np.full((SIDE, SIDE, 3), 255, dtype=np.uint8)
    picture[12:52, 12:52] = (
        np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).repeat(10, 0).repeat(10, 1)
    )
    return Image.fromarray(picture)


def tensor(*pictures: Image.Image) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures])


def pasted(side: int, left: int, top: int) -> Image.Image:
    picture = ground(3)
    picture.paste(drawing(1).resize((side, side), Image.Resampling.BICUBIC), (left, top))
    return picture


@pytest.mark.parametrize(("side", "left", "top"), [(40, 9, 13), (50, 3, 8), (40, 0, 24), (54, 10, 0)])
def test_a_pasted_picture_is_framed_to_the_pixel(side: int, left: int, top: int) -> None:
    frames = find_frames(tensor(pasted(side, left, top)), 2)
    low = frames.placements[0, :, 2:] - frames.placements[0, :, :2]
    high = frames.placements[0, :, 2:] + frames.placements[0, :, :2]
    corners = (torch.cat([low, high], 1) + 1) / 2 * SIDE
    expected = torch.tensor([left, top, left + side, top + side])
    assert (corners - expected).abs().amax(1).min() <= 1.5
    assert frames.strength[0, 0] > FAINTEST


def test_frames_are_ordered_and_apart() -> None:
    frames = find_frames(tensor(pasted(44, 6, 11), ground(0)), 4)
    assert (frames.strength.diff(dim=1) <= 0).all()
    corners = torch.cat([frames.placements[..., 2:] - frames.placements[..., :2],
                         frames.placements[..., 2:] + frames.placements[..., :2]], 2)  # fmt: skip
    apart = (corners[:, :, None] - corners[:, None]).abs().amax(-1) * SIDE / 2
    assert (apart + 99 * torch.eye(4) > 2).all()


def test_where_nothing_is_pasted_there_is_no_frame_and_nothing_to_search() -> None:
    disc = (torch.cartesian_prod(torch.arange(64.0), torch.arange(64.0)) - 31.5).norm(dim=1).view(64, 64) < 25
    pictures = torch.where(disc, 40, 255).byte().expand(1, 3, -1, -1)
    pictures = torch.cat([pictures, tensor(ground(5))])
    assert (find_frames(pictures, 1).strength < FAINTEST).all()
    descriptor = ViewDescriptor.fit(thumbnails(tensor(*(drawing(seed) for seed in range(9))))[:, 0])
    assert not descriptor.views(pictures, EXPLANATIONS[-1]).descriptors.any()


def test_the_view_of_a_frame_is_the_picture_that_was_pasted() -> None:
    real = tensor(*(drawing(seed) for seed in range(9)))
    small = thumbnails(real)[:, 0]
    descriptor = ViewDescriptor.fit(small)
    views = descriptor.views(tensor(pasted(40, 9, 13)), EXPLANATIONS[-1])
    cosines = (views.descriptors[0] @ descriptor(small).T).amax(0)
    assert cosines.argmax() == 1 and cosines[1] > 0.95


def test_what_has_been_blurred_in_from_the_background_does_not_count() -> None:
    side, left, top = 40, 9, 13
    placements = torch.tensor([[side, side, 2 * left + side - SIDE, 2 * top + side - SIDE]]) / SIDE
    real = on_grid(tensor(drawing(1))).float() / 255
    differences = [
        float(
            difference(
                Pairs(blurred(tensor(pasted(side, left, top))), real, placements, False, margin),
                is_recoloured=False,
            )
        )
        for margin in (0, 2)
    ]
    assert differences[1] < 0.05 < differences[0]
