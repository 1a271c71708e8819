"""Pictures of one size: read or render, fit into a transparent square, encode as WebP."""

import hashlib
import io
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

SIZE = 64
RENDER_SIZE = 256
RENDER_SECONDS = 40
MAX_SVG_BYTES = 4_000_000
WEBP_QUALITY = 80

Pixels = npt.NDArray[np.float32]


class BlankPictureError(ValueError):
    """The drawing shows nothing: fully transparent, or one flat colour."""


class RenderFailedError(ValueError):
    """The renderer refused the drawing."""


def read_rgba(source: Path | bytes) -> Image.Image:
    """An image file as RGBA."""
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        return image.convert("RGBA")


def render_svg(path: Path, cache: Path | None = None) -> Image.Image:
    """Draw an SVG with rsvg-convert so that its longer side has RENDER_SIZE pixels."""
    cached = None
    if cache is not None:
        cached = cache / f"{hashlib.sha256(path.read_bytes()).hexdigest()}.png"
        if cached.exists():
            data = cached.read_bytes()
            if not data:
                raise RenderFailedError("renderer failed")
            return read_rgba(data)
    try:
        data = _rsvg(path)
    except RenderFailedError:
        data = b""
    if cached is not None:
        handle, name = tempfile.mkstemp(dir=cached.parent)
        os.write(handle, data)
        os.close(handle)
        Path(name).replace(cached)
    if not data:
        raise RenderFailedError("renderer failed")
    return read_rgba(data)


def _rsvg(path: Path) -> bytes:
    if path.stat().st_size > MAX_SVG_BYTES:
        raise RenderFailedError("too large")
    side = str(RENDER_SIZE)
    command = ["rsvg-convert", "-w", side, "-h", side, "-a", "-f", "png", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=RENDER_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise RenderFailedError("time-out") from error
    if done.returncode or not done.stdout:
        raise RenderFailedError(done.stderr.decode(errors="replace")[:200])
    return done.stdout


def square(image: Image.Image, size: int = SIZE) -> Image.Image:
    """Crop empty margins, fit into a square keeping the aspect ratio, centred on transparency."""
    box = image.getchannel("A").point([0] * 8 + [255] * 248).getbbox()
    if box is None:
        raise BlankPictureError("transparent")
    image = image.crop(box)
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    premultiplied = image.convert("RGBa").resize((width, height), Image.Resampling.LANCZOS, reducing_gap=None)
    canvas = Image.new("RGBa", (size, size), (0, 0, 0, 0))
    canvas.paste(premultiplied, ((size - width) // 2, (size - height) // 2))
    result = canvas.convert("RGBA")
    _refuse_blank(result)
    return result


def _refuse_blank(image: Image.Image) -> None:
    pixels = np.asarray(image, dtype=np.float32)
    alpha = pixels[..., 3] / 255
    if alpha.mean() < 0.01:
        raise BlankPictureError("nearly transparent")
    if on_white(image).std() < 0.02:
        raise BlankPictureError("white on white")
    inside = on_white(image)[alpha > 0.9]
    if len(inside) and inside.std(axis=0).max() < 0.01 and (alpha.mean() > 0.97 or inside.mean() > 0.97):
        raise BlankPictureError("one colour")


def on_white(image: Image.Image) -> Pixels:
    """Composite on white: (H, W, 3) in [0, 1]."""
    pixels = np.asarray(image.convert("RGBA"), dtype=np.float32) / 255
    alpha = pixels[..., 3:]
    return np.asarray(pixels[..., :3] * alpha + (1 - alpha), dtype=np.float32)


def encode(image: Image.Image) -> bytes:
    """Lossy WebP with its alpha channel; the same bytes for the same pixels."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=WEBP_QUALITY, alpha_quality=90, method=6, exact=False)
    return buffer.getvalue()
