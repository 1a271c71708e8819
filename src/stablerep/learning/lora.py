"""An existing pipeline, such as Stable Diffusion 1.5, is trained further on pictures of its own by low-rank adapters.

LoRA (Hu et al. 2022) on the attention projections; everything else stays as it is. What is exported is an ordinary
pipeline folder with the adapters added into the weights, and the adapters alone beside it.
"""

import inspect
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stablerep.config import FREE
from stablerep.errors import UserError
from stablerep.generation.folders import (
    DEFAULTS,
    check_folder,
    find_teacher,
    load_folder,
    read_defaults,
    read_index,
)
from stablerep.generation.pipelines import token_limits
from stablerep.learning.method import (
    Batch,
    Method,
    StepResult,
    generators,
    mean_over_valid,
    noise_like,
    with_margin,
)
from stablerep.models.painter import make_portable
from stablerep.models.weights import quiet_libraries
from stablerep.run import write_atomically

# Pipelines whose text is read by one encoder; the part that is adapted.
ADAPTED: dict[str, str] = {
    "StableDiffusionPipeline": "unet",
    "PixArtAlphaPipeline": "transformer",
    "PixArtSigmaPipeline": "transformer",
}
ADAPTERS = "pytorch_lora_weights.safetensors"  # the name by which stock pipelines look for it
_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
_INSTALL = "pip install '.[lora]' in the clone of stablerep"


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """The pipeline, and how much may change in it."""

    teacher: str
    """The pipeline to train further: a shipped teacher by name, a diffusers folder, or a hub id."""
    download: bool = field(default=False, metadata=FREE)
    """Fetch a pipeline given by its hub id if it is not in the local cache yet."""
    rank: int = 8
    """Rank of what is added to each projection."""
    alpha: float = 8.0
    """What is added is scaled by alpha over rank."""
    caption_dropout: float = 0.1
    """Share of captions replaced by the empty one, so that guidance keeps working."""
    time_mean: float = 0.0
    """For pipelines trained by flow matching: mean of the logit-normal distribution of noise levels."""
    time_std: float = 1.0
    """For the same: its standard deviation; larger means more of very low and very high levels."""

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0:
            raise ValueError(f"rank and alpha must be positive, got {self.rank} and {self.alpha}")
        if not 0 <= self.caption_dropout <= 1:
            raise ValueError(f"caption_dropout must be in [0, 1], got {self.caption_dropout}")


