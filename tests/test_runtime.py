"""Seeds, devices, precision, and the process group: alone a no-op, together equal to one process."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from processes import as_torchrun_would
from stablerep import runtime
from stablerep.errors import UserError

SLURM = {"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "3"}
ROWS = 10
FIRST = 4  # rank 0 holds this many rows, rank 1 the others


# -- seeds ------------------------------------------------------------------------------------------


def test_a_seed_is_a_function_of_identity_alone() -> None:
    assert runtime.seed_for(1, "caption", 3) == 8011664023021404849  # of any release, on any machine
    identities = [(1, 23), (12, 3), ("1", 23), (1, "23"), (1, 2, 3), (123,), ("1\x1f23",), (-1, 23)]
    seeds = {runtime.seed_for(*identity) for identity in identities}
    assert len(seeds) == len(identities)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_generators_repeat_their_draws() -> None:
    first, second, other = (runtime.torch_generator(7, part) for part in ("a", "a", "b"))
    draws = [torch.randn(5, generator=generator) for generator in (first, second, other)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    numbers = [runtime.numpy_generator(7, part).random(5) for part in ("a", "a", "b")]
    assert np.array_equal(numbers[0], numbers[1])
    assert not np.array_equal(numbers[0], numbers[2])


def test_torch_draws_by_the_lowest_32_bits_of_a_seed() -> None:
    """As the documentation says of pairs with the same noise; it must change where torch does."""
    draws = [torch.randn(5, generator=torch.Generator().manual_seed(7 + more)) for more in (0, 2**32, 2**31)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


# -- device and precision ---------------------------------------------------------------------------


def test_named_devices_and_precisions_are_taken_as_given() -> None:
    cpu = runtime.pick_device("cpu")
    assert cpu == torch.device("cpu")
    assert runtime.pick_precision("float32", cpu) is torch.float32
    assert runtime.pick_precision("bfloat16", cpu) is torch.bfloat16
    assert runtime.pick_precision("auto", cpu) in (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("name", ["cuda:99", "hpu", "toaster", ""])
def test_a_device_that_is_not_there_is_refused_before_anything_is_computed(name: str) -> None:
    with pytest.raises(UserError) as caught:
        runtime.pick_device(name)
    message = str(caught.value)
    assert message.startswith(f"device {name!r} cannot be used (")
    assert message.endswith("); name one such as auto, cpu, cuda:0 or mps")
    assert "\n" not in message and len(message) < 300, "torch's pages of advice help nobody"


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_of_several_gpus_every_process_takes_its_own(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    asked: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", lambda *_, device: asked.append(device))  # there is no GPU to ask
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert runtime.pick_device(name) == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert runtime.pick_device(name) == torch.device("cuda", 1)
    assert runtime.pick_device("cuda:0") == torch.device("cuda", 0), "one that was named is taken as given"
    assert asked == [torch.device("cuda", number) for number in (0, 1, 0)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_computes_products_in_its_dtype(dtype: torch.dtype) -> None:
    with runtime.autocast(dtype, torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is dtype


def test_rates_and_choices_are_measured() -> None:
    cpu = torch.device("cpu")
    assert 1e9 < runtime.matmul_rate(torch.float32, cpu) < 1e14
    assert runtime.fused_attention_pays((2, 16, 8), torch.float32, cpu) in (False, True)


@pytest.mark.parametrize(
    ("small", "large", "pays", "asked"),
    [(0.01, 0.01, False, 1), (0.5, 2.0, True, 2), (0.5, 1.1, False, 2), (4.0, 1.0, False, 2)],
    ids=["in software", "with instructions", "hardly faster", "fast only in the cache"],
)
def test_bfloat16_must_pay_and_where_it_is_computed_in_software_no_large_product_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, small: float, large: float, pays: bool, asked: int
) -> None:
    sizes: list[int | None] = []

    def rate(dtype: torch.dtype, _device: torch.device, size: int | None = None) -> float:
        sizes.append(size)
        return 1.0 if dtype is torch.float32 else small if size else large

    monkeypatch.setattr(runtime, "matmul_rate", rate)
    runtime._bfloat16_pays.cache_clear()
    try:
        found = runtime.pick_precision("auto", torch.device("cpu"))
    finally:
        runtime._bfloat16_pays.cache_clear()
    assert (found is torch.bfloat16) is pays
    assert len(set(sizes)) == asked


def test_the_faster_attention_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fused one comes first in each round; it may take a tenth more."""
    for fused, pays in ((1.05, True), (1.2, False)):
        seconds = itertools.cycle([fused, 1.0])
        monkeypatch.setattr(runtime, "_seconds", lambda _, seconds=seconds: next(seconds))
        assert runtime.fused_attention_pays((2, 16, 8), torch.float32, torch.device("cpu")) is pays


# -- alone ------------------------------------------------------------------------------------------


def test_alone_collectives_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    x = torch.randn(3, 2, requires_grad=True)
    with runtime.process_group():
        assert (runtime.rank(), runtime.world_size()) == (0, 1)
        assert not dist.is_initialized()
        assert runtime.gather(x) is x
        assert runtime.all_reduce_sum(x) is x


# -- two real processes -----------------------------------------------------------------------------


def all_rows() -> tuple[Tensor, Tensor]:
    """Rows (ROWS, 3) with a mean far from zero, and what each of them weighs in the loss."""
    generator = torch.Generator().manual_seed(11)
    return torch.randn(ROWS, 3, generator=generator) * 2 + 5, torch.randn(ROWS, 3, generator=generator)


