"""StableRep and SimCLR as methods, in one process and in two that hold different captions."""

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from processes import as_torchrun_would
from stablerep import runtime
from stablerep.learning.contrastive import Contrastive, ContrastiveConfig
from stablerep.learning.losses import Samples, multi_positive_contrastive, soft_cross_entropy
from stablerep.learning.method import Batch
from stablerep.models.encoder import EncoderConfig, load_encoder

N, V = 8, 3
Positives = Literal["caption", "image", "label"]
TEMPERATURES = (0.1, 0.01)  # exponentials as they are, and shifted


def method(positives: Positives = "caption") -> Contrastive:
    torch.manual_seed(0)
    encoder = EncoderConfig(
        architecture="vit_tiny_patch16_224", image_size=16, patch_size=8, width=24, depth=1, num_heads=3
    )
    config = ContrastiveConfig(encoder=encoder, positives=positives, head_hidden=16, head_out=8)
    return Contrastive(config).train()


def batch(ragged: bool = False) -> Batch:
    """Eight captions; captions 1 and 6 are the same one, and stand on different ranks when two share the batch."""
    generator = torch.Generator().manual_seed(5)
    image_id = torch.arange(N * V).view(N, V)
    image_id[:, 2] = image_id[:, 0]  # the third view is another crop of the first image
    valid = torch.ones(N, V, dtype=torch.bool)
    if ragged:
        valid[0, 1:] = False
        valid[4:, 1] = False  # rank 1 of two has nothing in this view
        valid[:, 2] = False
        valid[5, 2] = True  # a single row in the whole view
    return {
        "image": torch.rand(N, V, 3, 16, 16, generator=generator),
        "caption_id": torch.tensor([10, 11, 12, 13, 14, 15, 11, 17]),
        "image_id": image_id,
        "label": torch.tensor([1, 2, 1, 3, 3, 1, 2, 4])[:, None].repeat(1, V),
        "valid": valid,
        "weight": torch.rand(N, V, generator=generator) + 0.1,
    }


def part(whole: Batch) -> Batch:
    """This rank's captions."""
    return {name: tensor.chunk(runtime.world_size())[runtime.rank()] for name, tensor in whole.items()}


def step(learner: Contrastive, data: Batch) -> dict[str, Any]:
    loss = learner.loss(learner.encode(data), data).loss
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in learner.named_parameters()}
    return {"loss": loss.detach(), "gradients": gradients, "buffers": dict(learner.named_buffers())}


# -- one process ------------------------------------------------------------------------------------


def test_encode_keeps_captions_and_views_apart() -> None:
    learner, data = method().eval(), batch()
    features = learner.encode(data)
    assert features.shape == (N, V, 24)
    torch.testing.assert_close(features[3, 1], learner.backbone(data["image"][3, 1:2])[0])


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("positives", ["caption", "image", "label"])
def test_loss_is_that_of_the_projected_views(positives: Positives, ragged: bool) -> None:
    learner, data = method(positives), batch(ragged)
    features = learner.encode(data)
    result = learner.loss(features, data)
    projected = learner.head(features, data["valid"])
    labels = {
        "caption": torch.tensor([10, 11, 12, 13, 14, 15, 11, 17]).repeat_interleave(V),
        "image": data["image_id"].view(-1),
        "label": torch.tensor([1, 2, 1, 3, 3, 1, 2, 4]).repeat_interleave(V),
    }[positives]
    expected = multi_positive_contrastive(
        projected.view(N * V, -1),
        labels,
        0.1,
        valid=data["valid"].view(-1),
        weight=data["weight"].view(-1),
    )
    torch.testing.assert_close(result.loss, expected)
    assert result.loss.requires_grad
    assert not any(value.requires_grad for value in result.logs.values())
    assert -1 <= float(result.logs["positive_similarity"]) <= 1


def test_every_weight_of_encoder_and_head_learns() -> None:
    gradients = step(method(), batch())["gradients"]
    subtracted_with_the_mean = {"backbone.backbone.norm.bias", "head.layers.0.bias", "head.layers.3.bias"}
    still = {name for name, gradient in gradients.items() if gradient is None or gradient.abs().max() < 1e-4}
    assert still == subtracted_with_the_mean


def test_a_few_steps_bring_the_views_of_a_caption_together() -> None:
    learner, data = method(), batch()
    optimizer = torch.optim.AdamW(learner.parameters(), lr=3e-3)
    results = []
    for _ in range(15):
        results.append(learner.loss(learner.encode(data), data))
        results[-1].loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert results[-1].loss < 0.8 * results[0].loss
    assert results[-1].logs["positive_similarity"] > results[0].logs["positive_similarity"]


