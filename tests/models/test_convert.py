"""Official checkpoints: features as the official code computes them, and nothing is ever run to read them."""

import argparse
import pickle
import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from models import official_files
from stablerep.errors import UserError
from stablerep.models.convert import CLIP_MEAN, CLIP_STD, plain_architecture, read_encoder
from stablerep.models.encoder import Encoder, EncoderConfig, load_encoder, save_encoder
from stablerep.models.joint import load_image_text

TEXTS = ["a red apple", "two dogs on a beach, watercolour", "a " + "very " * 100 + "long text"]


def images(num: int = 3, size: int = official_files.SIZE) -> torch.Tensor:
    return torch.rand(num, 3, size, size, generator=torch.Generator().manual_seed(1))


def normalised(x: torch.Tensor, mean: Any = (0.485, 0.456, 0.406), std: Any = (0.229, 0.224, 0.225)) -> Any:
    return (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


@pytest.mark.parametrize("prefix", ["visual.", "module.visual.", ""])
def test_features_are_those_of_the_official_model(prefix: str, tmp_path: Path) -> None:
    tensors = official_files.visual(prefix)
    wrap = "module." if prefix.startswith("module.") else ""
    tensors |= {wrap + name: value for name, value in official_files.mlp("image_mlp", 64).items()}
    encoder = load_encoder(official_files.checkpoint(tmp_path / "cc12m_1x.pth", tensors))
    assert not encoder.training
    assert encoder.metadata == {"from": "cc12m_1x.pth", "normalisation": "ImageNet"}
    torch.testing.assert_close(encoder(images()), official_files.backbone()(normalised(images())))


@pytest.mark.parametrize(
    ("sizes", "fields"),
    [
        ((384, 16, 224, 12), {"architecture": "vit_small_patch16_224", "image_size": 224}),
        ((768, 16, 224, 12), {"architecture": "vit_base_patch16_224", "image_size": 224}),
        ((1024, 14, 224, 24), {"architecture": "vit_large_patch14_224", "image_size": 224}),
        (
            (384, 16, 224, 6),
            {"architecture": "vit_base_patch16_224", "width": 384, "depth": 6, "num_heads": 6},
        ),
        ((384, 8, 48, 12), {"patch_size": 8, "image_size": 48}),
    ],
)
def test_published_sizes_are_named_as_timm_names_them(
    sizes: tuple[int, int, int, int], fields: dict[str, Any]
) -> None:
    found = plain_architecture(*sizes)
    assert found | fields == found
    assert len(fields) != 2 or "architecture" not in fields or found == fields


def test_synclr_is_normalised_as_clip(tmp_path: Path) -> None:
    released = official_files.checkpoint(tmp_path / "synclr_vit_b_16.pth", official_files.visual())
    encoder = load_encoder(released)
    reference = official_files.backbone()(normalised(images(), CLIP_MEAN, CLIP_STD))
    torch.testing.assert_close(encoder(images()), reference)
    assert encoder.metadata["normalisation"] == "CLIP"


def test_of_the_synclr_trainer_the_averaged_weights_are_taken(tmp_path: Path) -> None:
    tensors = official_files.visual("student.backbone.", seed=1) | official_files.visual("teacher.backbone.")
    tensors["teacher.backbone.mask_token"] = torch.zeros(1, 64)
    encoder = load_encoder(official_files.checkpoint(tmp_path / "epoch_last.pth", tensors))
    reference = official_files.backbone()(normalised(images(), CLIP_MEAN, CLIP_STD))
    torch.testing.assert_close(encoder(images()), reference)


@pytest.mark.slow
def test_both_towers_of_stablerep_plus(tmp_path: Path) -> None:
    text = official_files.text_tower()
    tensors = official_files.visual() | text | official_files.mlp("image_mlp", 64)
    model = load_image_text(official_files.checkpoint(tmp_path / "plus.pth", tensors))
    tokens = open_clip.SimpleTokenizer()(TEXTS)
    torch.testing.assert_close(model.encode_texts(TEXTS), official_files.text_vectors(text, tokens))
    projected = official_files.backbone()(normalised(images())) @ text["image_projection"]
    torch.testing.assert_close(model.encode_images(images()), F.normalize(projected, dim=-1))
    torch.testing.assert_close(model.logit_scale.detach(), text["logit_scale"])
    assert load_encoder(tmp_path / "plus.pth").fingerprint == model.encoder.fingerprint


def test_projections_with_layers(tmp_path: Path) -> None:
    text = official_files.text_tower()
    heads = official_files.mlp("image_projection", 64) | official_files.mlp("text_projection", 64)
    tensors = {name: value for name, value in text.items() if not name.endswith("_projection")} | heads
    model = load_image_text(
        official_files.checkpoint(tmp_path / "plus.pth", official_files.visual() | tensors)
    )
    x = official_files.backbone()(normalised(images()))
    for layer in (1, 2):
        x = F.linear(x, *(heads[f"image_projection.layer{layer}.{name}"] for name in ("weight", "bias")))
        x = F.relu(x / (1 + 1e-5) ** 0.5)  # batch norm as it is before training
    x = F.linear(x, *(heads[f"image_projection.layer3.{name}"] for name in ("weight", "bias")))
    torch.testing.assert_close(model.encode_images(images()), F.normalize(x, dim=-1))


def test_safetensors_are_read_as_well(tmp_path: Path) -> None:
    safetensors.torch.save_file(official_files.visual(), tmp_path / "encoder.safetensors")
    torch.testing.assert_close(
        load_encoder(tmp_path / "encoder.safetensors")(images()),
        official_files.backbone()(normalised(images())),
    )


# -- what is refused --------------------------------------------------------------------------------


class _Trap:
    """Unpickled by an ordinary reader, it creates a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.place,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("where", ["beside", "in the options", "bare", "in the old format"])
def test_a_file_that_would_run_code_is_refused_and_runs_nothing(where: str, tmp_path: Path) -> None:
    sprung, path = tmp_path / "sprung", tmp_path / "m.pth"
    content: Any = {"model": official_files.visual(), "epoch": 1, "args": argparse.Namespace(lr=0.1)}
    if where == "beside":
        content["scaler"] = _Trap(sprung)
    elif where == "in the options":
        content["args"] = argparse.Namespace(lr=_Trap(sprung))
    else:
        content = _Trap(sprung)
    if where == "bare":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=where != "in the old format")
    with pytest.raises(UserError, match=r"m.pth was not opened: it holds more than tensors") as caught:
        load_encoder(path)
    assert "weights_only" not in str(caught.value), "no advice to open it in spite of that"
    assert not sprung.exists()
    if where != "bare":
        torch.load(path, weights_only=False)
    else:
        pickle.loads(path.read_bytes())
    assert sprung.exists(), "the trap works where a file is unpickled"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"visual.blocks.1.attn.proj.bias": None}, r"does not fit .*blocks.1.attn.proj.bias"),
        ({"visual.blocks.1.ls1.gamma": torch.zeros(64)}, r"does not fit .*blocks.1.ls1.gamma"),
        ({"visual.pos_embed": torch.zeros(1, 16, 64)}, "16 positions are no square and a class token"),
        ({"visual.pos_embed": None}, "no whole vision transformer"),
        (
            {"visual.patch_embed.proj.weight": torch.zeros(65, 3, 8, 8)},
            "width 65 is none of the published sizes",
        ),
        ({"visual.patch_embed.proj.weight": None}, r"no vision transformer in a known layout"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    tensors = {name: value for name, value in (official_files.visual() | change).items() if value is not None}
    with pytest.raises(UserError, match=message):
        load_encoder(official_files.checkpoint(tmp_path / "m.pth", tensors))


def test_weights_of_ours_without_their_description_are_refused(tmp_path: Path) -> None:
    """They would be read with SynCLR's colours, whatever they were trained with."""
    config = EncoderConfig(
        architecture="vit_base_patch16_224", image_size=32, patch_size=8, width=64, depth=1, num_heads=1
    )
    save_encoder(Encoder(config), tmp_path / "encoder")
    whole = load_encoder(tmp_path / "encoder" / "encoder.safetensors")
    assert whole.config == config, "with the description beside it the file is as good as its folder"
    shutil.copy(tmp_path / "encoder" / "encoder.safetensors", tmp_path)
    for read in (load_encoder, read_encoder):
        with pytest.raises(UserError, match=r"without the encoder\.json .* give the folder that holds both"):
            read(tmp_path / "encoder.safetensors")


def test_damaged_and_empty_files_are_refused(tmp_path: Path) -> None:
    path = official_files.checkpoint(tmp_path / "m.pth", official_files.visual())
    path.write_bytes(path.read_bytes()[:5000])
    for suffix in (".pth", ".safetensors"):
        with pytest.raises(UserError, match="is damaged or no checkpoint"):
            load_encoder(path.rename(path.with_suffix(suffix)))
        path = path.with_suffix(suffix)
    torch.save({"epoch": 3}, tmp_path / "e.pth")
    with pytest.raises(UserError, match="holds no named tensors; its entries are epoch"):
        load_encoder(tmp_path / "e.pth")
    torch.save([torch.zeros(1)], tmp_path / "l.pth")
    with pytest.raises(UserError, match="holds no named tensors but list"):
        load_encoder(tmp_path / "l.pth")


@pytest.mark.slow
def test_a_file_without_or_with_half_a_text_tower(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no text tower; only StableRep"):
        load_image_text(official_files.checkpoint(tmp_path / "v.pth", official_files.visual()))
    text = official_files.text_tower()
    for name, message in (("text_projection", "a part of a text tower"), ("ln_final.bias", "ln_final.bias")):
        tensors = official_files.visual() | {key: value for key, value in text.items() if key != name}
        with pytest.raises(UserError, match=message):
            load_image_text(official_files.checkpoint(tmp_path / "t.pth", tensors))
    text["token_embedding.weight"] = torch.zeros(100, 64)
    with pytest.raises(UserError, match="reads 100 tokens, CLIP's vocabulary has 49,408"):
        load_image_text(official_files.checkpoint(tmp_path / "t.pth", official_files.visual() | text))
