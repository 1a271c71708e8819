"""Frozen encoder -> features: computed once, in the order of the data, cached by content.

Shapes: M images, D features, H and W pixels.
"""

import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stablerep import runtime
from stablerep.cluster import EngineConfig, Task, hired
from stablerep.console import Console
from stablerep.decoding import decode_image
from stablerep.errors import UserError
from stablerep.models.encoder import Encoder, EncoderConfig
from stablerep.run import write_atomically
from stablerep.store import ImageTable

_CACHE_VERSION = "features-1"


class FrozenEncoder(Protocol):
    """Whatever maps images (N, 3, H, W) in [0, 1] to features (N, D) and has an identity."""

    @property
    def fingerprint(self) -> str:
        """Identity of everything that determines the features: weights, configuration, preprocessing."""

    def __call__(self, images: Tensor, /) -> Tensor:
        """Features (N, D)."""


class RawPixels:
    """The baseline that has learned nothing: the picture shrunk and flattened to (N, 3 * size * size)."""

    def __init__(self, size: int = 16) -> None:
        self.size = size

    @property
    def fingerprint(self) -> str:
        return f"raw-pixels-{self.size}"

    def __call__(self, images: Tensor, /) -> Tensor:
        return F.interpolate(images, size=(self.size, self.size), mode="bilinear", antialias=True).flatten(1)


def untrained_encoder(config: EncoderConfig, seed: int = 0) -> Encoder:
    """The baseline of the architecture: an encoder of this configuration as it is before training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(runtime.seed_for("untrained encoder", seed))
        return Encoder(config)


class TableImages(Sequence[bytes]):
    """Encoded images of some rows of a table, read when asked for."""

    def __init__(self, table: ImageTable, positions: Sequence[int] | np.ndarray) -> None:
        self.table = table
        self.positions = np.asarray(positions, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.positions)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return self.table.take_images(self.positions[index])
        return self.table.take_images([self.positions[index]])[0]


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """How features are computed."""

    batch_size: int = 256
    precision: runtime.Precision = "float32"
    cache: Path | None = None
    engine: EngineConfig = field(default_factory=EngineConfig)
    device: str = "auto"
    """With Ray: where the workers' encoders run."""

    def own_device(self) -> torch.device:
        """Where this process needs the encoder: on its way to Ray's workers it waits in ordinary memory."""
        return torch.device("cpu") if self.engine.engine == "ray" else runtime.pick_device(self.device)


def extract(
    encoder: FrozenEncoder,
    images: Sequence[bytes],
    *,
    batch_size: int = 256,
    precision: runtime.Precision = "float32",
    cache: Path | None = None,
    console: Console | None = None,
) -> np.ndarray:
    """Features (M, D) float32 of encoded images, row m being image m; from the cache if it has them.

    The key of the cache is the encoder's fingerprint, the precision and the bytes of the images: neither
    names nor paths enter it. The encoder runs where its weights are, in evaluation mode, without gradient.
    Raises ``UserError`` for an image that cannot be decoded, features that are not finite, a damaged cache.
    """
    how = Extraction(batch_size=batch_size, precision=precision, cache=cache)
    return extract_with(encoder, images, how, console=console)


def extract_with(
    encoder: FrozenEncoder, images: Sequence[bytes], how: Extraction, *, console: Console | None = None
) -> np.ndarray:
    """As ``extract``; with the engine ray the encoder is sent to the workers of a cluster, and then the pictures.

    The batches are the same. On processors of one kind, with as many threads, so are the features to the bit; elsewhere
    they differ by rounding.
    """
    console = console or Console(quiet=True)
    if len(images) == 0:
        raise UserError("no images to extract features from; check the table and its filter")
    if how.engine.engine == "local":
        dtype = runtime.pick_precision(how.precision, _device_of(encoder))
        return _cached(encoder, images, dtype, how, lambda: _locally(encoder, images, dtype, how, console))
    load = functools.partial(_Encoding, encoder, how.precision, how.device)
    name = f"the batch of {how.batch_size} pictures from number {{0.start}} on".format
    with hired(Task(load=load, name=name, device=how.device), how.engine, console) as crew:
        dtype = crew.describe()
        batches = _batches(images, dtype, how.batch_size)

        def compute() -> list[np.ndarray]:
            with console.progress(f"features, {crew.size} Ray workers", len(images), "images") as progress:
                parts = {}
                for batch, part in crew.run(batches):
                    parts[batch.start] = part
                    progress.advance(len(part))
            return [parts[start] for start in sorted(parts)]

        return _cached(encoder, images, dtype, how, compute)


def cached(encoder: FrozenEncoder, images: Sequence[bytes], how: Extraction) -> np.ndarray | None:
    """Features (M, D) as ``extract_with`` would give them in this process, where the cache holds them; else None."""
    dtype = runtime.pick_precision(how.precision, _device_of(encoder))
    entry = _entry(encoder, images, dtype, how)
    return None if entry is None or not entry.exists() else _read(entry, len(images))


@dataclass(frozen=True)
class _Batch:
    """Encoded pictures, the number of the first of them, and the number format of the forward pass."""

    start: int
    images: Sequence[bytes]
    dtype: torch.dtype


