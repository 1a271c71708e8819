"""A method of one's own: alignment and uniformity (Wang and Isola 2020) instead of a softmax over similarities."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from stablerep.learning.method import Batch, Method, StepResult
from stablerep.learning.methods import METHODS, MethodEntry
from stablerep.learning.trainer import TrainConfig
from stablerep.models.encoder import Encoder, EncoderConfig, ProjectionHead, save_encoder


@dataclass(frozen=True, kw_only=True)
class AlignUniformConfig:
    """Encoder, head, and what counts how much."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    head_hidden: int = 4096
    head_out: int = 256
    uniformity: float = 1.0
    """Weight of the uniformity."""


@dataclass(frozen=True, kw_only=True)
class AlignUniformTrainConfig(TrainConfig):
    """All that training takes, and the method."""

    method: AlignUniformConfig = field(default_factory=AlignUniformConfig)


class AlignUniform(Method):
    """Images of one caption come near one another, all images spread over the sphere. For one process."""

    def __init__(self, config: AlignUniformConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Encoder(config.encoder)
        self.head = ProjectionHead(self.backbone.dim, config.head_hidden, config.head_out)

    def encode(self, batch: Batch) -> Tensor:
        """Features (N, V, D)."""
        images = batch["image"]
        features: Tensor = self.backbone(images.flatten(0, 1))
        return features.view(*images.shape[:2], -1)

    def loss(self, features: Tensor, batch: Batch) -> StepResult:
        """Mean squared distance of positives, and the log of the mean Gaussian potential of all pairs."""
        valid = batch["valid"]
        points = F.normalize(self.head(features, valid).float(), dim=-1)[valid]
        labels = batch["caption_id"][:, None].expand_as(valid)[valid]
        squared = (2 - 2 * points @ points.T).clamp(min=0)
        other = ~torch.eye(len(points), dtype=torch.bool, device=points.device)
        alignment = squared[(labels[:, None] == labels) & other].mean()
        uniformity = (-2 * squared[other]).exp().mean().log()
        logs = {"alignment": alignment.detach(), "uniformity": uniformity.detach()}
        return StepResult(loss=alignment + self.config.uniformity * uniformity, logs=logs)

    def encoder(self) -> Encoder:
        return self.backbone

    def export(self, folder: Path) -> Path:
        save_encoder(self.backbone, folder / "encoder")
        return folder / "encoder"


METHODS["align-uniform"] = MethodEntry(AlignUniformTrainConfig, lambda config: AlignUniform(config.method))
