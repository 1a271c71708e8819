"""Image-text models of others: any model of open_clip, from files that are here. Nothing is ever downloaded.

Shapes: N images or texts, E width of the joint space.
"""

import difflib
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from stablerep.errors import UserError
from stablerep.models import files
from stablerep.models.joint import ImageText, load_image_text

_CONFIG = "open_clip_config.json"
_FETCHED = ("hf_model_name", "hf_tokenizer_name")  # what makes open_clip ask the hub


class OpenClip(nn.Module):
    """A model of open_clip with its own preprocessing, used as ``ImageText`` is."""

    def __init__(self, model: nn.Module, tokenizer: Any, name: str) -> None:
        super().__init__()
        self.model = model
        self.name = name
        self._tokenizer = tokenizer
        self._preprocess: dict[str, Any] = dict(model.visual.preprocess_cfg)  # type: ignore[union-attr, arg-type]
        if self._preprocess["resize_mode"] not in ("shortest", "squash"):
            raise UserError(
                f"{name} resizes pictures in mode {self._preprocess['resize_mode']!r}, which is not known here"
            )

    @property
    def logit_scale(self) -> Tensor:
        scale = self.model.logit_scale
        assert isinstance(scale, Tensor)
        return scale

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of name, preprocessing and weights."""
        described = {
            "name": self.name,
            "preprocess": json.dumps(self._preprocess, sort_keys=True, default=str),
        }
        return files.fingerprint(described, self.model.state_dict())

    def encode_images(self, images: Tensor) -> Tensor:
        """Unit vectors (N, E) of images (N, 3, H, W) in [0, 1], of any size."""
        return F.normalize(self.model.encode_image(self.prepared(images)), dim=-1)  # type: ignore[operator]

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (N, E) of texts."""
        tokens = self._tokenizer(list(texts)).to(self.logit_scale.device)
        return F.normalize(self.model.encode_text(tokens), dim=-1)  # type: ignore[operator]

    def prepared(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1] as the model wants them: resized, cropped, normalised."""
        settings = self._preprocess
        size = [settings["size"]] * 2 if isinstance(settings["size"], int) else list(settings["size"])
        mode = InterpolationMode(settings["interpolation"])
        if settings["resize_mode"] == "squash":
            resized = transforms.resize(images, size, mode, antialias=True)
        else:
            resized = transforms.resize(images, [min(size)], mode, antialias=True)
            resized = transforms.center_crop(resized, size)
        # What overshoots at edges is cut, as it is in pictures of bytes.
        normalised: Tensor = transforms.normalize(resized.clamp(0, 1), settings["mean"], settings["std"])
        return normalised


def load_matcher(encoder: str, weights: Path | None, device: torch.device) -> ImageText | OpenClip:
    """An image-text model: a run of ``train clip`` or ``train stablerep-plus``, or a model of open_clip.

    A model of open_clip is given by its name and the file of its weights, or by a folder with open_clip_config.json.
    Raises ``UserError`` where there is none, where weights do not fit, and where something would have to be downloaded.
    """
    if weights is not None:
        return _load_named(encoder, weights, device)
    if (Path(encoder) / _CONFIG).is_file():
        return _load_folder(Path(encoder), device)
    if not Path(encoder).exists() and encoder in _names():
        raise UserError(
            f"give the file with the weights of {encoder} (--weights FILE); nothing is downloaded"
        )
    return load_image_text(encoder, device)


def _load_named(name: str, weights: Path, device: torch.device) -> OpenClip:
    if name not in _names():
        near = difflib.get_close_matches(name, _names(), n=3)
        raise UserError(f"open_clip has no model {name!r}{f'; did you mean {near[0]}?' if near else ''}")
    if not weights.is_file():
        raise UserError(f"{weights}: there are no weights; give the file with the weights of {name}")
    import open_clip

    text = open_clip.get_model_config(name)["text_cfg"]
    if any(text.get(key) for key in _FETCHED) or "siglip" in name.lower():
        raise UserError(
            f"{name} needs a tokenizer or text tower from the hub; save the model with its tokenizer as a folder that "
            f"holds {_CONFIG}, and give that folder"
        )
    return _create(name, name, device, pretrained=str(weights))


def _load_folder(folder: Path, device: torch.device) -> OpenClip:
    try:
        text = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))["model_cfg"]["text_cfg"]
        fetched = text.get("hf_model_name")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / _CONFIG} does not describe a model of open_clip ({error!r})") from error
    if fetched:
        raise UserError(f"{folder}: its text tower {fetched} would come from the hub; nothing is downloaded")
    digest = hashlib.blake2b((folder / _CONFIG).read_bytes(), digest_size=8).hexdigest()
    return _create(f"local-dir:{folder}", f"{_CONFIG} {digest}", device)


def _create(source: str, name: str, device: torch.device, **options: Any) -> OpenClip:
    import open_clip

    try:
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn only to be overwritten
            model = open_clip.create_model(source, device=device, require_pretrained=True, **options)
        tokenizer = open_clip.get_tokenizer(source)
    except Exception as error:  # whatever a file that is not what it should be makes a library say
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"the weights of {source} cannot be loaded ({first}); give the file that belongs to it"
        ) from error
    return OpenClip(model.eval(), tokenizer, name)


@functools.cache
def _names() -> tuple[str, ...]:
    """The models of open_clip."""
    import open_clip

    return tuple(open_clip.list_models())
