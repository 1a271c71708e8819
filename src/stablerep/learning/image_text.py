"""CLIP and StableRep+: images attract the text they belong to; StableRep+ adds what StableRep learns from images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from stablerep import runtime
from stablerep.learning.contrastive import ContrastiveConfig, compare_views
from stablerep.learning.losses import Samples, soft_cross_entropy
from stablerep.learning.method import Batch, Method, StepResult
from stablerep.models.encoder import Encoder, EncoderConfig, ProjectionHead
from stablerep.models.joint import ImageText, save_image_text
from stablerep.models.text import TextConfig, TextTower, Vocabulary


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Both towers and the temperature between them; the defaults are CLIP's, as StableRep+ uses them."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The encoder to train."""
    text: TextConfig = field(default_factory=TextConfig)
    """The text tower and the projections."""
    vocabulary_from: str = "split IS NULL OR split = 'train'"
    """Filter on the caption table: which captions a vocabulary of its own (text.vocabulary) is learned from."""
    initial_temperature: float = 0.07
    """Of similarities between images and texts; it is learned from there."""
    min_temperature: float = 0.01
    """The learned temperature stays between this and 1."""

    def __post_init__(self) -> None:
        if not 0 < self.min_temperature <= self.initial_temperature <= 1:
            raise ValueError(
                "min_temperature and initial_temperature must be positive, in order, and at most 1, got "
                f"{self.min_temperature} and {self.initial_temperature}"
            )


@dataclass(frozen=True, kw_only=True)
class StableRepPlusConfig(ContrastiveConfig, ClipConfig):
    """StableRep's settings for images with images, CLIP's for images with texts; with positives "image" it is SLIP."""

    image_weight: float = 1.0
    """Of the loss between images."""
    text_weight: float = 1.0
    """Of the loss between images and texts."""

    def __post_init__(self) -> None:
        ContrastiveConfig.__post_init__(self)
        ClipConfig.__post_init__(self)
        if min(self.image_weight, self.text_weight) <= 0:
            raise ValueError(
                f"image_weight and text_weight must be positive, got {self.image_weight} and {self.text_weight}"
            )


class Clip(Method):
    """Image and text of the same thing attract, all others in the global batch repel (Radford et al. 2021).

    A text is any wording of the thing that a caption is for, so that captions of one thing may be given the same text.
    """

    def __init__(self, config: ClipConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.config = config
        self.model = ImageText(Encoder(config.encoder), TextTower(config.text, vocabulary))
        nn.init.constant_(self.model.logit_scale, -math.log(config.initial_temperature))

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """Features of both towers: ``image`` (N, V, D) and ``text`` (N, D), one text for all views of a caption."""
        images = batch["image"]
        features: Tensor = self.model.encoder(images.flatten(0, 1))
        return {"image": features.view(*images.shape[:2], -1), "text": self.model.text(batch["tokens"])}

    def loss(self, features: dict[str, Tensor], batch: Batch) -> StepResult:
        """Cross-entropy of images over texts and of texts over images, half each.

        An image's target is uniform over the texts of its thing, a text's target over the valid images of its thing, in
        proportion to their weights. As between images, a weight counts in targets alone: every image is a row.
        """
        images, texts = self._samples(features, batch)
        scale = self.model.logit_scale.exp()
        loss = soft_cross_entropy(images, texts.gathered(), scale)
        loss = loss + soft_cross_entropy(texts, images.gathered(), scale)
        logs = {"logit_scale": scale.detach(), "prompt_match": _prompt_match(images, texts)}
        return StepResult(loss=loss / 2, logs=logs)

    @torch.no_grad()
    def after_step(self) -> None:
        """Keep the temperature within its bounds."""
        self.model.logit_scale.clamp_(0, -math.log(self.config.min_temperature))

    def encoder(self) -> Encoder:
        return self.model.encoder

    def export(self, folder: Path) -> Path:
        """Save the encoder as every method does, and beside it what turns it into an image-text model."""
        save_image_text(self.model, folder)
        return folder / "encoder"

    def hot_modules(self) -> Sequence[nn.Module]:
        """Both towers."""
        return [self.model.encoder, self.model.text]

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        return self.model.text.tokenize(texts)

    def _samples(self, features: dict[str, Tensor], batch: Batch) -> tuple[Samples, Samples]:
        """The N * V images and the N texts as unit vectors; their labels are the things."""
        valid, things = batch["valid"], batch["thing_id"]
        images = Samples(
            features=self.model.project_images(features["image"], valid).flatten(0, 1),
            labels=things.repeat_interleave(valid.shape[1]),
            valid=valid.flatten(),
            weight=batch["weight"].flatten() if "weight" in batch else None,
        )
        texts = Samples(features=self.model.project_texts(features["text"]), labels=things)
        return images, texts


class StableRepPlus(Clip):
    """StableRep and CLIP at once on the same views (Tian et al. 2023, StableRep+)."""

    config: StableRepPlusConfig

    def __init__(self, config: StableRepPlusConfig, vocabulary: Vocabulary) -> None:
        super().__init__(config, vocabulary)
        self.head = ProjectionHead(
            self.model.encoder.dim, config.head_hidden, config.head_out, num_layers=config.head_layers
        )

    def loss(self, features: dict[str, Tensor], batch: Batch) -> StepResult:
        """The weighted sum of StableRep's loss over the images and CLIP's over images and texts."""
        text = super().loss(features, batch)
        projected = self.head(features["image"], batch["valid"])
        image = compare_views(projected, batch, self.config)
        loss = self.config.image_weight * image.loss + self.config.text_weight * text.loss
        return StepResult(loss=loss, logs=text.logs | image.logs)


def _prompt_match(images: Samples, texts: Samples) -> Tensor:
    """Mean cosine of a valid image and its text over all ranks, detached."""
    num_views = len(images.labels) // len(texts.labels)
    own = texts.features.detach().repeat_interleave(num_views, 0)
    cosines = (images.features.detach() * own).sum(1)
    valid = torch.ones_like(cosines, dtype=torch.bool) if images.valid is None else images.valid
    return runtime.all_reduce_sum(cosines[valid].sum()) / runtime.all_reduce_sum(valid.sum())
