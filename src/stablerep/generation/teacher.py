"""The model that paints: what is asked of it, and how one is opened."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from stablerep.generation.edited_folder import read_edit
from stablerep.generation.folders import (
    check_folder,
    content_hashes,
    find_teacher,
    read_defaults,
    read_index,
    teacher_name,
)
from stablerep.generation.pictures import Painted
from stablerep.generation.pipelines import Conditioning, DiffusersTeacher, open_pipeline, usual_batch_size
from stablerep.generation.settings import PaintConfig, resolve
from stablerep.runtime import pick_device


class Teacher(Protocol):
    """Paints pictures from prompts; a picture depends on its prompt, its seed and ``settings``, on nothing else."""

    name: str
    batch_size: int
    styles: tuple[str, ...]
    """Styles that the images of a caption are asked for in turn."""
    settings: dict[str, Any]
    """What determines the pixels, as plain JSON values."""
    num_truncated: int
    """Prompts so far of which the text encoder saw only the beginning."""
    truncated_example: str | None
    """One of them."""

    def encode(self, prompts: Sequence[str]) -> list[Conditioning]:
        """One conditioning per prompt, to be used for all its images."""

    def is_truncated(self, prompt: str) -> bool:
        """Whether the text encoder sees only the beginning of a prompt."""

    def paint(self, conditionings: Sequence[Conditioning], seeds: Sequence[int]) -> Painted:
        """At most ``batch_size`` pictures, uint8 (B, 3, H, W), with a reason for each failure."""


TEACHERS: dict[str, Callable[[PaintConfig], Teacher]] = {}
"""Teachers that are no diffusers pipeline, by name; asked before any folder. The shipped ones are folders in assets."""


def load_teacher(name_or_path: str, config: PaintConfig | None = None) -> Teacher:
    """Open a teacher: one of ``TEACHERS``, else a diffusers pipeline; raises as ``load_diffusers_teacher`` does."""
    config = config or PaintConfig()
    if name_or_path in TEACHERS:
        return TEACHERS[name_or_path](config)
    return load_diffusers_teacher(name_or_path, config)


def load_diffusers_teacher(name_or_path: str, config: PaintConfig | None = None) -> DiffusersTeacher:
    """Open a pipeline, whose inside can be read and changed: a shipped name, a diffusers folder, or the hub id of one.

    Raises ``UserError`` where there is none, where its folder holds pickles or custom code, or where the sampler asked
    for does not fit it. Nothing is downloaded unless ``config.download`` is set.
    """
    config = config or PaintConfig()
    folder = find_teacher(name_or_path, download=config.download)
    check_folder(folder)
    device = pick_device(config.device)
    usual = usual_batch_size(read_index(folder)["_class_name"])
    settings = resolve(config, read_defaults(folder), device, usual)
    pipeline = open_pipeline(folder, settings, device)
    teacher = DiffusersTeacher(pipeline, teacher_name(name_or_path), settings, content_hashes(folder))
    edit = read_edit(folder)
    if edit is not None:  # the weights say that it is another teacher, this says which
        teacher.settings["edit"] = edit
    return teacher


def origin_name(name: str, settings: Mapping[str, Any]) -> str:
    """Name of everything painted with these settings: the teacher's name and 12 digits of their hash."""
    text = json.dumps(settings, sort_keys=True)
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
