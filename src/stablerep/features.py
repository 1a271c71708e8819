"""Frozen encoder -> features: computed once, in the order of the data, cached by content.

Shapes: M images, D features, H and W pixels.
"""

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
import torch
import torch.nn.functional as F
from PIL import UnidentifiedImageError
from torch import Tensor, nn

from stablerep import runtime
from stablerep.cluster import EngineConfig, Task, hired
from stablerep.console import Console
from stablerep.decoding import decode_image
from stablerep.errors import UserError
from stablerep.models.encoder import Encoder, EncoderConfig, Resize, centre, seen_size
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
        return Encoder(config).eval()


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
    """Where the encoder runs: in this process, or with Ray in its workers."""
    resize: Resize = "squash"
    """How pictures become square: by the encoder itself, or their centre is taken first."""

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
    return _extract(encoder, images, how, console or Console(quiet=True), _refuse)


def extract_decodable(
    encoder: FrozenEncoder, images: Sequence[bytes], how: Extraction, *, console: Console | None = None
) -> tuple[np.ndarray, dict[int, str]]:
    """As ``extract_with``, with NaN in the rows (M, D) of images that cannot be decoded; and for each of them, why.

    Raises ``UserError`` where no image can be decoded.
    """
    undecoded: dict[int, str] = {}
    features = _extract(encoder, images, how, console or Console(quiet=True), undecoded.__setitem__)
    return features, undecoded


def decoded(encoded: bytes, crop: int | None = None) -> Tensor | str:
    """A picture as uint8 (3, H, W), or its centre (3, crop, crop); or why it cannot be decoded."""
    try:
        return decode_image(encoded) if crop is None else centre(decode_image(encoded), crop)
    except UnidentifiedImageError:  # its message holds an address in memory
        return "cannot be decoded (no known picture format)"
    except (OSError, SyntaxError, ValueError, TypeError) as error:
        return f"cannot be decoded ({error})"


def _refuse(number: int, why: str) -> None:
    raise UserError(f"image {number} of the list {why}; repair or leave out its row")


_Undecoded = Callable[[int, str], None]
"""Is told of each image that cannot be decoded, as soon as it is met: its number and why."""


def _extract(
    encoder: FrozenEncoder,
    images: Sequence[bytes],
    how: Extraction,
    console: Console,
    on_undecoded: _Undecoded,
) -> np.ndarray:
    if len(images) == 0:
        raise UserError("no images to extract features from; check the table and its filter")
    if how.engine.engine == "local":
        dtype = runtime.pick_precision(how.precision, device_of(encoder))

        def here() -> np.ndarray:
            with (
                _evaluating(encoder),
                decoders() as pool,
                console.progress("features", len(images), "images") as progress,
            ):
                batches = _batches(images, dtype, how)
                parts = ((batch, _encoded(encoder, batch, pool)) for batch in batches)
                return _gathered(encoder, parts, len(images), on_undecoded, progress.advance)

        return _cached(_entry(encoder, images, dtype, how), images, here, on_undecoded)
    load = functools.partial(_Encoding, encoder, how.precision, how.device)
    name = f"the batch of {how.batch_size} pictures from number {{0.start}} on".format
    with hired(Task(load=load, name=name, device=how.device), how.engine, console) as crew:
        dtype = crew.describe()

        def there() -> np.ndarray:
            with console.progress(f"features, {crew.size} Ray workers", len(images), "images") as progress:
                parts = crew.run(_batches(images, dtype, how))
                return _gathered(encoder, parts, len(images), on_undecoded, progress.advance)

        return _cached(_entry(encoder, images, dtype, how), images, there, on_undecoded)


def cached(encoder: FrozenEncoder, images: Sequence[bytes], how: Extraction) -> np.ndarray | None:
    """Features (M, D) as ``extract_decodable`` would give them in this process, if the cache holds them; else None."""
    dtype = runtime.pick_precision(how.precision, device_of(encoder))
    entry = _entry(encoder, images, dtype, how)
    return None if entry is None or not entry.exists() else _read(entry, len(images))


@dataclass(frozen=True)
class _Batch:
    """Encoded pictures, the number of the first of them, the number format of the forward pass, how they get square."""

    start: int
    images: Sequence[bytes]
    dtype: torch.dtype
    resize: Resize


@dataclass(frozen=True)
class _Encoded:
    """Features (m, D) of the pictures of a batch that can be decoded, in their order; by row why the others cannot."""

    features: np.ndarray
    undecoded: Mapping[int, str]


class _Encoding:
    """What a worker does: decode and encode batches."""

    def __init__(self, encoder: FrozenEncoder, precision: runtime.Precision, device: str) -> None:
        self._device = runtime.pick_device(device)
        self._encoder = encoder.to(self._device).eval() if isinstance(encoder, nn.Module) else encoder
        self._precision = precision
        self._pool = decoders()

    @property
    def settings(self) -> dict[str, Any]:
        """Workers on other devices would round differently."""
        return {"device": self._device.type, "threads": torch.get_num_threads()}

    @property
    def description(self) -> torch.dtype:
        """The number format, measured here where it is to be chosen, and then the same for all."""
        return runtime.pick_precision(self._precision, self._device)

    def __call__(self, batch: _Batch) -> _Encoded:
        """The features of a batch."""
        return _encoded(self._encoder, batch, self._pool)


