"""The painter beside other models: hidden tokens aligned to an encoder, text read by a tower of our own."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from tiny_training import NUM_CAPTIONS, SIZE, World, decode_png, text, train_config

from stablerep.errors import UserError
from stablerep.learning.method import Batch
from stablerep.learning.methods import train
from stablerep.learning.text_to_image import TextToImage, TextToImageConfig
from stablerep.models.joint import load_image_text

N, V = 4, 2
TEXTS = [text(number, variant) for number in range(NUM_CAPTIONS) for variant in range(2)]


@pytest.fixture(scope="module")
def clip_run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = train_config("clip", world, tmp_path_factory.mktemp("runs") / "clip", num_steps=2)
    return train("clip", config).run


def painter(world: World, **changes: Any) -> TextToImage:
    settings = {"caption_dropout": 0.0, **changes}
    config = train_config("text-to-image", world, Path("unused"), method=settings).method  # type: ignore[attr-defined]
    torch.manual_seed(0)
    return TextToImage(config, TEXTS).train()


def batch(learner: TextToImage) -> Batch:
    pictures = [decode_png(100 * number + view) for number in range(N) for view in range(V)]
    return {
        "image": torch.stack(pictures).unflatten(0, (N, V)),
        "valid": torch.tensor([[True, True]] * 3 + [[True, False]]),
        "seed": torch.tensor([21, 22, 23, 24]),
        "tokens": learner.tokenize(TEXTS[:N]),
    }


# -- alignment ---------------------------------------------------------------------------------------


def test_the_loss_is_the_velocity_error_less_the_weighted_cosine(world: World, encoder_folder: Path) -> None:
    """Against the definition, token by token: the encoder's 2 x 2 patches spread over the painter's 4 x 4 tokens."""
    learner = painter(world, alignment={"encoder": encoder_folder, "block": 1, "weight": 0.7, "hidden": 8})
    assert learner.alignment is not None
    tokens: list[torch.Tensor] = []
    learner.student["transformer"].transformer_blocks[0].register_forward_hook(
        lambda _module, _inputs, output: tokens.append(output)
    )
    data = batch(learner)
    features = learner.encode(data)
    result = learner.loss(features, data)
    patches = learner.alignment.encoder.patch_features(data["image"].flatten(0, 1))
    side = round(tokens[0].shape[1] ** 0.5)
    grid = torch.nn.functional.interpolate(patches, size=(side, side), mode="bilinear").double()
    seen = learner.alignment.projector(tokens[0]).double()
    cosines = torch.zeros(N * V, dtype=torch.float64)
    for picture in range(N * V):
        for token in range(side * side):
            here, there = seen[picture, token], grid[picture, :, token // side, token % side]
            cosines[picture] += here @ there / (here.norm() * there.norm()) / side**2
    valid = data["valid"].flatten()
    error = (features["predicted"] - features["velocity"]).square().flatten(1).mean(1)[valid].mean()
    torch.testing.assert_close(result.loss.double(), error.double() - 0.7 * cosines[valid].mean())
    assert float(result.logs["alignment"]) == pytest.approx(cosines[valid].mean().item(), abs=1e-6)


def test_alignment_teaches_the_blocks_before_it_and_leaves_the_encoder(
    world: World, encoder_folder: Path
) -> None:
    learner = painter(world, depth=2, alignment={"encoder": encoder_folder, "block": 1})
    data = batch(learner)
    features = learner.encode(data)
    before = {name: value.clone() for name, value in learner.alignment.encoder.state_dict().items()}  # type: ignore[union-attr]
    (-features["alignment"].mean()).backward()
    grads = {name for name, parameter in learner.named_parameters() if parameter.grad is not None}
    assert any("transformer_blocks.0" in name for name in grads)
    assert not any("transformer_blocks.1" in name for name in grads), "what comes later is not aligned"
    assert any(name.startswith("alignment.projector") for name in grads)
    assert not any(name.startswith(("alignment.encoder", "average", "vae")) for name in grads)
    for name, value in learner.alignment.encoder.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(value, before[name])


@pytest.mark.slow
def test_aligned_tokens_become_like_the_patches(world: World, encoder_folder: Path) -> None:
    learner = painter(world, width=32, alignment={"encoder": encoder_folder, "block": 1, "weight": 1.0})
    data = batch(learner)
    optimizer = torch.optim.AdamW([p for p in learner.parameters() if p.requires_grad], lr=3e-3)
    cosines = []
    for _ in range(30):
        result = learner.loss(learner.encode(data), data)
        cosines.append(float(result.logs["alignment"]))
        result.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert cosines[-1] > cosines[0] + 0.3, cosines


@pytest.mark.slow
def test_an_aligned_painter_trains_resumes_and_exports_as_any_other(
    world: World, encoder_folder: Path, tmp_path: Path
) -> None:
    aligned = {"alignment": {"encoder": encoder_folder, "block": 1}}
    whole = train("text-to-image", train_config("text-to-image", world, tmp_path / "a", method=aligned))
    names = {path.name for path in whole.product.iterdir()}
    assert "alignment" not in " ".join(names)
    assert type(DiffusionPipeline.from_pretrained(whole.product)).__name__ == "PixArtAlphaPipeline"
    card = (whole.product / "README.md").read_text()
    for said in (
        "36 painted (`teacher-a`)",
        "36 pictures of 12 captions",
        "7 steps",
        f"{SIZE} x {SIZE} pixels",
    ):
        assert said in card, said
    assert f'"encoder": "{encoder_folder.parent.name}/{encoder_folder.name}"' in card
    assert str(encoder_folder) not in card and str(tmp_path) not in card


def test_a_block_that_is_not_there_is_refused(world: World, encoder_folder: Path) -> None:
    with pytest.raises(UserError, match=r"alignment.block is 5, but the painter has 1 blocks"):
        painter(world, alignment={"encoder": encoder_folder, "block": 5})


# -- text from a run of ours -------------------------------------------------------------------------


def test_a_tower_of_ours_reads_the_same_in_the_painter(world: World, clip_run: Path) -> None:
    """The state at the end token is the tower's feature; the tokens are the run's."""
    learner = painter(world, text_from=clip_run)
    tower = load_image_text(clip_run).text
    texts = [TEXTS[0], "thing", ""]
    tokens = learner.tokenize(texts)
    assert torch.equal(tokens, tower.tokenize(texts))
    encoder = learner.student["text_encoder"].eval()
    with torch.no_grad():
        states = encoder(input_ids=tokens, attention_mask=(tokens != 0).long())[0]
        features = tower(tokens)
    ends = (tokens == 1).int().argmax(1)
    torch.testing.assert_close(states[torch.arange(3), ends], features, atol=1e-5, rtol=1e-5)


def test_a_painter_that_reads_with_a_tower_is_an_ordinary_folder(
    world: World, clip_run: Path, tmp_path: Path
) -> None:
    learner = painter(world, text_from=clip_run)
    folder = learner.export(tmp_path)
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    painted = pipeline(
        TEXTS[:2], num_inference_steps=2, use_resolution_binning=False, output_type="np"
    ).images
    assert painted.shape == (2, SIZE, SIZE, 3)
    with torch.no_grad():
        states, mask, _, _ = pipeline.encode_prompt(TEXTS[:1], do_classifier_free_guidance=False)
        tokens = learner.tokenize(TEXTS[:1])
        average = learner.average["text_encoder"].half().float()
        expected = average(input_ids=tokens, attention_mask=(tokens != 0).long())[0]
    count = int(mask.sum())
    torch.testing.assert_close(states[0, :count], expected[0, :count], atol=1e-4, rtol=1e-4)
    further = TextToImage(replace(learner.config, text_from=None, start_from=folder), ["other words"])
    assert type(further.student["text_encoder"]).__name__ == "CLIPTextModel"


def test_a_text_encoder_can_stay_as_it_is(world: World, clip_run: Path) -> None:
    learner = painter(world, text_from=clip_run, train_text=False)
    data = batch(learner)
    learner.loss(learner.encode(data), data).loss.backward()
    assert all(parameter.grad is None for parameter in learner.student["text_encoder"].parameters())
    assert any(parameter.grad is not None for parameter in learner.student["transformer"].parameters())


@pytest.mark.parametrize(("asked", "read"), [(24, 8), (6, 6)])
def test_no_more_is_read_than_the_tower_can(
    world: World, clip_run: Path, asked: int, read: int, tmp_path: Path
) -> None:
    """By default painters read 24 tokens, and the towers of the recipe icons 16; nor by one that begins with it."""
    learner = painter(world, text_from=clip_run, num_tokens=asked)
    assert learner.tokenize(TEXTS[:1]).shape == (1, read)
    folder = learner.export(tmp_path)
    assert json.loads((folder / "stablerep.json").read_text())["max_sequence_length"] == read
    further = painter(world, start_from=folder, num_tokens=asked)
    assert further.tokenize(TEXTS[:1]).shape == (1, read)


def test_a_tower_that_does_not_fit_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no encoder"):
        painter(world, text_from=tmp_path)
    with pytest.raises(ValueError, match="text_from and start_from"):
        TextToImageConfig(autoencoder=Path("x"), text_from=Path("y"), start_from=Path("z"))
