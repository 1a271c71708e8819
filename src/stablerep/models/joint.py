"""Encoder and text tower with their projections into one space: the model of CLIP and StableRep+, and its files.

Shapes: N images or texts, V views, D features of a tower, E width of the joint space.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from stablerep import config as config_module
from stablerep.errors import UserError
from stablerep.models import files
from stablerep.models.encoder import Encoder, ProjectionHead, find_folder, load_encoder, save_encoder
from stablerep.models.text import ClipVocabulary, LearnedVocabulary, TextConfig, TextTower, Vocabulary
from stablerep.run import write_text

TOKENIZER = "tokenizer.json"

_FILES = files.ModelFiles(name="text", what="an image-text model", version=1)
_MLP_LAYERS = 3


class NoTextTowerError(UserError):
    """Asked to compare images with texts, of an encoder that has no text tower."""


class LinearProjection(nn.Linear):
    """A matrix without bias, drawn as CLIP draws it; called like ``ProjectionHead``."""

    def __init__(self, in_dim: int, out: int) -> None:
        super().__init__(in_dim, out, bias=False)
        nn.init.normal_(self.weight, std=in_dim**-0.5)

    def forward(self, features: Tensor, valid: Tensor | None = None) -> Tensor:
        """Project features (N, V, D) to (N, V, E), each row for itself."""
        del valid
        return super().forward(features)


class ImageText(nn.Module):
    """Images and texts as unit vectors (N, E) whose inner product is their similarity."""

    def __init__(self, encoder: Encoder, text: TextTower) -> None:
        super().__init__()
        self.encoder = encoder
        self.text = text
        self.image_projection = _projection(text.config, encoder.dim)
        self.text_projection = _projection(text.config, text.config.width)
        self.logit_scale = nn.Parameter(torch.zeros(()))
        """Logarithm of what similarities are multiplied by before the softmax."""

    def encode_images(self, images: Tensor) -> Tensor:
        """Unit vectors (N, E) of images (N, 3, H, W) in [0, 1], of any size."""
        return self.project_images(self.encoder(images)[:, None])[:, 0]

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (N, E) of texts."""
        return self.project_texts(self.text(self.text.tokenize(texts).to(self.logit_scale.device)))

    def project_images(self, features: Tensor, valid: Tensor | None = None) -> Tensor:
        """Unit vectors (N, V, E) of the encoder's features (N, V, D); ``valid`` as in ``ProjectionHead``."""
        return F.normalize(self.image_projection(features, valid), dim=-1)

    def project_texts(self, features: Tensor) -> Tensor:
        """Unit vectors (N, E) of the text tower's features (N, D)."""
        return F.normalize(self.text_projection(features[:, None])[:, 0], dim=-1)

    @property
    def fingerprint(self) -> str:
        """Hash of configurations and weights of both towers, projections and scale."""
        return files.fingerprint(
            {
                "text": config_module.to_dict(self.text.config),
                "encoder": config_module.to_dict(self.encoder.config),
            },
            self.state_dict(),
        )


def save_image_text(model: ImageText, folder: Path) -> None:
    """Write ``encoder/``, as ``save_encoder`` does, and ``text/`` with everything else, into ``folder``."""
    save_encoder(model.encoder, folder / "encoder")
    description = {
        "config": config_module.to_dict(model.text.config),
        "fingerprint": model.fingerprint,
    }
    if isinstance(model.text.vocabulary, LearnedVocabulary):
        tokenizer = model.text.vocabulary.tokenizer.to_str(pretty=True)
        description["tokenizer"] = _digest(tokenizer)
        write_text(folder / "text" / TOKENIZER, tokenizer)
    _FILES.write(folder / "text", _all_but_encoder(model), description)


def load_image_text(
    name_or_path: str | Path, device: str | torch.device = "cpu", *, download: bool = False
) -> ImageText:
    """Load encoder and text tower in evaluation mode; names, paths and ``download`` as for ``load_encoder``.

    Raises ``UserError`` where there is none, where a file is damaged, and where files do not belong together.
    """
    found = find_folder(name_or_path)
    if found is None:
        from stablerep.models import foreign  # which builds on this module

        return foreign.load_image_text(name_or_path, download=download).to(device)
    run = found.parent if found.name == "encoder" else found
    folder = run / "text"
    if not (folder / _FILES.description).is_file():
        raise NoTextTowerError(
            f"{name_or_path} holds no image-text model (text/{_FILES.description}); "
            "`train clip` and `train stablerep-plus` write one"
        )
    description = _FILES.read_description(folder)
    config = config_module.build(TextConfig, description["config"], origin=str(folder / _FILES.description))
    encoder = load_encoder(found)
    vocabulary = _read_vocabulary(folder / TOKENIZER, description.get("tokenizer"))
    model = empty_image_text(encoder, config, vocabulary)
    weights = _FILES.read_weights(folder, _all_but_encoder(model))
    model.load_state_dict(weights, strict=False)  # names were compared; the encoder has its own already
    _FILES.require_fingerprint(folder, model.fingerprint, description["fingerprint"])
    return model.to(device).eval()


def empty_image_text(encoder: Encoder, config: TextConfig, vocabulary: Vocabulary) -> ImageText:
    """An image-text model around an encoder, with a text tower to be filled, as ``empty_encoder``."""
    with torch.random.fork_rng(devices=[]):
        return ImageText(encoder, TextTower(config, vocabulary))


def _projection(config: TextConfig, in_dim: int) -> nn.Module:
    if config.projection == "linear":
        return LinearProjection(in_dim, config.joint_width)
    return ProjectionHead(in_dim, config.projection_hidden, config.joint_width, num_layers=_MLP_LAYERS)


def _all_but_encoder(model: ImageText) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if not name.startswith("encoder.")}


def _read_vocabulary(path: Path, described: str | None) -> Vocabulary:
    """CLIP's where the description names no tokenizer, else the learned one, which must be the one described."""
    if described is None:
        return ClipVocabulary()
    if not path.is_file():
        raise UserError(f"{path} is missing; export it again")
    text = path.read_text(encoding="utf-8")
    if _digest(text) != described:
        raise UserError(f"{path} does not belong to the {_FILES.description} beside it; export it again")
    return LearnedVocabulary(Tokenizer.from_str(text))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
