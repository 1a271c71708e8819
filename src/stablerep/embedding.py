"""Pictures to features: the command ``embed``, and an estimator that scikit-learn puts into its pipelines.

Shapes: M pictures, D features, H and W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self, overload

import numpy as np
import torch
import tyro
from PIL import Image
from sklearn.base import BaseEstimator, TransformerMixin
from torch import Tensor
from tyro.conf import Positional

from stablerep import runtime
from stablerep.cluster import EngineConfig
from stablerep.console import Console
from stablerep.decoding import decode_image, image_size, on_white
from stablerep.errors import UserError
from stablerep.features import Extraction, TableImages, encode_pictures, extract_with
from stablerep.interchange.layouts import IMAGE_SUFFIXES
from stablerep.models.encoder import Encoder, load_encoder
from stablerep.run import write_atomically, write_text
from stablerep.storage import is_table, refuse_remote
from stablerep.store import OK, ImageTable, encodable

Picture = str | Path | bytes | Image.Image | np.ndarray | Tensor
"""A file, an encoded picture, a picture of PIL, array (H, W, 3) or tensor (3, H, W): bytes, or floats in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(EngineConfig):
    """Features of a folder of pictures or of an image table, as one array."""

    source: Positional[Path]
    """Folder of pictures, searched to its depths, or image table."""
    encoder: Path
    """Run or encoder folder, a shipped name, an official .pth file, timm:NAME[@FILE] or open_clip:NAME@FILE."""
    out: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path("features.npy")
    """Array (M, D) in float32 to write; the names of its rows go into a .names.txt beside it."""
    where: str | None = None
    """Of a table, only the rows that match this filter, such as "split = 'test'"."""
    batch_size: int = 256
    """Pictures per forward pass."""
    precision: runtime.Precision = "float32"
    """Number format of the forward pass; auto takes bfloat16 where it is faster."""
    device: str = "auto"
    """Where the encoder runs: auto, cpu, cuda, mps."""
    cache: Path | None = None
    """Folder that keeps features by content, for the next time."""
    download: bool = False
    """Fetch weights that are only named (timm:NAME, open_clip:NAME/TAG) from the hub."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {self.batch_size}")
        if self.out.suffix != ".npy":
            raise ValueError(f"out must end in .npy, got {self.out}")


@dataclass(frozen=True, kw_only=True)
class EmbedSummary:
    """What was written."""

    path: Path
    names: Path
    num_images: int
    num_features: int
    fingerprint: str


def embed(config: EmbedConfig, *, console: Console = Console(quiet=True)) -> EmbedSummary:  # noqa: B008
    """Write the features, a row per picture: of a folder in the order of their paths, of a table in its own order.

    Raises ``UserError`` where there are no pictures, one cannot be read, or the encoder cannot be loaded.
    """
    refuse_remote(config.out)
    images, names = _table(config) if is_table(config.source) else _folder(config)
    how = Extraction(
        batch_size=config.batch_size,
        precision=config.precision,
        cache=config.cache,
        engine=config,
        device=config.device,
    )
    encoder = load_encoder(config.encoder, how.own_device(), download=config.download)
    features = extract_with(encoder, images, how, console=console)
    listed = config.out.with_suffix(".names.txt")
    write_atomically(config.out, lambda path: _save(path, features))
    write_text(listed, "".join(f"{name}\n" for name in names))
    return EmbedSummary(
        path=config.out,
        names=listed,
        num_images=len(features),
        num_features=features.shape[1],
        fingerprint=encoder.fingerprint,
    )


class Embedder(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Pictures -> features, as a scikit-learn estimator: ``make_pipeline(Embedder("runs/a"), LogisticRegression())``.

    ``encoder`` is what ``load_encoder`` takes, or an encoder itself. It is frozen: ``fit`` learns nothing.
    """

    def __init__(
        self,
        encoder: str | Path | Encoder,
        *,
        batch_size: int = 256,
        precision: runtime.Precision = "float32",
        device: str = "auto",
        download: bool = False,
    ) -> None:
        self.encoder = encoder
        self.batch_size = batch_size
        self.precision = precision
        self.device = device
        self.download = download

    def fit(self, images: Any = None, y: Any = None) -> Self:
        """Load the encoder; pictures and labels are not looked at."""
        del images, y
        self._loaded()
        return self

    def transform(self, images: Sequence[Picture] | np.ndarray | Tensor) -> np.ndarray:
        """Features (M, D) float32 of pictures of any kind and size; ``UserError`` names one that it cannot read."""
        encoder = self._loaded()
        dtype = runtime.pick_precision(self.precision, next(encoder.parameters()).device)
        if len(images) == 0:
            return np.empty((0, encoder.dim), dtype=np.float32)
        parts = []
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size]
            pictures = [_pixels(picture, start + number) for number, picture in enumerate(batch)]
            parts.append(encode_pictures(encoder, pictures, dtype))
        return np.concatenate(parts)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the D columns."""
        del input_features
        return np.array([f"feature{number}" for number in range(self._loaded().dim)], dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def _loaded(self) -> Encoder:
        if isinstance(self.encoder, Encoder):
            return self.encoder.eval()
        key = (str(self.encoder), self.device, self.download)
        if getattr(self, "_key", None) != key:
            device = runtime.pick_device(self.device)
            self._encoder = load_encoder(self.encoder, device, download=self.download)
            self._key = key
        return self._encoder


class _Files(Sequence[bytes]):
    """Encoded pictures in files, read when asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [path.read_bytes() for path in self._paths[index]]
        return self._paths[index].read_bytes()


