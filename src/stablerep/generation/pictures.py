"""From what a pipeline returns to bytes in a table: judge, resize, encode.

Shape letters: B pictures of a batch, H, W.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stablerep.generation.settings import FormatName, GenerateConfig

# Published: painted at 512, stored at 256 (short side).
_LARGE, _STORED = 512, 256


@dataclass(frozen=True)
class Painted:
    """``pictures`` (B, 3, H, W) uint8 on the CPU; for each the reason why it is a failure, None where it is fine."""

    pictures: Tensor
    reasons: list[str | None]

    def head(self, count: int) -> "Painted":
        """The first ``count`` pictures: a batch without its padding."""
        return Painted(self.pictures[:count], self.reasons[:count])

    def without_margin(self, margin: int) -> "Painted":
        """The pictures without so many pixels on every side; ``ValueError`` where none would be left."""
        height, width = self.pictures.shape[-2:]
        if 2 * margin >= min(height, width):
            raise ValueError(f"a margin of {margin} pixels leaves nothing of a picture of {width} x {height}")
        inner = self.pictures[..., margin : height - margin, margin : width - margin]
        return Painted(inner, self.reasons)


@dataclass(frozen=True)
class Encoded:
    """An encoded picture and its size in pixels."""

    data: bytes
    width: int
    height: int


def judge(images: Tensor | np.ndarray[Any, Any], flagged: Sequence[Any] | None) -> Painted:
    """Turn what a pipeline returned into bytes per channel and say which pictures are failures.

    ``images``: tensor (B, 3, H, W) or array (B, H, W, 3), values in [0, 1]; ``flagged``: what its safety checker said.
    """
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(images).movedim(-1, 1)
    images = images.float().cpu()
    finite = images.isfinite().flatten(1).all(dim=1).tolist()
    pictures = (images.nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    unsafe = [bool(flag) for flag in flagged] if flagged is not None else [False] * len(pictures)
    reasons = [_reason(*facts) for facts in zip(pictures, finite, unsafe, strict=True)]
    return Painted(pictures, reasons)


def _reason(picture: Tensor, finite: bool, unsafe: bool) -> str | None:
    if unsafe:
        return "the safety checker withheld the picture"
    if not finite:
        return "the picture holds values that are not finite"
    pixels = picture.flatten(1)
    if bool((pixels == pixels[:, :1]).all()):
        colour = "".join(f"{value:02x}" for value in pixels[:, 0].tolist())
        return f"the picture is blank: every pixel is {'black' if colour == '000000' else '#' + colour}"
    return None


def stored_size(width: int, height: int, size: int | None) -> tuple[int, int]:
    """Width and height to store: short side ``size``, never enlarged; None: 256 for pictures of 512 or more."""
    short = min(width, height)
    target = size or (_STORED if short >= _LARGE else short)
    if target >= short:
        return width, height
    return max(1, round(width * target / short)), max(1, round(height * target / short))


def encode_painted(painted: Painted, config: GenerateConfig) -> list[Encoded | None]:
    """The pictures of a batch, encoded; None for a failure."""
    judged = zip(painted.pictures, painted.reasons, strict=True)
    return [encode_picture(picture, config) if reason is None else None for picture, reason in judged]


def encode_picture(picture: Tensor, config: GenerateConfig) -> Encoded:
    """Resize (3, H, W) uint8 to ``config.size`` with an antialiased bicubic filter, and encode it."""
    image = Image.fromarray(picture.movedim(0, -1).contiguous().numpy())
    wanted = stored_size(image.width, image.height, config.size)
    if wanted != image.size:
        image = image.resize(wanted, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    # Not subsampled, which thin coloured lines do not survive.
    options: dict[FormatName, dict[str, int]] = {
        "jpeg": {"quality": config.quality, "subsampling": 0},
        "png": {},
        "webp": {"quality": config.quality},
    }
    image.save(buffer, config.format.upper(), **options[config.format])
    return Encoded(buffer.getvalue(), image.width, image.height)
