"""Pixel by pixel: moves a painted picture onto a real one, and says how much they differ where they differ most.

A window of the painted picture is moved and stretched by a few steps of Lucas-Kanade registration (Baker & Matthews
2004, with gain and bias of the brightness), which the view that found the pair starts. What then remains is read
*locally*: compression and shrinking spread a little error everywhere, while two drawings that merely resemble each
other (a judge with the face of another figure, a full and an empty battery) differ much in a few places. The
difference is the mean squared error of the three worst of 8 x 8 tiles, in variances of the real picture.

Shapes: B pairs, S side in pixels, G points along a side.
"""

import functools
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

GRID = 32
"""Points along a side at which a real picture is kept."""
_COARSE = 16  # points along a side that show whether a pair can be moved onto one another
_BLUR = 0.8  # pixels: compression changes single ones
_RESAMPLED = 1.1  # shrinking itself blurs a little
_TILES = 8  # along a side
_WORST = 3
_STEPS = 6
_COARSE_STEPS = 3
_FLATTEST = 0.05  # a picture that varies less than this, of 1, is as good as empty
_LEAST_OVERLAP = 0.7
_STRAY = 0.08  # how far what stays in place may be moved, in half sides
_NOT_SOFTER = 0.1  # points: a blur of this deviation leaves every point as it is
_LUMA = torch.tensor([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Blurred:
    """Q painted pictures, a little blurred, as they are sampled again and again."""

    colours: Tensor
    """(Q, 3, S, S) in [0, 1]."""

    @functools.cached_property
    def grey(self) -> Tensor:
        """Their brightness (Q, 1, S, S)."""
        return _grey(self.colours)

    @functools.cached_property
    def coarse(self) -> Tensor:
        """The same on a coarser grid."""
        return F.avg_pool2d(self.grey, GRID // _COARSE)

    @functools.cached_property
    def whole(self) -> Tensor:
        """Their colours at the points of the grid of a real picture that fills them (Q, 3, G, G)."""
        y, x = _points(GRID)
        points = torch.stack([x, y], -1).expand(len(self.colours), -1, -1, -1)
        return F.grid_sample(
            self.colours, points, mode="bilinear", padding_mode="border", align_corners=False
        )


@dataclass(frozen=True)
class Pairs:
    """B painted pictures with the real ones that they may show, and where."""

    pictures: Blurred
    real: Tensor
    """Real pictures at the points of the grid (B, 3, G, G) in [0, 1]."""
    placements: Tensor
    """Width, height, centre x and y of the real picture in the painted one (B, 4), as ``copy_views.Views``."""
    is_mirrored: bool
    margin: int = 0
    """Points of the grid along every side of the real picture that do not count."""
    which: Tensor | None = None
    """Which painted picture each pair is of (B,); one each, in order, where not given."""

    def rows(self, index: Tensor) -> "Pairs":
        """Some of the pairs."""
        which = index if self.which is None else self.which[index]
        return replace(self, real=self.real[index], placements=self.placements[index], which=which)

    def of(self, pictures: Tensor) -> Tensor:
        """What belongs to the painted picture of each pair."""
        return pictures if self.which is None else pictures[self.which]

    def sample(self, pictures: Tensor, at: Tensor, num: int = GRID) -> tuple[Tensor, Tensor]:
        """Pictures (B, C, s, s) where points of the real ones lie (B, C, num, num), and which count (B, num, num)."""
        y, x = _points(num)
        hand = -1.0 if self.is_mirrored else 1.0
        across = at[:, 0, None, None] * hand * x + at[:, 2, None, None]
        down = at[:, 1, None, None] * y + at[:, 3, None, None]
        points = torch.stack([across, down], -1)
        sampled = F.grid_sample(pictures, points, mode="bilinear", padding_mode="border", align_corners=False)
        counts = torch.maximum(across.abs(), down.abs()) <= 1
        if self.margin:
            counts &= torch.maximum(x.abs(), y.abs()) < 1 - 2 * self.margin / GRID
        return sampled, counts.float()

    def colours(self) -> tuple[Tensor, Tensor]:
        """``sample`` of the painted pictures' colours where the pairs are placed."""
        if self.margin or not bool((self.placements == torch.tensor([1.0, 1.0, 0.0, 0.0])).all()):
            return self.sample(self.of(self.pictures.colours), self.placements)
        whole = self.pictures.whole.flip(-1) if self.is_mirrored else self.pictures.whole
        return self.of(whole), torch.ones(len(self.real), GRID, GRID)


def blurred(pictures: Tensor) -> Blurred:
    """uint8 pictures (M, 3, S, S) in [0, 1] after a slight Gaussian blur that continues the border."""
    weights = _gaussian(pictures.shape[-1])
    return Blurred(weights @ (pictures.float() / 255) @ weights.T)


def on_grid(pictures: Tensor) -> Tensor:
    """uint8 pictures (M, 3, S, S), blurred, at the points of the grid: uint8 (M, 3, G, G), to hold many of them."""
    side = pictures.shape[-1]
    weights = F.interpolate(_gaussian(side).T[None], size=GRID, mode="linear", align_corners=False)[0].T
    return (weights @ pictures.float() @ weights.T).round().clamp(0, 255).byte()


def align(pairs: Pairs, *, stays_in_place: bool) -> Tensor:
    """Placements (B, 4) at which the brightness of the pictures agrees best, near those given."""
    grey, real, at = pairs.of(pairs.pictures.grey), _grey(pairs.real), pairs.placements
    for _ in range(_STEPS):
        at = _step(pairs, grey, real, at).placements
    if stays_in_place:
        at = torch.cat([at[:, :2].clamp(1 - _STRAY, 1 + _STRAY), at[:, 2:].clamp(-_STRAY, _STRAY)], 1)
    return at


def likely_difference(pairs: Pairs) -> Tensor:
    """About how much the brightness of the pictures will differ in the worst places (B,), once they are aligned.

    From a few steps on a coarser grid: the least that remains before any of them, less what the step would mend.
    """
    grey, real = pairs.of(pairs.pictures.coarse), F.avg_pool2d(_grey(pairs.real), GRID // _COARSE)
    at, least = pairs.placements, torch.full((len(real),), torch.inf)
    for _ in range(_COARSE_STEPS):
        step = _step(pairs, grey, real, at)
        at, least = step.placements, least.minimum(step.remains())
    return least


def difference(pairs: Pairs, *, is_recoloured: bool) -> Tensor:
    """How much the pictures differ in the worst places (B,), from 0 to 1; 1 where they hardly overlap.

    One gain for all colours is free, within a factor of two; where ``is_recoloured``, any linear map of the colours.
    """
    patch, inside = pairs.colours()
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


def grid_difference(left: Tensor, right: Tensor) -> Tensor:
    """The same (B,) of pictures that lie on the grid as they are, uint8 (B, 3, G, G); the larger of both directions."""
    weight = torch.ones(len(left), 1, GRID, GRID)
    num_points = weight.flatten(1).sum(1)
    here, there = (_centred(part.float() / 255, weight, num_points) for part in (left, right))
    one, other = (_unexplained(*pair, weight, is_recoloured=False) for pair in ((here, there), (there, here)))
    return one.maximum(other).clamp(max=1)


@dataclass(frozen=True)
class _Step:
    """A step of registration from where pictures were sampled; P points."""

    placements: Tensor
    """Where it leads (B, 4)."""
    slopes: Tensor
    """What explains the real picture (B, 6, P): brightness, one, and the brightness by scales and shifts."""
    solved: Tensor
    """How much of each does (B, 6)."""
    real: Tensor
    """Brightness of the real picture (B, P), as the slopes 0 at points that do not count."""
    inside: Tensor
    """Which points count (B, P)."""

    def remains(self) -> Tensor:
        """What the slopes do not explain in the worst tiles (B,), in variances of the real picture."""
        num = self.inside.sum(1).clamp(min=1)
        errors = (self.real - (self.solved[:, None] @ self.slopes)[:, 0]).square()
        variance = self.real.square().sum(1) / num - (self.real.sum(1) / num).square()
        return _worst_tiles(errors, self.inside) / variance.clamp(min=_FLATTEST**2)


def _step(pairs: Pairs, grey: Tensor, real: Tensor, at: Tensor) -> _Step:
    """One from placements (B, 4), for brightness (B, 1, s, s) of pictures and (B, 1, g, g) of real ones."""
    num = real.shape[-1]
    y, x = _points(num)
    hand = -1.0 if pairs.is_mirrored else 1.0
    patch, inside = pairs.sample(grey, at, num)
    slopes = patch.new_zeros(len(at), 6, num, num)
    slopes[:, 0], slopes[:, 1] = patch[:, 0], 1
    right, down = slopes[:, 4], slopes[:, 5]
    torch.sub(patch[:, 0, :, 2:], patch[:, 0, :, :-2], out=right[..., 1:-1])
    torch.sub(patch[:, 0, 2:], patch[:, 0, :-2], out=down[:, 1:-1])
    right *= (num / 4 * hand) / at[:, 0, None, None]
    down *= (num / 4) / at[:, 1, None, None]
    torch.mul(right, hand * x, out=slopes[:, 2])
    torch.mul(down, y, out=slopes[:, 3])
    slopes *= inside[:, None]
    slopes, inside = slopes.flatten(2), inside.flatten(1)
    wanted = real.flatten(1) * inside
    normal = slopes @ slopes.transpose(1, 2)
    normal += torch.diag_embed(1e-3 * normal.diagonal(dim1=1, dim2=2) + 1e-4)
    solved = torch.linalg.solve(normal, slopes @ wanted[..., None])[..., 0]
    gain = torch.where(solved[:, :1].abs() < 0.2, 0.2, solved[:, :1])
    moved = at + (solved[:, 2:] / gain).clamp(-0.06, 0.06)
    moved = torch.cat([moved[:, :2].clamp(0.4, 1.3), moved[:, 2:]], 1)
    return _Step(moved, slopes, solved, wanted, inside)


def _grey(pictures: Tensor) -> Tensor:
    """Brightness (B, 1, s, s) of pictures (B, 3, s, s)."""
    return (pictures * _LUMA[:, None, None]).sum(1, keepdim=True)


@functools.cache
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
    variance = (there.square().sum((1, 2)) / num_points).clamp(min=3 * _FLATTEST**2)
    return _worst_tiles((there - predicted).square().sum(1), weight.flatten(1)) / variance


def _worst_tiles(errors: Tensor, inside: Tensor) -> Tensor:
    """Mean (B,) of the worst tiles of errors (B, P), of the points that count (B, P); elsewhere errors are 0."""
    side = round(errors.shape[1] ** 0.5)
    summed, counted = (
        F.avg_pool2d(part.view(-1, 1, side, side), side // _TILES) for part in (errors, inside)
    )
    tiles = summed.flatten(1) / counted.flatten(1).clamp(min=0.3)
    return tiles.topk(_WORST, dim=1).values.mean(1)


def _softened(real: Tensor, scale: Tensor) -> Tensor:
    """Real pictures (B, 3, G, G) as blurred as the painted ones are that show them at this scale (B,)."""
    deviation = _BLUR * GRID / 64 * (scale**-2 - 1).clamp(min=1e-4).sqrt() * _RESAMPLED
    softer = torch.nonzero(deviation > _NOT_SOFTER)[:, 0]
    if len(softer) == 0:
        return real
    line = torch.arange(GRID, dtype=torch.float32)
    weights = torch.exp(-0.5 * ((line[:, None] - line) / deviation[softer, None, None]) ** 2)
    weights = (weights / weights.sum(2, keepdim=True))[:, None]
    return real.index_copy(0, softer, weights @ real[softer] @ weights.transpose(2, 3))


@functools.cache
def _points(num: int) -> tuple[Tensor, Tensor]:
    line = (torch.arange(num) + 0.5) / num * 2 - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    return y.contiguous(), x.contiguous()


def _centred(part: Tensor, weight: Tensor, num_points: Tensor) -> Tensor:
    """Colours (B, 3, G G) without their mean, zero where they do not count."""
    mean = (part * weight).flatten(2).sum(2) / num_points[:, None]
    return ((part - mean[..., None, None]) * weight).flatten(2)
