"""The loss against a slow oracle, against the textbook forms, and against its own dense version."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stablerep.learning import losses
from stablerep.learning.losses import (
    Samples,
    multi_positive_contrastive,
    positive_similarity,
    soft_cross_entropy,
)

PLAIN, SHIFTED = 0.1, 0.01  # temperatures on either side of the switch between the two kernels


def oracle(queries: Samples, keys: Samples, scale: float, own: bool) -> float:
    """The definition, element by element."""
    q, k = queries.features.double().tolist(), keys.features.double().tolist()
    weight = [1.0] * len(k) if keys.weight is None else keys.weight.tolist()
    row_valid = [True] * len(q) if queries.valid is None else queries.valid.tolist()
    column_valid = [True] * len(k) if keys.valid is None else keys.valid.tolist()
    losses = []
    for i in range(len(q)):
        columns = [j for j in range(len(k)) if column_valid[j] and not (own and i == j)]
        positives = [j for j in columns if keys.labels[j] == queries.labels[i] and weight[j] > 0]
        if not row_valid[i] or not positives:
            continue
        logits = {j: scale * sum(a * b for a, b in zip(q[i], k[j], strict=True)) for j in columns}
        log_total = math.log(sum(math.exp(logits[j] - max(logits.values())) for j in columns))
        log_total += max(logits.values())
        mass = sum(weight[j] for j in positives)
        losses.append(sum(weight[j] / mass * (log_total - logits[j]) for j in positives))
    return sum(losses) / len(losses) if losses else 0.0


def contrastive_oracle(
    x: Tensor, labels: Tensor, temperature: float, valid: Tensor | None, weight: Tensor | None
) -> float:
    unit = x.double() / x.double().norm(dim=1, keepdim=True)
    samples = Samples(features=unit, labels=labels, valid=valid, weight=weight)
    return oracle(samples, samples, 1 / temperature, own=True)


def dense(x: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """The same loss with every matrix written out, for torch to differentiate."""
    unit = F.normalize(x, dim=1)
    own = torch.eye(len(x), dtype=torch.bool)
    logits = (unit @ unit.T / temperature).masked_fill(own, -torch.inf)
    positive = (labels[:, None] == labels) & ~own
    target = positive / positive.sum(1, keepdim=True).clamp(min=1)
    rows = -(target * F.log_softmax(logits, dim=1).masked_fill(own, 0)).sum(1)
    return rows[positive.any(1)].mean()


def random_features(num: int, dim: int = 5, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed)).to(dtype)


def random_labels(num: int, high: int, seed: int = 1) -> Tensor:
    return torch.randint(high, (num,), generator=torch.Generator().manual_seed(seed))


def value_and_gradient(loss: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    value = loss(x)
    (gradient,) = torch.autograd.grad(value, x)
    return value.detach(), gradient


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("temperature", [1.0, PLAIN, SHIFTED])
@pytest.mark.parametrize("num", [2, 7, 18])
def test_equals_the_oracle(num: int, temperature: float, ragged: bool, weighted: bool) -> None:
    x, labels = random_features(num), random_labels(num, max(2, num // 4))
    valid = random_labels(num, 3, seed=2) > 0 if ragged else None
    weight = random_labels(num, 4, seed=3) / 3 if weighted else None  # some are zero
    expected = contrastive_oracle(x, labels, temperature, valid, weight)
    for block_size in (None, 4):
        loss = multi_positive_contrastive(
            x, labels, temperature, valid=valid, weight=weight, block_size=block_size
        )
        assert float(loss) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_two_crops_of_one_image_give_nt_xent() -> None:
    x = random_features(12)
    labels = torch.arange(6).repeat(2)
    unit = F.normalize(x, dim=1)
    logits = (unit @ unit.T / 0.3).fill_diagonal_(-torch.inf)
    partner = torch.arange(12).roll(6)
    expected = F.cross_entropy(logits, partner)
    torch.testing.assert_close(multi_positive_contrastive(x, labels, 0.3), expected)


@pytest.mark.parametrize(("other", "sign"), [(7, 1.0), (8, -1.0)])
def test_equal_captions_attract_and_others_repel(other: int, sign: float) -> None:
    x = F.normalize(random_features(6), dim=1)
    labels = torch.tensor(
        [7, 7, 3, 3, other, 7]
    )  # row 4 stands elsewhere in the batch, only its label counts
    _, gradient = value_and_gradient(lambda x: multi_positive_contrastive(x, labels, 0.5), x)
    toward = x[4] - (x[4] @ x[0]) * x[0]  # the direction in which row 0 comes closer to row 4
    assert sign * float(-gradient[0] @ toward) > 0


def test_labels_are_read_at_every_call() -> None:
    x = random_features(8)
    first, second = torch.arange(8) // 2, torch.arange(8) // 4
    losses = [float(multi_positive_contrastive(x, labels, PLAIN)) for labels in (first, second, first)]
    assert losses[0] != losses[1]
    assert losses[0] == losses[2]
    assert losses[1] == pytest.approx(contrastive_oracle(x, second, PLAIN, None, None))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [PLAIN, SHIFTED])
def test_reduced_precision_features_are_computed_in_float32(dtype: torch.dtype, temperature: float) -> None:
    x, labels = random_features(40, 16, dtype), random_labels(40, 8)
    expected = multi_positive_contrastive(x.float(), labels, temperature)
    assert expected.dtype is torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, gradient = value_and_gradient(lambda x: multi_positive_contrastive(x, labels, temperature), x)
    assert torch.equal(value, expected)
    _, exact = value_and_gradient(lambda x: multi_positive_contrastive(x, labels, temperature), x.float())
    torch.testing.assert_close(gradient, exact.to(dtype))


@pytest.mark.parametrize("temperature", [PLAIN, SHIFTED])
def test_a_row_without_positives_contributes_nothing(temperature: float) -> None:
    x, labels = random_features(5), torch.tensor([0, 0, 1, 2, 0])
    value, gradient = value_and_gradient(lambda x: multi_positive_contrastive(x, labels, temperature), x)
    assert float(value) == pytest.approx(contrastive_oracle(x, labels, temperature, None, None))
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("temperature", [PLAIN, SHIFTED])
@pytest.mark.parametrize("num", [1, 4])
def test_without_any_positive_loss_and_gradient_are_zero(num: int, temperature: float) -> None:
    value, gradient = value_and_gradient(
        lambda x: multi_positive_contrastive(x, torch.arange(num), temperature), random_features(num)
    )
    assert float(value) == 0
    assert torch.equal(gradient, torch.zeros(num, 5, dtype=torch.float64))


@pytest.mark.parametrize("temperature", [PLAIN, SHIFTED])
def test_no_valid_row_at_all(temperature: float) -> None:
    labels, valid = torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.bool)
    value, gradient = value_and_gradient(
        lambda x: multi_positive_contrastive(x, labels, temperature, valid=valid), random_features(3)
    )
    assert float(value) == 0
    assert not gradient.any()


@pytest.mark.parametrize("temperature", [PLAIN, SHIFTED])
def test_what_stands_in_invalid_rows_is_never_read(temperature: float) -> None:
    x, labels = random_features(9), random_labels(9, 3)
    valid = torch.tensor([True, True, False] * 3)
    spoiled = x.masked_fill(~valid[:, None], torch.nan)
    value, gradient = value_and_gradient(
        lambda x: multi_positive_contrastive(x, labels, temperature, valid=valid), spoiled
    )
    alone, alone_gradient = value_and_gradient(
        lambda x: multi_positive_contrastive(x, labels[valid], temperature), x[valid]
    )
    assert float(value) == pytest.approx(float(alone), rel=1e-12)
    torch.testing.assert_close(gradient[valid], alone_gradient)


def test_order_of_the_batch_does_not_matter() -> None:
    x, labels = random_features(30), random_labels(30, 6)
    weight = random_labels(30, 5, seed=4) + 0.5
    order = torch.randperm(30, generator=torch.Generator().manual_seed(5))
    value, gradient = value_and_gradient(
        lambda x: multi_positive_contrastive(x, labels, PLAIN, weight=weight, block_size=7), x
    )
    shuffled, shuffled_gradient = value_and_gradient(
        lambda x: multi_positive_contrastive(x, labels[order], PLAIN, weight=weight[order], block_size=7),
        x[order],
    )
    torch.testing.assert_close(shuffled, value, rtol=1e-12, atol=0)
    torch.testing.assert_close(shuffled_gradient, gradient[order])


@pytest.mark.parametrize("temperature", [PLAIN, SHIFTED])
@pytest.mark.parametrize("block_size", [1, 10, 11, 30, 32])
def test_block_by_block_equals_dense(block_size: int, temperature: float) -> None:
    x, labels = random_features(30, 16, torch.float32), random_labels(30, 8)
    value, gradient = value_and_gradient(
        lambda x: multi_positive_contrastive(x, labels, temperature, block_size=block_size), x
    )
    expected, expected_gradient = value_and_gradient(lambda x: dense(x, labels, temperature), x)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("temperature", [PLAIN, 1 / 60, SHIFTED, 0.0002])
def test_no_overflow_and_no_underflow(temperature: float) -> None:
    """Opposite vectors: similarities of -1 everywhere, the least that an exponential has to bear."""
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    value = multi_positive_contrastive(x, torch.tensor([4, 4]), temperature)
    assert float(value) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("temperature", [0.5, SHIFTED])
def test_gradient_equals_finite_differences(temperature: float) -> None:
    x, labels = random_features(7, 3), torch.tensor([0, 1, 0, 1, 2, 0, 1])
    weight = torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0, 0.0, 1.0])
    valid = torch.tensor([True, True, True, False, True, True, True])

    def loss(x: Tensor) -> Tensor:
        return multi_positive_contrastive(x, labels, temperature, valid=valid, weight=weight, block_size=3)

    assert torch.autograd.gradcheck(loss, x.requires_grad_(), eps=1e-7, rtol=1e-4)


def test_weights_of_very_different_size_stay_exact() -> None:
    x = random_features(4, 8, torch.float32)
    labels = torch.zeros(4, dtype=torch.int64)
    weight = torch.tensor([1e6, 1e-1, 2e-1, 3e-1])
    expected = contrastive_oracle(x, labels, PLAIN, None, weight)
    assert float(multi_positive_contrastive(x, labels, PLAIN, weight=weight)) == pytest.approx(
        expected, rel=1e-6
    )


# -- rows and columns of different kinds ------------------------------------------------------------


def images_and_texts() -> tuple[Samples, Samples]:
    """Six images of three captions, and five texts, of which one belongs to no image and one is not valid."""
    images = Samples(features=F.normalize(random_features(6), dim=1), labels=torch.tensor([0, 0, 1, 1, 2, 2]))
    texts = Samples(
        features=F.normalize(random_features(5, seed=9), dim=1),
        labels=torch.tensor([2, 0, 1, 9, 1]),
        valid=torch.tensor([True, True, True, True, False]),
        weight=torch.tensor([1.0, 0.5, 2.0, 1.0, 1.0]),
    )
    return images, texts


@pytest.mark.parametrize("block_size", [None, 2])
def test_image_to_text_and_back_equal_the_oracle(block_size: int | None) -> None:
    images, texts = images_and_texts()
    for queries, keys in ((images, texts), (texts, images)):
        expected = oracle(queries, keys, 14.3, own=False)
        loss = soft_cross_entropy(queries, keys, 14.3, block_size=block_size)
        assert float(loss) == pytest.approx(expected, rel=1e-12)


def test_every_input_of_the_cross_entropy_has_its_gradient() -> None:
    images, texts = images_and_texts()

    def loss(q: Tensor, k: Tensor, log_scale: Tensor) -> Tensor:
        queries = Samples(features=q, labels=images.labels)
        keys = Samples(features=k, labels=texts.labels, valid=texts.valid, weight=texts.weight)
        return soft_cross_entropy(queries, keys, log_scale.exp(), block_size=4)

    inputs = (images.features.clone(), texts.features.clone(), torch.tensor(1.5, dtype=torch.float64))
    assert torch.autograd.gradcheck(loss, [value.requires_grad_() for value in inputs])


def test_positive_similarity_is_the_mean_cosine_of_positives() -> None:
    x = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0], [-1.0, 0.0]])
    samples = Samples(
        features=x, labels=torch.tensor([5, 5, 5, 5]), valid=torch.tensor([True, True, True, False])
    )
    expected = (2 * 0 + 4 * math.sqrt(0.5)) / 6
    assert float(positive_similarity(samples)) == pytest.approx(expected)


# -- memory -----------------------------------------------------------------------------------------


class LargestTensor(TorchDispatchMode):
    """Watches every operation for the number of elements that it produces."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        tensors = result if isinstance(result, tuple | list) else [result]
        self.numel = max([self.numel, *(item.numel() for item in tensors if isinstance(item, Tensor))])
        return result


