"""What can be said of a picture's quality without a learned model: pure functions on batches of pictures.

Pictures are float32 (N, 3, H, W) in levels 0 to 255, all of one size; every measure is one number per picture (N,).

Shapes: N pictures, H and W pixels, K pictures of a caption, F frequencies.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_BURNT, _BLACK = 254.0, 1.0
_GRID = 8  # pixels, side of a JPEG block
_STEEP = 8.0  # levels: a step counts at most this much, so that a drawn line on the grid is no block
_BLOCK_FLOOR = 0.25  # levels: rounding, below which there is nothing to compare
_EDGES = 0.02  # share of pixels whose gradients are read as edges
_REBLUR = 1.0  # pixels
_SHARPEST = 0.3  # pixels: what an edge without any blur measures
_BLURRIEST = 8.0
_FALL = 3.0  # radial power of a picture of sharp edges falls with this power of the frequency
_MOST = 0.95
_THUMBNAIL = 16
THUMBNAIL_DIM = 3 * _THUMBNAIL**2


def luminance(pictures: Tensor) -> Tensor:
    """Brightness (N, H, W) in levels."""
    red, green, blue = pictures.unbind(1)
    return _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue


def spread(pictures: Tensor) -> Tensor:
    """Standard deviation of the pixels in levels, in the channel that varies most; a blank picture is near zero."""
    return pictures.flatten(2).std(dim=2, correction=0).amax(dim=1)


def clipped(pictures: Tensor) -> Tensor:
    """Share of pixels that are burnt out (all channels at the top) or black (all at the bottom)."""
    burnt = (pictures >= _BURNT).all(dim=1)
    black = (pictures <= _BLACK).all(dim=1)
    return (burnt | black).flatten(1).float().mean(dim=1)


def noise(pictures: Tensor) -> Tensor:
    """Standard deviation of white noise in the brightness, in levels.

    The mask of Immerkaer 1996, "Fast noise variance estimation", which straight edges and gradients do not excite; the
    median in place of the mean, as lines of a drawing do excite it, and only where nothing is clipped, as clipping
    takes noise away. 0 where fewer than a hundredth of the pixels are left, or no pixel has neighbours on all sides.
    """
    if min(pictures.shape[2:]) < 3:
        return torch.zeros(len(pictures), device=pictures.device)
    brightness = luminance(pictures)
    response = brightness.diff(n=2, dim=1).diff(n=2, dim=2).abs().flatten(1)  # [1, -2, 1] along both axes
    extreme = ((pictures >= _BURNT) | (pictures <= _BLACK)).all(dim=1).float()
    touched = F.max_pool2d(extreme[:, None], 3, stride=1)[:, 0].flatten(1) > 0
    usable = (~touched).float().mean(dim=1) >= 0.01
    median = response.masked_fill(touched, math.nan).nanmedian(dim=1).values
    return torch.where(usable, median / (0.6745 * 6), 0.0)


def blur(pictures: Tensor) -> Tensor:
    """Width of the steepest edges in pixels: standard deviation of the Gaussian that a sharp edge went through.

    The picture is blurred again by a known Gaussian; by how much the gradient at an edge falls gives the width of the
    blur that was there before (Zhuo & Sim 2011, "Defocus map estimation from a single image"). Median over the
    steepest pixels; 0.3 where edges are as sharp as pixels allow, at most 8; 8 where there are no edges at all.
    """
    brightness = luminance(pictures)[:, None]
    before = _gradient(brightness).flatten(1)
    after = _gradient(_gaussian(brightness, _REBLUR)).flatten(1)
    count = max(1, round(_EDGES * before.shape[1]))
    steepest = before.topk(count, dim=1)
    ratio = steepest.values / after.gather(1, steepest.indices).clamp(min=1e-3)
    width = _REBLUR / (ratio.square() - 1).clamp(min=(_REBLUR / _BLURRIEST) ** 2).sqrt()
    width = width.median(dim=1).values.clamp(min=_SHARPEST)
    return torch.where(steepest.values[:, 0] < 1, _BLURRIEST, width)


def blockiness(pictures: Tensor) -> Tensor:
    """How much more often steps stand out on the grid of JPEG blocks than off it: about 1 where there are no blocks.

    A step between neighbours stands out by what it exceeds both steps beside it; the mean over the borders of 8 x 8
    blocks is divided by the mean elsewhere, both directions together (after Wang, Sheikh & Bovik 2002, "No-reference
    perceptual quality assessment of JPEG compressed images", with the steps beside it instead of the picture's
    activity, so that drawn lines do not count).
    """
    brightness = luminance(pictures)
    on, off = [], []
    for steps in (brightness.diff(dim=2).abs(), brightness.diff(dim=1).abs().transpose(1, 2)):
        out = (steps[..., 1:-1] - torch.maximum(steps[..., :-2], steps[..., 2:])).clamp(0, _STEEP)
        border = torch.arange(1, out.shape[-1] + 1, device=out.device) % _GRID == _GRID - 1
        on.append(out[..., border].flatten(1))
        off.append(out[..., ~border].flatten(1))
    borders, rest = torch.cat(on, dim=1), torch.cat(off, dim=1)
    if borders.shape[1] == 0:  # smaller than two blocks
        return torch.ones(len(pictures), device=pictures.device)
    return (borders.mean(dim=1) + _BLOCK_FLOOR) / (rest.mean(dim=1) + _BLOCK_FLOOR)


def resolution(pictures: Tensor) -> Tensor:
    """Pixels of the short side that carry detail: about the size from which an enlarged picture was enlarged.

    The radial power spectrum of sharp edges falls with the third power of the frequency; raised by that power it is
    flat up to the frequency where the picture's detail ends. 95 % of it lie below 0.95 of that frequency, which is
    counted twice per short side. Noise counts as detail, and so do the rings and blocks of strong compression.
    """
    side = min(pictures.shape[2:])
    power, frequency = radial_spectrum(luminance(pictures))
    risen = power * frequency**_FALL
    below = risen.cumsum(dim=1) / risen.sum(dim=1, keepdim=True).clamp(min=1e-9)
    index = (below < _MOST).sum(dim=1).clamp(max=len(frequency) - 1)[:, None]
    over = below.gather(1, index) - _MOST
    share = risen.gather(1, index) / risen.sum(dim=1, keepdim=True).clamp(min=1e-9)
    step = frequency[1] - frequency[0]
    end = frequency[index] - step * over / share.clamp(min=1e-9)
    alive = below[:, -1:] > 0.5  # a blank picture has no spectrum
    return torch.where(alive, (2 * end / _MOST).clamp(max=1) * side, 0.0)[:, 0]


def radial_spectrum(brightness: Tensor) -> tuple[Tensor, Tensor]:
    """Mean power (N, F) by frequency (F,), in cycles per pixel up to a half; the borders are faded out before."""
    height, width = brightness.shape[1:]
    device = brightness.device
    fade = torch.outer(*(torch.hann_window(side, periodic=False, device=device) for side in (height, width)))
    mean = (brightness * fade).sum(dim=(1, 2), keepdim=True) / fade.sum()
    power = torch.fft.rfft2((brightness - mean) * fade).abs().square()
    rows, columns = torch.fft.fftfreq(height, device=device), torch.fft.rfftfreq(width, device=device)
    radius = (rows[:, None].square() + columns[None].square()).sqrt()
    num_bins = max(4, min(height, width) // 2)
    bins = (radius * 2 * num_bins).round().long().flatten()
    inside = bins <= num_bins
    sums = torch.zeros(len(brightness), num_bins + 1, device=device)
    sums.index_add_(1, bins[inside], power.flatten(1)[:, inside])
    counts = torch.bincount(bins[inside], minlength=num_bins + 1)
    frequency = torch.arange(1, num_bins + 1, device=device) / (2 * num_bins)
    return sums[:, 1:] / counts[1:], frequency


def shrunk(pictures: Tensor, short_side: int | None) -> Tensor:
    """Pictures whose short side is longer than ``short_side`` are brought to it; others stay as they are."""
    height, width = pictures.shape[2:]
    if short_side is None or min(height, width) <= short_side:
        return pictures
    size = [max(1, round(side * short_side / min(height, width))) for side in (height, width)]
    small = F.interpolate(pictures, size=size, mode="bicubic", antialias=True)
    return small.round().clamp(0, 255)


def thumbnails(pictures: Tensor) -> Tensor:
    """Pictures shrunk to 16 x 16, flattened (N, 768), in levels: what diversity is measured on."""
    small = F.interpolate(pictures, size=(_THUMBNAIL, _THUMBNAIL), mode="bilinear", antialias=True)
    return small.flatten(1)


def differences(shrunk: Tensor) -> Tensor:
    """Root mean square difference (K, K) of thumbnails (K, D), in levels."""
    return torch.cdist(shrunk, shrunk) / math.sqrt(shrunk.shape[1])


def _gradient(brightness: Tensor) -> Tensor:
    """Magnitude of the gradient (N, 1, H, W), by Sobel's masks, edges repeated."""
    padded = F.pad(brightness, (1, 1, 1, 1), mode="replicate")
    across, down = padded[..., 2:] - padded[..., :-2], padded[..., 2:, :] - padded[..., :-2, :]
    across = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
    down = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    return (across.square() + down.square()).sqrt() / 8


def _gaussian(brightness: Tensor, sigma: float) -> Tensor:
    """Blurred by a Gaussian; edges repeated."""
    reach = math.ceil(4 * sigma)
    steps = torch.arange(reach + 1).double()
    line = torch.exp(-steps.square() / (2 * sigma**2))
    weights: list[float] = (line / (2 * line.sum() - 1)).tolist()
    padded = F.pad(brightness, (reach, reach, reach, reach), mode="replicate")
    return _weighted(_weighted(padded, weights, 2), weights, 3)


def _weighted(values: Tensor, weights: Sequence[float], dim: int) -> Tensor:
    """Each value's neighbourhood along an axis, which loses its ends, by weights that begin with the value's own.

    By sums of shifted pictures: of one channel, ten times as fast as torch's convolution on a CPU.
    """
    reach = len(weights) - 1
    length = values.shape[dim] - 2 * reach

    def shifted(step: int) -> Tensor:
        return values.narrow(dim, reach + step, length)

    total = weights[0] * shifted(0)
    for step, weight in enumerate(weights[1:], 1):
        total.add_(shifted(step), alpha=weight).add_(shifted(-step), alpha=weight)
    return total
