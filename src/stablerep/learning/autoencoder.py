"""The picture autoencoder of a latent painter: a stock AutoencoderKL, trained to give back what it was shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from stablerep.learning.method import Batch, Method, StepResult


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Architecture and loss of the autoencoder."""

    image_size: int = 64
    channels: tuple[int, ...] = (16, 32, 64)
    """Channels per resolution; each entry after the first halves height and width."""
    latent_channels: int = 4
    num_groups: int = 8
    """Groups of the group norms; divides every entry of channels."""
    kl_weight: float = 1e-5
    """Weight of the Kullback-Leibler term, summed over the latent of a picture."""


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
            sample_size=config.image_size,
            mid_block_add_attention=False,
        )
        self.register_buffer("latent_square", torch.ones(()))

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """Reconstruction ``(N*V, 3, H, W)``, and mean and log-variance of the latent, each ``(N*V, c, h, w)``."""
        images = batch["image"].flatten(0, 1) * 2 - 1
        moments = self.vae.quant_conv(self.vae.encoder(images)).float()
        mean, log_variance = moments.chunk(2, dim=1)
        noise = _noise_like(mean, batch["seed"])
        latents = mean + noise * (0.5 * log_variance.clamp(-30, 20)).exp()
        decoded = self.vae.decoder(self.vae.post_quant_conv(latents))
        return {"decoded": decoded.float(), "mean": mean, "log_variance": log_variance}

    def loss(self, features: dict[str, Tensor], batch: Batch) -> StepResult:
        """Mean absolute and squared error per pixel plus the weighted KL term per picture."""
        from stablerep.runtime import world_size

        images = batch["image"].flatten(0, 1) * 2 - 1
        error = features["decoded"] - images
        mean, log_variance = features["mean"], features["log_variance"].clamp(-30, 20)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1).mean()
        loss = error.abs().mean() + error.square().mean() + self.config.kl_weight * divergence
        self._track(mean)
        squared = (error / 2).square().mean().detach()
        logs = {"kl": divergence.detach(), "psnr": -10 * torch.log10(squared)}
        return StepResult(loss=loss / world_size(), logs=logs)

    def export(self, folder: Path) -> Path:
        """Save a stock AutoencoderKL whose scaling factor makes the latents of the training pictures unit variance."""
        self.vae.register_to_config(scaling_factor=float(self.latent_square.rsqrt()))
        self.vae.save_pretrained(folder / "autoencoder")
        return folder / "autoencoder"

    def hot_modules(self) -> Sequence[nn.Module]:
        """Encoder and decoder."""
        return [self.vae.encoder, self.vae.decoder]

    @torch.no_grad()
    def _track(self, mean: Tensor) -> None:
        self.latent_square.lerp_(mean.square().mean(), 0.01)

    latent_square: Tensor


def _noise_like(x: Tensor, seeds: Tensor) -> Tensor:
    """Standard normal noise shaped like ``x (N*V, ...)``, each row block of a caption drawn from its own seed."""
    rows = [
        torch.randn((len(x) // len(seeds), *x.shape[1:]), generator=torch.Generator().manual_seed(int(seed)))
        for seed in seeds
    ]
    return torch.cat(rows).to(x)