def _folder(config: EmbedConfig) -> tuple[Sequence[bytes], list[str]]:
    if config.where is not None:
        raise UserError(
            f"where filters the rows of an image table, and {config.source} is none; leave it out"
        )
    if not config.source.is_dir():
        raise UserError(f"{config.source} is no folder of pictures and no image table")
    paths = sorted(path for path in config.source.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise UserError(f"{config.source} holds no pictures ({', '.join(IMAGE_SUFFIXES)})")
    for path in paths:  # only headers: what is no picture is found before the encoder has worked for an hour
        try:
            image_size(path.read_bytes())
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(f"{path} cannot be read as a picture ({error}); repair or remove it") from error
    names = [path.relative_to(config.source).as_posix() for path in paths]
    if broken := [name for name in names if "\n" in name or not encodable(name)]:
        raise UserError(
            f"the name {broken[0]!r} has a line break or is not UTF-8, and cannot stand in a list; rename the file"
        )
    return _Files(paths), names


def _table(config: EmbedConfig) -> tuple[Sequence[bytes], list[str]]:
    table = ImageTable.open(config.source)
    positions = table.positions(f"status = '{OK}'")
    if config.where is not None:
        positions = np.intersect1d(positions, table.positions(config.where))
    if not len(positions):
        raise UserError(
            f"{config.source} has no picture{f' that matches {config.where!r}' if config.where else ''}"
        )
    columns = ["origin", "caption_id", "image_index"]
    rows = table.take(positions, columns).to_pylist()
    return TableImages(table, positions), ["/".join(str(row[name]) for name in columns) for row in rows]


def _pixels(picture: Picture, number: int) -> Tensor:
    """A picture as uint8 (3, H, W)."""
    try:
        if isinstance(picture, str | Path):
            return decode_image(Path(picture).read_bytes())
        if isinstance(picture, bytes):
            return decode_image(picture)
        if isinstance(picture, Image.Image):
            return on_white(picture)
        tensor = picture if isinstance(picture, Tensor) else torch.from_numpy(np.array(picture))
        shape = tuple(tensor.shape)
        if not isinstance(picture, Tensor) and len(shape) == 3:
            tensor = tensor.permute(2, 0, 1)
        if len(shape) != 3 or len(tensor) != 3:
            raise ValueError(f"its shape is {shape}, not (H, W, 3) for an array or (3, H, W) for a tensor")
        if tensor.dtype == torch.uint8:
            return tensor
        if not (tensor.is_floating_point() and tensor.min() >= 0 and tensor.max() <= 1):  # NaN is neither
            raise ValueError("its values must be bytes, or floats in [0, 1]")
    except (OSError, ValueError, TypeError, SyntaxError, RuntimeError) as error:
        what = f"{picture}" if isinstance(picture, str | Path) else f"picture {number}"
        raise UserError(f"{what} cannot be read ({error})") from error
    return tensor


def _save(path: Path, features: np.ndarray) -> None:
    with path.open("wb") as file:  # given a path, numpy would append a suffix of its own
        np.save(file, features, allow_pickle=False)
