"""Encoders of timm and open_clip by name, folder and file, compared with these libraries themselves."""

import json
from pathlib import Path

import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models import _hub

from models import official_files
from models.test_convert import TEXTS, images, normalised
from stablerep.errors import UserError
from stablerep.models import foreign
from stablerep.models.convert import CLIP_MEAN, CLIP_STD
from stablerep.models.encoder import load_encoder
from stablerep.models.joint import load_image_text

TINY_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}


@pytest.fixture(autouse=True)
def nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: object, **options: object) -> str:
        assert options["local_files_only"], "a download was not asked for"
        raise FileNotFoundError

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)


def tiny_clip(folder: Path, *, quick_gelu: bool, custom_text: bool = False) -> torch.nn.Module:
    """A small model of open_clip in a folder, with weights that are no zeros."""
    model_cfg = TINY_CLIP | {"quick_gelu": quick_gelu, "custom_text": custom_text}
    preprocess = {"mean": CLIP_MEAN, "std": CLIP_STD, "resize_mode": "squash", "interpolation": "bilinear"}
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": model_cfg, "preprocess_cfg": preprocess})
    )
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return model


@pytest.mark.parametrize("quick_gelu", [True, False])
@pytest.mark.parametrize("custom_text", [True, False])
def test_a_folder_of_open_clip(quick_gelu: bool, custom_text: bool, tmp_path: Path) -> None:
    reference = tiny_clip(tmp_path / "clip", quick_gelu=quick_gelu, custom_text=custom_text)
    model = load_image_text(tmp_path / "clip")
    x = normalised(images(), CLIP_MEAN, CLIP_STD)
    torch.testing.assert_close(model.encode_images(images()), reference.encode_image(x, normalize=True))
    tokens = open_clip.SimpleTokenizer()(TEXTS, 12)
    torch.testing.assert_close(model.encode_texts(TEXTS), reference.encode_text(tokens, normalize=True))
    encoder = load_encoder(tmp_path / "clip")
    assert encoder.fingerprint == model.encoder.fingerprint
    torch.testing.assert_close(
        F.normalize(encoder(images()) @ model.image_projection.weight.T, dim=-1),
        model.encode_images(images()),
    )


def test_an_open_clip_name_with_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = tiny_clip(tmp_path / "clip", quick_gelu=False)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny", TINY_CLIP)
    name = f"open_clip:Tiny@{tmp_path / 'clip' / 'open_clip_pytorch_model.bin'}"
    x = normalised(images(), CLIP_MEAN, CLIP_STD)
    vectors = load_image_text(name).encode_images(images())
    torch.testing.assert_close(vectors, reference.encode_image(x, normalize=True))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:vit_smal@", "no encoder 'timm:vit_smal@'"),
        ("timm:vit_smal", "timm has no model 'vit_smal'"),
        ("timm:resnet18", "no vision transformer 'resnet18'"),
        (
            "timm:vit_tiny_patch16_224.augreg_in21k",
            r"not in the hub's cache; add --download .* or give a file with @",
        ),
        ("timm:vit_tiny_patch16_224/x", "written NAME.TAG"),
        ("timm:vit_tiny_patch16_224@gone.pth", "there is no file gone.pth"),
        ("open_clip:ViT-C-3", "open_clip has no model 'ViT-C-3'"),
        (
            "open_clip:ViT-B-16",
            "needs weights: open_clip:ViT-B-16@FILE, or .* TAG one of .*laion2b_s34b_b88k",
        ),
        ("open_clip:ViT-B-16/laion2b_s34b_b88k", "not in the hub's cache; add --download"),
    ],
)
def test_names_that_lead_nowhere(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_encoder(name)


@pytest.mark.slow
def test_a_download_happens_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10)
    torch.save(model.state_dict(), tmp_path / "fetched.bin")
    asked = []

    def fetch(hub_id: str, file: str, *, local_files_only: bool) -> str:
        asked.append((hub_id, file, local_files_only))
        return str(tmp_path / "fetched.bin")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    encoder = load_encoder("timm:vit_tiny_patch16_224.augreg_in21k", download=True)
    assert asked == [("timm/vit_tiny_patch16_224.augreg_in21k", "model.safetensors", False)]
    assert encoder.config.mean == (0.5, 0.5, 0.5), "its own preprocessing"
    model.reset_classifier(0)
    x = images(1, 224)
    torch.testing.assert_close(encoder(x), model.eval()((x - 0.5) / 0.5))
    named = load_encoder(f"timm:vit_tiny_patch16_224.augreg_in21k@{tmp_path / 'fetched.bin'}")
    assert named.fingerprint == encoder.fingerprint


def test_a_folder_of_timm(tmp_path: Path) -> None:
    model = official_files.backbone()
    colours = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}
    _hub.save_for_hf(model, str(tmp_path), safe_serialization=True, data_config=colours)
    encoder = load_encoder(tmp_path)
    assert (encoder.config.mean, encoder.config.image_size) == ((0.4, 0.5, 0.6), 32)
    torch.testing.assert_close(encoder(images()), model(normalised(images(), *colours.values())))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"global_pool": "avg"}))
    with pytest.raises(UserError, match="pooled by 'avg' are not read"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="it names no architecture"):
        load_encoder(tmp_path)
    with pytest.raises(UserError, match="timm's models read images only"):
        load_image_text(tmp_path)


def test_a_folder_of_timm_may_hold_its_weights_in_the_old_format(tmp_path: Path) -> None:
    model = official_files.backbone()
    colours = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}
    _hub.save_for_hf(model, str(tmp_path), safe_serialization=False, data_config=colours)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "pytorch_model.bin"]
    encoder = load_encoder(tmp_path)
    torch.testing.assert_close(encoder(images()), model(normalised(images(), *colours.values())))
    assert encoder.metadata == {"from": "pytorch_model.bin"}
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"holds no weights \(model\.safetensors or pytorch_model\.bin\)"):
        load_encoder(tmp_path)


@pytest.mark.parametrize(
    ("tower", "change", "message"),
    [
        ("vision_cfg", {"layers": [1, 1, 1, 1]}, "image tower is no vision transformer"),
        (
            "vision_cfg",
            {"mlp_ratio": 4.3},
            r"image tower is not one that this program builds \(mlp_ratio=4.3",
        ),
        (
            "vision_cfg",
            {"timm_model_name": "vit_tiny_patch16_224"},  # open_clip pools by the mean where nothing is said
            r"image tower is not one that this program builds \(timm_pool='avg'\)",
        ),
        ("text_cfg", {"hf_model_name": "roberta"}, "text tower is not one .*roberta"),
        ("text_cfg", {"hf_tokenizer_name": "bert"}, "tokenizer.json|reads texts with 'bert'"),
    ],
)
def test_other_architectures_are_refused(
    tower: str, change: dict[str, object], message: str, tmp_path: Path
) -> None:
    tiny_clip(tmp_path, quick_gelu=True)
    config = json.loads((tmp_path / foreign.OPEN_CLIP_CONFIG).read_text())
    config["model_cfg"][tower] |= change
    (tmp_path / foreign.OPEN_CLIP_CONFIG).write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        load_image_text(tmp_path)