def my_rows() -> slice:
    return slice(0, FIRST) if runtime.rank() == 0 else slice(FIRST, ROWS)


def use_the_group() -> dict[str, Any]:
    """What each rank computes; returns tensors that the tests compare with one process."""
    return {
        "place": [runtime.rank(), runtime.world_size()],
        **gathered(),
        **reduced(),
        **summed(),
        **normalised(all_rows(), my_rows()),
    }


def gathered() -> dict[str, Any]:
    """Every rank weighs the gathered rows in its own way, as losses over different rows do."""
    mine = (torch.arange(6.0).view(3, 2) + 10 * runtime.rank()).requires_grad_()
    everyone = runtime.gather(mine)
    (everyone.square() * (runtime.rank() + 1)).sum().backward()
    flags = runtime.gather(torch.tensor([runtime.rank() == 1, True]))
    return {"gathered": everyone.detach(), "gathered_grad": mine.grad, "flags": flags}


def reduced() -> dict[str, Any]:
    mine = torch.tensor([1.0 + runtime.rank(), 2.0], requires_grad=True)
    total = runtime.all_reduce_sum(mine)
    (total * torch.tensor([3.0, 5.0 * runtime.rank()])).sum().backward()
    return {"reduced": total.detach(), "reduced_grad": mine.grad}


def summed() -> dict[str, Any]:
    """Gradients of several shapes, one of them missing, sent in several messages."""
    runtime._BUCKET = 5
    layer = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    torch.nn.init.constant_(layer[0].weight, runtime.rank())
    runtime.copy_from_first_rank(layer)
    for number, parameter in enumerate(layer[:2].parameters(), 1):
        parameter.grad = torch.full_like(parameter, number * (1.0 + 9 * runtime.rank()))
    runtime.sum_gradients(layer.parameters())
    gradients = [parameter.grad for parameter in layer.parameters()]
    return {
        "summed": [gradient.flatten() for gradient in gradients if gradient is not None],
        "copied": layer[0].weight.detach(),
    }


def normalised(data: tuple[Tensor, Tensor], rows: slice) -> dict[str, Any]:
    layer = runtime.SyncBatchNorm1d(3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 0.5, 2.0]))
    x = data[0][rows].clone().requires_grad_()
    out = layer(x)
    (out * data[1][rows]).sum().backward()
    evaluated = layer.eval()(x)
    return {
        "bn": out.detach(),
        "bn_grad": x.grad,
        "bn_weight_grad": layer.weight.grad,
        "bn_running": torch.stack([layer.running_mean, layer.running_var]),
        "bn_batches": layer.num_batches_tracked,
        "bn_eval": evaluated.detach(),
    }


@pytest.mark.parametrize(
    "step", ["8", "1", None], ids=["eight tasks", "one task", "the script of a job of eight"]
)
def test_tasks_of_slurm_that_know_nothing_of_one_another_are_refused(
    monkeypatch: pytest.MonkeyPatch, step: str | None
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    for name, value in (SLURM | {"SLURM_STEP_NUM_TASKS": step}).items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    if step == "8":
        with pytest.raises(
            UserError, match=r"srun started this command 8 times .* torchrun, one task per node"
        ):
            runtime.process_group().__enter__()
        monkeypatch.setenv("RANK", "0")  # torchrun has told it
    runtime.require_one_process()


def in_a_group() -> dict[str, Any]:
    """What a rank has computed once its group is dissolved."""
    with runtime.process_group():
        found = use_the_group()
    assert not dist.is_initialized()
    return found


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return as_torchrun_would(in_a_group, tmp_path_factory.mktemp("ranks"))


@pytest.mark.slow
def test_ranks_know_their_place(ranks: list[dict[str, Any]]) -> None:
    assert [rank["place"] for rank in ranks] == [[0, 2], [1, 2]]


@pytest.mark.slow
def test_gather_stacks_in_rank_order_and_sums_the_gradients(ranks: list[dict[str, Any]]) -> None:
    part = torch.arange(6.0).view(3, 2)
    expected = torch.cat([part, part + 10])
    for number, rank in enumerate(ranks):
        assert torch.equal(rank["gathered"], expected)
        assert torch.equal(rank["gathered_grad"], 2 * (1 + 2) * (part + 10 * number))
        assert rank["flags"].tolist() == [False, True, True, True]


@pytest.mark.slow
def test_all_reduce_sums_values_and_gradients(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["reduced"].tolist() == [3.0, 4.0]
        assert rank["reduced_grad"].tolist() == [6.0, 5.0]


@pytest.mark.slow
def test_gradients_are_summed_and_weights_are_those_of_the_first(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        sizes = [(len(gradient), gradient.unique().tolist()) for gradient in rank["summed"]]
        assert sizes == [(6, [11.0]), (2, [22.0]), (4, [33.0]), (2, [44.0])]
        assert not rank["copied"].any()


@pytest.mark.slow
def test_batch_norm_of_unequal_parts_equals_one_process(ranks: list[dict[str, Any]]) -> None:
    alone = normalised(all_rows(), slice(0, ROWS))
    for name in ("bn", "bn_grad", "bn_eval"):
        torch.testing.assert_close(
            torch.cat([rank[name] for rank in ranks]), alone[name], rtol=1e-4, atol=1e-5
        )
    torch.testing.assert_close(sum(rank["bn_weight_grad"] for rank in ranks), alone["bn_weight_grad"])
    for rank in ranks:
        torch.testing.assert_close(rank["bn_running"], alone["bn_running"])
        assert rank["bn_batches"] == alone["bn_batches"] == 1
