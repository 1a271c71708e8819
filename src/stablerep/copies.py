"""Near-copies: which reference picture a picture repeats, though moved a little, mirrored, shrunk or compressed.

The measure is normalised cross-correlation (Lewis 1995, "Fast normalized cross-correlation") of slightly blurred
colour pictures, over the window that two pictures share after a shift, the largest over all shifts in reach and
over mirroring. In each window each colour's own mean is subtracted: drawings on white paper are alike in their
paper, and the paper then says nothing. The search is coarse to fine: correlation of thumbnails, shifted by
whole cells, finds candidates, and correlation at full size, shifted by single pixels, decides.

A correlation alone does not say what a copy is, since drawings of one hand are alike. ``alarm_threshold`` therefore
sets the threshold on pictures that are known not to be copies, and ``DISTORTIONS`` make copies that must be found.

Shapes: Q queries, N references, S side in pixels, R reach in pixels.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from stablerep.decoding import decode_image

_COARSE_BLOCK = 512
_FINE_BLOCK = 32
_FLAT = 1e-4  # a window whose standard deviation is below this times the root of its pixels shows nothing


@dataclass(frozen=True, kw_only=True)
class CopySearch:
    """How pictures are compared; chosen on real icons for the most planted copies found at 1 % false alarms."""

    side: int = 64
    """Pictures are brought to this side in pixels."""
    blur: float = 1.5
    """Standard deviation of the blur in these pixels: what compression and shrinking change does not count."""
    reach: int = 6
    """Largest shift in these pixels, along each axis."""
    cells: int = 16
    """Side of the thumbnails that find candidates."""
    num_candidates: int = 8
    """References that are compared at full size, for each query."""

    def __post_init__(self) -> None:
        if min(self.blur, self.cells, self.num_candidates) <= 0 or not 0 <= self.reach < self.side:
            raise ValueError(
                f"blur, cells and num_candidates must be positive and reach below side, got {self}"
            )


@dataclass(frozen=True)
class Nearest:
    """The most similar reference of each of Q queries."""

    similarity: np.ndarray
    """Correlation (Q,) in [-1, 1]."""
    index: np.ndarray
    """Which reference (Q,)."""


def to_side(images: Sequence[bytes], side: int) -> Tensor:
    """Encoded pictures as uint8 (M, 3, side, side)."""
    return at_side([decode_image(image) for image in images], side)


def at_side(pictures: Sequence[Tensor], side: int) -> Tensor:
    """Pictures uint8 (3, H, W), each of its own size, as uint8 (M, 3, side, side)."""
    return torch.stack([_resized(picture, side) for picture in pictures])


def nearest(queries: Tensor, references: Tensor, search: CopySearch) -> Nearest:
    """For queries uint8 (Q, 3, S, S) the most similar of the references uint8 (N, 3, S, S)."""
    similarities, indices = [], []
    for block in torch.split(queries, _COARSE_BLOCK):
        candidates = _candidates(block, references, search)  # (Q, C); beyond N: of the mirrored query
        for some, those in zip(
            torch.split(block, _FINE_BLOCK), torch.split(candidates, _FINE_BLOCK), strict=True
        ):
            best, column = _correlations(some, references, those, search).max(dim=1)
            similarities.append(best)
            indices.append(those.gather(1, column[:, None])[:, 0] % len(references))
    return Nearest(torch.cat(similarities).numpy(), torch.cat(indices).numpy())


def alarm_threshold(similarity: np.ndarray, rate: float) -> float:
    """The lowest threshold that at most this share of pictures (M,), none of them a copy, lies above."""
    if not 0 <= rate < 1:
        raise ValueError(f"rate must be in [0, 1), got {rate}")
    descending = np.sort(similarity)[::-1]
    return float(descending[int(rate * len(descending))])


def _jpeg(picture: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=30)
    return Image.open(buffer).convert("RGB")


def _half(picture: Image.Image) -> Image.Image:
    return picture.resize(
        (max(1, picture.width // 2), max(1, picture.height // 2)), Image.Resampling.BILINEAR
    )


def _shifted(picture: Image.Image) -> Image.Image:
    step = round(picture.width * 5 / 64)
    padded = np.pad(np.array(picture), ((step, 0), (step, 0), (0, 0)), mode="edge")
    return Image.fromarray(padded[: picture.height, : picture.width])


DISTORTIONS: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG of quality 30": _jpeg,
    "half size": _half,
    "shifted by 5 of 64 pixels": _shifted,
    "mirrored": ImageOps.mirror,
}
"""What is done to pictures to plant copies that the measure must find; a shift continues the picture's border."""


def distorted(image: bytes, name: str) -> bytes:
    """An encoded picture after one of ``DISTORTIONS``, as PNG."""
    picture = Image.fromarray(decode_image(image).permute(1, 2, 0).numpy())
    buffer = io.BytesIO()
    DISTORTIONS[name](picture).save(buffer, "PNG")
    return buffer.getvalue()


def _resized(picture: Tensor, side: int) -> Tensor:
    if picture.shape[1:] == (side, side):
        return picture
    pixels = picture[None].float()
    resized = F.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True)
    return resized[0].round().clamp(0, 255).byte()


# -- coarse: which references could it be ------------------------------------------------------------


