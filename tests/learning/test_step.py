"""Gradients of a step: whole or in micro-batches, in one process or two, they are the same."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import World, image_row, train_config, write_images
from torch import Tensor

from processes import as_torchrun_would
from stablerep import runtime
from stablerep.learning.data import ViewSource
from stablerep.learning.method import Batch, Method, StepResult
from stablerep.learning.methods import METHODS
from stablerep.learning.step import Encoding, compute_gradients, leaves
from stablerep.learning.views import in_unit_range

STEP = 3


@pytest.fixture(scope="module")
def uneven(world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Captions of one to three images, so that not all views count."""
    rows = [image_row(number, index) for number in range(12) for index in range(1 + number % 3)]
    path = write_images(tmp_path_factory.mktemp("uneven") / "images.lance", rows)
    return dataclasses.replace(world, images=path)


def prepare(name: str, world: World, *, drop_path: float = 0.0, **changes: Any) -> tuple[Method, Batch]:
    """A method and this rank's part of a batch of four captions of three views."""
    if name == "stablerep":
        changes["method"] = {"encoder": {"drop_path": drop_path}}
    config = train_config(name, world, Path("unused"), data={"images_per_caption": 3}, **changes)
    torch.manual_seed(0)
    method = METHODS[name].build(config).train()
    tokenize = method.tokenize if method.reads_text else None
    return method, ViewSource(config.data, seed=0, tokenize=tokenize).batch(STEP)


def gradients(method: Method, batch: Batch, micro_batch: int | None) -> tuple[StepResult, dict[str, Any]]:
    method.zero_grad()
    encoding = Encoding(seed=7, dtype=torch.float32, micro_batch=micro_batch)
    result = compute_gradients(method, batch, encoding, STEP)
    return result, {
        name: parameter.grad for name, parameter in method.named_parameters() if parameter.grad is not None
    }


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Equal to rounding, which is all there is of the gradients that a batch norm or a softmax cancels."""
    assert ours.keys() == theirs.keys()
    largest = max(gradient.norm() for gradient in theirs.values())
    for name, gradient in theirs.items():
        assert (ours[name] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-6 * largest, name


def as_read(batch: Batch) -> Batch:
    return {**batch, "image": in_unit_range(batch["image"])}


# -- one process -------------------------------------------------------------------------------------


PAINTERS = {"text-to-image", "lora", "distillation"}  # which take long to build


@pytest.mark.parametrize("micro_batch", [1, 3])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in PAINTERS else ()) for name in METHODS]
)
def test_micro_batches_give_value_and_gradient_of_the_whole(
    name: str, micro_batch: int, uneven: World
) -> None:
    method, batch = prepare(name, uneven)
    assert not batch["valid"].all()
    state = {key: tensor.clone() for key, tensor in method.state_dict().items()}
    plain, expected = gradients(method, batch, None)
    buffers = {key: tensor.clone() for key, tensor in method.named_buffers()}
    method.load_state_dict(state)
    cached, found = gradients(method, batch, micro_batch)
    torch.testing.assert_close(cached.loss, plain.loss)
    torch.testing.assert_close(cached.logs, plain.logs)
    torch.testing.assert_close(dict(method.named_buffers()), buffers)
    assert_close(found, expected)


@pytest.mark.parametrize("micro_batch", [None, 4, 9])
def test_a_batch_in_one_part_is_the_plain_way_to_the_bit(micro_batch: int | None, uneven: World) -> None:
    method, batch = prepare("stablerep", uneven, drop_path=0.5)
    _, found = gradients(method, batch, micro_batch)
    method.zero_grad()
    torch.manual_seed(runtime.seed_for(7, "step", STEP, 0, 0))
    method.loss(method.encode(as_read(batch)), batch).loss.backward()
    for name, parameter in method.named_parameters():
        assert torch.equal(found[name], parameter.grad), name


@pytest.mark.slow
def test_both_passes_draw_the_same(uneven: World) -> None:
    """Cached gradients are those of one graph over all micro-batches, stochastic depth and all."""
    method, batch = prepare("stablerep", uneven, drop_path=0.5)
    torch.manual_seed(123)  # what was drawn before must not matter
    _, found = gradients(method, batch, 1)
    method.zero_grad()
    parts = []
    for index in range(4):
        torch.manual_seed(runtime.seed_for(7, "step", STEP, 0, index))
        parts.append(method.encode(as_read({name: part[index : index + 1] for name, part in batch.items()})))
    method.loss(torch.cat(parts), batch).loss.backward()
    assert_close(found, {name: parameter.grad for name, parameter in method.named_parameters()})
    _, other = gradients(method, batch, 2)
    name = "backbone.backbone.cls_token"
    assert (other[name] - found[name]).norm() > 0.01 * found[name].norm(), "nothing was dropped"


@contextmanager
def features_of_the_loss(method: Method) -> Iterator[list[Any]]:
    """What the method's loss is called with in the block."""
    seen: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        loss = method.loss
        patch.setattr(method, "loss", lambda features, batch: seen.append(features) or loss(features, batch))
        yield seen


