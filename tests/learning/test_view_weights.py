"""How much each picture counts for a painter: by weights, by what is valid, in one process and in two."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from test_step import assert_close, gradients, prepare
from tiny_training import ENCODER, World, image_row, write_images
from torch import Tensor

from processes import as_torchrun_would
from stablerep import runtime
from stablerep.config import build
from stablerep.learning.autoencoder import Autoencoder
from stablerep.learning.method import Batch, mean_over_valid
from stablerep.models.encoder import Encoder, EncoderConfig, save_encoder

PAINTERS = ["autoencoder", "text-to-image", "aligned", "lora", "distillation"]


@pytest.fixture(scope="module")
def uneven(world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Captions of one to three images, so that not all views count; beside them an encoder to align to."""
    folder = tmp_path_factory.mktemp("uneven")
    rows = [image_row(number, index) for number in range(12) for index in range(1 + number % 3)]
    torch.manual_seed(1)
    save_encoder(Encoder(build(EncoderConfig, ENCODER, origin="test")), folder / "encoder")
    return dataclasses.replace(world, images=write_images(folder / "images.lance", rows))


def prepared(name: str, world: World) -> tuple[Any, Batch]:
    """A painter, aligned or not, and this rank's part of a batch in which not all views are valid."""
    if name != "aligned":
        return prepare(name, world)
    alignment = {"encoder": world.images.parent / "encoder", "block": 1, "hidden": 8}
    return prepare("text-to-image", world, method={"alignment": alignment})


def by_image(batch: Batch) -> Tensor:
    """Weights 0, 1, 2 and 3 that belong to the images, whichever rank has them."""
    return (batch["image_id"] % 4).float()


def update(name: str, world: World, weights: Any, **changes: Any) -> tuple[Tensor, dict[str, Any], Any]:
    """Loss, gradients and logs under weights (a function of the batch), and what the method holds then."""
    method, batch = prepared(name, world)
    batch |= changes
    if weights is not None:
        batch["weight"] = weights(batch)
    result, found = gradients(method, batch, None)
    return result.loss.detach(), found, result.logs


def test_the_mean_is_the_weighted_one_of_the_views_that_count() -> None:
    values = torch.tensor([1.0, 10.0, 100.0, torch.nan], requires_grad=True)
    batch = {"valid": torch.tensor([[True, True], [True, False]])}
    torch.testing.assert_close(mean_over_valid(values, batch), torch.tensor(37.0))
    weighted = mean_over_valid(values, batch | {"weight": torch.tensor([[3.0, 0.0], [0.5, 7.0]])})
    torch.testing.assert_close(weighted, torch.tensor((3 * 1 + 0.5 * 100) / 3.5))
    weighted.backward()
    torch.testing.assert_close(values.grad, torch.tensor([3 / 3.5, 0.0, 0.5 / 3.5, 0.0]))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "autoencoder" else pytest.mark.slow) for name in PAINTERS]
)
def test_a_picture_of_weight_zero_is_left_out(name: str, uneven: World) -> None:
    loss, found, logs = update(name, uneven, lambda batch: (batch["image_id"] % 2).float())
    _, batch = prepared(name, uneven)
    valid = batch["valid"] & (batch["image_id"] % 2 == 1)
    assert valid.any() and not torch.equal(valid, batch["valid"])
    expected, without, their_logs = update(name, uneven, None, valid=valid)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(logs, their_logs)
    assert_close(found, without)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAINTERS)
def test_equal_weights_are_none_and_others_are_not(name: str, uneven: World) -> None:
    loss, found, logs = update(name, uneven, None)
    equal, same, same_logs = update(name, uneven, lambda batch: torch.full_like(by_image(batch), 0.3))
    torch.testing.assert_close(equal, loss)
    torch.testing.assert_close(same_logs, logs)
    assert_close(same, found)
    other, _, _ = update(name, uneven, by_image)
    assert not torch.isclose(other, loss, rtol=1e-4)


@pytest.mark.parametrize("name", PAINTERS)
def test_a_batch_in_which_nothing_counts_teaches_nothing(name: str, uneven: World) -> None:
    loss, found, _ = update(name, uneven, lambda batch: torch.zeros_like(by_image(batch)))
    assert loss == 0
    assert not any(gradient.any() for gradient in found.values())


def test_the_size_of_latents_is_that_of_the_pictures_that_count(uneven: World) -> None:
    method, batch = prepared("autoencoder", uneven)
    assert isinstance(method, Autoencoder)
    gradients(method, batch, None)
    before = method.latent_square.clone()
    assert before > 0
    gradients(method, batch | {"weight": torch.zeros_like(by_image(batch))}, None)
    assert torch.equal(method.latent_square, before)


# -- two processes with different captions -----------------------------------------------------------


class TwoRanks:
    """Every painter on this rank's half of the batch, with weights of its own."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __call__(self) -> dict[str, Any]:
        with runtime.process_group():
            return {name: update(name, self.world, by_image) for name in PAINTERS}


@pytest.fixture(scope="module")
def ranks(uneven: World, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return as_torchrun_would(TwoRanks(uneven), Path(tmp_path_factory.mktemp("ranks")))


@pytest.mark.slow
@pytest.mark.parametrize("name", PAINTERS)
def test_two_ranks_weigh_and_log_as_one_process(
    name: str, uneven: World, ranks: list[dict[str, Any]]
) -> None:
    """The loss is a rank's part of the whole; what is logged is the whole on every rank."""
    loss, found, logs = update(name, uneven, by_image)
    (first, *_), (second, *_) = (rank[name] for rank in ranks)
    assert not torch.isclose(first, second)
    torch.testing.assert_close(first + second, loss, rtol=1e-4, atol=1e-6)
    for _, gradient, logged in (rank[name] for rank in ranks):
        assert_close(gradient, found)
        torch.testing.assert_close(logged, logs, rtol=1e-4, atol=1e-6)
    expected = {"autoencoder": {"kl", "psnr"}, "aligned": {"velocity_error", "alignment"}}
    assert logs.keys() == expected.get(name, set())
