"""Similarity to the mean positive: against the textbook form, against differences in float64, with extreme weights."""

import pytest
import torch
from torch import Tensor

from stablerep.learning import positives as module
from stablerep.learning.positives import Positives, find_positives, mean_similarity

QUERIES = torch.tensor([4, 7, 4, 9])
KEYS = torch.tensor([7, 4, 4, 9, 4, 7, 1])
OWN = torch.tensor([1, 0, 2, 3])  # the query of label 9 has no other key


def features(num: int, seed: int) -> Tensor:
    return torch.randn(num, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def found(weight: Tensor | None, own: Tensor | None) -> Positives:
    return find_positives(QUERIES, KEYS, weight=weight, own=own, precision=torch.float64)


@pytest.mark.parametrize("rows", [1, 3, 1024])
@pytest.mark.parametrize("own", [None, OWN])
@pytest.mark.parametrize("weight", [None, torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0, 1.0, 1.0])])
def test_value_and_gradients(
    weight: Tensor | None, own: Tensor | None, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ROWS", rows)
    q, k, positives = features(4, 0).requires_grad_(), features(7, 1).requires_grad_(), found(weight, own)
    assert positives.present.tolist() == [True, True, True, own is None]
    attracts = (QUERIES[:, None] == KEYS).double() * (1 if weight is None else weight)
    if own is not None:
        attracts[torch.arange(4), own] = 0
    mean = (attracts / attracts.sum(1, keepdim=True).clamp(min=1e-9)) @ k
    torch.testing.assert_close(mean_similarity(q, k, positives), (q * mean).sum(1))
    torch.autograd.gradcheck(lambda q, k: mean_similarity(q, k, positives)[positives.present], (q, k))


def test_weights_a_million_times_the_others_leave_the_others_exact() -> None:
    weight = torch.tensor([1, 1e6, 1, 1, 1, 1, 1])
    q, k = features(4, 0), features(7, 1)
    positives = find_positives(QUERIES, KEYS, weight=weight, own=OWN, precision=torch.float32)
    gradients = []
    for precision in (torch.float32, torch.float64):
        inputs = q.to(precision).requires_grad_(), k.to(precision).requires_grad_()
        total = mean_similarity(inputs[0], inputs[1], positives)[positives.present].sum()
        gradients.append(torch.autograd.grad(total, inputs))
    for short, long in zip(*gradients, strict=True):
        torch.testing.assert_close(short, long.float(), rtol=1e-5, atol=1e-6)


def test_a_query_without_positives_pulls_at_nothing() -> None:
    q, k = features(4, 0).requires_grad_(), features(7, 1).requires_grad_()
    mean_similarity(q, k, found(None, OWN)).sum().backward()  # type: ignore[no-untyped-call]
    assert q.grad is not None and k.grad is not None
    assert torch.equal(q.grad[3], torch.zeros(3).double())
    assert torch.equal(k.grad[[3, 6]], torch.zeros(2, 3).double())
