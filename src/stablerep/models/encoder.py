"""The encoder: a timm vision transformer with its own preprocessing, its files, and the projection head.

Shapes: N images, V views, D features, H and W pixels, h and w patches.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from stablerep import config as config_module
from stablerep import runtime
from stablerep.errors import UserError
from stablerep.models import files, weights

_FILES = files.ModelFiles(name="encoder", what="an encoder", version=1)
DESCRIPTION = _FILES.description
WEIGHTS = _FILES.weights

Resize = Literal["squash", "crop"]
"""How a picture of any shape becomes a square: each side resized by itself, or the centre taken."""
_MARGIN = 256 / 224
_LONGEST = 8
_SIZE_OF_OTHERS = 64


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """A timm vision transformer and the preprocessing in front of it."""

    architecture: str = "vit_small_patch16_224"
    """Name of a vision transformer in timm; the published sizes are vit_{small,base,large}_patch16_224."""
    image_size: int = 224
    """Side in pixels to which every image is resized."""
    patch_size: int | None = None
    """Side of a patch in pixels; the architecture's own where not given."""
    width: int | None = None
    """Number of features D; the architecture's own where not given."""
    depth: int | None = None
    """Number of blocks; the architecture's own where not given."""
    num_heads: int | None = None
    """Attention heads per block; the architecture's own where not given."""
    drop_path: float = 0.0
    """Rate of stochastic depth in training."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of the red, green and blue channels of the training images (default: ImageNet)."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation of the channels (default: ImageNet)."""

    def __post_init__(self) -> None:
        for name in ("image_size", "patch_size", "width", "depth", "num_heads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be positive, got {value}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path must be in [0, 1), got {self.drop_path}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")


class Encoder(nn.Module):
    """Images in [0, 1] -> features: the class token after the final LayerNorm, as published for StableRep.

    A new encoder is drawn from torch's global generator, nothing is ever downloaded. Raises ``UserError``
    where timm has no such vision transformer or the sizes do not fit together.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.metadata: dict[str, Any] = {}
        self.backbone = _vision_transformer(config)
        self.dim = int(self.backbone.num_features)
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, D) in float32 of images (N, 3, H, W) in [0, 1], of any size."""
        features: Tensor = self.backbone(self._preprocess(images))
        return features.float()

    def patch_features(self, images: Tensor) -> Tensor:
        """Patch features (N, D, h, w), after the final LayerNorm, of images (N, 3, H, W) in [0, 1]."""
        tokens: Tensor = self.backbone.forward_features(self._preprocess(images))
        patches = tokens[:, self.backbone.num_prefix_tokens :].float()
        h, w = self.backbone.patch_embed.grid_size
        return patches.transpose(1, 2).reshape(len(images), self.dim, h, w)

    @property
    def fingerprint(self) -> str:
        """Hash of configuration and weights: two encoders with the same one give the same features."""
        return files.fingerprint(config_module.to_dict(self.config), self.state_dict())

    @property
    def attention_shape(self) -> tuple[int, int, int]:
        """Heads, tokens and features per head of the attention over one image."""
        h, w = self.backbone.patch_embed.grid_size
        attention = self._attentions()[0]
        return attention.num_heads, h * w + self.backbone.num_prefix_tokens, attention.head_dim

    def set_fused_attention(self, enabled: bool) -> None:
        """Choose torch's fused attention or the plain softmax(q k) v, which is faster in bfloat16 on some CPUs.

        A choice of speed, not part of the fingerprint; make it before ``torch.compile``.
        """
        for attention in self._attentions():
            attention.fused_attn = enabled

    def set_checkpointing(self, enabled: bool) -> None:
        """Keep only what enters each block and compute the rest again in the backward pass: less memory, more time."""
        self.backbone.set_grad_checkpointing(enabled)

    def _attentions(self) -> list[Any]:
        return [module for module in self.backbone.modules() if hasattr(module, "fused_attn")]

    def _preprocess(self, images: Tensor) -> Tensor:
        size = (self.config.image_size, self.config.image_size)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
        return (images - self.mean) / self.std


def seen_size(encoder: object) -> int:
    """Side in pixels of the square that an encoder sees; 64 for what takes pictures of any size."""
    return encoder.config.image_size if isinstance(encoder, Encoder) else _SIZE_OF_OTHERS