class Lora(Method):
    """Adapters in the attention of a frozen pipeline, trained by the objective that the pipeline was trained with."""

    def __init__(self, config: LoraConfig) -> None:
        super().__init__()
        self.config = config
        self.folder = find_teacher(config.teacher, download=config.download)
        check_folder(self.folder)
        kind = read_index(self.folder)["_class_name"]
        if kind not in ADAPTED:
            raise UserError(
                f"teacher {config.teacher} is a {kind}; adapters are trained for {', '.join(ADAPTED)}"
            )
        self.part = ADAPTED[kind]
        pipeline = _open(self.folder)
        self.tokenizer = pipeline.tokenizer
        self.scheduler = pipeline.scheduler
        self.vae = pipeline.vae.requires_grad_(False)
        self.text_encoder = pipeline.text_encoder.requires_grad_(False)
        adapted = getattr(pipeline, self.part).requires_grad_(False)
        defaults = read_defaults(self.folder)
        self.margin = defaults.margin
        self.pixels_per_latent = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.side: int | None = None  # a U-Net knows no positions, and learns at any multiple of these pixels
        if self.part == "transformer":  # from edge to edge, the margin within
            self.side = defaults.height or adapted.config.sample_size * self.pixels_per_latent
        self.model = _with_adapters(adapted, config)
        asked = {"max_sequence_length": defaults.max_sequence_length}
        ((_, self.num_tokens),) = token_limits(
            pipeline, asked, inspect.signature(type(pipeline).__call__).parameters
        )
        self.empty = self.tokenize([""])[0]

    def train(self, mode: bool = True) -> "Lora":
        """Only the adapters train."""
        super().train(mode)
        self.vae.eval()
        self.text_encoder.eval()
        return self

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """What the model predicts ``(N*V, c, h, w)``, and what it should have."""
        num_views = batch["image"].shape[1]
        with torch.no_grad():
            images = with_margin(batch["image"].flatten(0, 1), self.margin) * 2 - 1
            latents = self.vae.encode(images).latent_dist.mode().float() * self.vae.config.scaling_factor
            noise, draw, dropped = self._draw(batch["seed"], latents)
            noisy, timestep, target = self._noised(latents, noise, draw)
            tokens = torch.where(dropped[:, None], self.empty.to(batch["tokens"]), batch["tokens"])
            mask = (tokens != self.tokenizer.pad_token_id).long()
            arguments = self._condition(tokens, mask)
        spread = {name: value.repeat_interleave(num_views, 0) for name, value in arguments.items()}
        if self.part == "transformer":
            spread["added_cond_kwargs"] = self._size_of(images)  # type: ignore[assignment]
        predicted = self.model(noisy, timestep=timestep, **spread, return_dict=False)[0]
        # A PixArt that also predicts variances is only held to its mean.
        return {"predicted": predicted.float()[:, : noisy.shape[1]], "target": target}

    def loss(self, features: dict[str, Tensor], batch: Batch) -> StepResult:
        """Mean squared error."""
        squared = (features["predicted"] - features["target"]).square().flatten(1).mean(1)
        return StepResult(loss=mean_over_valid(squared, batch), logs={})

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids ``(N, T)``, padded and cut as the pipeline does; a PixArt reads lower case."""
        encoded = self.tokenizer(
            list(texts) if self.part == "unet" else [text.lower().strip() for text in texts],
            padding="max_length",
            max_length=self.num_tokens,
            truncation=True,
            return_tensors="pt",
        )
        tokens: Tensor = encoded.input_ids
        return tokens

    def hot_modules(self) -> Sequence[nn.Module]:
        """The adapted model."""
        return [self.model]

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The adapters alone: a checkpoint need not hold what never changes."""
        names = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        whole = super().state_dict(*args, **kwargs)
        return {name: value for name, value in whole.items() if name in names}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Fill the adapters; every one must be there."""
        if strict and state.keys() != self.state_dict().keys():
            raise UserError("the checkpoint holds other adapters than these settings make")
        return super().load_state_dict(state, strict=False, assign=assign)

    def export(self, folder: Path) -> Path:
        """Save ``teacher``, the pipeline with the adapters added in, and ``lora``, the adapters alone."""
        from peft.utils import get_peft_model_state_dict

        # Stock pipelines scale by 1 what comes without a scale of its own, so it goes into one of the two factors.
        scale = {"lora_A": 1.0, "lora_B": self.config.alpha / self.config.rank}
        adapters = {
            f"{self.part}.{name}": (value * scale[name.split(".")[-2]]).contiguous().cpu()
            for name, value in get_peft_model_state_dict(self.model).items()
        }
        (folder / "lora").mkdir(exist_ok=True)
        write_atomically(folder / "lora" / ADAPTERS, lambda temporary: save_file(adapters, temporary))
        pipeline = _open(self.folder)
        getattr(pipeline, self.part).load_state_dict(_merged(self.model))
        path = folder / "teacher"
        with quiet_libraries():
            pipeline.to(torch.float16).save_pretrained(path, safe_serialization=True)
        make_portable(path)
        if (self.folder / DEFAULTS).exists():
            shutil.copyfile(self.folder / DEFAULTS, path / DEFAULTS)
        return path

    def _condition(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """What text the model is given; Stable Diffusion reads its padding, PixArt does not."""
        if self.part == "unet":
            return {"encoder_hidden_states": self.text_encoder(tokens)[0]}
        states = self.text_encoder(tokens, attention_mask=mask)[0]
        return {"encoder_hidden_states": states, "encoder_attention_mask": mask}

    def _size_of(self, images: Tensor) -> dict[str, Tensor | None]:
        """The size that large PixArt models are told; small ones are told nothing."""
        if not getattr(self.model, "use_additional_conditions", False):
            return {"resolution": None, "aspect_ratio": None}
        height, width = images.shape[2:]
        sizes = torch.tensor([[height, width]], device=images.device).float().expand(len(images), -1)
        return {"resolution": sizes, "aspect_ratio": sizes[:, :1] / sizes[:, 1:]}

    def _noised(self, latents: Tensor, noise: Tensor, draw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Noisy latents, timesteps ``(N*V,)`` and target, as the pipeline's sampler counts and predicts."""
        settings = self.scheduler.config
        num = settings.num_train_timesteps
        if settings.get("use_flow_sigmas") or settings.get("prediction_type") == "flow_prediction":
            level = torch.sigmoid(self.config.time_mean + self.config.time_std * torch.special.ndtri(draw))
            return torch.lerp(latents, noise, level[:, None, None, None]), level * num, noise - latents
        timestep = (draw * num).long().clamp(max=num - 1)
        kept = self.scheduler.alphas_cumprod.to(latents)[timestep][:, None, None, None]
        noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
        if settings.prediction_type == "v_prediction":  # Salimans and Ho 2022, appendix D
            return noisy, timestep, kept.sqrt() * noise - (1 - kept).sqrt() * latents
        return noisy, timestep, noise

    def _draw(self, seeds: Tensor, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Noise like the latents, a number in (0, 1) per view, and which of the N captions are dropped."""
        num_views, drawn_by = len(latents) // len(seeds), generators(seeds)
        noise = noise_like(latents, drawn_by)
        draw = torch.cat([torch.rand(num_views, generator=one) for one in drawn_by])
        uniform = torch.stack([torch.rand((), generator=one) for one in drawn_by])
        dropped = uniform < self.config.caption_dropout
        return noise, draw.clamp(1e-6, 1 - 1e-6).to(latents), dropped.to(latents.device)


def _open(folder: Path) -> Any:
    """The pipeline in float32; ``UserError`` where it cannot be loaded or predicts what no loss is written for."""
    pipeline = load_folder(folder, torch.float32)
    predicts = pipeline.scheduler.config.get("prediction_type", "epsilon")
    if predicts not in ("epsilon", "v_prediction", "flow_prediction"):
        raise UserError(f"teacher {folder} predicts {predicts}, for which adapters cannot be trained")
    return pipeline


def _with_adapters(model: Any, config: LoraConfig) -> nn.Module:
    try:
        from peft import LoraConfig as PeftConfig
        from peft import inject_adapter_in_model
    except ImportError as error:
        raise UserError(f"training adapters needs peft: {_INSTALL}") from error
    settings = PeftConfig(
        r=config.rank, lora_alpha=config.alpha, init_lora_weights="gaussian", target_modules=_TARGETS
    )
    adapted: nn.Module = inject_adapter_in_model(settings, model)
    return adapted


@torch.no_grad()
def _merged(model: nn.Module) -> dict[str, Tensor]:
    """The weights of the model as it was without adapters, with what they add."""
    from peft.tuners.lora import LoraLayer

    merged = {
        name.replace(".base_layer.", "."): value.clone()
        for name, value in model.state_dict().items()
        if ".lora_" not in name
    }
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            merged[f"{name}.weight"] += module.get_delta_weight("default")
    return merged
