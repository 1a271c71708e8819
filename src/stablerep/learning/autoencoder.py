"""The picture autoencoder of a latent painter: a stock AutoencoderKL, trained to give back what it was shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from stablerep.learning.method import (
    Batch,
    Method,
    StepResult,
    generators,
    global_mean,
    load_weights,
    mean_over_valid,
    noise_like,
    with_margin,
)


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Architecture and loss of the autoencoder."""

    image_size: int = 64
    """Side of a picture in pixels."""
    channels: tuple[int, ...] = (16, 32, 64)
    """Channels per resolution; each entry after the first halves height and width."""
    latent_channels: int = 4
    """Channels of the latent that a painter paints."""
    margin: int = 0
    """Black pixels put on every side of a picture, so that one whose sides do not fit need not be resized."""
    num_groups: int = 8
    """Groups of the group norms; divides every entry of channels."""
    kl_weight: float = 1e-5
    """Weight of the Kullback-Leibler term, summed over the latent of a picture."""
    start_from: Path | None = None
    """Folder of an AutoencoderKL of the same architecture whose weights are trained further."""

    def __post_init__(self) -> None:
        if self.num_groups < 1:
            raise ValueError(f"num_groups must be positive, got {self.num_groups}")
        if not self.channels or any(channels % self.num_groups for channels in self.channels):
            raise ValueError(
                f"num_groups {self.num_groups} must divide every entry of channels {self.channels}"
            )
        if self.margin < 0:
            raise ValueError(f"margin must not be negative, got {self.margin}")
        downsampling = 2 ** (len(self.channels) - 1)
        if self.side % downsampling:
            margin = f" with a margin of {self.margin}" if self.margin else ""
            raise ValueError(f"image_size {self.image_size}{margin} must be a multiple of {downsampling}")

    @property
    def side(self) -> int:
        """Pixels from edge to edge with the margin."""
        return self.image_size + 2 * self.margin


class Autoencoder(Method):
    """Reconstruction in absolute and squared error, with a light pull of the latents to a unit normal."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        from diffusers import AutoencoderKL

        depth = len(config.channels)
        self.config = config
        self.vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * depth,
            up_block_types=("UpDecoderBlock2D",) * depth,
            block_out_channels=config.channels,
            layers_per_block=1,
            latent_channels=config.latent_channels,
            norm_num_groups=config.num_groups,
            sample_size=config.side,
            mid_block_add_attention=False,
        )
        if config.start_from is not None:
            load_weights(self.vae, config.start_from)
        self.register_buffer("latent_square", torch.zeros(()))

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """Reconstruction and picture ``(N*V, 3, H, W)``, mean and log-variance of the latent ``(N*V, c, h, w)``."""
        images = with_margin(batch["image"].flatten(0, 1), self.config.margin) * 2 - 1
        moments = self.vae.quant_conv(self.vae.encoder(images)).float()
        mean, log_variance = moments.chunk(2, dim=1)
        noise = noise_like(mean, generators(batch["seed"]))
        latents = mean + noise * (0.5 * log_variance.clamp(-30, 20)).exp()
        decoded = self.vae.decoder(self.vae.post_quant_conv(latents))
        return {"decoded": decoded.float(), "images": images, "mean": mean, "log_variance": log_variance}

    def loss(self, features: dict[str, Tensor], batch: Batch) -> StepResult:
        """Mean absolute and squared error per pixel plus the weighted KL term per picture."""
        error = (features["decoded"] - features["images"]).flatten(1)
        mean, log_variance = features["mean"], features["log_variance"].clamp(-30, 20)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1)
        squared = error.square().mean(1)
        self._track(mean.square().flatten(1).mean(1), batch)
        loss = mean_over_valid(error.abs().mean(1) + squared + self.config.kl_weight * divergence, batch)
        logs = {
            "kl": global_mean(divergence, batch),
            "psnr": -10 * torch.log10(global_mean(squared, batch) / 4),
        }
        return StepResult(loss=loss, logs=logs)

    def export(self, folder: Path) -> Path:
        """Save a stock AutoencoderKL whose scaling factor gives the latents of the training pictures mean square 1."""
        scaling_factor = float(self.latent_square.rsqrt()) if self.latent_square > 0 else 1.0
        self.vae.register_to_config(scaling_factor=scaling_factor)
        self.vae.save_pretrained(folder / "autoencoder")
        return folder / "autoencoder"

    def hot_modules(self) -> Sequence[nn.Module]:
        """Encoder and decoder."""
        return [self.vae.encoder, self.vae.decoder]

    def _track(self, squares: Tensor, batch: Batch) -> None:
        """Follow the second moment of the latents over the last steps, from the first batch on that counts."""
        square = global_mean(squares, batch)
        if square > 0:
            self.latent_square.lerp_(square, 0.05 if self.latent_square > 0 else 1.0)

    latent_square: Tensor