def centre(picture: Tensor, size: int) -> Tensor:
    """The centre (3, size, size) of a picture (3, H, W) in uint8; a square picture as it is.

    The shorter side becomes ``size`` * 256 / 224 first, as in the published linear probe (StableRep, `main_linear.py`).
    """
    height, width = picture.shape[-2:]
    if height == width:
        return picture
    longest = _LONGEST * min(height, width)  # of a crafted strip the longer side would fill the memory
    picture = transforms.center_crop(picture, [min(height, longest), min(width, longest)])
    picture = transforms.resize(picture, [round(size * _MARGIN)], antialias=True)
    square: Tensor = transforms.center_crop(picture, [size, size])
    return square


class ProjectionHead(nn.Module):
    """The published projection head: Linear, BatchNorm, ReLU per hidden layer, then Linear, all with bias.

    Batch-norm statistics are taken per view over the rows of all ranks, as in the official StableRep, which
    calls its head once per view.
    """

    def __init__(self, in_dim: int, hidden: int = 4096, out: int = 256, num_layers: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(num_layers - 1):
            layers += [
                nn.Linear(in_dim if index == 0 else hidden, hidden),
                runtime.SyncBatchNorm1d(hidden),
                nn.ReLU(inplace=True),
            ]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden if num_layers > 1 else in_dim, out))

    def forward(self, features: Tensor, valid: Tensor | None = None) -> Tensor:
        """Project features (N, V, D) to (N, V, out).

        Rows outside ``valid (N, V)`` take no part in the statistics and come out as zeros. Every rank passes
        ``valid`` or none does.
        """
        if valid is None:
            num, views = features.shape[:2]
            rows = self._project(features.transpose(0, 1).flatten(0, 1), [num] * views)
            return rows.view(views, num, -1).transpose(0, 1)
        counts = runtime.all_reduce_sum(valid.sum(0)).tolist()
        place, sizes = _rows_by_statistics(valid, counts)
        rows = self._project(features[place], sizes)
        return rows.new_zeros(*valid.shape, rows.shape[1]).index_put(place, rows)

    def _project(self, rows: Tensor, sizes: list[int]) -> Tensor:
        """Rows (M, D) to (M, out), in groups of these sizes with statistics of their own.

        Products take all rows at once, so that the gradient of their weights is not added up group by group.
        """
        for layer in self.layers:
            by_group = self.training and isinstance(layer, nn.BatchNorm1d)
            rows = torch.cat([layer(part) for part in torch.split(rows, sizes)]) if by_group else layer(rows)
        return rows


def _rows_by_statistics(valid: Tensor, counts: list[int]) -> tuple[tuple[Tensor, ...], list[int]]:
    """Indices (sample, view) of the valid rows, those that are normalised together in a row, and how many these are."""
    places = []
    for views in _views_by_statistics(counts):
        member = torch.zeros_like(valid)
        member[:, views] = valid[:, views]
        places.append(torch.nonzero(member, as_tuple=True))
    joined = tuple(torch.cat(index) for index in zip(*places, strict=True))
    return joined, [len(place[0]) for place in places]


def _views_by_statistics(counts: list[int]) -> list[list[int]]:
    """Views that are normalised together: each alone, but those with a single row join the fullest view.

    Batch norm of one row is a constant, and torch refuses it; ``counts`` are global, so all ranks agree.
    """
    fullest = counts.index(max(counts))
    single = [view for view, count in enumerate(counts) if count == 1 and view != fullest]
    others = [[view] for view, count in enumerate(counts) if count > 1 and view != fullest]
    return [[fullest, *single], *others]


