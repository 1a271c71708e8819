"""Thumbnails as copy descriptors: one of each real picture, and of a painted one a view for every way to lie on it.

A painted picture may show a real one whole, mirrored, in part (a crop) or shrunk on a background. Each such way is
a *view*: the window of the painted picture that the whole real one would fill. Windows of crops stand at fixed places;
where something was pasted, edges say where (``copy_frames``). A view is averaged to 8 x 8 colours,
freed of its mean colour, projected on the main axes of the real thumbnails and whitened, so that what all drawings
share (ink in the middle of white paper) says little. The cosine of view and real picture then orders candidates.

Shapes: Q painted pictures, N real ones, V views, S side in pixels, C cells along a side, D width of a descriptor.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stablerep.audit.copy_frames import FAINTEST, find_frames

SIDE = 64
"""Side in pixels at which painted pictures are compared."""
_CELLS = 8
_PER_CELL = 3  # points along a side of a cell that are averaged, in a window at any place
_WIDTH = 64
_SHRINKAGE = 1.0  # added to the variances of the axes, in units of their mean, before whitening
_FEW = 50
_BLOCK = 512


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One way in which a painted picture may come from a real one; each has an alarm threshold of its own."""

    name: str
    scales: tuple[float, ...] = (1.0,)
    """Sides of the window that the real picture fills, in sides of the painted one."""
    step: float = 1.0
    """Distance between windows of one size, in sides of the window."""
    is_mirrored: bool = False
    is_recoloured: bool = False
    """Whether colours may have changed by a linear map of red, green and blue."""
    num_frames: int = 0
    """In place of windows everywhere: squares with edges on all sides, see ``copy_frames``."""
    margin: int = 0
    """Points of the grid along every side that are not compared: there the background has been blurred in."""
    usual_threshold: float = 0.65
    """Score above which a picture is a near-copy, where the real pictures are too few to set it by them."""
    least_threshold: float = 0.55
    """The least that real pictures can set it to. Chosen on one half of the icons against the other: of planted copies
    of each kind 95 % or more score above, of genuine ones none but true repetitions and a drawing made of another."""
    num_candidates: int = 8
    """Real pictures that are compared pixel by pixel where a view would put them."""
    num_aligned: int = 4
    """Of these, those that are then moved into the best place."""

    @property
    def windows(self) -> tuple[object, ...]:
        """What tells its views: explanations with the same look through the same windows."""
        return self.scales, self.step, self.is_mirrored, self.num_frames

    @property
    def stays_in_place(self) -> bool:
        return self.scales == (1.0,) and self.num_frames == 0


EXPLANATIONS: tuple[Explanation, ...] = (
    Explanation(name="plain", num_aligned=3),
    Explanation(name="mirrored", is_mirrored=True, num_aligned=3),
    Explanation(name="recoloured", is_recoloured=True, usual_threshold=0.95, num_candidates=24),
    Explanation(name="cropped", scales=(1.12,), step=0.06),
    Explanation(name="pasted", num_frames=4, margin=2),
)
"""A copy is plain, or one of the others: what may have changed in one did not change in the rest."""


@dataclass(frozen=True)
class Views:
    """Every view of Q pictures for one explanation."""

    descriptors: Tensor
    """Unit vectors (Q, V, D)."""
    placements: Tensor
    """Where the real picture would lie (Q, V, 4): width and height (in sides), centre x and y, from -1 to 1."""


class ViewDescriptor:
    """The projection of thumbnails, fitted to the real pictures."""

    def __init__(self, mean: Tensor, axes: Tensor) -> None:
        self.mean, self.axes = mean, axes

    @classmethod
    def fit(cls, thumbnails: Tensor) -> "ViewDescriptor":
        """Main axes of real thumbnails (N, 3 C C), scaled to nearly equal variance."""
        # Of few pictures the mean is mostly themselves, and what is left of them would be nothing.
        mean = thumbnails.mean(0) * len(thumbnails) / (len(thumbnails) + _FEW)
        covariance = thumbnails.T @ thumbnails / len(thumbnails) - mean[:, None] * mean
        variances, axes = torch.linalg.eigh(covariance.double())
        variances, axes = variances.flip(0)[:_WIDTH].clamp(min=0), axes.flip(1)[:, :_WIDTH]
        floor = _SHRINKAGE * variances.sum() / len(mean) + 1e-9
        return cls(mean, (axes * (variances + floor).rsqrt()).float())

    def __call__(self, thumbnails: Tensor) -> Tensor:
        """Unit vectors (..., D) of thumbnails (..., 3 C C)."""
        return F.normalize((thumbnails - self.mean) @ self.axes, dim=-1)

    def views(self, pictures: Tensor, explanation: Explanation) -> Views:
        """Of pictures uint8 (Q, 3, S, S)."""
        if explanation.num_frames:
            frames = find_frames(pictures, explanation.num_frames, above=FAINTEST)
            is_seen = frames.strength > FAINTEST
            some = torch.nonzero(is_seen.any(1))[:, 0]
            descriptors = torch.zeros(*is_seen.shape, self.axes.shape[1])
            descriptors[some] = (
                self(_inside(pictures[some], frames.placements[some])) * is_seen[some, :, None]
            )
            return Views(descriptors, frames.placements)
        hands = pictures.flip(-1) if explanation.is_mirrored else pictures
        parts = [thumbnails(hands, scale, explanation.step) for scale in explanation.scales]
        placements = torch.tensor(list(_placements(explanation)), dtype=torch.float32)
        return Views(self(torch.cat(parts, 1)), placements.expand(len(pictures), -1, -1))


