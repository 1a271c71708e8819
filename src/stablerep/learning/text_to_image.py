"""The student painter: a stock PixArt transformer with its own text encoder, trained by flow matching on latents.

Saved as an ordinary diffusers folder (``PixArtAlphaPipeline``), it loads like any other teacher. Text reaches the
picture by cross-attention only.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from stablerep.errors import UserError
from stablerep.learning.method import Batch, Method, StepResult, load_weights, mean_over_valid
from stablerep.models.text import END, PAD, UNKNOWN, train_tokenizer
from stablerep.run import write_text

_TEXT_HEADS = 4


@dataclass(frozen=True, kw_only=True)
class TextToImageConfig:
    """Architecture and objective of the painter."""

    autoencoder: Path
    """Folder of an AutoencoderKL, as `train autoencoder` exports it."""
    vocabulary: int = 4096
    """Entries of the byte-pair vocabulary, learned from the captions."""
    vocabulary_from: str = "split IS NULL OR split = 'train'"
    """Filter on the caption table: which captions the vocabulary is learned from."""
    num_tokens: int = 24
    """T, tokens per caption in training; longer captions are cut."""
    width: int = 256
    depth: int = 8
    num_heads: int = 4
    patch_size: int = 2
    text_width: int = 256
    text_depth: int = 3
    caption_dropout: float = 0.1
    """Share of captions replaced by the empty one, for classifier-free guidance."""
    time_mean: float = 0.0
    """Mean of the logit-normal distribution of noise levels; larger means noisier."""
    time_std: float = 1.0
    ema_decay: float = 0.999
    """Decay of the moving average of the weights, which is what is exported."""
    num_inference_steps: int = 12
    """Default of the exported painter."""
    guidance_scale: float = 4.0
    """Default of the exported painter."""
    styles: tuple[str, ...] = ()
    """Styles that the exported painter is asked for by default; trained with data.style_probability."""
    start_from: Path | None = None
    """Folder of a painter of the same architecture, as exported, whose weights (the average) and vocabulary are
    trained further."""
    batch_size: int = 32
    """Pictures that the exported painter paints together, by default."""

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} must divide width {self.width}")
        if self.text_width % _TEXT_HEADS:
            raise ValueError(f"text_width must be a multiple of {_TEXT_HEADS}, got {self.text_width}")
        for name in ("caption_dropout", "ema_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")


def _tokenizer(config: TextToImageConfig, texts: Sequence[str]) -> Tokenizer:
    if config.start_from is None:
        return train_tokenizer(texts, config.vocabulary)
    path = config.start_from / "tokenizer" / "tokenizer.json"
    if not path.exists():
        raise UserError(f"{config.start_from} holds no painter to start from ({path} is missing)")
    return Tokenizer.from_file(str(path))


class TextToImage(Method):
    """Rectified flow (Liu et al. 2022): the student predicts ``noise - latent`` on the straight line between them."""

    def __init__(self, config: TextToImageConfig, texts: Sequence[str]) -> None:
        super().__init__()
        from diffusers import AutoencoderKL

        if not (config.autoencoder / "config.json").exists():
            raise UserError(
                f"{config.autoencoder} holds no autoencoder (config.json); train one with `train autoencoder`"
            )
        self.config = config
        self.tokenizer = _tokenizer(config, texts)
        self.tokenizer.enable_padding(length=config.num_tokens, pad_token=PAD, pad_id=self._id(PAD))
        self.tokenizer.enable_truncation(config.num_tokens)
        self.vae = (
            AutoencoderKL.from_pretrained(config.autoencoder, use_safetensors=True)
            .requires_grad_(False)
            .eval()
        )
        self.student = _build_student(config, self.tokenizer.get_vocab_size(), self.vae.config)
        if config.start_from is not None:
            for name, module in self.student.items():
                load_weights(module, config.start_from / name)
        self.average = copy.deepcopy(self.student).requires_grad_(False).eval()
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.long))

    def train(self, mode: bool = True) -> "TextToImage":
        """Only the student trains; the autoencoder and the average stay as they are."""
        super().train(mode)
        self.vae.eval()
        self.average.eval()
        return self

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """Predicted and true velocity ``(N*V, c, h, w)`` at a noise level drawn per sample from its seed."""
        with torch.no_grad():
            images = batch["image"].flatten(0, 1) * 2 - 1
            latents = self.vae.encode(images).latent_dist.mode().float() * self.vae.config.scaling_factor
            noise, level, dropped = self._draw(batch["seed"], latents)
        num_views = batch["image"].shape[1]
        tokens = torch.where(dropped[:, None], _empty_like(self, batch["tokens"]), batch["tokens"])
        mask = (tokens != self._id(PAD)).long()
        text = self.student["text_encoder"](input_ids=tokens, attention_mask=mask)[0]
        noisy = torch.lerp(latents, noise, level[:, None, None, None])
        predicted = self.student["transformer"](
            noisy,
            encoder_hidden_states=text.repeat_interleave(num_views, 0),
            encoder_attention_mask=mask.repeat_interleave(num_views, 0),
            timestep=level * 1000,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            return_dict=False,
        )[0]
        return {"predicted": predicted.float(), "velocity": noise - latents}

    def loss(self, features: dict[str, Tensor], batch: Batch) -> StepResult:
        """Mean squared error of the velocity."""
        squared = (features["predicted"] - features["velocity"]).square().flatten(1).mean(1)
        return StepResult(loss=mean_over_valid(squared, batch), logs={})

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the average; early on it follows faster, so that the random start is forgotten."""
        self.num_updates += 1
        updates = int(self.num_updates)
        decay = min(self.config.ema_decay, (1 + updates) / (10 + updates))
        averages: list[Tensor] = list(self.average.parameters())
        values: list[Tensor] = list(self.student.parameters())
        torch._foreach_lerp_(averages, values, 1 - decay)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids ``(N, T)``, padded and cut to T."""
        return torch.tensor([encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))])

    def hot_modules(self) -> Sequence[nn.Module]:
        """Transformer and text encoder of the student."""
        return [self.student["transformer"], self.student["text_encoder"]]

    def export(self, folder: Path) -> Path:
        """Save the averaged weights, in half precision, as a stock pipeline folder."""
        from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline
        from transformers import PreTrainedTokenizerFast

        tokenizer = copy.deepcopy(self.tokenizer)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        pipeline = PixArtAlphaPipeline(
            tokenizer=PreTrainedTokenizerFast(
                tokenizer_object=tokenizer,
                pad_token=PAD,
                eos_token=END,
                unk_token=UNKNOWN,
                model_max_length=120,
            ),
            text_encoder=copy.deepcopy(self.average["text_encoder"]).half(),
            transformer=copy.deepcopy(self.average["transformer"]).half(),
            vae=copy.deepcopy(self.vae).half(),
            scheduler=DPMSolverMultistepScheduler(
                use_flow_sigmas=True,
                prediction_type="flow_prediction",
                flow_shift=1.0,
                final_sigmas_type="zero",
            ),
        )
        path = folder / "teacher"
        pipeline.save_pretrained(path, safe_serialization=True)
        # Let the text encoder load in float32 as the other parts do: transformers takes the stored precision otherwise.
        _amend(path / "text_encoder" / "config.json", dtype="float32")
        _amend(path / "vae" / "config.json")
        defaults = {
            "num_inference_steps": self.config.num_inference_steps,
            "guidance_scale": self.config.guidance_scale,
            "scheduler": "teacher",
            "max_sequence_length": self.config.num_tokens,
            "batch_size": self.config.batch_size,
            "styles": list(self.config.styles),
        }
        write_text(path / "stablerep.json", json.dumps(defaults, indent=2) + "\n")
        return path

    def _draw(self, seeds: Tensor, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Noise like the latents, noise levels ``(N*V,)`` in (0, 1), and which of the N captions are dropped."""
        num_views = len(latents) // len(seeds)
        noise, normal, uniform = [], [], []
        for seed in seeds:
            generator = torch.Generator().manual_seed(int(seed))
            noise.append(torch.randn((num_views, *latents.shape[1:]), generator=generator))
            normal.append(torch.randn(num_views, generator=generator))
            uniform.append(torch.rand((), generator=generator))
        level = torch.sigmoid(self.config.time_mean + self.config.time_std * torch.cat(normal))
        dropped = torch.stack(uniform) < self.config.caption_dropout
        return torch.cat(noise).to(latents), level.to(latents), dropped.to(latents.device)

    def _id(self, token: str) -> int:
        number = self.tokenizer.token_to_id(token)
        assert number is not None  # the three marks are in every vocabulary
        return int(number)

    num_updates: Tensor


