"""A text tower as transformers' ``CLIPTextModel``, which painters read and exports hold."""

from typing import Any

from torch import Tensor

from stablerep.models.text import TextTower

_NAMES = (
    ("token_embedding.", "embeddings.token_embedding."),
    ("positional_embedding", "embeddings.position_embedding.weight"),
    ("transformer.resblocks.", "encoder.layers."),
    (".ln_1.", ".layer_norm1."),
    (".ln_2.", ".layer_norm2."),
    (".attn.out_proj.", ".self_attn.out_proj."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
    ("ln_final.", "final_layer_norm."),
)


def clip_text_config(tower: TextTower, **more: Any) -> Any:
    """The ``CLIPTextConfig`` of a tower; ``more`` are further fields, or other values."""
    from transformers import CLIPTextConfig

    config, vocabulary = tower.config, tower.vocabulary
    fields = {
        "vocab_size": vocabulary.num_entries,
        "hidden_size": config.width,
        "intermediate_size": 4 * config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "max_position_embeddings": config.num_tokens,
        "hidden_act": "quick_gelu" if config.activation is None else "gelu",
        "eos_token_id": vocabulary.end_id,
    }
    return CLIPTextConfig(**fields | more)


def clip_text_tensors(tower: TextTower) -> dict[str, Tensor]:
    """The tower's weights under the names of transformers' text model."""
    tensors: dict[str, Tensor] = {}
    for name, value in tower.transformer.state_dict().items():
        renamed = name
        for old, new in _NAMES:
            renamed = renamed.replace(old, new)
        if ".attn.in_proj_" not in name:
            tensors[renamed] = value
            continue
        for part, place in zip(value.chunk(3), ("q_proj", "k_proj", "v_proj"), strict=True):
            tensors[renamed.replace(".attn.in_proj_", f".self_attn.{place}.")] = part
    return tensors
