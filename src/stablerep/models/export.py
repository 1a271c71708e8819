"""The command ``export``: an encoder, with its text tower where it has one, as a folder that other libraries load."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.models import card, export_formats, export_huggingface, export_onnx
from stablerep.models.encoder import Encoder, load_encoder
from stablerep.models.joint import ImageText, NoTextTowerError, load_image_text
from stablerep.run import whole_folder, write_text

FormatName = Literal["timm", "open_clip", "huggingface", "onnx", "safetensors"]
Writer = Callable[[Encoder, ImageText | None, Path], str]
"""Fills a folder; returns what the card says of loading it, in Markdown."""

FORMATS: dict[str, Writer] = {
    "timm": export_formats.write_timm,
    "open_clip": export_formats.write_open_clip,
    "huggingface": export_huggingface.write_huggingface,
    "onnx": export_onnx.write_onnx,
    "safetensors": export_formats.write_own,
}


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write an encoder as a folder that another library loads by itself, with a card that says where it is from."""

    run: Positional[Path]
    """Run or encoder folder, a shipped name, an official .pth file, timm:NAME[@FILE] or open_clip:NAME@FILE."""
    to: FormatName
    """timm, open_clip, huggingface (transformers), onnx, or safetensors (this program's own folder)."""
    out: Path
    """Folder to write; it must not exist."""
    name: str | None = None
    """What the card calls the model; the name of the run where not given."""
    licence: str | None = None
    """Licence of the weights, as an SPDX name, for the card."""
    download: bool = False
    """Fetch weights that are only named (timm:NAME, open_clip:NAME/TAG) from the hub."""


@dataclass(frozen=True, kw_only=True)
class ExportSummary:
    """What was written."""

    path: Path
    format: str
    num_features: int
    text_tower: bool
    fingerprint: str
    files: tuple[str, ...]


def export(config: ExportConfig, *, console: Console = Console(quiet=True)) -> ExportSummary:  # noqa: B008
    """Write the folder ``config.out``, whole or not at all.

    Raises ``UserError`` where the encoder cannot be loaded, the format cannot say what it is, the folder exists, or a
    library that the format needs is not installed.
    """
    encoder, joint = _load(config)
    name = config.name or card.name_of(config.run)
    with whole_folder(config.out) as folder:
        usage = FORMATS[config.to](encoder, joint, folder)
        about = card.About(name=name, run=config.run, library=config.to, licence=config.licence, usage=usage)
        write_text(folder / "README.md", card.model_card(encoder, joint, about))
        files = tuple(
            sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        )
    console.say(f"{name} for {config.to}: {config.out} (its README.md says how to load it)")
    return ExportSummary(
        path=config.out,
        format=config.to,
        num_features=encoder.dim,
        text_tower=joint is not None,
        fingerprint=encoder.fingerprint,
        files=files,
    )


def _load(config: ExportConfig) -> tuple[Encoder, ImageText | None]:
    """The encoder, and the model of both towers where there is one; timm has no place for a text tower."""
    if config.to == "timm":
        return load_encoder(config.run, download=config.download), None
    try:
        joint = load_image_text(config.run, download=config.download)
    except NoTextTowerError as error:
        if config.to == "open_clip":
            raise UserError(
                f"open_clip describes pairs of image and text towers only, and {error}; export to timm instead"
            ) from error
        return load_encoder(config.run, download=config.download), None
    return joint.encoder, joint