def _empty_like(painter: TextToImage, tokens: Tensor) -> Tensor:
    """The tokens of the empty caption: the end mark alone."""
    empty = torch.full_like(tokens, painter._id(PAD))
    empty[:, 0] = painter._id(END)
    return empty


def _build_student(config: TextToImageConfig, vocabulary: int, latents: Any) -> nn.ModuleDict:
    from diffusers import PixArtTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    text_encoder = T5EncoderModel(
        T5Config(
            vocab_size=vocabulary,
            d_model=config.text_width,
            d_kv=config.text_width // _TEXT_HEADS,
            d_ff=config.text_width * 2,
            num_layers=config.text_depth,
            num_heads=_TEXT_HEADS,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            pad_token_id=0,
            eos_token_id=1,
        )
    )
    channels = latents.latent_channels
    downsampling = 2 ** (len(latents.block_out_channels) - 1)
    transformer = PixArtTransformer2DModel(
        num_attention_heads=config.num_heads,
        attention_head_dim=config.width // config.num_heads,
        num_layers=config.depth,
        in_channels=channels,
        out_channels=channels,
        sample_size=latents.sample_size // downsampling,
        patch_size=config.patch_size,
        cross_attention_dim=config.width,
        caption_channels=config.text_width,
        use_additional_conditions=False,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
    )
    return nn.ModuleDict({"text_encoder": text_encoder, "transformer": _plain_attention(transformer)})


def _plain_attention(transformer: Any) -> nn.Module:
    """Softmax attention spelled out: torch's fused kernel is slower on CPUs in bfloat16 at these lengths."""
    from diffusers.models.attention_processor import AttnProcessor

    if not torch.cuda.is_available():
        transformer.set_attn_processor(AttnProcessor())
    module: nn.Module = transformer
    return module


def _amend(config_path: Path, **changes: str) -> None:
    """Change a saved configuration; where its part was loaded from is nobody's business and is left out."""
    settings = json.loads(config_path.read_text(encoding="utf-8")) | changes
    settings.pop("_name_or_path", None)
    write_text(config_path, json.dumps(settings, indent=2) + "\n")
