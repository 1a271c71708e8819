"""StableRep, SimCLR and supervised learning: one method, which differ in what counts as the same thing."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import Tensor

from stablerep.errors import UserError
from stablerep.learning.data import ViewSource
from stablerep.learning.losses import Samples, multi_positive_contrastive, positive_similarity
from stablerep.learning.method import Batch, Method, StepResult
from stablerep.models.encoder import Encoder, EncoderConfig, ProjectionHead, save_encoder


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig:
    """Encoder, projection head and loss of a contrastive method; the defaults are StableRep's."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The encoder to train."""
    positives: Literal["caption", "image", "label"] = "caption"
    """Views that attract: those of one caption (StableRep), of one image (SimCLR), or of one label (SupCon)."""
    temperature: float = 0.1
    """Similarities are divided by it before the softmax."""
    head_hidden: int = 4096
    """Width of the hidden layers of the projection head."""
    head_out: int = 256
    """Width of the space in which similarities are taken."""
    head_layers: int = 3
    """Linear layers of the projection head."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")


class Contrastive(Method):
    """Views of the same caption (or image, or label) attract, all others in the global batch repel."""

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Encoder(config.encoder)
        self.head = ProjectionHead(
            self.backbone.dim, config.head_hidden, config.head_out, num_layers=config.head_layers
        )

    def encode(self, batch: Batch) -> Tensor:
        """Features (N, V, D)."""
        images = batch["image"]
        features: Tensor = self.backbone(images.flatten(0, 1))
        return features.view(*images.shape[:2], -1)

    def loss(self, features: Tensor, batch: Batch) -> StepResult:
        """The multi-positive contrastive loss over the N * V rows of features (N, V, D)."""
        projected = self.head(features, batch["valid"])
        return compare_views(projected, batch, self.config)

    def encoder(self) -> Encoder:
        return self.backbone

    def export(self, folder: Path) -> Path:
        save_encoder(self.backbone, folder / "encoder")
        return folder / "encoder"


def require_positives(method: Method, source: ViewSource) -> None:
    """Raise ``UserError`` where no view would have a positive: every loss is then zero, and nothing is learned."""
    config = getattr(method, "config", None)
    if not isinstance(config, ContrastiveConfig) or source.config.crops_per_image > 1:
        return
    if config.positives != "image" and not source.num_with_several(config.positives):
        raise UserError(
            f"{', '.join(map(str, source.config.images))}: the positives are images of one {config.positives}, and no "
            f"{config.positives} has two images that may be drawn; widen the filter, paint more pictures of each "
            "caption, or give data.crops_per_image 2"
        )


def compare_views(projected: Tensor, batch: Batch, config: ContrastiveConfig) -> StepResult:
    """The multi-positive contrastive loss over the N * V rows of the head's output (N, V, D)."""
    rows = projected.flatten(0, 1)
    labels = _labels(batch, config.positives).flatten()
    valid = batch["valid"].flatten()
    weight = batch["weight"].flatten() if "weight" in batch else None
    loss = multi_positive_contrastive(rows, labels, config.temperature, valid=valid, weight=weight)
    samples = Samples(features=rows.detach(), labels=labels, valid=valid)
    return StepResult(loss=loss, logs={"positive_similarity": positive_similarity(samples)})


def _labels(batch: Batch, positives: Literal["caption", "image", "label"]) -> Tensor:
    if positives == "caption":
        return batch["caption_id"][:, None].expand_as(batch["valid"])
    return batch["image_id" if positives == "image" else "label"]
