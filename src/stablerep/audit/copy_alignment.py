"""Pixel by pixel: moves a painted picture onto a real one, and says how much they differ where they differ most.

A window of the painted picture is moved and stretched by a few steps of Lucas-Kanade registration (Baker & Matthews
2004, with gain and bias of the brightness), which the view that found the pair starts. What then remains is read
*locally*: compression and shrinking spread a little error everywhere, while two drawings that merely resemble each
other (a judge with the face of another figure, a full and an empty battery) differ much in a few places. The
difference is the mean squared error of the three worst of 8 x 8 tiles, in variances of the real picture.

Shapes: B pairs, S side in pixels, G points along a side.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

GRID = 32
"""Points along a side at which a real picture is kept."""
_BLUR = 0.8  # pixels: compression changes single ones
_RESAMPLED = 1.1  # shrinking itself blurs a little
_TILE = GRID // 8
_WORST = 3
_STEPS = 6
_FLATTEST = 0.05  # a picture that varies less than this, of 1, is as good as empty
_LEAST_OVERLAP = 0.7
_STRAY = 0.08  # how far what stays in place may be moved, in half sides
_LUMA = torch.tensor([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Pairs:
    """B painted pictures with the real ones that they may show, and where."""

    pictures: Tensor
    """Blurred painted pictures (B, 3, S, S) in [0, 1]."""
    real: Tensor
    """Real pictures at the points of the grid (B, 3, G, G) in [0, 1]."""
    placements: Tensor
    """Width, height, centre x and y of the real picture in the painted one (B, 4), as ``copy_views.Views``."""
    is_mirrored: bool
    margin: int = 0
    """Points of the grid along every side of the real picture that do not count."""

    def rows(self, index: Tensor) -> "Pairs":
        """Some of the pairs."""
        return replace(
            self, pictures=self.pictures[index], real=self.real[index], placements=self.placements[index]
        )

    def sample(self, pictures: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (B, C, S, S) where the points of the real ones lie (B, C, G, G), and which count (B, G, G)."""
        y, x = _points()
        hand = -1.0 if self.is_mirrored else 1.0
        across = at[:, 0, None, None] * hand * x + at[:, 2, None, None]
        down = at[:, 1, None, None] * y + at[:, 3, None, None]
        points = torch.stack([across, down], -1)
        sampled = F.grid_sample(pictures, points, mode="bilinear", padding_mode="border", align_corners=False)
        counts = (points.abs() <= 1).all(-1) & (torch.maximum(x.abs(), y.abs()) < 1 - 2 * self.margin / GRID)
        return sampled, counts.float()


def blurred(pictures: Tensor) -> Tensor:
    """uint8 pictures (M, 3, S, S) in [0, 1] after a slight Gaussian blur that continues the border."""
    weights = _gaussian(pictures.shape[-1])
    return weights @ (pictures.float() / 255) @ weights.T


def on_grid(pictures: Tensor) -> Tensor:
    """uint8 pictures (M, 3, S, S), blurred, at the points of the grid: uint8 (M, 3, G, G), to hold many of them."""
    side = pictures.shape[-1]
    weights = F.interpolate(_gaussian(side).T[None], size=GRID, mode="linear", align_corners=False)[0].T
    return (weights @ pictures.float() @ weights.T).round().clamp(0, 255).byte()


def align(pairs: Pairs, *, stays_in_place: bool) -> Tensor:
    """Placements (B, 4) at which the brightness of the pictures agrees best, near those given."""
    y, x = _points()
    hand = -1.0 if pairs.is_mirrored else 1.0
    grey = (pairs.pictures * _LUMA[:, None, None]).sum(1, keepdim=True)
    real = (pairs.real * _LUMA[:, None, None]).sum(1).flatten(1)[..., None]
    at = pairs.placements.clone()
    for _ in range(_STEPS):
        patch, inside = pairs.sample(grey, at)
        patch = patch[:, 0]
        right = F.pad(patch[:, :, 2:] - patch[:, :, :-2], (1, 1)) * (GRID / 4) / (hand * at[:, 0, None, None])
        down = F.pad(patch[:, 2:] - patch[:, :-2], (0, 0, 1, 1)) * (GRID / 4) / at[:, 1, None, None]
        slopes = torch.stack([patch, torch.ones_like(patch), right * (hand * x), down * y, right, down], 1)
        slopes = slopes.flatten(2)
        weighted = slopes * inside.flatten(1)[:, None]
        normal = weighted @ slopes.transpose(1, 2)
        normal = normal + torch.diag_embed(1e-3 * normal.diagonal(dim1=1, dim2=2) + 1e-4)
        solved = torch.linalg.solve(normal, weighted @ real)[..., 0]
        gain = torch.where(solved[:, :1].abs() < 0.2, 0.2, solved[:, :1])
        at = at + (solved[:, 2:] / gain).clamp(-0.06, 0.06)
        at = torch.cat([at[:, :2].clamp(0.4, 1.3), at[:, 2:]], 1)
    if stays_in_place:
        at = torch.cat([at[:, :2].clamp(1 - _STRAY, 1 + _STRAY), at[:, 2:].clamp(-_STRAY, _STRAY)], 1)
    return at