def thumbnails(pictures: Tensor, scale: float = 1.0, step: float = 1.0) -> Tensor:
    """The window of each place in pictures uint8 (Q, 3, S, S), as (Q, V, 3 C C): unit length, no mean colour."""
    side = pictures.shape[-1]
    rows = torch.from_numpy(np.stack([_averages(low, scale, side) for low in _offsets(scale, step)])).float()
    parts = []
    for block in torch.split(pictures, _BLOCK):
        windows = torch.einsum("pis,bcst,qjt->bpqcij", rows, block.float() / 255, rows)
        parts.append(_normalised(windows.flatten(1, 2)))
    return torch.cat(parts)


def _normalised(windows: Tensor) -> Tensor:
    """Windows (Q, V, 3, C, C) as (Q, V, 3 C C)."""
    colours = windows.flatten(3)
    flat = (colours - colours.mean(-1, keepdim=True)).flatten(2)
    normalised: Tensor = flat / (flat.norm(dim=-1, keepdim=True) + 1e-3 * _CELLS)
    return normalised


def _inside(pictures: Tensor, placements: Tensor) -> Tensor:
    """What stands at placements (Q, V, 4) of pictures uint8 (Q, 3, S, S), as ``thumbnails``."""
    num_pictures, num_views = placements.shape[:2]
    line = (torch.arange(_CELLS * _PER_CELL) + 0.5) / (_CELLS * _PER_CELL) * 2 - 1
    across = placements[..., 0, None] * line + placements[..., 2, None]
    down = placements[..., 1, None] * line + placements[..., 3, None]
    points = torch.stack(
        [across[:, :, None].expand(-1, -1, len(line), -1), down[..., None].expand(-1, -1, -1, len(line))], -1
    )
    sampled = F.grid_sample(
        pictures.float() / 255, points.flatten(1, 2), padding_mode="border", align_corners=False
    )
    cells = F.avg_pool2d(sampled, _PER_CELL).view(num_pictures, 3, num_views, _CELLS, _CELLS)
    return _normalised(cells.transpose(1, 2))


def _offsets(scale: float, step: float) -> np.ndarray:
    """Where windows begin along an axis, in sides of the picture; larger than it, they begin before it."""
    free = 1 - scale
    return np.linspace(0, free, 1 if free == 0 else 1 + int(np.ceil(abs(free) / (step * scale) - 1e-9)))


def _placements(explanation: Explanation) -> Iterator[tuple[float, float, float, float]]:
    """In the order of ``thumbnails``; in a mirrored picture a window's centre is mirrored."""
    hand = -1.0 if explanation.is_mirrored else 1.0
    for scale in explanation.scales:
        offsets = _offsets(scale, explanation.step)
        for top in offsets:
            for left in offsets:
                yield scale, scale, hand * (2 * left + scale - 1), 2 * top + scale - 1


def _averages(low: float, scale: float, side: int) -> np.ndarray:
    """Weights (C, S) of an axis that average its pixels over the cells of a window; the border goes on outside."""
    edges = (low + scale * np.linspace(0, 1, _CELLS + 1)) * side
    pixels = np.arange(-side, 2 * side)
    shares = np.minimum(pixels + 1, edges[1:, None]) - np.maximum(pixels, edges[:-1, None])
    weights = np.zeros((_CELLS, side))
    np.add.at(weights.T, pixels.clip(0, side - 1), shares.clip(0).T)
    averaged: np.ndarray = weights / weights.sum(1, keepdims=True)
    return averaged