def test_export_writes_an_encoder_that_loads(tmp_path: Path) -> None:
    learner = method()
    assert learner.export(tmp_path) == tmp_path / "encoder"
    loaded = load_encoder(tmp_path)
    images = batch()["image"][:, 0]
    assert torch.equal(loaded(images), learner.encoder().eval()(images))


def test_temperature_must_be_positive() -> None:
    with pytest.raises(ValueError, match="temperature"):
        ContrastiveConfig(temperature=0.0)


# -- two processes with different captions ----------------------------------------------------------


def images_and_texts() -> tuple[Samples, Samples]:
    generator = torch.Generator().manual_seed(8)
    images = torch.randn(6, 4, dtype=torch.float64, generator=generator)
    texts = torch.randn(4, 4, dtype=torch.float64, generator=generator)
    return (
        Samples(features=images, labels=torch.tensor([0, 0, 1, 2, 2, 1])),
        Samples(features=texts, labels=torch.tensor([2, 0, 1, 0])),
    )


def image_text_step() -> dict[str, Tensor]:
    """Image to text and back, with keys from all ranks and a learned scale."""
    mine = [
        Samples(
            features=side.features.chunk(runtime.world_size())[runtime.rank()].requires_grad_(),
            labels=side.labels.chunk(runtime.world_size())[runtime.rank()],
        )
        for side in images_and_texts()
    ]
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    loss = sum(
        soft_cross_entropy(queries, keys.gathered(), scale, block_size=2) / 2
        for queries, keys in (mine, mine[::-1])
    )
    assert isinstance(loss, Tensor)
    loss.backward()
    return {
        "loss": loss.detach(),
        "scale": scale.grad,
        "image": mine[0].features.grad,
        "text": mine[1].features.grad,
    }


def blocks_step(temperature: float) -> dict[str, Tensor]:
    """Rows in several blocks, some invalid, none of one weight; captions are on both ranks."""
    generator = torch.Generator().manual_seed(9)
    whole = {
        "features": torch.randn(22, 4, dtype=torch.float64, generator=generator),
        "labels": torch.randint(6, (22,), generator=generator),
        "valid": torch.rand(22, generator=generator) > 0.2,
        "weight": torch.rand(22, generator=generator),
    }
    mine = part(whole)
    features = mine.pop("features").requires_grad_()
    loss = multi_positive_contrastive(features, temperature=temperature, block_size=3, **mine)
    loss.backward()  # type: ignore[no-untyped-call]
    assert features.grad is not None
    return {"loss": loss.detach(), "gradient": features.grad}


def use_the_group() -> dict[str, Any]:
    """One step of every case on this rank's half of the batch."""
    with runtime.process_group():
        return {
            "full": step(method(), part(batch())),
            "ragged": step(method(), part(batch(ragged=True))),
            "simclr": step(method("image"), part(batch())),
            "image-text": image_text_step(),
            "blocks": [blocks_step(temperature) for temperature in TEMPERATURES],
        }


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return as_torchrun_would(use_the_group, tmp_path_factory.mktemp("ranks"))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(TEMPERATURES)))
def test_two_ranks_equal_one_process_block_by_block(ranks: list[dict[str, Any]], number: int) -> None:
    alone = blocks_step(TEMPERATURES[number])
    parts = [rank["blocks"][number] for rank in ranks]
    exact = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(parts[0]["loss"] + parts[1]["loss"], alone["loss"], **exact)
    torch.testing.assert_close(torch.cat([part["gradient"] for part in parts]), alone["gradient"], **exact)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "positives", "ragged"),
    [("full", "caption", False), ("ragged", "caption", True), ("simclr", "image", False)],
)
def test_two_ranks_equal_one_process(
    ranks: list[dict[str, Any]], case: str, positives: Positives, ragged: bool
) -> None:
    alone = step(method(positives), batch(ragged))
    first, second = (rank[case] for rank in ranks)
    assert first["loss"] != second["loss"]
    torch.testing.assert_close(first["loss"] + second["loss"], alone["loss"], rtol=1e-5, atol=1e-6)
    largest = max(gradient.norm() for gradient in alone["gradients"].values())
    for name, gradient in alone["gradients"].items():
        total = first["gradients"][name] + second["gradients"][name]
        # what a batch norm subtracts again has no gradient but rounding, hence the second term
        assert (total - gradient).norm() <= 1e-4 * gradient.norm() + 1e-6 * largest, name
    for rank in (first, second):
        torch.testing.assert_close(rank["buffers"], alone["buffers"], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_image_and_text_on_two_ranks_equal_one_process(ranks: list[dict[str, Any]]) -> None:
    alone = image_text_step()
    first, second = (rank["image-text"] for rank in ranks)
    for name in ("loss", "scale"):
        torch.testing.assert_close(first[name] + second[name], alone[name])
    for name in ("image", "text"):
        torch.testing.assert_close(torch.cat([first[name], second[name]]), alone[name])
