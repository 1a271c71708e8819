"""Exported encoders, each loaded by its target library alone and compared with the encoder itself."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import open_clip
import pytest
import safetensors.torch
import timm
import torch
import transformers
from PIL import Image
from torch import nn

from models.test_convert import TEXTS, images, normalised
from models.test_text import SMALL as SMALL_TEXT
from models.test_text import learned
from stablerep.errors import UserError
from stablerep.models.encoder import Encoder, EncoderConfig, load_encoder, save_encoder
from stablerep.models.export import ExportConfig, export
from stablerep.models.joint import ImageText, load_image_text, save_image_text
from stablerep.models.text import ClipVocabulary, TextConfig, TextTower
from stablerep.store import ImageTable

SMALL = EncoderConfig(
    architecture="vit_tiny_patch16_224", image_size=32, patch_size=8, width=24, depth=2, num_heads=3,
    mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4),
)  # fmt: skip
CLIP_TEXT = dataclasses.replace(SMALL_TEXT, vocabulary=None, num_tokens=16)
MLP_TEXT = dataclasses.replace(SMALL_TEXT, depth=1, projection="mlp", projection_hidden=16)
ONE_BLOCK = dataclasses.replace(SMALL, depth=1)  # for ONNX, which traces every block, and takes long over it
TIGHT = {"atol": 1e-5, "rtol": 1e-5}


def drawn(model: nn.Module) -> nn.Module:
    """Weights that are no zeros and ones, so that a swapped or forgotten tensor is seen."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model.eval()


def encoder(folder: Path, config: EncoderConfig = SMALL) -> Encoder:
    model = Encoder(config)
    drawn(model)
    save_encoder(model, folder / "encoder")
    return model


def pair(folder: Path, text: TextConfig, config: EncoderConfig = SMALL) -> ImageText:
    vocabulary = learned() if text.vocabulary else ClipVocabulary()
    model = ImageText(Encoder(config), TextTower(text, vocabulary))
    drawn(model)
    save_image_text(model, folder)
    return model


def published(size: str) -> EncoderConfig:
    """A published size but for its depth: its blocks are alike, and twelve take long to export.

    To ONNX, whose graph is that of a small encoder, nothing is exported at these sizes.
    """
    return EncoderConfig(architecture=f"vit_{size}_patch16_224", depth=1)


@pytest.fixture(scope="module", params=["small", "base"])
def published_encoder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Encoder, Path]:
    """An encoder of a published size, and its run, which is only read."""
    run = tmp_path_factory.mktemp(request.param)
    return encoder(run, published(request.param)), run


@pytest.fixture(scope="module")
def published_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageText, Path]:
    """Both towers, and their run, which is only read; the text tower has one size."""
    run = tmp_path_factory.mktemp("published") / "run"
    return pair(run, TextConfig(depth=1), published("small")), run


def ready(config: EncoderConfig, num: int = 3) -> torch.Tensor:
    """Pictures as the other libraries take them: at the encoder's size, normalised."""
    return normalised(images(num, config.image_size), config.mean, config.std)


def write(run: Path, to: Any, out: Path) -> Path:
    summary = export(ExportConfig(run=run, to=to, out=out))
    assert "README.md" in summary.files
    return summary.path


# -- image towers -----------------------------------------------------------------------------------


def check_timm(reference: Encoder, folder: Path) -> None:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    x = images(3, reference.config.image_size)
    torch.testing.assert_close(model(ready(reference.config)), reference(x), **TIGHT)
    data = timm.data.resolve_model_data_config(model)
    assert tuple(data["mean"]) == reference.config.mean
    assert (data["crop_mode"], data["crop_pct"], data["interpolation"]) == ("squash", 1.0, "bilinear")


