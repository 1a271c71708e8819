"""Features, preprocessing, fingerprint, files and the projection head."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
import torchvision.transforms as T
from PIL import Image
from torch import nn

from stablerep.errors import UserError
from stablerep.models.encoder import (
    DESCRIPTION,
    WEIGHTS,
    Encoder,
    EncoderConfig,
    ProjectionHead,
    centre,
    load_encoder,
    save_encoder,
)

SMALL = EncoderConfig(
    architecture="vit_tiny_patch16_224", image_size=32, patch_size=8, width=24, depth=2, num_heads=3
)


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(SMALL).eval()


def images(num: int = 3, height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.rand(num, 3, height, width, generator=torch.Generator().manual_seed(1))


# -- features ---------------------------------------------------------------------------------------


def test_features_are_the_normalised_class_token_of_normalised_images(encoder: Encoder) -> None:
    x = images()
    normalised = (x - torch.tensor(SMALL.mean).view(3, 1, 1)) / torch.tensor(SMALL.std).view(3, 1, 1)
    backbone = encoder.backbone
    tokens = backbone.patch_embed(normalised)
    tokens = torch.cat([backbone.cls_token.expand(3, -1, -1), tokens], dim=1) + backbone.pos_embed
    for block in backbone.blocks:
        tokens = block(tokens)
    tokens = F.layer_norm(tokens, (24,), backbone.norm.weight, backbone.norm.bias, eps=1e-6)
    torch.testing.assert_close(encoder(x), tokens[:, 0])
    patches = encoder.patch_features(x)
    assert patches.shape == (3, 24, 4, 4)
    torch.testing.assert_close(patches[:, :, 1, 2], tokens[:, 1 + 1 * 4 + 2])


def test_images_of_another_size_are_resized_with_antialiasing(encoder: Encoder) -> None:
    x = images(height=70, width=50)
    resized = F.interpolate(x, size=(32, 32), mode="bilinear", antialias=True)
    assert torch.equal(encoder(x), encoder(resized))
    assert encoder.patch_features(x).shape == (3, 24, 4, 4)


@pytest.mark.parametrize(("height", "width"), [(90, 140), (141, 90), (20, 31)])
def test_the_centre_is_that_of_the_published_linear_probe(height: int, width: int) -> None:
    """PIL as `main_linear.py` uses it: the shorter side to 256, the centre of 224."""
    ramp = np.add.outer(np.arange(height) * 255 // height, np.arange(width) * 255 // width) // 2
    pixels = np.stack([ramp, 255 - ramp, ramp // 2], 2).astype(np.uint8)
    published = T.CenterCrop(224)(T.Resize(256)(Image.fromarray(pixels)))
    ours = centre(torch.from_numpy(pixels).permute(2, 0, 1), 224).permute(1, 2, 0).numpy()
    assert ours.shape == (224, 224, 3)
    assert np.abs(ours.astype(int) - np.asarray(published, dtype=int)).max() <= 1


def test_a_square_picture_is_seen_whole_and_a_strip_fills_no_memory() -> None:
    square = torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8)
    assert centre(square, 224) is square
    strip = torch.full((3, 1, 2**20), 7, dtype=torch.uint8)
    assert torch.equal(centre(strip, 224), torch.full((3, 224, 224), 7, dtype=torch.uint8))


def test_features_are_float32_under_autocast(encoder: Encoder) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert encoder(images()).dtype is torch.float32
        assert encoder.patch_features(images()).dtype is torch.float32


@pytest.mark.parametrize(("size", "width"), [("small", 384), ("base", 768)])
def test_published_sizes(size: str, width: int) -> None:
    with torch.device("meta"):
        reference = timm.create_model(f"vit_{size}_patch16_224", pretrained=False, num_classes=0)
        encoder = Encoder(EncoderConfig(architecture=f"vit_{size}_patch16_224"))
    assert encoder.dim == width
    shapes = {name: tensor.shape for name, tensor in reference.state_dict().items()}
    assert {name: tensor.shape for name, tensor in encoder.backbone.state_dict().items()} == shapes


def test_the_shape_of_the_attention_is_told(encoder: Encoder) -> None:
    shapes = []
    block = encoder.backbone.blocks[0].attn
    encoder.set_fused_attention(False)
    handle = block.attn_drop.register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape))
    encoder(torch.rand(2, 3, encoder.config.image_size, encoder.config.image_size))
    handle.remove()
    heads, tokens, per_head = encoder.attention_shape
    assert shapes == [(2, heads, tokens, tokens)]
    assert heads * per_head == encoder.dim


def test_fused_attention_is_a_choice_of_speed_only(encoder: Encoder) -> None:
    fingerprint = encoder.fingerprint
    features = {}
    for enabled in (True, False):
        encoder.set_fused_attention(enabled)
        assert {block.attn.fused_attn for block in encoder.backbone.blocks} == {enabled}
        features[enabled] = encoder(images())
    torch.testing.assert_close(features[True], features[False])
    assert encoder.fingerprint == fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "vit_smal_patch16_224"}, "the nearest: vit_small_patch16_224"),
        ({"architecture": "resnet50"}, "no vision transformer 'resnet50'"),
        ({"architecture": "hf_hub:timm/vit_tiny_patch16_224"}, "no vision transformer"),
        ({"width": 25}, "divisible by num_heads"),
        ({"image_size": 36}, "image_size 36 is not a multiple of the patch size 8"),
        ({"architecture": "vit_base_patch16_siglip_224"}, "class token"),
    ],
)
def test_sizes_that_cannot_be_built_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Encoder(dataclasses.replace(SMALL, **change))


@pytest.mark.parametrize("change", [{"depth": 0}, {"drop_path": 1.0}, {"std": (0.2, 0.0, 0.2)}])
def test_values_out_of_range_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        dataclasses.replace(SMALL, **change)


# -- fingerprint and files --------------------------------------------------------------------------


def test_fingerprint_covers_weights_and_configuration(encoder: Encoder) -> None:
    fingerprint = encoder.fingerprint
    other = Encoder(dataclasses.replace(SMALL, mean=(0.5, 0.5, 0.5)))
    other.load_state_dict(encoder.state_dict())
    assert other.fingerprint != fingerprint
    with torch.no_grad():
        encoder.backbone.norm.bias[3] += 1e-7
    assert encoder.fingerprint != fingerprint


def test_saved_and_loaded_it_is_the_same_encoder(encoder: Encoder, tmp_path: Path) -> None:
    save_encoder(encoder.train(), tmp_path / "run" / "encoder", metadata={"method": "stablerep"})
    for place in (tmp_path / "run" / "encoder", str(tmp_path / "run")):
        loaded = load_encoder(place)
        assert not loaded.training
        assert loaded.config == SMALL
        assert loaded.fingerprint == encoder.fingerprint
        assert loaded.metadata == {"method": "stablerep"}
        assert torch.equal(loaded(images()), encoder.eval()(images()))
    assert {path.name for path in (tmp_path / "run" / "encoder").iterdir()} == {DESCRIPTION, WEIGHTS}


def test_loading_leaves_the_random_state_alone(encoder: Encoder, tmp_path: Path) -> None:
    save_encoder(encoder, tmp_path)
    before = torch.get_rng_state()
    load_encoder(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def edit(path: Path, **changes: object) -> None:
    description = json.loads(path.read_text())
    path.write_text(json.dumps({**description, **changes}))


def test_weights_of_another_encoder_are_refused(encoder: Encoder, tmp_path: Path) -> None:
    save_encoder(encoder, tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / WEIGHTS)
    tensors["backbone.norm.bias"][0] += 1
    safetensors.torch.save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(UserError, match="does not belong"):
        load_encoder(tmp_path)


def test_an_edited_configuration_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    save_encoder(encoder, tmp_path)
    description = json.loads((tmp_path / DESCRIPTION).read_text())
    edit(tmp_path / DESCRIPTION, config={**description["config"], "mean": [0.5, 0.5, 0.5]})
    with pytest.raises(UserError, match="does not belong"):
        load_encoder(tmp_path)
    edit(tmp_path / DESCRIPTION, config={**description["config"], "depth": 1})
    with pytest.raises(UserError, match=r"backbone\.blocks\.1\..*"):
        load_encoder(tmp_path)
    edit(tmp_path / DESCRIPTION, config={**description["config"], "deph": 1})
    with pytest.raises(UserError, match=f"{DESCRIPTION}.*'deph'"):
        load_encoder(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 99}, "format version 99, this program reads 1"),
        ({"format": "other"}, "does not describe an encoder"),
        ({"fingerprint": None}, "no fingerprint"),
    ],
)
def test_unknown_descriptions_are_refused(
    encoder: Encoder, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    save_encoder(encoder, tmp_path)
    edit(tmp_path / DESCRIPTION, **changes)
    with pytest.raises(UserError, match=message):
        load_encoder(tmp_path)


def test_damaged_files_are_refused(encoder: Encoder, tmp_path: Path) -> None:
    save_encoder(encoder, tmp_path)
    whole = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=f"{WEIGHTS} is not a safetensors file or is damaged"):
        load_encoder(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(UserError, match=f"{WEIGHTS} is missing"):
        load_encoder(tmp_path)
    (tmp_path / DESCRIPTION).write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        load_encoder(tmp_path)


def test_a_shipped_encoder_is_found_by_its_name(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stablerep.models.encoder._shipped_root", lambda: tmp_path)
    save_encoder(encoder, tmp_path / "icons" / "encoder")
    save_encoder(encoder, tmp_path / "fashion")
    for name in ("icons", "fashion"):
        assert load_encoder(name).fingerprint == encoder.fingerprint
    with pytest.raises(UserError, match=r"no encoder 'photos': .* the shipped encoders are: fashion, icons;"):
        load_encoder("photos")


def test_a_run_without_an_encoder_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match=r"is a run without an encoder: .* or that has not come to its end"):
        load_encoder(tmp_path)
    (tmp_path / "teacher").mkdir()
    with pytest.raises(
        UserError, match=r"is the run of a painter, .* `stablerep evaluate painter .* --judge ENCODER`"
    ):
        load_encoder(tmp_path)


def test_unknown_names_and_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.txt").write_text("no weights")
    with pytest.raises(UserError, match=r"weights.txt is no file with weights; those end in .pth"):
        load_encoder(tmp_path / "weights.txt")
    with pytest.raises(UserError, match=r"no encoder 'unheard-of'.*shipped"):
        load_encoder("unheard-of")


# -- projection head --------------------------------------------------------------------------------


def head(**changes: int) -> ProjectionHead:
    torch.manual_seed(3)
    return ProjectionHead(**{"in_dim": 6, "hidden": 10, "out": 4, **changes})


def test_head_has_the_published_layers() -> None:
    with torch.device("meta"):
        layers = ProjectionHead(768).layers
    assert [type(layer).__name__ for layer in layers] == [
        *["Linear", "SyncBatchNorm1d", "ReLU"] * 2,
        "Linear",
    ]
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [
        (768, 4096),
        (4096, 4096),
        (4096, 256),
    ]
    assert all(layer.bias is not None for layer in linear)


def plain_head(projection: ProjectionHead, rows: torch.Tensor) -> torch.Tensor:
    """The three layers with torch's own batch norm over the given rows."""
    for layer in projection.layers:
        if isinstance(layer, nn.BatchNorm1d):
            rows = F.batch_norm(rows, None, None, layer.weight, layer.bias, training=True, eps=layer.eps)
        else:
            rows = layer(rows)
    return rows


