"""The autoencoder: noise from the batch's seeds, latents of unit size, and a folder that stock diffusers reads."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from tiny_training import SIZE, World, autoencoder_config, train_config
from torch import Tensor

from stablerep.learning.autoencoder import Autoencoder, AutoencoderConfig
from stablerep.learning.data import ViewSource
from stablerep.learning.method import Batch
from stablerep.learning.methods import train
from stablerep.learning.views import in_unit_range

N, V = 3, 2


def method() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(autoencoder_config()).train()


def batch() -> Batch:
    generator = torch.Generator().manual_seed(5)
    return {
        "image": torch.rand(N, V, 3, SIZE, SIZE, generator=generator),
        "valid": torch.ones(N, V, dtype=torch.bool),
        "seed": torch.tensor([11, 12, 13]),
    }


def latents_of(batch: Batch, vae: AutoencoderKL) -> Tensor:
    with torch.no_grad():
        latents: Tensor = vae.encode(batch["image"].flatten(0, 1) * 2 - 1).latent_dist.mode()
    return latents


def test_shapes_are_those_of_the_latent_and_the_picture() -> None:
    features = method().encode(batch())
    shapes = {name: tuple(tensor.shape) for name, tensor in features.items()}
    assert shapes == {
        "decoded": (N * V, 3, SIZE, SIZE),
        "images": (N * V, 3, SIZE, SIZE),
        "mean": (N * V, 4, SIZE // 2, SIZE // 2),
        "log_variance": (N * V, 4, SIZE // 2, SIZE // 2),
    }


def test_the_noise_depends_on_the_seeds_of_the_batch_alone() -> None:
    learner, data = method().eval(), batch()
    torch.manual_seed(1)
    first = learner.encode(data)["decoded"].unflatten(0, (N, V))
    torch.manual_seed(2)
    order = torch.tensor([2, 0, 1])
    second = learner.encode({name: tensor[order] for name, tensor in data.items()})["decoded"]
    torch.testing.assert_close(second.unflatten(0, (N, V)), first[order])
    other = learner.encode(data | {"seed": data["seed"] + 1})["decoded"].unflatten(0, (N, V))
    assert (other - first).abs().amax(dim=(2, 3, 4)).min() > 1e-4, "a seed had no effect on some view"
    same_image = data | {"image": data["image"][:, :1].expand(-1, V, -1, -1, -1)}
    views = learner.encode(same_image)["decoded"].unflatten(0, (N, V))
    assert (views[:, 0] - views[:, 1]).abs().amax(dim=(1, 2, 3)).min() > 1e-4, "two views share their noise"


def test_the_loss_is_the_sum_of_its_three_terms() -> None:
    learner, data = method(), batch()
    features = learner.encode(data)
    result = learner.loss(features, data)
    images = data["image"].flatten(0, 1) * 2 - 1
    error = features["decoded"] - images
    prior = torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    posterior = torch.distributions.Normal(features["mean"], (0.5 * features["log_variance"]).exp())
    divergence = torch.distributions.kl_divergence(posterior, prior).sum((1, 2, 3)).mean()
    torch.testing.assert_close(
        result.loss, error.abs().mean() + error.square().mean() + learner.config.kl_weight * divergence
    )
    torch.testing.assert_close(result.logs["kl"], divergence)
    torch.testing.assert_close(result.logs["psnr"], -10 * torch.log10((error / 2).square().mean()))
    assert not any(value.requires_grad for value in result.logs.values())


def test_views_that_do_not_count_change_nothing() -> None:
    data = batch()
    data["valid"][1:, 1] = False
    losses = []
    for value in (0.0, 1.0):
        learner = method()
        filled = data | {"image": torch.where(data["valid"][..., None, None, None], data["image"], value)}
        result = learner.loss(learner.encode(filled), filled)
        result.loss.backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in learner.parameters()])
        losses.append((result.loss.detach(), gradient, learner.latent_square))
    for left, right in zip(*losses, strict=True):
        torch.testing.assert_close(left, right)


def test_every_weight_learns() -> None:
    learner, data = method(), batch()
    learner.loss(learner.encode(data), data).loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in learner.parameters())


@pytest.mark.slow
def test_the_exported_folder_is_a_stock_autoencoder_with_latents_of_unit_size(
    world: World, tmp_path: Path
) -> None:
    config = train_config("autoencoder", world, tmp_path / "run", num_steps=100, log_every=10)
    run = train("autoencoder", config).run
    assert {path.name for path in (run / "autoencoder").iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }
    assert not any(str(tmp_path) in path.read_text() for path in (run / "autoencoder").glob("*.json"))
    vae = AutoencoderKL.from_pretrained(run / "autoencoder")
    assert vae.dtype is torch.float32
    source = ViewSource(config.data, seed=0)
    batches = [source.batch(step) for step in range(9)]
    latents = torch.cat([latents_of({"image": in_unit_range(batch["image"])}, vae) for batch in batches])
    moment = float((latents * vae.config.scaling_factor).square().mean())
    assert moment == pytest.approx(1, rel=0.1)
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.75 * losses[0]


def test_latents_of_any_size_are_brought_to_unit_size(tmp_path: Path) -> None:
    learner = method()
    learner.latent_square.fill_(4.0)
    vae = AutoencoderKL.from_pretrained(learner.export(tmp_path))
    assert vae.config.scaling_factor == pytest.approx(0.5)


def test_the_exported_weights_are_the_trained_ones(tmp_path: Path) -> None:
    learner, data = method(), batch()
    learner.loss(learner.encode(data), data)
    loaded = AutoencoderKL.from_pretrained(learner.export(tmp_path))
    images = data["image"][:, 0] * 2 - 1
    with torch.no_grad():
        latents = loaded.encode(images).latent_dist.mode()
        assert torch.equal(latents, learner.vae.encode(images).latent_dist.mode())
        assert torch.equal(loaded.decode(latents).sample, learner.vae.decode(latents).sample)
    assert loaded.config.scaling_factor == pytest.approx(float(learner.latent_square) ** -0.5)


def test_an_exported_autoencoder_is_trained_further(tmp_path: Path) -> None:
    learner = method()
    folder = learner.export(tmp_path)
    further = Autoencoder(replace(learner.config, start_from=folder))
    assert all(
        torch.equal(tensor, learner.vae.state_dict()[key]) for key, tensor in further.vae.state_dict().items()
    )


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"num_groups": 0}, "num_groups must be positive, got 0"),
        ({"channels": (8, 12), "num_groups": 8}, "num_groups 8 must divide every entry of channels"),
        ({"channels": ()}, "must divide every entry"),
        ({"image_size": 30}, "image_size 30 must be a multiple of 4"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(settings: dict[str, object], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        AutoencoderConfig(**settings)  # type: ignore[arg-type]
