"""Images and texts in one space, and the files of the joint model."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_text import SMALL, TEXTS, learned

from stablerep.errors import UserError
from stablerep.models.encoder import Encoder, EncoderConfig, ProjectionHead, load_encoder, save_encoder
from stablerep.models.joint import ImageText, LinearProjection, load_image_text, save_image_text
from stablerep.models.painter import read_text_tower
from stablerep.models.text import ClipVocabulary, TextConfig, TextTower

ENCODER = EncoderConfig(
    architecture="vit_tiny_patch16_224", image_size=32, patch_size=8, width=24, depth=1, num_heads=3
)
MLP = dataclasses.replace(SMALL, projection="mlp", projection_hidden=16)
WITH_CLIP = dataclasses.replace(SMALL, vocabulary=None)


def model(config: TextConfig = SMALL) -> ImageText:
    torch.manual_seed(0)
    vocabulary = ClipVocabulary() if config.vocabulary is None else learned()
    joint = ImageText(Encoder(ENCODER), TextTower(config, vocabulary)).eval()
    with torch.no_grad():
        joint.logit_scale.fill_(2.5)
    return joint


def images(num: int = 3) -> torch.Tensor:
    return torch.rand(num, 3, 20, 40, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("config", [SMALL, MLP])
def test_images_and_texts_are_unit_vectors(config: TextConfig) -> None:
    joint = model(config)
    for vectors, num in ((joint.encode_images(images()), 3), (joint.encode_texts(TEXTS), 6)):
        assert vectors.shape == (num, 8)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(num))


def test_a_painter_reads_texts_as_the_tower_does(tmp_path: Path) -> None:
    """Whichever activation the tower was trained with: at the end of each text stands the tower's feature."""
    found = []
    for activation in (None, "gelu"):
        joint = model(dataclasses.replace(SMALL, activation=activation))
        with torch.no_grad():
            for weight in joint.text.parameters():  # so large that the two activations differ
                if weight.ndim > 1:
                    weight.normal_(std=0.3, generator=torch.Generator().manual_seed(weight.numel()))
        save_image_text(joint, tmp_path / str(activation))
        reader, tokenizer, num_tokens = read_text_tower(tmp_path / str(activation))
        assert (tokenizer.get_vocab_size(), num_tokens) == (
            joint.text.vocabulary.num_entries,
            SMALL.num_tokens,
        )
        tokens = joint.text.tokenize(TEXTS)
        with torch.no_grad():
            states = reader.eval()(input_ids=tokens)[0]
            features = joint.text(tokens)
        ends = (tokens == joint.text.vocabulary.end_id).int().argmax(1)
        torch.testing.assert_close(states[torch.arange(len(TEXTS)), ends], features, atol=1e-5, rtol=1e-4)
        found.append(features)
    assert (found[0] - found[1]).abs().mean() > 1e-3, "the two activations are told apart"


def test_linear_projections_are_matrices_without_bias() -> None:
    joint = model()
    weight = joint.image_projection.weight
    torch.testing.assert_close(
        joint.encode_images(images()), F.normalize(joint.encoder(images()) @ weight.T, dim=1)
    )
    assert {name for name in joint.state_dict() if "projection" in name} == {
        "image_projection.weight",
        "text_projection.weight",
    }
    assert weight.shape == (8, 24)
    torch.manual_seed(0)
    assert float(LinearProjection(400, 300).weight.detach().std()) == pytest.approx(400**-0.5, rel=0.02)


def test_mlp_projections_have_the_layers_of_the_head() -> None:
    joint = model(MLP)
    assert isinstance(joint.text_projection, ProjectionHead)
    names = [type(layer).__name__ for layer in joint.text_projection.layers]
    assert names == [*["Linear", "SyncBatchNorm1d", "ReLU"] * 2, "Linear"]


# -- files ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("config", [SMALL, MLP, WITH_CLIP])
def test_saved_and_loaded_it_is_the_same_model(config: TextConfig, tmp_path: Path) -> None:
    joint = model(config)
    save_image_text(joint.train(), tmp_path)
    loaded = load_image_text(tmp_path)
    joint.eval()
    assert not loaded.training
    assert loaded.text.config == config
    assert loaded.fingerprint == joint.fingerprint
    assert float(loaded.logit_scale.detach()) == 2.5
    assert torch.equal(loaded.encode_images(images()), joint.encode_images(images()))
    assert torch.equal(loaded.encode_texts(TEXTS), joint.encode_texts(TEXTS))
    assert torch.equal(load_encoder(tmp_path)(images()), joint.encoder(images()))
    has_tokenizer = {"tokenizer.json"} if config.vocabulary else set()
    names = {path.name for path in (tmp_path / "text").iterdir()}
    assert names == {"text.json", "text.safetensors"} | has_tokenizer


def test_loading_leaves_the_random_state_alone(tmp_path: Path) -> None:
    save_image_text(model(), tmp_path)
    before = torch.get_rng_state()
    load_image_text(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_fingerprint_covers_both_sides() -> None:
    joint = model()
    seen = {joint.fingerprint}
    for name in ("encoder.backbone.norm.bias", "text.transformer.ln_final.bias", "text_projection.weight"):
        with torch.no_grad():
            joint.get_parameter(name).view(-1)[0] += 1e-6
        seen.add(joint.fingerprint)
    assert len(seen) == 4


def test_what_is_no_image_text_model_is_refused(tmp_path: Path) -> None:
    save_encoder(model().encoder, tmp_path / "encoder")
    with pytest.raises(UserError, match=r"holds no image-text model .*`train clip`"):
        load_image_text(tmp_path)


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    save_image_text(model(), tmp_path / "a")
    torch.manual_seed(1)
    save_image_text(ImageText(Encoder(ENCODER), TextTower(SMALL, learned())), tmp_path / "b")
    for path in (tmp_path / "b" / "encoder").iterdir():
        path.replace(tmp_path / "a" / "encoder" / path.name)
    with pytest.raises(UserError, match=r"text.safetensors does not belong to the text.json beside it"):
        load_image_text(tmp_path / "a")


def test_another_or_a_missing_tokenizer_is_refused(tmp_path: Path) -> None:
    save_image_text(model(), tmp_path)
    path = tmp_path / "text" / "tokenizer.json"
    path.write_text(path.read_text().replace("</s>", "</t>"))
    with pytest.raises(UserError, match=r"tokenizer.json does not belong to the text.json beside it"):
        load_image_text(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=r"tokenizer.json is missing"):
        load_image_text(tmp_path)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    save_image_text(model(), tmp_path)
    weights, description = tmp_path / "text" / "text.safetensors", tmp_path / "text" / "text.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"text.safetensors is not a safetensors file or is damaged"):
        load_image_text(tmp_path)
    weights.unlink()
    with pytest.raises(
        UserError, match=r"the folder of an image-text model holds text.json and text.safetensors"
    ):
        load_image_text(tmp_path)
    settings = json.loads(description.read_text())
    description.write_text(json.dumps(settings | {"config": settings["config"] | {"deph": 1}}))
    with pytest.raises(UserError, match=r"text.json.*'deph'"):
        load_image_text(tmp_path)
    description.write_text(json.dumps(settings | {"format": "stablerep-encoder"}))
    with pytest.raises(UserError, match="does not describe an image-text model"):
        load_image_text(tmp_path)
