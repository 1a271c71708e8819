"""Compiled models: gradients of micro-batches and runs that were stopped, stochastic depth and all, and alignment.

Compiling is what takes time here. Hence encoders of one block, and batches of one size, so that the second test finds
its code in the cache of the first.
"""

from pathlib import Path

import pytest
import torch
from run_files import assert_same_run, killed_at
from test_alignment import batch, painter
from test_step import STEP, as_read, assert_close, prepare
from tiny_training import World, train_config

from stablerep import runtime
from stablerep.console import Console
from stablerep.learning.method import Method
from stablerep.learning.methods import METHODS
from stablerep.learning.step import Encoding, compute_gradients
from stablerep.learning.trainer import TrainConfig, run_training

DROP_PATH = 0.5

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(runtime.why_no_compile() is not None, reason="torch.compile cannot work here"),
]


def of_one_block(method: Method) -> Method:
    """The method with the last block of its encoder alone, the one that drops most."""
    del method.encoder().backbone.blocks[:-1]  # type: ignore[union-attr, operator]
    return method


def test_both_passes_draw_the_same(world: World) -> None:
    """Code of its own for passes with and without gradient; the gradients are those of one graph over both parts."""
    method, batch = prepare("stablerep", world, drop_path=DROP_PATH)
    of_one_block(method).encoder().compile(dynamic=False)  # type: ignore[union-attr]
    found = []
    for seed in (7, 8):
        torch.manual_seed(123)  # what was drawn before must not matter
        method.zero_grad()
        compute_gradients(method, batch, Encoding(seed=seed, dtype=torch.float32, micro_batch=2), STEP)
        found.append({name: parameter.grad for name, parameter in method.named_parameters()})
    method.zero_grad()
    parts = []
    for index in range(2):
        torch.manual_seed(runtime.seed_for(7, "step", STEP, 0, index))
        rows = slice(2 * index, 2 * index + 2)
        parts.append(method.encode(as_read({name: part[rows] for name, part in batch.items()})))
    method.loss(torch.cat(parts), batch).loss.backward()
    assert_close(found[0], {name: parameter.grad for name, parameter in method.named_parameters()})
    name = "backbone.backbone.cls_token"
    assert (found[1][name] - found[0][name]).norm() > 0.01 * found[0][name].norm(), "nothing was dropped"


def finish(config: TrainConfig) -> None:
    def build() -> Method:
        return of_one_block(METHODS["stablerep"].build(config))

    run_training(config, "stablerep", build, console=Console(quiet=True))


def test_a_run_that_was_stopped_ends_with_the_same_bits(world: World, tmp_path: Path) -> None:
    runs = tmp_path / "run", tmp_path / "whole"
    for run in runs:
        data = {"captions_per_batch": 3, "images_per_caption": 2}  # as many pictures as in a part above
        changes = {"method": {"encoder": {"drop_path": DROP_PATH}}, "data": data}
        config = train_config("stablerep", world, run, compile=True, **changes)
        if run.name == "run":
            with killed_at(5):
                finish(config)
        finish(config)
    assert_same_run(*runs, "stablerep")


def test_an_aligned_painter_encodes_the_same(world: World, encoder_folder: Path) -> None:
    """The hook that reads its hidden tokens writes from within a compiled graph."""
    learner = painter(world, alignment={"encoder": encoder_folder, "block": 1})
    data, block = batch(learner), learner.student["transformer"].transformer_blocks[0]
    found = []
    for compiled in (False, True):
        if compiled:
            learner.student["transformer"].compile(dynamic=False, backend="aot_eager")
        learner.zero_grad()
        features = learner.encode(data)
        features["alignment"].mean().backward()
        gradients = {name: one.grad for name, one in block.named_parameters() if one.grad is not None}
        found.append((features["alignment"].detach(), gradients))
    assert found[0][1]
    torch.testing.assert_close(found[1], found[0])
