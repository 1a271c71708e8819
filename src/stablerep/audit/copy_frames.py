"""Squares in a picture whose four sides are edges: where another picture may have been pasted.

A picture on a background ends abruptly, along four straight lines. Of all squares between four tenths of the side and
nearly all of it, those with the strongest contrast across every side are kept; two that lie on one another count
once. Pictures without such a square, which are most, need no search.

Shapes: Q pictures, S side in pixels, R squares, F frames.
"""

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

FAINTEST = 0.5
"""Strength below which no pasted picture was seen."""
_SMALLEST, _LARGEST = 0.4, 0.92  # sides of a frame, in sides of the picture
_CONSIDERED = 512  # strongest squares, of which the frames are chosen
_APART = 2  # pixels by which the sides of two frames differ at least somewhere


@dataclass(frozen=True)
class Frames:
    """The F strongest frames of each of Q pictures, strongest first."""

    strength: Tensor
    """Mean contrast of the two weakest sides (Q, F), from 0 to 1."""
    placements: Tensor
    """Width, height, centre x and y (Q, F, 4), as ``copy_views.Views``."""


def find_frames(pictures: Tensor, num: int, *, above: float = -1.0) -> Frames:
    """Of pictures uint8 (Q, 3, S, S); zeros for those without any square stronger than ``above``."""
    side = pictures.shape[-1]
    across, down = _sums(pictures), _sums(pictures.transpose(2, 3)).transpose(1, 2)
    found = [_squares(across, down, width).flatten(1) for width in _widths(side)]
    frames = Frames(torch.zeros(len(pictures), num), torch.zeros(len(pictures), num, 4))
    some = torch.nonzero(torch.stack([part.amax(1) for part in found]).amax(0) > above)[:, 0]
    if len(some):
        strongest = _strongest(torch.cat([part[some] for part in found], 1), _corners(side), num, side)
        frames.strength[some], frames.placements[some] = strongest.strength, strongest.placements
    return frames


def _widths(side: int) -> range:
    return range(round(_SMALLEST * side), round(_LARGEST * side) + 1)


@functools.cache
def _corners(side: int) -> Tensor:
    """Left, top and width of every square (R, 3), in the order of their strengths."""
    parts = []
    for width in _widths(side):
        place = torch.arange(side - width)
        left, top = place.expand(len(place), -1).flatten(), place.repeat_interleave(len(place))
        parts.append(torch.stack([left, top, torch.full_like(left, width)], 1))
    return torch.cat(parts)


def _sums(pictures: Tensor) -> Tensor:
    """Sums down every column (Q, S + 1, S) of how much colours change there from left to right, of 1.

    Of the change its root counts, so that an edge is faint in a few places rather than strong in one. A frame may lie
    flush with the border of the picture, which counts as an edge.
    """
    values = pictures.float() / 255
    change = F.pad((values[..., 2:] - values[..., :-2]).abs().amax(1).sqrt(), (1, 1), value=1.0)
    return F.pad(change.cumsum(1), (0, 0, 1, 0))


def _squares(across: Tensor, down: Tensor, width: int) -> Tensor:
    """Mean of the two weakest sides of every square of this width (Q, rows, columns), by its upper left corner.

    ``down`` (Q, S, S + 1) holds the sums along every row. A side is without its first pixel.
    """
    upright = (across[:, width:-1] - across[:, 1:-width]) / (width - 1)
    flat = (down[..., width:-1] - down[..., 1:-width]) / (width - 1)
    left, right, top, bottom = upright[..., :-width], upright[..., width:], flat[:, :-width], flat[:, width:]
    weaker, other = left.minimum(right), top.minimum(bottom)
    second = weaker.maximum(other).minimum(left.maximum(right)).minimum(top.maximum(bottom))
    return (weaker.minimum(other) + second) / 2


def _strongest(strengths: Tensor, corners: Tensor, num: int, side: int) -> Frames:
    """Of squares (R, 3) with strengths (Q, R): the strongest, then the strongest of those that do not lie on it, ..."""
    strengths, index = strengths.topk(min(_CONSIDERED, len(corners)), dim=1)
    left, top, width = corners[index].unbind(2)
    sides = torch.stack([left, top, left + width, top + width], 2)
    best, chosen = [], []
    for _ in range(num):
        strength, index = strengths.max(1)
        best.append(strength)
        chosen.append(sides.gather(1, index[:, None, None].expand(-1, -1, 4)))
        strengths = strengths.masked_fill((sides - chosen[-1]).abs().amax(2) <= _APART, 0)
    edges = (torch.cat(chosen, 1).float() + 0.5) / side * 2 - 1
    low, high = edges[..., :2], edges[..., 2:]
    return Frames(torch.stack(best, 1), torch.cat([(high - low) / 2, (high + low) / 2], 2))
