"""The official checkpoints: StableRep, StableRep+ and SynCLR files as encoders and image-text models of this program.

The layouts are those of google-research/syn-rep-learn (2023). Shapes: D features, E width of the joint space.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from torch import Tensor

from stablerep.errors import UserError
from stablerep.models import weights
from stablerep.models.encoder import DESCRIPTION, Encoder, EncoderConfig, empty_encoder
from stablerep.models.joint import ImageText, NoTextTowerError, empty_image_text
from stablerep.models.text import ClipVocabulary, TextConfig

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

_PATCHES = "patch_embed.proj.weight"
# In this order: the official files, SynCLR's trainer (its averaged weights first), a bare timm model.
_PREFIXES = ("visual.", "teacher.backbone.", "student.backbone.", "")
_SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large"}
_DEPTHS = {"tiny": 12, "small": 12, "base": 12, "large": 24}
_HEAD_DIM = 64
_MLP = {"layer1": "0", "bn1": "1", "layer2": "3", "bn2": "4", "layer3": "6"}
_TEXT = "text.transformer."


def read_encoder(path: Path) -> Encoder:
    """The encoder of an official file, or of any file with the weights of a plain timm vision transformer.

    Sizes are read from the shapes. Pictures are normalised with ImageNet's mean and standard deviation, for SynCLR
    with CLIP's, as its evaluation does. Raises ``UserError`` for a file that is refused, damaged or of another layout.
    """
    return _encoder(weights.read_tensors(path), path)


def read_image_text(path: Path) -> ImageText:
    """Both towers of an official StableRep+ or CLIP file; ``UserError`` where it has no text tower."""
    tensors = weights.read_tensors(path)
    if "token_embedding.weight" not in tensors:
        raise NoTextTowerError(
            f"{path} has no text tower; only StableRep+ and CLIP files compare images with texts"
        )
    encoder = _encoder(tensors, path)
    config = _text_config(tensors, path)
    model = empty_image_text(encoder, config, ClipVocabulary())
    named = _text_tensors(tensors, config) | {
        f"encoder.{name}": value for name, value in encoder.state_dict().items()
    }
    weights.put(model, named, path)
    return model.eval()


def plain_architecture(width: int, patch: int, image_size: int, depth: int) -> dict[str, Any]:
    """``EncoderConfig`` fields of a plain vision transformer: timm's name alone where it says everything."""
    size = _SIZES.get(width)
    name = f"vit_{size}_patch{patch}_{image_size}"
    if size and depth == _DEPTHS[size] and name in timm.list_models(module="vision_transformer"):
        return {"architecture": name, "image_size": image_size}
    if width % _HEAD_DIM:
        raise UserError(
            f"a vision transformer of width {width} is none of the published sizes, whose heads have {_HEAD_DIM} "
            "features each; name its architecture with timm:NAME@FILE"
        )
    return {
        "architecture": "vit_base_patch16_224",
        "image_size": image_size,
        "patch_size": patch,
        "width": width,
        "depth": depth,
        "num_heads": width // _HEAD_DIM,
    }


def _encoder(tensors: Mapping[str, Tensor], path: Path) -> Encoder:
    if "backbone." + _PATCHES in tensors:
        raise UserError(
            f"{path} holds weights of this program without the {DESCRIPTION} that says how they are read; give the "
            "folder that holds both"
        )
    prefix = next((prefix for prefix in _PREFIXES if prefix + _PATCHES in tensors), None)
    if prefix is None:
        raise UserError(
            f"{path} has no vision transformer in a known layout (no visual.{_PATCHES}); "
            "for others name the architecture: timm:NAME@FILE or open_clip:NAME@FILE"
        )
    vision = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    if not prefix:  # a bare model: what is not of the transformer stands beside it, such as a projection head
        vision = {
            name: value for name, value in vision.items() if re.match(r"(patch|pos|cls|blocks|norm)", name)
        }
    vision = {name: value for name, value in vision.items() if not re.match(r"head\.|mask_token", name)}
    is_synclr = "synclr" in path.name.lower() or prefix.endswith("backbone.")
    config = _vision_config(vision, path, is_synclr)
    encoder = empty_encoder(config)
    weights.put(encoder.backbone, vision, path)
    encoder.metadata = {"from": path.name, "normalisation": "CLIP" if is_synclr else "ImageNet"}
    return encoder.eval()


def _vision_config(vision: Mapping[str, Tensor], path: Path, is_synclr: bool) -> EncoderConfig:
    width, _, patch, _ = vision[_PATCHES].shape
    blocks = [int(match[1]) for name in vision if (match := re.match(r"blocks\.(\d+)\.", name))]
    if not blocks or "pos_embed" not in vision:
        raise UserError(f"{path} holds no whole vision transformer (no blocks or no pos_embed)")
    side = round((vision["pos_embed"].shape[1] - 1) ** 0.5)
    if side * side + 1 != vision["pos_embed"].shape[1]:
        raise UserError(
            f"{path}: {vision['pos_embed'].shape[1]} positions are no square and a class token; "
            "name the architecture: timm:NAME@FILE"
        )
    fields = plain_architecture(width, patch, side * patch, max(blocks) + 1)
    return EncoderConfig(**fields | ({"mean": CLIP_MEAN, "std": CLIP_STD} if is_synclr else {}))


def _text_config(tensors: Mapping[str, Tensor], path: Path) -> TextConfig:
    entries, width = tensors["token_embedding.weight"].shape
    projection = tensors.get("text_projection", tensors.get("text_projection.layer3.weight"))
    if projection is None or "positional_embedding" not in tensors:
        raise UserError(
            f"{path} holds a part of a text tower only (no text_projection or positional_embedding)"
        )
    is_mlp = "text_projection" not in tensors
    if entries != ClipVocabulary().num_entries:
        raise UserError(
            f"{path} reads {entries:,} tokens, CLIP's vocabulary has {ClipVocabulary().num_entries:,}"
        )
    blocks = [
        int(match[1]) for name in tensors if (match := re.match(r"transformer\.resblocks\.(\d+)\.", name))
    ]
    mlp: dict[str, Any] = (
        {"projection_hidden": tensors["text_projection.layer1.weight"].shape[0]} if is_mlp else {}
    )
    return TextConfig(
        width=width,
        depth=max(blocks, default=-1) + 1,
        num_heads=max(width // _HEAD_DIM, 1),
        num_tokens=tensors["positional_embedding"].shape[0],
        joint_width=projection.shape[0 if is_mlp else 1],
        projection="mlp" if is_mlp else "linear",
        **mlp,
    )


def _text_tensors(tensors: Mapping[str, Tensor], config: TextConfig) -> dict[str, Tensor]:
    """The official names of text tower, projections and scale as those of ``ImageText``."""
    named = {
        _TEXT + name: value
        for name, value in tensors.items()
        if re.match(r"(token_embedding|positional_embedding|transformer\.|ln_final)", name)
    }
    named["logit_scale"] = tensors["logit_scale"].reshape(())
    for projection in ("image_projection", "text_projection"):
        if config.projection == "linear":  # used as x @ P
            named[f"{projection}.weight"] = tensors[projection].T.contiguous()
            continue
        for official, place in _MLP.items():
            prefix = f"{projection}.{official}."
            named |= {
                f"{projection}.layers.{place}.{name.removeprefix(prefix)}": value
                for name, value in tensors.items()
                if name.startswith(prefix)
            }
    return named
