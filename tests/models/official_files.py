"""Checkpoints in the layout of the official StableRep code, small, and what they mean written out in plain torch."""

import argparse
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

ENTRIES = 49_408
WIDTH, DEPTH, SIZE, PATCH = 64, 2, 32, 8
TEXT_WIDTH, TEXT_DEPTH, JOINT = 64, 2, 16


def backbone(seed: int = 0) -> nn.Module:
    """The vision tower: timm's, with a width of one head."""
    torch.manual_seed(seed)
    sizes = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": 1}
    model = timm.create_model("vit_base_patch16_224", num_classes=0, **sizes)
    for parameter in model.parameters():  # no zeros and ones, so that a swapped pair of tensors is seen
        nn.init.normal_(parameter, std=0.1)
    return model.eval()


def mlp(prefix: str, width: int, hidden: int = 24, out: int = JOINT) -> dict[str, Tensor]:
    """A projection head of three layers, as the official code names it."""
    layers = {
        f"{prefix}.layer1.": nn.Linear(width, hidden),
        f"{prefix}.bn1.": nn.BatchNorm1d(hidden),
        f"{prefix}.layer2.": nn.Linear(hidden, hidden),
        f"{prefix}.bn2.": nn.BatchNorm1d(hidden),
        f"{prefix}.layer3.": nn.Linear(hidden, out),
    }
    return {
        place + name: value for place, layer in layers.items() for name, value in layer.state_dict().items()
    }


def text_tower(seed: int = 1) -> dict[str, Tensor]:
    """Text tower and linear projections of StableRep+."""
    torch.manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embedding.weight": (ENTRIES, TEXT_WIDTH),
        "positional_embedding": (77, TEXT_WIDTH),
        "ln_final.weight": (TEXT_WIDTH,),
        "ln_final.bias": (TEXT_WIDTH,),
        "text_projection": (TEXT_WIDTH, JOINT),
        "image_projection": (WIDTH, JOINT),
        "logit_scale": (),
    }
    for number in range(TEXT_DEPTH):
        block = f"transformer.resblocks.{number}."
        for name, rows in (("attn.in_proj_", 3), ("mlp.c_fc.", 4)):
            shapes[f"{block}{name}weight"] = (rows * TEXT_WIDTH, TEXT_WIDTH)
            shapes[f"{block}{name}bias"] = (rows * TEXT_WIDTH,)
        for name, columns in (("attn.out_proj.", 1), ("mlp.c_proj.", 4)):
            shapes[f"{block}{name}weight"] = (TEXT_WIDTH, columns * TEXT_WIDTH)
            shapes[f"{block}{name}bias"] = (TEXT_WIDTH,)
        for name in ("ln_1.", "ln_2."):
            shapes[f"{block}{name}weight"] = shapes[f"{block}{name}bias"] = (TEXT_WIDTH,)
    return {name: torch.randn(shape) * 0.2 for name, shape in shapes.items()}


def checkpoint(path: Path, tensors: dict[str, Tensor]) -> Path:
    """A file as the official trainer saves it, with its options."""
    options = argparse.Namespace(model="vit_base_patch16_224", batch_size=43, folder_list=["a", "b"])
    torch.save({"model": tensors, "optimizer": {}, "epoch": 14, "scaler": {}, "args": options}, path)
    return path


def visual(prefix: str = "visual.", seed: int = 0) -> dict[str, Tensor]:
    """The vision tower under a prefix."""
    return {prefix + name: value for name, value in backbone(seed).state_dict().items()}


def text_vectors(weights: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """What StableRep+ computes of tokens (N, T): CLIP's text tower, step by step, as unit vectors (N, E)."""
    x = weights["token_embedding.weight"][tokens] + weights["positional_embedding"]
    N, T, D = x.shape
    mask = torch.full((T, T), float("-inf")).triu(1)

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (D,), weights[f"{name}.weight"], weights[f"{name}.bias"])

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    for number in range(TEXT_DEPTH):
        block = f"transformer.resblocks.{number}."
        inner = norm(x, f"{block}ln_1")
        qkv = F.linear(inner, weights[f"{block}attn.in_proj_weight"], weights[f"{block}attn.in_proj_bias"])
        q, k, v = (part.reshape(N, T, 1, D).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        attention = (q @ k.transpose(-1, -2) * D**-0.5 + mask).softmax(-1) @ v
        x = x + linear(attention.transpose(1, 2).reshape(N, T, D), f"{block}attn.out_proj")
        hidden = linear(norm(x, f"{block}ln_2"), f"{block}mlp.c_fc")
        x = x + linear(hidden * torch.sigmoid(1.702 * hidden), f"{block}mlp.c_proj")
    last = norm(x, "ln_final")[torch.arange(N), tokens.argmax(-1)]
    return F.normalize(last @ weights["text_projection"], dim=-1)
