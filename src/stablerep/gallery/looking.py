"""What looks at pictures for the gallery: an image-text model, an encoder, or raw pixels where there is no run.

Shapes: N pictures, D features of the encoder, E width of the joint space.
"""

import functools
import io
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from stablerep import runtime
from stablerep.errors import UserError
from stablerep.features import Extraction, FrozenEncoder, RawPixels, extract
from stablerep.match import text_vectors
from stablerep.models.encoder import load_encoder
from stablerep.models.joint import ImageText, NoTextTowerError, load_image_text

Space = Literal["picture", "text"]


class Looker:
    """Turns pictures, and texts where it can read, into unit vectors; near vectors are alike."""

    def __init__(self, encoder: FrozenEncoder, name: str, model: ImageText | None = None) -> None:
        self.name = name
        """How the page calls it."""
        self.model = model
        self._eye = _Eye(encoder, model)

    @property
    def fingerprint(self) -> str:
        """Identity of everything that determines the vectors."""
        return self._eye.fingerprint

    @property
    def reads(self) -> bool:
        """Whether it places texts in the space of pictures."""
        return self.model is not None

    def look(self, pictures: list[bytes]) -> np.ndarray:
        """Vectors (N, D + E) float32: the part that compares pictures, then the one that compares them with texts."""
        return extract(self._eye, pictures, batch_size=64)

    @functools.cached_property
    def width(self) -> int:
        """D + E."""
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), "white").save(buffer, "PNG")
        return int(self.look([buffer.getvalue()]).shape[1])

    def columns(self, space: Space) -> slice:
        """Which part of a vector belongs to a space."""
        num_joint = 0 if self.model is None else self.model.text.config.joint_width
        return (
            slice(0, self.width - num_joint)
            if space == "picture"
            else slice(self.width - num_joint, self.width)
        )

    def picture_vector(self, picture: bytes) -> np.ndarray:
        """Unit vector (D,) of an encoded picture; ``UserError`` where it cannot be decoded."""
        try:
            whole = self.look([picture])[0]
        except UserError as error:
            raise UserError("that file is no picture that can be read; try a PNG or JPEG") from error
        vector: np.ndarray = whole[self.columns("picture")]
        return vector

    def text_vector(self, text: str) -> np.ndarray:
        """Unit vector (E,) of a text; only where it ``reads``."""
        if self.model is None:
            raise UserError(
                f"{self.name} does not read texts; give a run of `train clip` or `train stablerep-plus`"
            )
        vector: np.ndarray = text_vectors(self.model, [text], Extraction())[0]
        return vector


class _Eye(nn.Module):
    """Features and joint vectors side by side in one pass, as ``features.extract`` reads an encoder."""

    def __init__(self, encoder: FrozenEncoder, model: ImageText | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.model = model

    @property
    def fingerprint(self) -> str:
        return f"{(self.model or self.encoder).fingerprint}-gallery-1"

    def forward(self, images: Tensor) -> Tensor:
        features = self.encoder(images)
        unit = F.normalize(features, dim=-1)
        if self.model is None:
            return unit
        return torch.cat([unit, self.model.project_images(features[:, None])[:, 0]], dim=1)


def open_looker(run: Path | None, *, download: bool = False) -> Looker:
    """What a run exports or a name stands for; raw pixels where none is given. ``UserError`` where it is no encoder."""
    if run is None:
        return Looker(_CentredPixels(), "raw pixels")
    device = runtime.pick_device("auto")
    try:
        model = load_image_text(run, device, download=download)
    except NoTextTowerError:
        return Looker(load_encoder(run, device, download=download), run.name)
    return Looker(model.encoder, run.name, model)


class _CentredPixels(RawPixels):
    """Raw pixels about mid-grey, so that the angle between two pictures is not that of two white papers."""

    def __init__(self) -> None:
        super().__init__(size=12)

    @property
    def fingerprint(self) -> str:
        return f"centred-{super().fingerprint}"

    def __call__(self, images: Tensor, /) -> Tensor:
        pixels = super().__call__(images)
        return pixels - pixels.mean(dim=1, keepdim=True)
