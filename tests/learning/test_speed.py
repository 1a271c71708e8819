"""What a step costs: counted, not guessed."""

from pathlib import Path

import pytest
import torch
from tiny_training import World, train_config

from stablerep.learning.data import ViewSource
from stablerep.learning.methods import METHODS
from stablerep.learning.speed import flops_per_caption
from stablerep.learning.step import Encoding


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fused", [False, True])
def test_products_are_counted_forward_and_backward(world: World, fused: bool, dtype: torch.dtype) -> None:
    """Two views of a caption; of T = 5 tokens of D = 24, a block multiplies 12 T D^2 + 2 T^2 D numbers."""
    config = train_config("simclr", world, Path("unused"))
    method = METHODS["simclr"].build(config)
    encoder = method.encoder()
    assert encoder is not None
    encoder.set_fused_attention(fused)
    batch = ViewSource(config.data, seed=0).batch(0)
    patches, block = 4 * (3 * 8 * 8) * 24, 12 * 5 * 24**2 + 2 * 5**2 * 24
    per_view = 2 * (2 * patches + 3 * block)  # the pixels need no gradient
    assert flops_per_caption(method, batch, Encoding(seed=0, dtype=dtype)) == 2 * per_view
    assert all(parameter.grad is None for parameter in method.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_counted(world: World, method: str) -> None:
    config = train_config(method, world, Path("unused"))
    learner = METHODS[method].build(config)
    tokenize = learner.tokenize if learner.reads_text else None
    batch = ViewSource(config.data, seed=0, tokenize=tokenize).batch(0)
    assert flops_per_caption(learner, batch, Encoding(seed=0, dtype=torch.float32)) > 1e5
