"""The closed-form edit against a plain minimiser of the published objective, in float64."""

import pytest
import torch
from torch import Tensor

from stablerep.errors import UserError
from stablerep.generation.editing import Moves, edited_weight, mapped, moment, text_map

WIDTH, OUTPUTS = 7, 5


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def weight() -> Tensor:
    return drawn(OUTPUTS, WIDTH, seed=1)


@pytest.fixture
def concepts() -> Tensor:
    return drawn(3, WIDTH, seed=2)


@pytest.fixture
def values() -> Tensor:
    return drawn(3, OUTPUTS, seed=3)


def objective(new: Tensor, old: Tensor, edits: tuple[Tensor, Tensor], kept: Tensor, ridge: float) -> Tensor:
    """As it is printed: edited vectors to their values, preserved ones to their old ones, near the old matrix."""
    concepts, values = edits
    return (
        (concepts @ new.T - values).square().sum()
        + (kept @ new.T - kept @ old.T).square().sum()
        + ridge * (new - old).square().sum()
    )


def ones(vectors: Tensor) -> Tensor:
    return torch.ones(len(vectors))


@pytest.mark.parametrize("num_kept", [0, 2, 40])
def test_it_minimises_the_published_objective(
    weight: Tensor, concepts: Tensor, values: Tensor, num_kept: int
) -> None:
    kept = drawn(num_kept, WIDTH, seed=4)
    new = edited_weight(weight, concepts, values, moment(kept, ones(kept)), 0.5).requires_grad_()
    loss = objective(new, weight, (concepts, values), kept, 0.5)
    (gradient,) = torch.autograd.grad(loss, new)
    assert gradient.abs().max() < 1e-12
    for seed in range(5):
        near = new.detach() + 1e-3 * drawn(OUTPUTS, WIDTH, seed=10 + seed)
        assert objective(near, weight, (concepts, values), kept, 0.5) > loss


def test_it_is_the_published_formula(weight: Tensor, concepts: Tensor, values: Tensor) -> None:
    kept, ridge = drawn(4, WIDTH, seed=4), 0.5
    identity = torch.eye(WIDTH, dtype=torch.float64)
    left = values.T @ concepts + weight @ kept.T @ kept + ridge * weight
    right = concepts.T @ concepts + kept.T @ kept + ridge * identity
    new = edited_weight(weight, concepts, values, moment(kept, ones(kept)), ridge)
    torch.testing.assert_close(new, left @ right.inverse(), rtol=0, atol=1e-12)


def test_without_a_ridge_both_sides_are_met_exactly(weight: Tensor, concepts: Tensor, values: Tensor) -> None:
    kept = drawn(4, WIDTH, seed=4)  # with the 3 concepts they fill the space
    new = edited_weight(weight, concepts, values, moment(kept, ones(kept)), 1e-9)
    torch.testing.assert_close(kept @ new.T, kept @ weight.T, rtol=0, atol=1e-6)
    torch.testing.assert_close(concepts @ new.T, values, rtol=0, atol=1e-6)


def test_a_heavy_preserved_set_does_not_move_at_all(weight: Tensor, concepts: Tensor, values: Tensor) -> None:
    kept = drawn(2, WIDTH, seed=4)
    new = edited_weight(weight, concepts, values, 1e12 * moment(kept, ones(kept)), 0.5)
    torch.testing.assert_close(kept @ new.T, kept @ weight.T, rtol=0, atol=1e-9)


def test_a_large_ridge_leaves_the_weight_and_a_small_one_does_not(
    weight: Tensor, concepts: Tensor, values: Tensor
) -> None:
    nothing = torch.zeros(WIDTH, WIDTH)
    far = edited_weight(weight, concepts, values, nothing, 1e12)
    near = edited_weight(weight, concepts, values, nothing, 1e-3)
    torch.testing.assert_close(far, weight, rtol=0, atol=1e-9)
    assert (near - weight).abs().max() > 0.1
    with pytest.raises(ValueError, match="ridge must be positive, got 0"):
        edited_weight(weight, concepts, values, nothing, 0)


def test_a_ridge_that_rounding_swallows_is_a_sentence() -> None:
    vectors = 30 + drawn(20, 100)
    with pytest.raises(UserError, match="a ridge of 1e-13 is lost in the rounding"):
        text_map(vectors, drawn(20, 100, seed=1), moment(vectors, ones(vectors)), 1e-13)


def test_an_edit_to_its_own_values_changes_nothing(weight: Tensor, concepts: Tensor) -> None:
    new = edited_weight(weight, concepts, concepts @ weight.T, torch.zeros(WIDTH, WIDTH), 0.5)
    assert torch.equal(new, weight)


def test_one_matrix_of_the_text_space_edits_every_layer(weight: Tensor, concepts: Tensor) -> None:
    targets, kept = drawn(3, WIDTH, seed=5), drawn(6, WIDTH, seed=4)
    change = text_map(concepts, targets, moment(kept, ones(kept)), 0.5)
    for layer in (weight, drawn(2, WIDTH, seed=6)):
        alone = edited_weight(layer, concepts, targets @ layer.T, moment(kept, ones(kept)), 0.5)
        torch.testing.assert_close(mapped(layer, change), alone, rtol=0, atol=1e-12)


def test_a_removed_concept_has_the_keys_and_values_of_its_target(weight: Tensor, concepts: Tensor) -> None:
    targets = drawn(3, WIDTH, seed=5)
    change = text_map(concepts, targets, torch.zeros(WIDTH, WIDTH), 1e-10)
    torch.testing.assert_close(concepts @ mapped(weight, change).T, targets @ weight.T, rtol=0, atol=1e-6)


def test_columns_beyond_the_text_stay(concepts: Tensor) -> None:
    wide = drawn(OUTPUTS, WIDTH + 3).half()
    change = text_map(concepts, drawn(3, WIDTH, seed=5), torch.zeros(WIDTH, WIDTH), 0.5)
    new = mapped(wide, change)
    assert new.dtype == torch.float16 and torch.equal(new[:, WIDTH:], wide[:, WIDTH:])
    assert not torch.equal(new[:, :WIDTH], wide[:, :WIDTH])


def test_the_order_of_edits_does_not_matter() -> None:
    first, second = (
        Moves(drawn(2, WIDTH, seed=seed), drawn(2, WIDTH, seed=seed + 1), torch.tensor([1.0, 0.25]))
        for seed in (20, 30)
    )
    maps = [
        text_map(*Moves.joined(parts).scaled(), torch.zeros(WIDTH, WIDTH), 0.5)
        for parts in ([first, second], [second, first])
    ]
    torch.testing.assert_close(maps[0], maps[1], rtol=0, atol=1e-12)


def test_a_weight_counts_like_repetition() -> None:
    once = Moves(drawn(1, WIDTH), drawn(1, WIDTH, seed=1), torch.tensor([2.0]))
    twice = Moves.joined([Moves(once.sources, once.targets, torch.ones(1))] * 2)
    none = torch.zeros(WIDTH, WIDTH)
    torch.testing.assert_close(
        text_map(*once.scaled(), none, 0.5), text_map(*twice.scaled(), none, 0.5), rtol=0, atol=1e-12
    )
