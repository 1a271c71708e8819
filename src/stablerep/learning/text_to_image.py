"""The student painter: a stock PixArt transformer with its own text encoder, trained by flow matching on latents.

Saved as an ordinary diffusers folder (``PixArtAlphaPipeline``), it loads like any other teacher. Text reaches the
picture by cross-attention only.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from stablerep.errors import UserError
from stablerep.generation.folders import read_defaults
from stablerep.learning.alignment import Alignment, AlignmentConfig
from stablerep.learning.method import (
    Batch,
    Method,
    StepResult,
    generators,
    global_mean,
    load_weights,
    mean_over_valid,
    noise_like,
    read_model,
    with_margin,
)
from stablerep.models.painter import (
    TEXT_HEADS,
    build_like,
    build_t5,
    build_transformer,
    read_text_tower,
    save_painter,
)
from stablerep.models.text import END, PAD, train_tokenizer


@dataclass(frozen=True, kw_only=True)
class TextToImageConfig:
    """Architecture and objective of the painter."""

    autoencoder: Path
    """Folder of an AutoencoderKL, as `train autoencoder` exports it."""
    vocabulary: int = 4096
    """Entries of the byte-pair vocabulary, learned from the captions."""
    vocabulary_from: str = "split IS NULL OR split = 'train'"
    """Filter on the caption table: which captions the vocabulary is learned from."""
    margin: int = 0
    """Black pixels put on every side of a picture, as the autoencoder was trained with; the exported painter's are cut
    off again. A pipeline that paints multiples of 8 pixels thus paints pictures of other sizes without resizing."""
    num_tokens: int = 24
    """T, tokens per caption in training; longer captions are cut. No more than the text tower reads that the
    painter begins with."""
    width: int = 256
    """Width of the transformer."""
    depth: int = 8
    """Blocks of the transformer."""
    num_heads: int = 4
    """Attention heads of a block; divides width."""
    patch_size: int = 2
    """Side of a token in latents; divides their side."""
    text_width: int = 256
    """Width of the text encoder."""
    text_depth: int = 3
    """Blocks of the text encoder."""
    text_from: Path | None = None
    """Run of `train clip` or `train stablerep-plus` whose text tower and vocabulary read the captions, instead of a new
    T5 encoder of text_width and text_depth."""
    train_text: bool = True
    """Whether the text encoder learns with the transformer."""
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    """Pull hidden tokens towards the patch features of an encoder."""
    caption_dropout: float = 0.1
    """Share of captions replaced by the empty one, for classifier-free guidance."""
    time_mean: float = 0.0
    """Mean of the logit-normal distribution of noise levels; larger means noisier."""
    time_std: float = 1.0
    """Standard deviation of the same distribution; larger means more of very low and very high levels."""
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
        for name in ("num_tokens", "width", "depth", "num_heads", "text_width", "text_depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.width % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} must divide width {self.width}")
        if self.margin < 0:
            raise ValueError(f"margin must not be negative, got {self.margin}")
        check_painting(self.num_inference_steps, self.guidance_scale, self.batch_size)
        if self.text_width % TEXT_HEADS:
            raise ValueError(f"text_width must be a multiple of {TEXT_HEADS}, got {self.text_width}")
        for name in ("caption_dropout", "ema_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if self.text_from is not None and self.start_from is not None:
            raise ValueError(
                "text_from and start_from both say which text encoder to begin with; give one of them"
            )


def check_painting(num_inference_steps: int, guidance_scale: float | None, batch_size: int) -> None:
    """Refuse (``ValueError``) what an exported painter could not paint with when nothing else is asked."""
    if num_inference_steps < 2:  # the stock pipeline asks a sampler of one step for what ours does not give
        raise ValueError(f"num_inference_steps must be at least 2, got {num_inference_steps}")
    if guidance_scale is not None and not guidance_scale >= 1:
        raise ValueError(f"guidance_scale must be at least 1 (none), got {guidance_scale}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, got {batch_size}")


def _read_autoencoder(folder: Path) -> Any:
    """The frozen AutoencoderKL in a folder; ``UserError`` where it holds none."""
    from diffusers import AutoencoderKL

    if not (folder / "config.json").exists():
        within = folder / "autoencoder"  # where a run of ours has the one that it trained
        other = f"give {within}" if within.is_dir() else "train one with `train autoencoder`"
        raise UserError(f"{folder} holds no autoencoder (config.json); {other}")
    return read_model(AutoencoderKL, folder).requires_grad_(False).eval()


def _reading(config: TextToImageConfig, texts: Sequence[str]) -> tuple[nn.Module, Tokenizer, int]:
    """Text encoder, tokenizer and T: of a painter or of a run where the configuration names one, else new ones."""
    if config.text_from is not None:
        tower, tokenizer, most = read_text_tower(config.text_from)
        return tower, tokenizer, min(config.num_tokens, most)
    if config.start_from is None:
        tokenizer = train_tokenizer(texts, config.vocabulary)
        encoder = build_t5(tokenizer.get_vocab_size(), config.text_width, config.text_depth)
        return encoder, tokenizer, config.num_tokens
    path = config.start_from / "tokenizer" / "tokenizer.json"
    if not path.exists():
        within = config.start_from / "teacher"  # where a run of ours has the painter that it trained
        other = f"; give {within}" if within.is_dir() else ""
        raise UserError(f"{config.start_from} holds no painter to start from ({path} is missing){other}")
    encoder = build_like(config.start_from / "text_encoder")
    num_tokens = config.num_tokens
    # A tower knows as many positions as it learned, T5 any.
    if hasattr(encoder.config, "max_position_embeddings"):
        num_tokens = min(num_tokens, read_defaults(config.start_from).max_sequence_length or num_tokens)
    return encoder, Tokenizer.from_file(str(path)), num_tokens


class TextToImage(Method):
    """Rectified flow (Liu et al. 2022): the student predicts ``noise - latent`` on the straight line between them."""

    def __init__(self, config: TextToImageConfig, texts: Sequence[str]) -> None:
        super().__init__()
        self.config = config
        text_encoder, self.tokenizer, self.num_tokens = _reading(config, texts)
        self.tokenizer.enable_padding(length=self.num_tokens, pad_token=PAD, pad_id=self._id(PAD))
        self.tokenizer.enable_truncation(self.num_tokens)
        self.vae = _read_autoencoder(config.autoencoder)
        transformer = build_transformer(
            self.vae.config,
            width=config.width,
            depth=config.depth,
            num_heads=config.num_heads,
            patch_size=config.patch_size,
            text_width=text_encoder.config.hidden_size,  # type: ignore[union-attr,arg-type]
        )
        self.student = nn.ModuleDict({"text_encoder": text_encoder, "transformer": transformer})
        if config.start_from is not None:
            for name, module in self.student.items():
                load_weights(module, config.start_from / name)
        self.average = copy.deepcopy(self.student).requires_grad_(False).eval()
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.long))
        if not config.train_text:
            text_encoder.requires_grad_(False)
        self.alignment: Alignment | None = None
        if config.alignment.encoder is not None:  # after the average was copied, which nothing watches
            self.alignment = Alignment(config.alignment, transformer)

    def train(self, mode: bool = True) -> "TextToImage":
        """Only the student trains; the autoencoder and the average stay as they are."""
        super().train(mode)
        self.vae.eval()
        self.average.eval()
        return self

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """Predicted and true velocity ``(N*V, c, h, w)`` at a noise level drawn per sample from its seed.

        Where tokens are aligned, also their mean cosine ``alignment (N*V,)`` with what the encoder sees.
        """
        images = self.pictures(batch)
        with torch.no_grad():
            latents = self.latents(images)
            noise, level, dropped = self._draw(batch["seed"], latents)
        tokens = torch.where(dropped[:, None], self.empty_like(batch["tokens"]), batch["tokens"])
        noisy = torch.lerp(latents, noise, level[:, None, None, None])
        features = {
            "predicted": self.velocity(self.student, noisy, level, tokens),
            "velocity": noise - latents,
        }
        if self.alignment is not None:
            features["alignment"] = self.alignment(images)
        return features

    def pictures(self, batch: Batch) -> Tensor:
        """The pictures ``(N*V, 3, H, W)`` of a batch within their margin, in [0, 1]."""
        return with_margin(batch["image"].flatten(0, 1), self.config.margin)

    def latents(self, pictures: Tensor) -> Tensor:
        """Latents ``(N*V, c, h, w)`` of pictures ``(N*V, 3, H, W)`` in [0, 1], of unit mean square."""
        encoded = self.vae.encode(pictures * 2 - 1).latent_dist.mode().float()
        latents: Tensor = encoded * self.vae.config.scaling_factor
        return latents

    def velocity(self, model: nn.ModuleDict, noisy: Tensor, level: Tensor, tokens: Tensor) -> Tensor:
        """What a student or average predicts for latents ``(N*V, c, h, w)`` at levels ``(N*V,)``, texts ``(N, T)``."""
        num_views = len(noisy) // len(tokens)
        mask = (tokens != self._id(PAD)).long()
        text = model["text_encoder"](input_ids=tokens, attention_mask=mask)[0]
        predicted: Tensor = model["transformer"](
            noisy,
            encoder_hidden_states=text.repeat_interleave(num_views, 0),
            encoder_attention_mask=mask.repeat_interleave(num_views, 0),
            timestep=level * 1000,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            return_dict=False,
        )[0]
        return predicted.float()

    def loss(self, features: dict[str, Tensor], batch: Batch) -> StepResult:
        """Mean squared error of the velocity, less the weighted alignment."""
        squared = (features["predicted"] - features["velocity"]).square().flatten(1).mean(1)
        error = mean_over_valid(squared, batch)
        if "alignment" not in features:
            return StepResult(loss=error, logs={})
        aligned = mean_over_valid(features["alignment"], batch)
        logs = {
            "velocity_error": global_mean(squared, batch),
            "alignment": global_mean(features["alignment"], batch),
        }
        return StepResult(loss=error - self.config.alignment.weight * aligned, logs=logs)

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
        path = folder / "teacher"
        save_painter(path, self.average, self.vae, self.tokenizer, self._defaults())
        return path

    def _defaults(self) -> dict[str, Any]:
        """What ``generate`` takes where nothing else is asked."""
        return {
            "num_inference_steps": self.config.num_inference_steps,
            "guidance_scale": self.config.guidance_scale,
            "scheduler": "teacher",
            "max_sequence_length": self.num_tokens,
            "batch_size": self.config.batch_size,
            "margin": self.config.margin,
            "styles": list(self.config.styles),
        }

    def _draw(self, seeds: Tensor, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Noise like the latents, noise levels ``(N*V,)`` in (0, 1), and which of the N captions are dropped."""
        num_views, drawn_by = len(latents) // len(seeds), generators(seeds)
        noise = noise_like(latents, drawn_by)
        normal = torch.cat([torch.randn(num_views, generator=one) for one in drawn_by])
        uniform = torch.stack([torch.rand((), generator=one) for one in drawn_by])
        level = torch.sigmoid(self.config.time_mean + self.config.time_std * normal)
        dropped = uniform < self.config.caption_dropout
        return noise, level.to(latents), dropped.to(latents.device)

    def empty_like(self, tokens: Tensor) -> Tensor:
        """The tokens of the empty caption, which is the end mark alone, as often as there are captions."""
        empty = torch.full_like(tokens, self._id(PAD))
        empty[:, 0] = self._id(END)
        return empty

    def _id(self, token: str) -> int:
        number = self.tokenizer.token_to_id(token)
        assert number is not None  # the three marks are in every vocabulary
        return int(number)

    num_updates: Tensor
