"""The painter: a PixArt transformer, the text encoder that it reads with, and the stock folder that both are saved as.

Text reaches the picture by cross-attention only.
"""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn

from stablerep.errors import UserError
from stablerep.models.joint import load_image_text
from stablerep.models.text import END, PAD, UNKNOWN, LearnedVocabulary, TextTower
from stablerep.models.text_huggingface import clip_text_config, clip_text_tensors
from stablerep.models.weights import quiet_libraries
from stablerep.run import read_json, write_text

TEXT_HEADS = 4
# The stock pipeline pads prompts to this length; the mask hides what a painter never read in training.
_STOCK_TOKENS = 120


def build_t5(vocabulary: int, width: int, depth: int) -> nn.Module:
    """A small T5 encoder with random weights."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=width // TEXT_HEADS,
        d_ff=width * 2,
        num_layers=depth,
        num_heads=TEXT_HEADS,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
    )
    encoder: nn.Module = T5EncoderModel(config)
    return encoder


def build_transformer(
    latents: Any, *, width: int, depth: int, num_heads: int, patch_size: int, text_width: int
) -> nn.Module:
    """A PixArt transformer with random weights for the latents that an autoencoder's configuration describes.

    Raises ``UserError`` where patches do not divide them.
    """
    from diffusers import PixArtTransformer2DModel
    from diffusers.models.attention_processor import AttnProcessor

    channels = latents.latent_channels
    side = latents.sample_size // 2 ** (len(latents.block_out_channels) - 1)
    if patch_size < 1 or side % patch_size:
        raise UserError(
            f"patch_size {patch_size} must divide the {side} latents on a side of a picture; give another one, or an "
            "autoencoder with a margin or with fewer channels"
        )
    transformer = PixArtTransformer2DModel(
        num_attention_heads=num_heads,
        attention_head_dim=width // num_heads,
        num_layers=depth,
        in_channels=channels,
        out_channels=channels,
        sample_size=side,
        patch_size=patch_size,
        cross_attention_dim=width,
        caption_channels=text_width,
        use_additional_conditions=False,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
    )
    if not torch.cuda.is_available():  # torch's fused kernel is slower on CPUs in bfloat16 at these lengths
        transformer.set_attn_processor(AttnProcessor())
    module: nn.Module = transformer
    return module


def read_text_tower(run: Path) -> tuple[nn.Module, Tokenizer, int]:
    """The text tower of a CLIP or StableRep+ run as transformers' ``CLIPTextModel``; its tokenizer; how many tokens it
    reads.

    Raises ``UserError`` for a tower with CLIP's own vocabulary, whose tokenizer a painter's folder cannot hold.
    """
    tower = load_image_text(run).text
    if not isinstance(tower.vocabulary, LearnedVocabulary):
        raise UserError(
            f"{run}: its text tower reads CLIP's own vocabulary, a painter one that was learned from its captions; "
            "train it with method.text.vocabulary"
        )
    return _as_clip_text_model(tower), tower.vocabulary.tokenizer, tower.config.num_tokens


def build_like(folder: Path) -> nn.Module:
    """A text encoder with random weights of the class and sizes of the one in ``folder``."""
    from transformers import AutoConfig, CLIPTextModel, T5EncoderModel

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no text encoder to start from: {error}") from error
    kinds: dict[str, Any] = {"t5": T5EncoderModel, "clip_text_model": CLIPTextModel}
    if config.model_type not in kinds:
        raise UserError(f"{folder} holds a {config.model_type}; a painter reads with {' or '.join(kinds)}")
    encoder: nn.Module = kinds[config.model_type](config)
    return encoder


def save_painter(
    folder: Path, parts: nn.ModuleDict, vae: nn.Module, tokenizer: Tokenizer, defaults: dict[str, Any]
) -> None:
    """Write ``text_encoder`` and ``transformer`` of the parts, in half precision, as a stock ``PixArtAlphaPipeline``.

    ``defaults`` is what ``generate`` takes where nothing else is asked; ``solver_order`` 1 among them makes every step
    of the sampler a plain Euler step.
    """
    from diffusers import PixArtAlphaPipeline
    from transformers import PreTrainedTokenizerFast

    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    pipeline = PixArtAlphaPipeline(
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token=PAD,
            eos_token=END,
            unk_token=UNKNOWN,
            model_max_length=_STOCK_TOKENS,
        ),
        text_encoder=copy.deepcopy(parts["text_encoder"]).half(),
        transformer=copy.deepcopy(parts["transformer"]).half(),
        vae=copy.deepcopy(vae).half(),
        scheduler=sampler(defaults.pop("solver_order", 2)),
    )
    with quiet_libraries():
        pipeline.save_pretrained(folder, safe_serialization=True)
    make_portable(folder)
    write_text(folder / "stablerep.json", json.dumps(defaults, indent=2) + "\n")


def sampler(solver_order: int) -> Any:
    """DPM-Solver++ (Lu et al. 2022) on the straight line from noise to latent; of order 1 it is Euler's method."""
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(
        use_flow_sigmas=True,
        prediction_type="flow_prediction",
        flow_shift=1.0,
        final_sigmas_type="zero",
        solver_order=solver_order,
    )


def make_portable(folder: Path) -> None:
    """Let a saved pipeline load in one precision, and say nothing of where its parts were loaded from.

    Where nothing is asked, diffusers loads in float32, transformers in the precision that its ``config.json`` names.
    """
    for path in (folder / "model_index.json", *sorted(folder.glob("*/config.json"))):
        settings = read_json(path)
        settings.pop("_name_or_path", None)
        if "dtype" in settings:
            settings["dtype"] = "float32"
        write_text(path, json.dumps(settings, indent=2) + "\n")


# -- open_clip's tower as transformers' ----------------------------------------------------------------


@torch.no_grad()
def _as_clip_text_model(tower: TextTower) -> nn.Module:
    """The same states for the same tokens; positions beyond those the tower knows are zero."""
    from transformers import CLIPTextModel

    num_positions = max(_STOCK_TOKENS, tower.config.num_tokens)
    model = CLIPTextModel(
        clip_text_config(tower, max_position_embeddings=num_positions, pad_token_id=0, bos_token_id=None)
    )
    target = {name.removeprefix("text_model."): value for name, value in model.state_dict().items()}
    source = clip_text_tensors(tower)
    for name, value in target.items():
        if name in source:
            value.zero_()
            value[: len(source[name])] = source[name]
    unfilled = sorted(name for name in target.keys() - source.keys() if not name.endswith("position_ids"))
    assert not unfilled, unfilled
    text: nn.Module = model
    return text
