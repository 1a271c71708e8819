"""Folders of timm, of open_clip, and of this program, from an encoder and its text tower.

All hold weights as safetensors. Shapes: D features, E width of the joint space.
"""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from stablerep.errors import UserError
from stablerep.models import foreign, tokenizers_out
from stablerep.models.encoder import Encoder, EncoderConfig, save_encoder
from stablerep.models.joint import ImageText, LinearProjection, save_image_text
from stablerep.models.text import LearnedVocabulary
from stablerep.run import write_text


def write_timm(encoder: Encoder, joint: ImageText | None, folder: Path) -> str:
    """A folder for ``timm.create_model("local-dir:FOLDER")``, which can be uploaded to a hub as it is."""
    del joint  # timm's models read images only
    _write_json(folder / foreign.TIMM_CONFIG, _timm_config(encoder))
    save(encoder.backbone.state_dict(), folder / foreign.TIMM_WEIGHTS)
    return (
        "```python\nimport timm\n\n"
        'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()\n'
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))\n"
        f"features = model(transform(image)[None])  # (1, {encoder.dim})\n```"
    )


def write_open_clip(encoder: Encoder, joint: ImageText | None, folder: Path) -> str:
    """A folder for ``open_clip.create_model("local-dir:FOLDER")``.

    An image tower whose sizes timm's name does not say goes into ``vision/``, which open_clip finds from within the
    folder only. Raises ``UserError`` for projections with layers, which open_clip does not have.
    """
    if joint is None or not isinstance(joint.image_projection, LinearProjection):
        raise UserError("open_clip has no projections with layers and batch norm; export to onnx instead")
    is_named = _is_named(encoder.config)
    if not is_named:
        (folder / "vision").mkdir()
        _write_json(folder / "vision" / foreign.TIMM_CONFIG, _timm_config(encoder))
    _write_json(folder / foreign.OPEN_CLIP_CONFIG, _open_clip_config(joint, is_named))
    tensors = {f"visual.trunk.{name}": value for name, value in encoder.backbone.state_dict().items()}
    tensors["visual.head.proj.weight"] = joint.image_projection.weight
    tensors |= {f"text.{name}": value for name, value in joint.text.transformer.state_dict().items()}
    tensors["text.text_projection"] = _weight(joint.text_projection).T
    tensors["logit_scale"] = joint.logit_scale
    save(tensors, folder / foreign.OPEN_CLIP_WEIGHTS)
    if isinstance(joint.text.vocabulary, LearnedVocabulary):
        tokenizers_out.write_tokenizer(joint.text, folder)
    place = "FOLDER" if is_named else "."
    within = (
        ""
        if is_named
        else "# from within the folder: open_clip looks for ./vision, as timm has no name for it\n"
    )
    return (
        f"```python\n{within}import open_clip\n\n"
        f'model, _, transform = open_clip.create_model_and_transforms("local-dir:{place}")\n'
        f'tokenizer = open_clip.get_tokenizer("local-dir:{place}")\n'
        "vectors = model.encode_image(transform(image)[None], normalize=True)\n"
        'texts = model.encode_text(tokenizer(["a red apple"]), normalize=True)\n```'
    )


def write_own(encoder: Encoder, joint: ImageText | None, folder: Path) -> str:
    """This program's own folder: ``encoder/`` and, where there is one, ``text/``."""
    if joint is None:
        save_encoder(encoder, folder / "encoder")
    else:
        save_image_text(joint, folder)
    return (
        "```python\nimport stablerep\n\n"
        'encoder = stablerep.load_encoder("FOLDER")  # images (N, 3, H, W) in [0, 1] -> features '
        f"(N, {encoder.dim})\n```\n\n"
        "Without `stablerep`: `encoder/encoder.safetensors` holds the weights of the timm model "
        f"`{encoder.config.architecture}` under the prefix `backbone.`; sizes, mean and standard deviation stand in "
        "`encoder/encoder.json`."
    )


def save(tensors: dict[str, Any], path: Path) -> None:
    """Tensors as one safetensors file that torch's libraries read."""
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    path.write_bytes(safetensors.torch.save(contiguous, metadata={"format": "pt"}))


def _is_named(config: EncoderConfig) -> bool:
    """Whether the name in timm says the sizes as well."""
    with torch.device("meta"):
        named = timm.create_model(config.architecture, num_classes=0, global_pool="token")
        own = Encoder(config).backbone
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in (named, own)]
    same_heads = named.blocks[0].attn.num_heads == own.blocks[0].attn.num_heads
    return shapes[0] == shapes[1] and same_heads


def _timm_config(encoder: Encoder) -> dict[str, Any]:
    config = encoder.config
    sizes = {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.num_heads,
    }
    return {
        "architecture": config.architecture,
        "num_classes": 0,
        "num_features": encoder.dim,
        "global_pool": "token",
        "model_args": {name: value for name, value in sizes.items() if value is not None},
        "pretrained_cfg": {
            "num_classes": 0,
            "input_size": [3, config.image_size, config.image_size],
            "fixed_input_size": True,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "squash",  # as `Encoder` resizes: both sides to the same length
            "mean": list(config.mean),
            "std": list(config.std),
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


def _open_clip_config(joint: ImageText, is_named: bool) -> dict[str, Any]:
    vision, text = joint.encoder.config, joint.text.config
    tower: dict[str, Any] = {
        "context_length": text.num_tokens,
        "vocab_size": joint.text.vocabulary.num_entries,
        "width": text.width,
        "heads": text.num_heads,
        "layers": text.depth,
        "pool_type": "eos",
        "eos_id": joint.text.vocabulary.end_id,
    }
    if isinstance(joint.text.vocabulary, LearnedVocabulary):
        tower["hf_tokenizer_name"] = "."  # open_clip reads the tokenizer of the folder
    return {
        "model_cfg": {
            "embed_dim": text.joint_width,
            "quick_gelu": text.activation is None,  # of the text tower; timm's towers have their own
            "custom_text": True,
            "vision_cfg": {
                "image_size": vision.image_size,
                "timm_model_name": vision.architecture if is_named else "local-dir:vision",
                "timm_model_pretrained": False,
                "timm_pool": "token",
                "timm_proj": "linear",
            },
            "text_cfg": tower,
        },
        "preprocess_cfg": {
            "size": vision.image_size,
            "mode": "RGB",
            "mean": list(vision.mean),
            "std": list(vision.std),
            "interpolation": "bilinear",
            "resize_mode": "squash",
        },
    }


def _weight(projection: nn.Module) -> Tensor:
    weight = projection.weight
    assert isinstance(weight, Tensor)
    return weight


def _write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")