def check_huggingface(reference: Encoder, folder: Path) -> None:
    model, info = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    output = model.eval()(pixel_values=ready(reference.config))
    x = images(3, reference.config.image_size)
    torch.testing.assert_close(output.pooler_output, reference(x), **TIGHT)
    torch.testing.assert_close(output.last_hidden_state[:, 0], reference(x), **TIGHT)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    pictures = [(picture * 255).round().byte() for picture in x]
    pixels = processor(pictures, return_tensors="pt")["pixel_values"]
    assert pixels.shape[-1] == reference.config.image_size
    torch.testing.assert_close(pixels, ready(reference.config), atol=0.02, rtol=0)  # it rounds to bytes


def check_onnx(reference: Encoder, folder: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "images.onnx")
    for num in (1, 3):
        x = images(num, reference.config.image_size)
        (features,) = session.run(["features"], {"images": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(features), reference(x), **TIGHT)


def check_safetensors(reference: Encoder, folder: Path) -> None:
    config = json.loads((folder / "encoder" / "encoder.json").read_text())["config"]
    names = {"patch_size": "patch_size", "width": "embed_dim", "depth": "depth", "num_heads": "num_heads"}
    sizes = {names[name]: value for name, value in config.items() if name in names}
    model = timm.create_model(config["architecture"], num_classes=0, img_size=config["image_size"], **sizes)
    tensors = safetensors.torch.load_file(folder / "encoder" / "encoder.safetensors")
    model.load_state_dict({name.removeprefix("backbone."): value for name, value in tensors.items()})
    x = images(3, reference.config.image_size)
    torch.testing.assert_close(model.eval()(ready(reference.config)), reference(x), **TIGHT)


CHECKS = {
    "timm": check_timm,
    "huggingface": check_huggingface,
    "onnx": check_onnx,
    "safetensors": check_safetensors,
}


@pytest.mark.slow
@pytest.mark.parametrize("to", CHECKS)
@torch.inference_mode()
def test_an_encoder_in_its_target_library(to: str, tmp_path: Path) -> None:
    reference = encoder(tmp_path / "run", ONE_BLOCK if to == "onnx" else SMALL)
    CHECKS[to](reference, write(tmp_path / "run", to, tmp_path / "out"))


@pytest.mark.slow
@pytest.mark.parametrize("to", sorted(CHECKS.keys() - {"onnx"}))
@torch.inference_mode()
def test_the_published_sizes_in_their_target_library(
    to: str, published_encoder: tuple[Encoder, Path], tmp_path: Path
) -> None:
    reference, run = published_encoder
    CHECKS[to](reference, write(run, to, tmp_path / "out"))


@pytest.mark.parametrize("to", ["timm", "safetensors"])
def test_what_was_exported_comes_back(to: str, tmp_path: Path) -> None:
    reference = encoder(tmp_path / "run")
    loaded = load_encoder(write(tmp_path / "run", to, tmp_path / "out"))
    assert torch.equal(loaded(images()), reference(images()))


# -- with a text tower ------------------------------------------------------------------------------


@torch.inference_mode()
def check_open_clip(reference: ImageText, folder: Path) -> None:
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    config = reference.encoder.config
    x = images(3, config.image_size)
    vectors = model.encode_image(ready(config), normalize=True)
    torch.testing.assert_close(vectors, reference.encode_images(x), **TIGHT)
    assert torch.equal(tokenizer(TEXTS), reference.text.tokenize(TEXTS))
    texts = model.encode_text(tokenizer(TEXTS), normalize=True)
    torch.testing.assert_close(texts, reference.encode_texts(TEXTS), **TIGHT)
    assert torch.equal(model.logit_scale, reference.logit_scale)
    assert transform.transforms[0].size == (config.image_size, config.image_size)


@torch.inference_mode()
def check_dual_encoder(reference: ImageText, folder: Path) -> None:
    model, info = transformers.VisionTextDualEncoderModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    tokens.pop("token_type_ids", None)
    output = model.eval()(pixel_values=ready(reference.encoder.config), **tokens)
    x = images(3, reference.encoder.config.image_size)
    torch.testing.assert_close(output.image_embeds, reference.encode_images(x), **TIGHT)
    torch.testing.assert_close(output.text_embeds, reference.encode_texts(TEXTS), **TIGHT)
    features = model.vision_model(ready(reference.encoder.config)).pooler_output
    torch.testing.assert_close(features, reference.encoder(x), **TIGHT)


@torch.inference_mode()
def check_onnx_pair(reference: ImageText, folder: Path) -> None:
    import onnxruntime

    check_onnx(reference.encoder, folder)
    x = images(2, reference.encoder.config.image_size)
    session = onnxruntime.InferenceSession(folder / "images.onnx")
    (vectors,) = session.run(["vectors"], {"images": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(vectors), reference.encode_images(x), **TIGHT)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    length = reference.text.config.num_tokens
    tokens = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=length, return_tensors="np")
    session = onnxruntime.InferenceSession(folder / "texts.onnx")
    (vectors,) = session.run(None, {"tokens": tokens["input_ids"]})
    torch.testing.assert_close(torch.from_numpy(vectors), reference.encode_texts(TEXTS), **TIGHT)


PAIR_CHECKS = {"open_clip": check_open_clip, "huggingface": check_dual_encoder}
TEXT_TOWERS = {"learned": SMALL_TEXT, "clip": CLIP_TEXT}


@pytest.mark.slow
@pytest.mark.parametrize("vocabulary", TEXT_TOWERS)
@pytest.mark.parametrize("to", PAIR_CHECKS)
def test_both_towers_in_their_target_library(
    to: str, vocabulary: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = pair(tmp_path / "run", TEXT_TOWERS[vocabulary])
    monkeypatch.chdir(write(tmp_path / "run", to, tmp_path / "out"))  # where timm has no name for a size
    PAIR_CHECKS[to](reference, Path())


@pytest.mark.slow
@pytest.mark.parametrize("to", PAIR_CHECKS)
def test_published_sizes_of_both_towers_in_their_target_library(
    to: str, published_pair: tuple[ImageText, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Image towers are compared at both sizes above."""
    reference, run = published_pair
    monkeypatch.chdir(write(run, to, tmp_path / "out"))
    PAIR_CHECKS[to](reference, Path())


@pytest.mark.slow
def test_both_towers_and_projections_with_layers_go_to_onnx(tmp_path: Path) -> None:
    """With CLIP's vocabulary; of a learned one there is only another tokenizer, which transformers read above."""
    text = dataclasses.replace(MLP_TEXT, vocabulary=None, num_tokens=16)
    reference = pair(tmp_path / "run", text, ONE_BLOCK)
    check_onnx_pair(reference, write(tmp_path / "run", "onnx", tmp_path / "out"))


def test_projections_with_layers_are_refused_elsewhere(tmp_path: Path) -> None:
    pair(tmp_path / "run", MLP_TEXT)
    for to in ("open_clip", "huggingface"):
        with pytest.raises(UserError, match=r"projections with layers .* export to onnx instead"):
            write(tmp_path / "run", to, tmp_path / to)
        assert [path.name for path in tmp_path.iterdir() if to in path.name] == [], "nothing half-written"


@pytest.mark.parametrize("to", ["open_clip", "safetensors"])
def test_both_towers_come_back(to: str, tmp_path: Path) -> None:
    reference = pair(tmp_path / "run", SMALL_TEXT)
    loaded = load_image_text(write(tmp_path / "run", to, tmp_path / "out"))
    assert torch.equal(loaded.encode_images(images()), reference.encode_images(images()))
    assert torch.equal(loaded.encode_texts(TEXTS), reference.encode_texts(TEXTS))


def test_timm_takes_the_image_tower_of_a_pair(tmp_path: Path) -> None:
    reference = pair(tmp_path / "run", SMALL_TEXT)
    check_timm(reference.encoder, write(tmp_path / "run", "timm", tmp_path / "out"))


# -- what is refused, and the card ------------------------------------------------------------------


def test_an_encoder_without_text_tower_is_no_open_clip_model(tmp_path: Path) -> None:
    encoder(tmp_path / "run")
    with pytest.raises(UserError, match=r"holds no image-text model .* export to timm instead"):
        write(tmp_path / "run", "open_clip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_transformers_does_not_compute_is_refused(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, architecture="vit_base_patch16_clip_224", width=64, num_heads=1)
    reference = encoder(tmp_path / "run", config)
    with pytest.raises(
        UserError, match=r"ViTModel has no norm_pre\.\w+, which vit_base_patch16_clip_224 has"
    ):
        write(tmp_path / "run", "huggingface", tmp_path / "out")
    with torch.inference_mode():
        check_timm(reference, write(tmp_path / "run", "timm", tmp_path / "out"))


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    encoder(tmp_path / "run")
    (tmp_path / "out").mkdir()
    write(tmp_path / "run", "timm", tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(UserError, match="out exists; give another place"):
        write(tmp_path / "run", "safetensors", tmp_path / "out")
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_without_onnx_one_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"needs onnxscript: pip install '\.\[onnx\]'"):
        write(tmp_path / "run", "onnx", tmp_path / "out")


def test_the_commands_on_the_card_work(tmp_path: Path) -> None:
    reference = encoder(tmp_path / "run")
    folder = write(tmp_path / "run", "timm", tmp_path / "out")
    snippet = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {"image": Image.new("RGB", (50, 40), "red")}
    exec(snippet.replace("FOLDER", str(folder)), names)
    assert names["features"].shape == (1, reference.dim)


def test_the_card_says_what_it_learned_from_and_how_good_it_is(tmp_path: Path) -> None:
    encoder(tmp_path / "run")
    rows = [
        {
            "origin": origin,
            "caption_id": "a",
            "image_index": index,
            "image": b"",
            "status": "ok",
            "licence": licence,
        }
        for index, (origin, licence) in enumerate(
            [("real", "CC0-1.0"), ("icons-1", "MIT"), ("icons-1", "MIT")]
        )
    ]
    table = ImageTable.open_or_create(tmp_path / "images.lance")
    table.append(rows)
    table.register_origin("icons-1", {"teacher": "icons", "guidance_scale": 4.0})
    data = {
        "images": [str(tmp_path / "images.lance"), str(tmp_path / "gone.lance")],
        "where": "split = 'train'",
    }
    described = {"kind": "stablerep", "config": {"data": data, "num_steps": 7, "out": "somewhere"}}
    (tmp_path / "run" / "run.json").write_text(json.dumps(described))
    resolved = {"data": {"images": 3, "captions": 1, "digest": "abc"}}
    (tmp_path / "run" / "resolved.json").write_text(json.dumps(resolved))
    interval = {"value": 0.123, "low": 0.1, "high": 0.15}
    record = {
        "benchmark": "icons",
        "test": "test",
        "encoder": "run",
        "protocol": "linear",
        "num_pictures": 1234,
    }
    record |= {"mean_per_class": interval, "top1": interval}
    (tmp_path / "run" / "scores.json").write_text(
        json.dumps({"records": [record], "skipped": {"x": "no data"}})
    )
    config = ExportConfig(
        run=tmp_path / "run", to="timm", out=tmp_path / "out", licence="Apache-2.0", name="mine"
    )
    export(config)
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: timm\nlicense: apache-2.0\n")
    for said in (
        "# mine\n",
        "2 painted (`icons-1`): teacher icons, guidance_scale 4.0; 1 real.",
        "gone.lance`: the table is no longer there",
        "where `split = 'train'`",
        "3 pictures of 1 captions, digest `abc`",
        "Method `stablerep`",
        '"num_steps": 7',
        "| icons: test | run | linear | 12.3 [10.0, 15.0] | 12.3 [10.0, 15.0] | 1,234 |",
        "Not measured: no data",
        "MIT (2), CC0-1.0 (1)",
    ):
        assert said in card, said
    assert str(tmp_path) not in card, "no paths of this machine"


def test_the_card_of_bare_weights_admits_what_it_does_not_know(tmp_path: Path) -> None:
    encoder(tmp_path / "run")
    card = (write(tmp_path / "run", "safetensors", tmp_path / "out") / "README.md").read_text()
    assert card.count("Not recorded") == 2
    assert "Not measured" in card
    assert "license:" not in card