def save_encoder(encoder: Encoder, folder: Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Write the weights, and a description (configuration, fingerprint, free metadata), into ``folder``."""
    description = {
        "config": config_module.to_dict(encoder.config),
        "fingerprint": encoder.fingerprint,
        "metadata": dict(encoder.metadata if metadata is None else metadata),
    }
    _FILES.write(folder, encoder.state_dict(), description)


def load_encoder(
    name_or_path: str | Path, device: str | torch.device = "cpu", *, download: bool = False
) -> Encoder:
    """Load an encoder in evaluation mode, whoever trained it.

    ``name_or_path``: a shipped name, a run folder, a folder of ``save_encoder``; an official StableRep or SynCLR
    checkpoint; ``timm:NAME[@FILE]``, ``open_clip:NAME@FILE``, or a folder as these libraries write them. Weights that
    are only named are taken from the hub's cache, and fetched only with ``download``. Raises ``UserError`` where there
    is none, where a file is damaged or could run code, and where weights and description do not belong together.
    """
    folder = find_folder(name_or_path)
    if folder is None:
        from stablerep.models import foreign  # which builds on this module

        return foreign.load_encoder(name_or_path, download=download).to(device)
    description = _FILES.read_description(folder)
    config = config_module.build(EncoderConfig, description["config"], origin=str(folder / DESCRIPTION))
    encoder = empty_encoder(config)
    encoder.load_state_dict(_FILES.read_weights(folder, encoder.state_dict()))
    _FILES.require_fingerprint(folder, encoder.fingerprint, description["fingerprint"])
    encoder.metadata = dict(description.get("metadata", {}))
    return encoder.to(device).eval()


def empty_encoder(config: EncoderConfig) -> Encoder:
    """An encoder to be filled: initial weights are drawn only to be overwritten, and no other draw is moved by it."""
    with torch.random.fork_rng(devices=[]):
        return Encoder(config)


def shipped_encoders() -> list[str]:
    """Names of the encoders that ship with the package."""
    root = _shipped_root()
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []


def _shipped_root() -> Traversable:
    return resources.files("stablerep") / "assets" / "encoders"


def _vision_transformer(config: EncoderConfig) -> Any:
    known = timm.list_models(module="vision_transformer")
    if config.architecture not in known:
        near = difflib.get_close_matches(config.architecture, known, n=3, cutoff=0.5) or [
            "vit_small_patch16_224"
        ]
        raise UserError(
            f"timm has no vision transformer {config.architecture!r}; the nearest: {', '.join(near)}"
        )
    asked = {
        "patch_size": config.patch_size,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.num_heads,
    }
    overrides = {name: value for name, value in asked.items() if value is not None}
    try:
        backbone = timm.create_model(
            config.architecture,
            pretrained=False,
            num_classes=0,
            global_pool="token",
            img_size=config.image_size,
            drop_path_rate=config.drop_path,
            **overrides,
        )
    except AssertionError as error:  # how timm refuses sizes that do not fit together
        raise UserError(
            f"encoder {config.architecture} with {overrides or 'its own sizes'}: {error}"
        ) from error
    patch_size = backbone.patch_embed.patch_size[0]
    if config.image_size % patch_size:
        raise UserError(f"image_size {config.image_size} is not a multiple of the patch size {patch_size}")
    return backbone


def find_folder(name_or_path: str | Path) -> Path | None:
    """The folder with an encoder of this program; None where it is one of another library.

    Raises ``UserError`` that lists the shipped encoders where it is neither.
    """
    path = Path(name_or_path)
    if str(name_or_path) in shipped_encoders():
        path = Path(str(_shipped_root() / str(name_or_path)))
    for folder in (path, path / "encoder", path.parent if path.name == WEIGHTS else path):
        if (folder / DESCRIPTION).is_file():
            return folder
    from stablerep.models import foreign  # which builds on this module

    if foreign.is_foreign(name_or_path):
        return None
    if path.is_file():
        raise UserError(
            f"{path} is no file with weights; those end in {', '.join(weights.SUFFIXES)}, and an encoder of "
            f"this program is a folder with {DESCRIPTION} and {WEIGHTS}"
        )
    if (path / "run.json").is_file():
        if (path / "teacher").is_dir():
            raise UserError(
                f"{path} is the run of a painter, and holds no encoder; painters are measured by `stablerep evaluate "
                f"painter {path} --world WORLD --judge ENCODER`"
            )
        raise UserError(
            f"{path} is a run without an encoder: one that learns something else, or that has not come to its end; "
            "the command that trains it goes on"
        )
    lacking = f"the folder has no {DESCRIPTION}" if path.is_dir() else "there is no such folder"
    raise UserError(
        f"no encoder {str(name_or_path)!r}: {lacking}, "
        f"and the shipped encoders are: {', '.join(shipped_encoders()) or 'none'}; those of other libraries are "
        "named timm:NAME or open_clip:NAME@FILE"
    )
