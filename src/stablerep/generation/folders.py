"""Teachers as folders: find one by name, path or hub id, refuse what could run code, hash what was trained."""

import hashlib
import importlib.util
import re
from importlib import resources
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import SafetensorError

from stablerep import config as config_module
from stablerep.errors import UserError
from stablerep.generation.settings import TeacherDefaults
from stablerep.models.weights import quiet_libraries
from stablerep.run import read_json

INDEX = "model_index.json"
DEFAULTS = "stablerep.json"
_PICKLES = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})
# The T5 of Stable Diffusion 3, which paints without it, though diffusers asks to be told so.
_DISPENSABLE = ("text_encoder_3", "tokenizer_3")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def shipped_teachers() -> list[str]:
    """Names of the teachers that ship with the package."""
    folder = resources.files("stablerep") / "assets" / "teachers"
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


def find_teacher(name_or_path: str, *, download: bool = False) -> Path:
    """The local folder of a teacher: a shipped name, a path, or a hub id that is cached (or may be downloaded).

    Raises ``UserError`` where there is no such teacher; nothing is fetched unless ``download`` is set.
    """
    if name_or_path in shipped_teachers():
        return Path(str(resources.files("stablerep") / "assets" / "teachers" / name_or_path))
    path = Path(name_or_path)
    if path.is_file():
        raise UserError(
            f"teacher {path} is a single file, and a teacher is a folder; diffusers makes one of it: "
            f"StableDiffusionPipeline.from_single_file({str(path)!r})"
            ".save_pretrained('FOLDER', safe_serialization=True)"
        )
    if path.exists():
        return path.resolve()
    if is_hub_id(name_or_path):
        return _from_hub(name_or_path, download)
    raise UserError(
        f"unknown teacher {name_or_path!r}; shipped: {', '.join(shipped_teachers()) or 'none'}; "
        "or give the path of a diffusers folder, or a hub id such as owner/name"
    )


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a hub id, which is owner/name."""
    return _HUB_ID.fullmatch(name) is not None


def teacher_name(name_or_path: str) -> str:
    """A short name for tables and messages: the last part of the path, in letters, digits, dots and dashes."""
    last = (
        Path(name_or_path).resolve().name if Path(name_or_path).exists() else name_or_path.rpartition("/")[2]
    )
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last)


def check_folder(folder: Path) -> None:
    """Refuse a folder that is no diffusers pipeline, or that holds anything which could run code when it is opened."""
    index = read_index(folder)
    for path in sorted(folder.rglob("*")):
        if path.suffix in _PICKLES:
            raise UserError(
                f"{path} may be a pickle, which can run code when it is opened; "
                "keep only safetensors in a teacher's folder (convert the weights, then remove this file)"
            )
        if path.suffix == ".py":
            raise UserError(f"{path}: custom code in a teacher's folder is never run; remove it")
    for name, library in components(index).items():
        if not _is_known_library(library):
            raise UserError(
                f"{folder / INDEX}: component {name!r} comes from {library!r}; "
                "only classes of diffusers and transformers are loaded"
            )


def _is_known_library(library: str) -> bool:
    if library in ("diffusers", "transformers"):
        return True
    # Stable Diffusion's safety checker is listed under the module of its pipeline, "stable_diffusion".
    return library.isidentifier() and importlib.util.find_spec(f"diffusers.pipelines.{library}") is not None


def read_index(folder: Path) -> dict[str, Any]:
    """``model_index.json`` of a pipeline folder; ``UserError`` where it is missing, broken or of an unknown class."""
    path = folder / INDEX
    if not path.is_file():
        within = folder / "teacher"  # where a run of ours has the pipeline that it trained
        other = within if (within / INDEX).is_file() else "one that save_pretrained of diffusers wrote"
        raise UserError(f"{folder} is not a diffusers pipeline folder: it has no {INDEX}; give {other}")
    index = read_json(path)
    name = index.get("_class_name")
    kind = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not isinstance(kind, type) or not issubclass(kind, diffusers.DiffusionPipeline):
        raise UserError(
            f"{path}: {name!r} is not a pipeline of the installed diffusers {diffusers.__version__}"
        )
    return index


def load_folder(folder: Path, dtype: torch.dtype) -> Any:
    """The stock pipeline of a checked folder, on the CPU; ``UserError`` where it cannot be loaded."""
    index = read_index(folder)
    left_out = {name: None for name in _DISPENSABLE if index.get(name) == [None, None]}
    try:
        with quiet_libraries():
            return diffusers.DiffusionPipeline.from_pretrained(
                folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True, **left_out
            )
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"teacher {folder} cannot be loaded: {error}") from error


def components(index: dict[str, Any]) -> dict[str, str]:
    """Name -> library of every component that a pipeline folder really holds."""
    pairs = {name: value for name, value in index.items() if isinstance(value, list) and len(value) == 2}
    return {name: str(library) for name, (library, _) in pairs.items() if library is not None}


def read_defaults(folder: Path) -> TeacherDefaults:
    """What the folder says of itself in ``stablerep.json``; nothing where it has none."""
    path = folder / DEFAULTS
    return config_module.build(TeacherDefaults, read_json(path) if path.exists() else {}, origin=str(path))


def content_hashes(folder: Path) -> dict[str, str]:
    """Component -> 12 hexadecimal digits over its files, names and contents; the scheduler has no weights."""
    names = sorted(name for name in components(read_index(folder)) if name != "scheduler")
    return {name: _hash_files(folder / name) for name in names}


def _hash_files(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()} {digest}\n".encode())
    return total.hexdigest()[:12]


def _from_hub(hub_id: str, download: bool) -> Path:
    try:
        folder = diffusers.DiffusionPipeline.download(
            hub_id, use_safetensors=True, local_files_only=not download
        )
    except (OSError, ValueError) as error:
        remedy = "check the id and the connection" if download else "add --download to fetch it from the hub"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"teacher {hub_id!r} is neither shipped, nor a folder, nor in the hub's cache; {remedy} ({reason})"
        ) from error
    return Path(folder)