@pytest.mark.parametrize("micro_batch", [None, 1])
def test_features_of_frozen_parts_need_no_gradient(micro_batch: int | None, uneven: World) -> None:
    method, batch = prepare("text-to-image", uneven)
    with features_of_the_loss(method) as seen:
        gradients(method, batch, micro_batch)
    assert {name: feature.requires_grad for name, feature in seen[0].items()} == {
        "predicted": True,
        "velocity": False,
    }


def test_a_frozen_encoder_is_encoded_once(uneven: World) -> None:
    method, batch = prepare("stablerep", uneven)
    _, expected = gradients(method, batch, None)
    method.encoder().requires_grad_(False)
    calls = []
    method.encoder().register_forward_hook(lambda *_: calls.append(1))
    method.zero_grad()
    _, found = gradients(method, batch, 1)
    assert len(calls) == 4
    assert_close(found, {name: expected[name] for name in expected if name.startswith("head.")})


def test_features_may_be_nested() -> None:
    tree = {"image": torch.zeros(2), "text": {"tokens": torch.ones(3)}}
    assert [len(leaf) for leaf in leaves(tree)] == [2, 3]


# -- two processes with different captions -----------------------------------------------------------


class TwoRanks:
    """One update of plain gradient descent in every mode, on this rank's half of the batch."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __call__(self) -> dict[str, Any]:
        with runtime.process_group():
            return {f"{name} {size}": update(name, self.world, size) for name, size in MODES}


MODES = [(name, size) for name in METHODS for size in (None, 1)]


def update(name: str, world: World, micro_batch: int | None) -> dict[str, Any]:
    """Gradients, weights before and after a step against them, and what tells the ranks apart."""
    method, batch = prepare(name, world)
    weights = {key: parameter.detach() for key, parameter in method.named_parameters()}
    before = {key: weight.clone() for key, weight in weights.items()}
    result, found = gradients(method, batch, micro_batch)
    torch.optim.SGD(method.parameters(), lr=0.1).step()
    return {
        "loss": result.loss.detach(),
        "gradients": found,
        "before": before,
        "weights": weights,
        "captions": batch["caption_id"],
    }


@pytest.fixture(scope="module")
def ranks(uneven: World, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return as_torchrun_would(TwoRanks(uneven), tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def alone(uneven: World) -> Callable[[str], dict[str, Any]]:
    """One update of each method in one process."""
    return functools.cache(lambda name: update(name, uneven, None))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "micro_batch"), MODES)
def test_two_ranks_update_as_one_process(
    name: str,
    micro_batch: int | None,
    alone: Callable[[str], dict[str, Any]],
    ranks: list[dict[str, Any]],
) -> None:
    """Heads too, whose gradients arise outside of ``encode``."""
    whole = alone(name)
    first, second = (rank[f"{name} {micro_batch}"] for rank in ranks)
    assert not set(first["captions"].tolist()) & set(second["captions"].tolist())
    torch.testing.assert_close(first["loss"] + second["loss"], whole["loss"], rtol=1e-4, atol=1e-6)
    for rank in (first, second):
        assert_close(rank["gradients"], whole["gradients"])
    for key, weight in first["weights"].items():
        assert torch.equal(weight, second["weights"][key]), key
        moved = whole["before"][key] - 0.1 * first["gradients"].get(key, 0)
        torch.testing.assert_close(weight, moved, msg=key)