def _batches(images: Sequence[bytes], dtype: torch.dtype, how: Extraction) -> Iterator[_Batch]:
    for start in range(0, len(images), how.batch_size):
        yield _Batch(start, images[start : start + how.batch_size], dtype, how.resize)


def _encoded(encoder: FrozenEncoder, batch: _Batch, pool: ThreadPoolExecutor) -> _Encoded:
    read = functools.partial(decoded, crop=seen_size(encoder) if batch.resize == "crop" else None)
    pictures = dict(enumerate(pool.map(read, batch.images)))
    undecoded = {row: why for row, why in pictures.items() if isinstance(why, str)}
    readable = [one for one in pictures.values() if not isinstance(one, str)]
    if not readable:
        return _Encoded(np.empty((0, 0), np.float32), undecoded)
    return _Encoded(encode_pictures(encoder, readable, batch.dtype), undecoded)


@contextlib.contextmanager
def _evaluating(encoder: FrozenEncoder) -> Iterator[None]:
    """Evaluation mode for the time of the block."""
    if not isinstance(encoder, nn.Module):
        yield
        return
    was_training = encoder.training
    encoder.eval()
    try:
        yield
    finally:
        encoder.train(was_training)


def decoders() -> ThreadPoolExecutor:
    """Threads that decode pictures."""
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1))


def _gathered(
    encoder: FrozenEncoder,
    parts: Iterable[tuple[_Batch, _Encoded]],
    num_images: int,
    on_undecoded: _Undecoded,
    advance: Callable[[int], None],
) -> np.ndarray:
    """Features (M, D) in the order of the images, whatever the order of the parts, judged."""
    rows, found = [], []
    for batch, part in parts:
        for row, why in part.undecoded.items():
            on_undecoded(batch.start + row, why)
        decodable = [row for row in range(len(batch.images)) if row not in part.undecoded]
        if decodable:
            rows.append(batch.start + np.array(decodable))
            found.append(part.features)
        advance(len(batch.images))
    if not found:
        raise UserError(f"none of the {num_images:,} images can be decoded; repair or leave out their rows")
    features = np.full((num_images, found[0].shape[1]), np.nan, np.float32)
    for places, part_features in zip(rows, found, strict=True):
        features[places] = part_features
        if not np.isfinite(part_features).all():
            row = int(places[~np.isfinite(part_features).all(axis=1)][0])
            raise UserError(
                f"the encoder {encoder.fingerprint} gives features that are not finite, first for image {row}; "
                "its training diverged, or precision must be float32"
            )
    return features


def _cached(
    entry: Path | None,
    images: Sequence[bytes],
    compute: Callable[[], np.ndarray],
    on_undecoded: _Undecoded,
) -> np.ndarray:
    """Features from the cache, or computed and kept there."""
    if entry is None or not entry.exists():
        features = compute()
        if entry is not None:
            write_atomically(entry, lambda temporary: _write(temporary, features))
        return features
    features = _read(entry, len(images))
    for row in np.flatnonzero(np.isnan(features).any(axis=1)).tolist():
        why = decoded(images[row])
        if not isinstance(why, str):
            raise UserError(f"the cached features {entry} are damaged (row {row}); delete the file")
        on_undecoded(row, why)
    return features


def _entry(
    encoder: FrozenEncoder, images: Sequence[bytes], dtype: torch.dtype, how: Extraction
) -> Path | None:
    """The file of the cache that holds these features, or will."""
    return None if how.cache is None else how.cache / f"{_key(encoder, images, dtype, how)}.npy"


def _key(encoder: FrozenEncoder, images: Sequence[bytes], dtype: torch.dtype, how: Extraction) -> str:
    # Squashed pictures are named as before there was a choice, so that their entries still hold.
    resize = () if how.resize == "squash" else (how.resize,)
    what = "\x1f".join((_CACHE_VERSION, encoder.fingerprint, str(dtype), *resize))
    digest = hashlib.blake2b(what.encode(), digest_size=16)
    for start in range(0, len(images), how.batch_size):
        for encoded in images[start : start + how.batch_size]:
            image = encoded or b""  # a table may hold null in place of a picture
            digest.update(len(image).to_bytes(8, "little"))  # marks where one ends
            digest.update(image)
    return digest.hexdigest()


@torch.inference_mode()
def encode_pictures(encoder: FrozenEncoder, pictures: Sequence[Tensor], dtype: torch.dtype) -> np.ndarray:
    """Features (M, D) of one batch of pictures (3, H, W): uint8, or floats in [0, 1].

    Pictures of different sizes and types go through the encoder one kind at a time.
    """
    device = device_of(encoder)
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


def device_of(encoder: object) -> torch.device:
    """Where an encoder computes: the CPU for what has no parameters."""
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