def _candidates(queries: Tensor, references: Tensor, search: CopySearch) -> Tensor:
    """Columns (Q, C) of the most similar thumbnails among 2 N: plain, then with the query mirrored."""
    cells = _thumbnails(queries, search.cells)
    hands = (cells, cells.flip(-1))
    bank = _thumbnails(references, search.cells)
    best = torch.full((len(queries), 2 * len(references)), -1.0)
    for dy, dx in _shifts(-(-search.reach * search.cells // search.side)):
        there = _unit(_window(bank, dy, dx))
        here = torch.cat([_unit(_window(hand, -dy, -dx)) for hand in hands])
        scores = (here @ there.T).view(2, len(queries), len(references)).transpose(0, 1).flatten(1)
        torch.maximum(best, scores, out=best)
    return best.topk(min(search.num_candidates, best.shape[1]), dim=1).indices


def _thumbnails(pictures: Tensor, cells: int) -> Tensor:
    parts = [
        F.adaptive_avg_pool2d(part.float() / 255, cells) for part in torch.split(pictures, _COARSE_BLOCK)
    ]
    return torch.cat(parts)


def _shifts(reach: int) -> Iterator[tuple[int, int]]:
    steps = range(-reach, reach + 1)
    return ((dy, dx) for dy in steps for dx in steps)


def _window(pictures: Tensor, dy: int, dx: int) -> Tensor:
    """The part of pictures (M, 3, S, S) that one shifted by (-dy, -dx) covers."""
    side = pictures.shape[-1]
    return pictures[..., max(0, dy) : side + min(0, dy), max(0, dx) : side + min(0, dx)]


def _unit(windows: Tensor) -> Tensor:
    """Windows (M, 3, h, w) without their mean colour, as vectors of length one."""
    return F.normalize((windows - windows.mean((2, 3), keepdim=True)).flatten(1), dim=1)


# -- fine: normalised cross-correlation over all shifts at once ---------------------------------------


@dataclass(frozen=True)
class _Prepared:
    """What the correlation needs of M pictures: spectra, and sums of every window (M, 2 R + 1, 2 R + 1)."""

    spectrum: Tensor
    sums: Tensor
    """By colour: (M, 3, 2 R + 1, 2 R + 1)."""
    deviation: Tensor
    """Root of the summed squares around the mean colour."""

    def rows(self, index: Tensor) -> "_Prepared":
        """Those of some pictures, in the order asked."""
        return _Prepared(self.spectrum[index], self.sums[index], self.deviation[index])


def _correlations(queries: Tensor, references: Tensor, columns: Tensor, search: CopySearch) -> Tensor:
    """The largest correlation (Q, C) of queries with the references in these columns (Q, C) over all shifts."""
    num_queries, num_columns = columns.shape
    hands = _prepare(torch.cat([queries, queries.flip(-1)]), search)
    is_mirrored = columns >= len(references)
    here = hands.rows((is_mirrored * num_queries + torch.arange(num_queries)[:, None]).flatten())
    distinct, place = torch.unique(columns % len(references), return_inverse=True)
    there = _prepare(references[distinct], search).rows(place.flatten())
    padded, shifts = search.side + search.reach, torch.arange(-search.reach, search.reach + 1)
    products = torch.fft.irfft2((here.spectrum.conj() * there.spectrum).sum(1), s=(padded, padded))
    products = products[:, shifts[:, None] % padded, shifts % padded]
    # The window of the query at a shift is that of the reference at the opposite shift.
    means = (here.sums.flip(-1, -2) * there.sums).sum(1) / _window_sizes(search)
    correlation = (products - means) / (here.deviation.flip(-1, -2) * there.deviation)
    best: Tensor = correlation.flatten(1).amax(1).clamp(-1, 1).view(num_queries, num_columns)
    return best


def _prepare(pictures: Tensor, search: CopySearch) -> _Prepared:
    blurred = _blurred(pictures.float() / 255, search.blur)
    # Without its mean, float32 loses nothing in the differences below.
    blurred = blurred - blurred.mean((2, 3), keepdim=True)
    sums = _window_sums(blurred, search.reach)
    squares = _window_sums(blurred.square().sum(1, keepdim=True), search.reach)[:, 0]
    sizes = _window_sizes(search)
    deviation = (squares - sums.square().sum(1) / sizes).clamp(min=0).sqrt()
    padded = search.side + search.reach  # so that no shift in reach wraps around
    spectrum = torch.fft.rfft2(blurred, s=(padded, padded))
    return _Prepared(spectrum, sums, deviation.maximum(_FLAT * sizes.sqrt()))


def _blurred(pictures: Tensor, deviation: float) -> Tensor:
    """Pictures (M, 3, S, S) after a Gaussian blur that continues the border."""
    reach = min(int(3 * deviation + 0.5), pictures.shape[-1] - 1)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / deviation) ** 2)
    weights = (weights / weights.sum()).repeat(3, 1, 1, 1)
    padded = F.pad(pictures, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, weights, groups=3), weights.transpose(2, 3), groups=3)


def _window_sums(values: Tensor, reach: int) -> Tensor:
    """Sums (M, C, 2 R + 1, 2 R + 1) over the window of each shift, from the integral image."""
    side = values.shape[-1]
    integral = F.pad(values.double().cumsum(-1).cumsum(-2), (1, 0, 1, 0))
    shifts = torch.arange(-reach, reach + 1)
    low, high = shifts.clamp(min=0), side + shifts.clamp(max=0)

    def corner(rows: Tensor, columns: Tensor) -> Tensor:
        return integral[..., rows[:, None], columns]

    return (corner(high, high) - corner(low, high) - corner(high, low) + corner(low, low)).float()


def _window_sizes(search: CopySearch) -> Tensor:
    lengths = search.side - torch.arange(-search.reach, search.reach + 1).abs()
    return (lengths[:, None] * lengths).float()