class _Encoding:
    """What a worker does: decode and encode batches."""

    def __init__(self, encoder: FrozenEncoder, precision: runtime.Precision, device: str) -> None:
        self._device = runtime.pick_device(device)
        self._encoder = encoder.to(self._device).eval() if isinstance(encoder, nn.Module) else encoder
        self._precision = precision
        self._pool = _decoders()

    @property
    def settings(self) -> dict[str, Any]:
        """Workers on other devices would round differently."""
        return {"device": self._device.type, "threads": torch.get_num_threads()}

    @property
    def description(self) -> torch.dtype:
        """The number format, measured here where it is to be chosen, and then the same for all."""
        return runtime.pick_precision(self._precision, self._device)

    def __call__(self, batch: _Batch) -> np.ndarray:
        """Features (M, D) of a batch."""
        return _encoded(self._encoder, batch, self._pool)


def _batches(images: Sequence[bytes], dtype: torch.dtype, batch_size: int) -> Iterator[_Batch]:
    for start in range(0, len(images), batch_size):
        yield _Batch(start, images[start : start + batch_size], dtype)


def _encoded(encoder: FrozenEncoder, batch: _Batch, pool: ThreadPoolExecutor) -> np.ndarray:
    numbers = range(batch.start, batch.start + len(batch.images))
    return encode_pictures(encoder, list(pool.map(_decode_numbered, numbers, batch.images)), batch.dtype)


def _decoders() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1))


def _cached(
    encoder: FrozenEncoder,
    images: Sequence[bytes],
    dtype: torch.dtype,
    how: Extraction,
    compute: Callable[[], list[np.ndarray]],
) -> np.ndarray:
    """Features from the cache, or computed, judged and kept there."""
    entry = _entry(encoder, images, dtype, how)
    if entry is not None and entry.exists():
        return _read(entry, len(images))
    features = np.concatenate(compute())
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        raise UserError(
            f"the encoder {encoder.fingerprint} gives features that are not finite, first for image {row}; "
            "its training diverged, or precision must be float32"
        )
    if entry is not None:
        write_atomically(entry, lambda temporary: _write(temporary, features))
    return features


def _entry(
    encoder: FrozenEncoder, images: Sequence[bytes], dtype: torch.dtype, how: Extraction
) -> Path | None:
    """The file of the cache that holds these features, or will."""
    return None if how.cache is None else how.cache / f"{_key(encoder, images, dtype, how.batch_size)}.npy"


def _key(encoder: FrozenEncoder, images: Sequence[bytes], dtype: torch.dtype, batch_size: int) -> str:
    digest = hashlib.blake2b(f"{_CACHE_VERSION}\x1f{encoder.fingerprint}\x1f{dtype}".encode(), digest_size=16)
    for start in range(0, len(images), batch_size):
        for image in images[start : start + batch_size]:
            digest.update(len(image).to_bytes(8, "little"))  # marks where one ends
            digest.update(image)
    return digest.hexdigest()


def _locally(
    encoder: FrozenEncoder, images: Sequence[bytes], dtype: torch.dtype, how: Extraction, console: Console
) -> list[np.ndarray]:
    was_training = isinstance(encoder, nn.Module) and encoder.training
    if isinstance(encoder, nn.Module):
        encoder.eval()
    parts = []
    try:
        with _decoders() as pool, console.progress("features", len(images), "images") as progress:
            for batch in _batches(images, dtype, how.batch_size):
                parts.append(_encoded(encoder, batch, pool))
                progress.advance(len(batch.images))
    finally:
        if isinstance(encoder, nn.Module):
            encoder.train(was_training)
    return parts


@torch.inference_mode()
def encode_pictures(encoder: FrozenEncoder, pictures: Sequence[Tensor], dtype: torch.dtype) -> np.ndarray:
    """Features (M, D) of one batch of pictures (3, H, W): uint8, or floats in [0, 1].

    Pictures of different sizes and types go through the encoder one kind at a time.
    """
    device = _device_of(encoder)
    rows_of: dict[tuple[torch.Size, torch.dtype], list[int]] = {}
    for row, picture in enumerate(pictures):
        rows_of.setdefault((picture.shape, picture.dtype), []).append(row)
    order: list[int] = []
    parts = []
    for rows in rows_of.values():
        pixels = torch.stack([pictures[row] for row in rows]).to(device)
        pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
        with runtime.autocast(dtype, device):
            parts.append(encoder(pixels).float().cpu())
        order += rows
    features: np.ndarray = torch.cat(parts)[torch.tensor(order).argsort()].numpy()
    return features


def _decode_numbered(number: int, encoded: bytes) -> Tensor:
    try:
        return decode_image(encoded)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"image {number} of the list cannot be decoded ({error}); repair or leave out its row"
        ) from error


def _device_of(encoder: FrozenEncoder) -> torch.device:
    parameter = next(encoder.parameters(), None) if isinstance(encoder, nn.Module) else None
    return torch.device("cpu") if parameter is None else parameter.device


def _write(path: Path, features: np.ndarray) -> None:
    with path.open("wb") as file:  # given a path, numpy would append a suffix of its own
        np.save(file, features, allow_pickle=False)


def _read(path: Path, num_images: int) -> np.ndarray:
    try:
        features: np.ndarray = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"the cached features {path} are damaged ({error}); delete the file") from error
    if features.ndim != 2 or len(features) != num_images:
        raise UserError(f"the cached features {path} are damaged (shape {features.shape}); delete the file")
    return features
