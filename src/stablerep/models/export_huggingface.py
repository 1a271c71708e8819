"""Folders of transformers: a ``ViTModel``, or with its text tower a ``VisionTextDualEncoderModel``.

Weights carry the names that transformers has written since version 4, which newer versions read too. D: features.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stablerep.errors import UserError
from stablerep.models import foreign, tokenizers_out
from stablerep.models.encoder import Encoder
from stablerep.models.export_formats import save
from stablerep.models.joint import ImageText, LinearProjection
from stablerep.models.text_huggingface import clip_text_config, clip_text_tensors

_VISION = (
    ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
    ("cls_token", "embeddings.cls_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("blocks.", "encoder.layer."),
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
    (".attn.proj.", ".attention.output.dense."),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
)


def write_huggingface(encoder: Encoder, joint: ImageText | None, folder: Path) -> str:
    """A folder for ``transformers.AutoModel``; ``pooler_output`` of the image tower is the feature.

    Raises ``UserError`` for a backbone that ``ViTModel`` does not compute, and for projections with layers.
    """
    from transformers import ViTImageProcessor

    config = encoder.config
    side = {"height": config.image_size, "width": config.image_size}
    processor = ViTImageProcessor(
        size=side, resample=2, image_mean=list(config.mean), image_std=list(config.std)
    )
    processor.save_pretrained(folder)
    if joint is None:
        _vision_config(encoder).save_pretrained(folder)
        save(_vision_tensors(encoder), folder / foreign.TIMM_WEIGHTS)
        return (
            "```python\nfrom transformers import AutoImageProcessor, AutoModel\n\n"
            'processor, model = AutoImageProcessor.from_pretrained("FOLDER"), AutoModel.from_pretrained("FOLDER")\n'
            'features = model(**processor(image, return_tensors="pt")).pooler_output'
            f"  # (1, {encoder.dim}), the class token\n```"
        )
    _write_joint(encoder, joint, folder)
    return (
        "```python\nfrom transformers import AutoImageProcessor, AutoTokenizer, VisionTextDualEncoderModel\n\n"
        'model = VisionTextDualEncoderModel.from_pretrained("FOLDER")\n'
        'pixels = AutoImageProcessor.from_pretrained("FOLDER")(image, return_tensors="pt")\n'
        'tokens = AutoTokenizer.from_pretrained("FOLDER")(["a red apple"], padding=True, return_tensors="pt")\n'
        "outputs = model(**pixels, **tokens)  # image_embeds and text_embeds are unit vectors\n```\n\n"
        f"`model.vision_model(**pixels).pooler_output` holds the features (1, {encoder.dim})."
    )


def _write_joint(encoder: Encoder, joint: ImageText, folder: Path) -> None:
    from transformers import VisionTextDualEncoderConfig

    if not isinstance(joint.image_projection, LinearProjection):
        raise UserError("transformers has no projections with layers and batch norm; export to onnx instead")
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        _vision_config(encoder), _text_config(joint), projection_dim=joint.text.config.joint_width
    )
    config.architectures = ["VisionTextDualEncoderModel"]
    config.save_pretrained(folder)
    tensors = {f"vision_model.{name}": value for name, value in _vision_tensors(encoder).items()}
    tensors |= {
        f"text_model.text_model.{name}": value for name, value in clip_text_tensors(joint.text).items()
    }
    tensors["visual_projection.weight"] = joint.image_projection.weight
    text_projection = joint.text_projection.weight
    assert isinstance(text_projection, Tensor)
    tensors["text_projection.weight"] = text_projection
    tensors["logit_scale"] = joint.logit_scale
    save(tensors, folder / foreign.TIMM_WEIGHTS)
    tokenizers_out.write_tokenizer(joint.text, folder)


def _vision_config(encoder: Encoder) -> Any:
    from transformers import ViTConfig

    backbone = encoder.backbone
    block = backbone.blocks[0]
    others = [name for name in backbone.state_dict() if not re.match(r"(patch|cls|pos|blocks|norm\.)", name)]
    others += [
        name for name in block.state_dict() if not re.match(r"(norm[12]|attn\.(qkv|proj)|mlp\.fc)", name)
    ]
    quick = type(block.mlp.act).__name__ == "QuickGELU"
    if others or backbone.num_prefix_tokens != 1:
        raise UserError(
            f"transformers' ViTModel has no {others[0] if others else 'register tokens'}, which "
            f"{encoder.config.architecture} has; export to timm or onnx instead"
        )
    return ViTConfig(
        architectures=["ViTModel"],
        hidden_size=encoder.dim,
        num_hidden_layers=len(backbone.blocks),
        num_attention_heads=block.attn.num_heads,
        intermediate_size=block.mlp.fc1.out_features,
        hidden_act="quick_gelu" if quick else "gelu",
        layer_norm_eps=backbone.norm.eps,
        image_size=encoder.config.image_size,
        patch_size=backbone.patch_embed.patch_size[0],
        pooler_act="linear",  # with an identity matrix: the pooled output is the class token itself
    )


def _text_config(joint: ImageText) -> Any:
    end = joint.text.vocabulary.end_id
    if end == 2:
        raise UserError(
            "transformers takes an end token with the id 2 for something else; export to onnx instead"
        )
    return clip_text_config(
        joint.text,
        projection_dim=joint.text.config.joint_width,
        pad_token_id=getattr(joint.text.vocabulary, "pad_id", end),
        bos_token_id=end - 1,
    )


def _vision_tensors(encoder: Encoder) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, value in encoder.backbone.state_dict().items():
        renamed = _renamed(name)
        if ".attn.qkv." not in name:
            tensors[renamed.replace("norm.", "layernorm.", 1) if name.startswith("norm.") else renamed] = (
                value
            )
            continue
        for part, place in zip(value.chunk(3), ("query", "key", "value"), strict=True):
            tensors[renamed.replace(".attn.qkv.", f".attention.attention.{place}.")] = part
    tensors["pooler.dense.weight"] = torch.eye(encoder.dim)
    tensors["pooler.dense.bias"] = torch.zeros(encoder.dim)
    return tensors


def _renamed(name: str) -> str:
    for old, new in _VISION:
        name = name.replace(old, new)
    return name
