"""Worlds: captions and real pictures that belong together, written as the two tables of a folder."""

import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from tyro.conf import Positional

from stablerep.captions.fashion import fashion_material
from stablerep.captions.icons import icons_material
from stablerep.captions.material import Material, Picture
from stablerep.config import differing_fields
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.run import read_json, write_text
from stablerep.store import OK, REAL, CaptionTable, ImageTable

_BATCH = 5_000


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """Write the captions and real pictures of a world into a folder; doing it again adds what is missing."""

    name: Positional[Literal["icons", "fashion"]]
    """icons ships with the package; fashion is made from Fashion-MNIST, which must be installed."""
    out: Path
    """Folder for captions.lance and images.lance."""
    size: int | None = None
    """Side of the stored pictures in pixels; unset: as the world has them, 64 for icons, 28 for fashion."""
    source: Path | None = None
    """Where the data are: a folder with the four Fashion-MNIST files, or another icons Parquet file."""
    hide_class: bool = False
    """Fashion only: captions that describe tone, texture and shape but never name the class."""


@dataclass(frozen=True, kw_only=True)
class WorldSummary:
    """How many captions and pictures the world has in the tables, by what, and how many of them were new."""

    name: str
    path: Path
    captions: int
    new_captions: int
    pictures: int
    new_pictures: int
    captions_by_split: dict[str, int]
    pictures_by_split: dict[str, int]
    pictures_by_style: dict[str, int]
    pictures_by_label: dict[str, int]


def _icons(config: WorldConfig) -> Material:
    if config.hide_class:
        raise UserError(
            "--hide-class belongs to the fashion world; icons has no captions without their subject"
        )
    return icons_material(config.source)


def _fashion(config: WorldConfig) -> Material:
    return fashion_material(config.source, hide_class=config.hide_class)


WORLDS: Mapping[str, Callable[[WorldConfig], Material]] = {"icons": _icons, "fashion": _fashion}


def write_world(config: WorldConfig, *, console: Console = Console(quiet=True)) -> WorldSummary:  # noqa: B008
    """Write a world to a folder: captions.lance, images.lance (origin ``real``) and world.json, its identity.

    Raises ``UserError`` where data are missing, or the folder holds another world, size or version of data.
    """
    if config.size is not None and config.size < 8:
        raise UserError(f"size {config.size} is too small for a picture; give at least 8 pixels")
    material = WORLDS[config.name](config)
    size = config.size or material.size
    _claim(config, material.digest, size)
    captions = CaptionTable.open_or_create(config.out / "captions.lance")
    images = ImageTable.open_or_create(config.out / "images.lance")
    new_captions = captions.append(material.captions)
    new_pictures = _write_pictures(images, material.pictures, size, console)
    summary = _summarise(config, captions.reload(), images.reload(), (new_captions, new_pictures))
    console.say(
        f"{config.name}: {summary.captions:,} captions ({new_captions:,} new), "
        f"{summary.pictures:,} pictures ({new_pictures:,} new) in {config.out}"
    )
    return summary


def world_name(folder: Path) -> str:
    """The name of the world that a folder holds; ``UserError`` where it holds none."""
    try:
        return str(json.loads((folder / "world.json").read_text(encoding="utf-8"))["world"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} holds no world (world.json); write one with `stablerep world`, or name one of "
            f"{', '.join(WORLDS)}"
        ) from error


def world_of(folder: Path) -> str | None:
    """The name of the world that a folder holds; None where it holds a user's own captions and pictures instead.

    Raises ``UserError`` where it holds neither.
    """
    if (folder / "world.json").exists():
        return world_name(folder)
    tables = {"captions.lance": CaptionTable, "images.lance": ImageTable}
    missing = [name for name, table in tables.items() if not table.exists(folder / name)]
    if missing:
        raise UserError(
            f"{folder} holds no world: there is neither a world.json, which `stablerep world` writes, nor "
            f"{' and '.join(missing)} of your own; give another folder, or one of {', '.join(WORLDS)}"
        )
    return None


def _claim(config: WorldConfig, digest: str, size: int) -> None:
    """Write down which world the folder holds, or compare; rows of two worlds must not mix."""
    path = config.out / "world.json"
    asked = {"world": config.name, "size": size, "hide_class": config.hide_class, "data": digest}
    if path.exists():
        differences = differing_fields(read_json(path), asked)
        if differences:
            raise UserError(
                f"{config.out} holds another world ({'; '.join(differences)}); give another folder"
            )
        return
    taken = [name for name in ("captions.lance", "images.lance") if (config.out / name).exists()]
    if taken:
        raise UserError(
            f"{config.out} already holds {' and '.join(taken)} of something else; give another folder"
        )
    try:
        write_text(path, json.dumps(asked, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write into the folder {config.out}: {error.strerror}") from error


def _write_pictures(images: ImageTable, pictures: Sequence[Picture], size: int, console: Console) -> int:
    done = images.keys(REAL)
    missing = [picture for picture in pictures if (picture.caption_id, picture.image_index) not in done]
    new = 0
    with console.progress("pictures", len(pictures), "pictures", len(pictures) - len(missing)) as progress:
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            new += images.append([_row(picture, size) for picture in batch])
            progress.advance(len(batch))
    return new


def _row(picture: Picture, size: int) -> dict[str, Any]:
    image = picture.draw()
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return {
        "origin": REAL,
        "caption_id": picture.caption_id,
        "image_index": picture.image_index,
        "image": encoded.getvalue(),
        "width": size,
        "height": size,
        "status": OK,
        "style": picture.style,
        "split": picture.split,
        "group": picture.group,
        "label": picture.label,
        "licence": picture.licence,
    }


def _summarise(
    config: WorldConfig, captions: CaptionTable, images: ImageTable, new: tuple[int, int]
) -> WorldSummary:
    words = captions.read(["split"], where=f"source IN ('{config.name}', '{config.name}-test')")
    pictures = images.read(["split", "style", "label"], where=f"origin = '{REAL}'")

    def counts(values: list[str]) -> dict[str, int]:
        return dict(sorted(Counter(values).items()))

    return WorldSummary(
        name=config.name,
        path=config.out,
        captions=len(words),
        new_captions=new[0],
        pictures=len(pictures),
        new_pictures=new[1],
        captions_by_split=counts(words["split"].to_pylist()),
        pictures_by_split=counts(pictures["split"].to_pylist()),
        pictures_by_style=counts(pictures["style"].to_pylist()),
        pictures_by_label=counts(pictures["label"].to_pylist()),
    )