@pytest.mark.parametrize("num_kept", [0, 3])
def test_what_is_not_kept_is_computed_again(num_kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = random_features(40, 3), random_labels(40, 8)

    def loss(x: Tensor) -> Tensor:
        return multi_positive_contrastive(x, labels, PLAIN, block_size=16)

    expected = value_and_gradient(loss, x)
    monkeypatch.setattr(losses, "_KEPT_BYTES", num_kept * 16 * 16 * x.element_size())
    for some, other in zip(value_and_gradient(loss, x), expected, strict=True):
        torch.testing.assert_close(some, other)  # products may round by where their operands lie in memory


def test_a_second_backward_pass_gives_the_same() -> None:
    x, labels = random_features(40, 3).requires_grad_(), random_labels(40, 8)
    loss = multi_positive_contrastive(x, labels, PLAIN, block_size=16)
    first, second = (torch.autograd.grad(loss, x, retain_graph=True)[0] for _ in range(2))
    torch.testing.assert_close(first, second)  # as above


@pytest.mark.parametrize("temperature", [PLAIN, SHIFTED])
def test_similarities_never_exist_as_a_whole(temperature: float) -> None:
    num, dim, block_size = 128, 3, 16
    x, labels = random_features(num, dim), random_labels(num, 20)
    with LargestTensor() as largest:
        value_and_gradient(
            lambda x: multi_positive_contrastive(x, labels, temperature, block_size=block_size), x
        )
    assert largest.numel <= 2 * num * dim < num * num
    with LargestTensor() as largest:
        value_and_gradient(lambda x: dense(x, labels, temperature), x)
    assert largest.numel == num * num