def difference(pairs: Pairs, *, is_recoloured: bool) -> Tensor:
    """How much the pictures differ in the worst places (B,), from 0 to 1; 1 where they hardly overlap.

    One gain for all colours is free, within a factor of two; where ``is_recoloured``, any linear map of the colours.
    """
    patch, inside = pairs.sample(pairs.pictures, pairs.placements)
    weight = inside[:, None]
    real = _softened(pairs.real, pairs.placements[:, 0])
    num_points = inside.flatten(1).sum(1).clamp(min=1)
    here, there = (_centred(part, weight, num_points) for part in (patch, real))
    worst = _unexplained(here, there, weight, is_recoloured=is_recoloured)
    if is_recoloured:
        # Also the other way round: a map that takes black and white both to white would hide a black figure.
        worst = worst.maximum(_unexplained(there, here, weight, is_recoloured=True))
    stretched = (pairs.placements[:, 0] / pairs.placements[:, 1]).log().abs() > 0.15
    return worst.clamp(max=1).masked_fill((num_points < _LEAST_OVERLAP * GRID**2) | stretched, 1.0)


def _gaussian(side: int) -> Tensor:
    """Weights (S, S) that blur an axis."""
    reach = round(3 * _BLUR)
    steps = torch.arange(-reach, reach + 1)
    shares = torch.exp(-0.5 * (steps / _BLUR) ** 2)
    columns = (torch.arange(side)[:, None] + steps).clamp(0, side - 1)
    return torch.zeros(side, side).scatter_add_(
        1, columns, (shares / shares.sum()).expand(side, -1).contiguous()
    )


def _unexplained(here: Tensor, there: Tensor, weight: Tensor, *, is_recoloured: bool) -> Tensor:
    """Error of predicting centred colours ``there`` from ``here`` (B, 3, G G) in the worst tiles (B,), in variances."""
    num_points = weight.flatten(1).sum(1).clamp(min=1)
    energy = here.square().sum((1, 2))
    if is_recoloured:
        ridge = (energy / 300 + 1e-3 * num_points)[:, None, None] * torch.eye(3)
        mixing = torch.linalg.solve(here @ here.transpose(1, 2) + ridge, here @ there.transpose(1, 2))
        predicted = mixing.transpose(1, 2) @ here
    else:
        gain = (here * there).sum((1, 2)) / energy.clamp(min=1e-6 * num_points)
        predicted = gain.clamp(0.5, 2)[:, None, None] * here
    errors = (there - predicted).square().sum(1).view(-1, 1, GRID, GRID)
    variance = (there.square().sum((1, 2)) / num_points).clamp(min=3 * _FLATTEST**2)
    tiles = F.avg_pool2d(errors, _TILE).flatten(1) / F.avg_pool2d(weight, _TILE).flatten(1).clamp(min=0.3)
    return tiles.topk(_WORST, dim=1).values.mean(1) / variance


def _softened(real: Tensor, scale: Tensor) -> Tensor:
    """Real pictures (B, 3, G, G) as blurred as the painted ones are that show them at this scale (B,)."""
    deviation = (_BLUR * GRID / 64 * (scale**-2 - 1).clamp(min=1e-4).sqrt() * _RESAMPLED)[:, None, None]
    line = torch.arange(GRID, dtype=torch.float32)
    weights = torch.exp(-0.5 * ((line[:, None] - line) / deviation) ** 2)
    weights = (weights / weights.sum(2, keepdim=True))[:, None]
    return weights @ real @ weights.transpose(2, 3)


def _points() -> tuple[Tensor, Tensor]:
    line = (torch.arange(GRID) + 0.5) / GRID * 2 - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    return y, x


def _centred(part: Tensor, weight: Tensor, num_points: Tensor) -> Tensor:
    """Colours (B, 3, G G) without their mean, zero where they do not count."""
    mean = (part * weight).flatten(2).sum(2) / num_points[:, None]
    return ((part - mean[..., None, None]) * weight).flatten(2)
