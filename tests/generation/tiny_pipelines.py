"""Random-weight text-to-image pipelines of a few hundred kilobytes, saved as ordinary diffusers folders.

Every builder takes the folder to write. The weights are drawn from a fixed seed, so a folder is the same wherever it
is built; its pictures are coloured noise, which is all that these tests need.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

_WORDS = (
    "a",
    "the",
    "red",
    "blue",
    "round",
    "small",
    "cat",
    "dog",
    "sun",
    "leaf",
    "house",
    "boat",
    "of",
    "with",
    "and",
)
_CLIP_EDGES = ("<|startoftext|>", "<|endoftext|>")


def clip_tokenizer() -> transformers.CLIPTokenizer:
    """A CLIP tokenizer over single letters: 54 entries, no merges."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = [*_CLIP_EDGES, *letters, *(letter + "</w>" for letter in letters)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=16)


def t5_tokenizer() -> transformers.T5TokenizerFast:
    """A T5 unigram tokenizer over letters and a few words."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *(f"▁{word}" for word in _WORDS)]
    pieces += [chr(code) for code in range(ord("a"), ord("z") + 1)]
    scores = [0.0 if piece.startswith("<") else -float(len(_WORDS)) / len(piece) for piece in pieces]
    vocabulary = list(zip(pieces, scores, strict=True))
    return transformers.T5TokenizerFast(vocab=vocabulary, extra_ids=0, model_max_length=24)


def word_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A word-level tokenizer in the class that the embedded teacher uses."""
    tokens = ["<pad>", "</s>", "<unk>", *_WORDS]
    tokenizer = Tokenizer(
        models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=24,
    )


def gemma_tokenizer() -> transformers.GemmaTokenizerFast:
    """A Gemma tokenizer over single letters."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *(chr(code) for code in range(33, 127))]
    return transformers.GemmaTokenizerFast(vocab={token: i for i, token in enumerate(tokens)}, merges=[])


def clip_text(width: int, projected: bool) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=54, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=0, eos_token_id=1, pad_token_id=1, projection_dim=width,
    )  # fmt: skip
    return (transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel)(config)


def t5_text(vocabulary: int, width: int = 16) -> transformers.T5EncoderModel:
    return transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=vocabulary, d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2
        )
    )


def autoencoder(latent_channels: int = 4, **options: Any) -> diffusers.AutoencoderKL:
    """Factor 2: 8 x 8 latents for pictures of 16 x 16."""
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=latent_channels,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=16,
        **options,
    )


def unet(context: int, **options: Any) -> diffusers.UNet2DConditionModel:
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=context,
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        **options,
    )


def ddim(**options: Any) -> diffusers.DDIMScheduler:
    return diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1, **options,
    )  # fmt: skip


def stable_diffusion(folder: Path) -> None:
    torch.manual_seed(1)
    diffusers.StableDiffusionPipeline(
        vae=autoencoder(), text_encoder=clip_text(16, projected=False), tokenizer=clip_tokenizer(), unet=unet(16),
        scheduler=ddim(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip


def stable_diffusion_xl(folder: Path) -> None:
    torch.manual_seed(2)
    conditions = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
    diffusers.StableDiffusionXLPipeline(
        vae=autoencoder(), text_encoder=clip_text(16, projected=False), tokenizer=clip_tokenizer(),
        text_encoder_2=clip_text(16, projected=True), tokenizer_2=clip_tokenizer(), scheduler=ddim(),
        unet=unet(32, **conditions, projection_class_embeddings_input_dim=6 * 4 + 16), add_watermarker=False,
    ).save_pretrained(folder)  # fmt: skip


def stable_diffusion_3(folder: Path) -> None:
    torch.manual_seed(3)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=32,
    )  # fmt: skip
    diffusers.StableDiffusion3Pipeline(
        transformer=transformer, vae=autoencoder(shift_factor=0.1), text_encoder=clip_text(16, projected=True),
        tokenizer=clip_tokenizer(), text_encoder_2=clip_text(16, projected=True), tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5_text(len(t5_tokenizer()), width=32), tokenizer_3=t5_tokenizer(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    ).save_pretrained(folder)  # fmt: skip


def stable_diffusion_3_without_t5(folder: Path) -> None:
    """As it is often kept: the largest of its text encoders left out."""
    stable_diffusion_3(folder)
    whole = diffusers.DiffusionPipeline.from_pretrained(folder, text_encoder_3=None, tokenizer_3=None)
    shutil.rmtree(folder)
    whole.save_pretrained(folder)


def flux(folder: Path) -> None:
    torch.manual_seed(4)
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )  # fmt: skip
    diffusers.FluxPipeline(
        transformer=transformer, vae=autoencoder(shift_factor=0.1), text_encoder=clip_text(16, projected=False),
        tokenizer=clip_tokenizer(), text_encoder_2=t5_text(len(t5_tokenizer())), tokenizer_2=t5_tokenizer(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    ).save_pretrained(folder)  # fmt: skip


def pixart(folder: Path, num_layers: int = 2) -> None:
    """The family of the embedded teacher: T5, a word-level tokenizer, velocity prediction."""
    torch.manual_seed(5)
    transformer = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, num_layers=num_layers,
        cross_attention_dim=16, sample_size=8, patch_size=2, caption_channels=16,
    )  # fmt: skip
    diffusers.PixArtAlphaPipeline(
        transformer=transformer, vae=autoencoder(), text_encoder=t5_text(len(word_tokenizer())),
        tokenizer=word_tokenizer(), scheduler=ddim(prediction_type="v_prediction"),
    ).save_pretrained(folder)  # fmt: skip


def sana(folder: Path) -> None:
    torch.manual_seed(6)
    transformer = diffusers.SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=4,
        num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=8,
        sample_size=32, patch_size=1,
    )  # fmt: skip
    vae = diffusers.AutoencoderDC(
        latent_channels=4, attention_head_dim=2, encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), encoder_block_types="ResBlock",
        decoder_block_types="ResBlock", encoder_qkv_multiscales=((), ()), decoder_qkv_multiscales=((), ()),
        downsample_block_type="conv", upsample_block_type="interpolate", decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
    )  # fmt: skip
    text = transformers.Gemma2Config(
        vocab_size=len(gemma_tokenizer()), hidden_size=8, intermediate_size=8, num_hidden_layers=1, head_dim=4,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    diffusers.SanaPipeline(
        transformer=transformer, vae=vae, text_encoder=transformers.Gemma2Model(text), tokenizer=gemma_tokenizer(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    ).save_pretrained(folder)  # fmt: skip


BUILDERS: dict[str, Callable[[Path], None]] = {
    "stable_diffusion": stable_diffusion,
    "stable_diffusion_xl": stable_diffusion_xl,
    "stable_diffusion_3": stable_diffusion_3,
    "stable_diffusion_3_without_t5": stable_diffusion_3_without_t5,
    "flux": flux,
    "pixart": pixart,
    "sana": sana,
}