@pytest.mark.parametrize("with_mask", [False, True])
def test_statistics_are_taken_per_view(with_mask: bool) -> None:
    projection = head()
    x = torch.randn(7, 3, 6) + torch.tensor([0.0, 5.0, -2.0])[:, None]
    valid = torch.ones(7, 3, dtype=torch.bool) if with_mask else None
    expected = torch.stack([plain_head(projection, x[:, view]) for view in range(3)], dim=1)
    torch.testing.assert_close(projection(x, valid), expected)
    pull, weights = torch.randn(expected.shape), [x.requires_grad_(), *projection.parameters()]
    expected = torch.stack([plain_head(projection, x[:, view]) for view in range(3)], dim=1)
    ours = torch.autograd.grad((projection(x, valid) * pull).sum(), weights)
    torch.testing.assert_close(
        ours, torch.autograd.grad((expected * pull).sum(), weights), atol=1e-4, rtol=1e-4
    )


def test_invalid_rows_enter_neither_statistics_nor_result() -> None:
    projection = head()
    x = torch.randn(6, 3, 6)
    valid = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 1, 0], [0, 1, 0], [1, 1, 0]]).bool()
    projected = projection(x.masked_fill(~valid[..., None], torch.nan), valid)
    assert not projected[~valid].any()
    for view in range(2):
        rows = valid[:, view]
        torch.testing.assert_close(projected[rows, view], plain_head(projection, x[rows, view]))
    assert all(torch.isfinite(tensor).all() for tensor in projection.state_dict().values())


def test_a_view_with_one_row_is_normalised_with_the_fullest_view() -> None:
    projection = head()
    x = torch.randn(4, 3, 6)
    valid = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 1, 1], [0, 1, 0]]).bool()
    projected = projection(x, valid)
    together = plain_head(projection, torch.cat([x[:, 1], x[2:3, 2]]))
    torch.testing.assert_close(projected[:, 1], together[:4])
    torch.testing.assert_close(projected[2, 2], together[4])
    torch.testing.assert_close(projected[:2, 0], plain_head(projection, x[:2, 0]))
