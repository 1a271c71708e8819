"""Finding a teacher, and refusing folders that could run code."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stablerep.errors import UserError
from stablerep.generation import folders
from stablerep.generation.settings import TeacherDefaults

Builder = Callable[[str], Path]


@pytest.fixture
def folder(pipeline_folder: Builder, tmp_path: Path) -> Path:
    """A copy of the tiny PixArt folder that a test may spoil."""
    return Path(shutil.copytree(pipeline_folder("pixart"), tmp_path / "my teacher"))


def _edit_index(folder: Path, **changes: Any) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_every_pipeline_family_is_accepted(pipeline_folder: Builder) -> None:
    for name in ("stable_diffusion", "pixart"):
        folders.check_folder(pipeline_folder(name))


@pytest.mark.parametrize(
    "name", ["vae/pytorch_model.bin", "notes.pkl", "unet/old.ckpt", "x.pt", "deep/er/y.pth"]
)
def test_pickle_is_refused_by_name(folder: Path, name: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=Path(name).name) as caught:
        folders.check_folder(folder)
    assert "pickle" in str(caught.value)


def test_custom_code_is_refused(folder: Path) -> None:
    (folder / "transformer" / "modelling.py").write_text("print('never run')")
    with pytest.raises(UserError, match=r"modelling\.py"):
        folders.check_folder(folder)


@pytest.mark.parametrize("library", ["modelling", "os", "..transformer", "diffusers.pipelines", "timm"])
def test_component_from_elsewhere_is_refused(folder: Path, library: str) -> None:
    _edit_index(folder, transformer=[library, "PixArtTransformer2DModel"])
    with pytest.raises(UserError, match="'transformer' comes from"):
        folders.check_folder(folder)


def test_safety_checker_of_stable_diffusion_is_accepted(folder: Path) -> None:
    _edit_index(folder, safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    folders.check_folder(folder)


@pytest.mark.parametrize("name", ["MyPipeline", ["pipeline", "MyPipeline"], "UNet2DConditionModel", None])
def test_unknown_pipeline_class_is_refused(folder: Path, name: Any) -> None:
    _edit_index(folder, _class_name=name)
    with pytest.raises(UserError, match="is not a pipeline of the installed diffusers"):
        folders.check_folder(folder)


def test_folder_without_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no model_index\.json"):
        folders.check_folder(tmp_path)


def test_a_single_file_is_answered_with_the_call_that_makes_a_folder_of_it(tmp_path: Path) -> None:
    file = tmp_path / "v1-5-pruned-emaonly.safetensors"
    file.write_bytes(b"weights")
    with pytest.raises(UserError) as caught:
        folders.find_teacher(str(file))
    call = f"from_single_file('{file}').save_pretrained('FOLDER', safe_serialization=True)"
    assert str(caught.value).endswith(f"StableDiffusionPipeline.{call}")


def test_unknown_name_lists_the_shipped_teachers() -> None:
    with pytest.raises(UserError, match="unknown teacher 'icosn'") as caught:
        folders.find_teacher("icosn")
    assert all(name in str(caught.value) for name in folders.shipped_teachers())


def test_a_run_that_trained_a_painter_names_its_folder_within(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "run" / "teacher")
    with pytest.raises(UserError, match=r"run is not a diffusers pipeline folder: .*; give .*run/teacher$"):
        folders.check_folder(tmp_path / "run")


def test_hub_id_is_not_downloaded_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def download(hub_id: str, **options: Any) -> str:
        seen.append((hub_id, options))
        raise OSError("not cached")

    monkeypatch.setattr(folders.diffusers.DiffusionPipeline, "download", download)
    with pytest.raises(UserError, match="--download"):
        folders.find_teacher("nobody/nothing")
    assert seen == [("nobody/nothing", {"use_safetensors": True, "local_files_only": True})]
    with pytest.raises(UserError, match="check the id"):
        folders.find_teacher("nobody/nothing", download=True)
    assert seen[1][1]["local_files_only"] is False


def test_hub_id_that_is_not_cached_is_an_error_of_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="neither shipped, nor a folder, nor in the hub's cache"):
        folders.find_teacher("nobody/nothing")


def test_name_is_the_last_part_in_plain_letters(folder: Path) -> None:
    assert folders.teacher_name("runwayml/stable-diffusion-v1-5") == "stable-diffusion-v1-5"
    assert folders.teacher_name(str(folder)) == "my-teacher"


def test_defaults_are_read_strictly(folder: Path) -> None:
    assert folders.read_defaults(folder) == TeacherDefaults()
    path = folder / "stablerep.json"
    path.write_text(json.dumps({"num_inference_steps": 12, "guidance_scale": 3, "styles": ["ink"]}))
    assert folders.read_defaults(folder).num_inference_steps == 12
    path.write_text(json.dumps({"num_steps": 12}))
    with pytest.raises(UserError, match="num_steps"):
        folders.read_defaults(folder)


def test_hashes_follow_the_content(folder: Path, pipeline_folder: Builder) -> None:
    before = folders.content_hashes(pipeline_folder("pixart"))
    assert folders.content_hashes(folder) == before  # wherever it lies
    assert set(before) == {"text_encoder", "tokenizer", "transformer", "vae"}
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    changed = folders.content_hashes(folder)
    assert {name for name in before if before[name] != changed[name]} == {"vae"}
