"""Representation alignment: the painter's hidden tokens are pulled towards what a frozen encoder sees in the picture.

Yu et al. 2025, "Representation alignment for generation" (REPA), equation 8: the mean cosine between the projected
hidden states of the noisy picture and the encoder's patch features of the clean one.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stablerep.config import FREE
from stablerep.errors import UserError
from stablerep.models.encoder import load_encoder


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig:
    """Which encoder the painter's hidden tokens are pulled to, where, and how strongly."""

    encoder: Path | None = None
    """Run or folder of the encoder, such as one that StableRep trained, or a name as `evaluate` takes it; no alignment
    where not given."""
    download: bool = field(default=False, metadata=FREE)
    """Fetch weights that are only named (timm:NAME, open_clip:NAME/TAG) from the hub."""
    block: int = 3
    """The block of the transformer after which tokens are aligned, counted from 1."""
    weight: float = 0.5
    """Of the mean cosine beside the loss of the velocity; published: 0.5."""
    hidden: int = 512
    """Width of the projector's two hidden layers."""

    def __post_init__(self) -> None:
        for name in ("block", "hidden", "weight"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


class Alignment(nn.Module):
    """Watches one block of a transformer and compares its tokens with a frozen encoder's patch features."""

    def __init__(self, config: AlignmentConfig, transformer: Any) -> None:
        super().__init__()
        assert config.encoder is not None
        blocks, width = transformer.transformer_blocks, transformer.inner_dim
        if config.block > len(blocks):
            raise UserError(f"alignment.block is {config.block}, but the painter has {len(blocks)} blocks")
        self.encoder = load_encoder(config.encoder, download=config.download).requires_grad_(False).eval()
        self.projector = nn.Sequential(
            nn.Linear(width, config.hidden),
            nn.SiLU(),
            nn.Linear(config.hidden, config.hidden),
            nn.SiLU(),
            nn.Linear(config.hidden, self.encoder.dim),
        )
        self._tokens: Tensor | None = None
        blocks[config.block - 1].register_forward_hook(self._note)

    def train(self, mode: bool = True) -> "Alignment":
        """The encoder stays as it was exported."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Mean cosine (B,) over the tokens last computed for these images (B, 3, H, W) in [0, 1]."""
        assert self._tokens is not None, "the transformer has not run yet"
        tokens, self._tokens = self._tokens, None
        side = round(tokens.shape[1] ** 0.5)
        with torch.no_grad():
            patches = F.interpolate(self.encoder.patch_features(images), size=(side, side), mode="bilinear")
        seen = self.projector(tokens).float()
        return F.cosine_similarity(seen, patches.flatten(2).transpose(1, 2), dim=-1).mean(1)

    def _note(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        self._tokens = output
