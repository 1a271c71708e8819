"""The loop where it stops, and where two processes share it."""

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from run_files import OF_EVERY_RUN, PRODUCTS, files, log
from tiny_training import (
    World,
    image_row,
    train_config,
    weights,
    write_images,
)

from processes import as_torchrun_would
from stablerep import runtime
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.learning import replay
from stablerep.learning.contrastive import Contrastive
from stablerep.learning.data import ViewSource, identity_of
from stablerep.learning.methods import METHODS, train
from stablerep.learning.step import Encoding, compute_gradients
from stablerep.learning.trainer import run_training

# -- losses that are not finite ----------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_before_the_update(world: World, tmp_path: Path) -> None:
    config = train_config(
        "simclr",
        world,
        tmp_path / "run",
        optim={"lr": 1e30, "schedule": "constant"},
        save_every=1,
        num_steps=50,
    )
    method = METHODS["simclr"].build(config)
    assert isinstance(method, Contrastive)
    with pytest.raises(UserError) as caught:
        run_training(config, "simclr", lambda: method, console=Console(quiet=True))
    saved = torch.load(config.out / "checkpoint.pt", weights_only=True)
    step = saved["step"]
    assert f"after {step} steps, before the next update" in str(caught.value)
    assert "nonfinite-rank0.pt" in str(caught.value)
    for name, parameter in method.named_parameters():
        assert torch.equal(parameter, saved["method"][name]), "the update went into the weights"
    saved_step = torch.load(config.out / "nonfinite-rank0.pt", weights_only=True)
    assert saved_step["step"] == step
    source = ViewSource(config.data, seed=config.seed)
    batch = source.batch(step)
    assert all(torch.equal(saved_step["batch"][name], tensor) for name, tensor in batch.items())
    assert [identity_of(caption) for caption in saved_step["captions"]] == batch["caption_id"].tolist()
    assert set(saved_step["captions"]) <= set(source.caption_ids)
    assert f"with captions {', '.join(saved_step['captions'][:3])} and 1 others" in str(caught.value)
    again = compute_gradients(
        method, saved_step["batch"], Encoding(seed=saved_step["seed"], dtype=torch.float32), step
    )
    assert not torch.isfinite(again.loss)
    assert [record["step"] for record in log(config.out)] == list(range(1, step + 1))
    assert all(torch.isfinite(torch.tensor(record["loss"])) for record in log(config.out))


def test_the_pixels_of_a_large_batch_are_not_saved(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = train_config("simclr", world, tmp_path)
    source = ViewSource(config.data, seed=0)
    batch = source.batch(2)
    encoding = Encoding(seed=0, dtype=torch.float32, micro_batch=3)
    monkeypatch.setattr(replay, "_MOST_PIXELS", batch["image"].nbytes - 1)
    taken = replay.Taken(2, batch, encoding)
    replay.save_replay(tmp_path / "replay.pt", taken, METHODS["simclr"].build(config), source.caption_ids)
    saved = torch.load(tmp_path / "replay.pt", weights_only=True)
    assert saved["batch"].keys() == batch.keys() - {"image"}
    assert saved["draw_seeds"] == [encoding.draw_seed(2, 0), encoding.draw_seed(2, 1)]


# -- two processes -----------------------------------------------------------------------------------

NUM_STEPS, LR = 3, 3e-4

# What batch norm or softmax cancels: the gradients are rounding errors, which Adam brings to full size. The running
# means follow these biases.
WITHOUT_EFFECT = (
    "attn.qkv.bias",
    "attn.in_proj_bias",
    "backbone.norm.bias",
    "ln_final.bias",
    "layers.0.bias",
    "layers.3.bias",
    "running_mean",
)


@pytest.fixture(scope="module")
def uneven(world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Captions of one, two or three images, so that the ranks hold different numbers of valid views."""
    rows = [image_row(number, index) for number in range(12) for index in range(1 + number % 3)]
    path = write_images(tmp_path_factory.mktemp("uneven") / "images.lance", rows)
    return dataclasses.replace(world, images=path)


def three_steps(method: str, world: World, out: Path, micro_batch: int | None = None) -> dict[str, Any]:
    """Three steps over views of which some do not count."""
    settings: dict[str, Any] = {
        "data": {"images_per_caption": 3},
        "optim": {"lr": LR},
        "micro_batch": micro_batch,
    }
    if method == "stablerep":  # every rank draws its own
        settings["method"] = {"encoder": {"drop_path": 0.0}}
    summary = train(method, train_config(method, world, out, num_steps=NUM_STEPS, **settings))
    return {"loss": summary.loss, "product": str(summary.product)}


MODES = [("stablerep", 1), *((method, None) for method in METHODS)]


class TwoRanks:
    """Three steps in every mode on this rank's part of the batches: the first joins the group by itself."""

    def __init__(self, world: World, folder: Path, *, joined: bool) -> None:
        self.world, self.folder, self.joined = world, folder, joined

    def __call__(self) -> dict[str, Any]:
        with runtime.process_group() if self.joined else contextlib.nullcontext():
            modes = MODES[1:] if self.joined else MODES[:1]
            return {
                f"{method} {size}": three_steps(method, self.world, self.folder / f"{method} {size}", size)
                for method, size in modes
            }


@pytest.fixture(scope="module")
def ranks(uneven: World, together: Path) -> list[dict[str, Any]]:
    """What training came to in each process; all modes in a row, as a process takes long to start."""
    parts = [
        as_torchrun_would(TwoRanks(uneven, together, joined=joined), together / f"ranks {joined}")
        for joined in (False, True)
    ]
    return [first | others for first, others in zip(*parts, strict=True)]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("together")


@pytest.mark.slow
@pytest.mark.parametrize(("method", "micro_batch"), MODES)
def test_two_processes_train_to_the_weights_of_one(
    method: str,
    micro_batch: int | None,
    uneven: World,
    ranks: list[dict[str, Any]],
    together: Path,
    tmp_path: Path,
) -> None:
    three_steps(method, uneven, tmp_path / "alone")
    mode = f"{method} {micro_batch}"
    run = together / mode
    assert ranks[0][mode]["loss"] == ranks[1][mode]["loss"]
    alone, shared = weights(tmp_path / "alone"), weights(run)
    for name, tensor in alone.items():
        if not name.endswith(WITHOUT_EFFECT):
            # Adam turns the rounding of a gradient near zero into a step of its own size, so a few numbers may differ.
            largest_update = NUM_STEPS * LR * tensor.numel() ** 0.5
            assert (shared[name].float() - tensor).norm() <= 0.15 * largest_update, name
    for ours, theirs in zip(log(run), log(tmp_path / "alone"), strict=True):
        assert ours["step"] == theirs["step"]
        exact = 1e-3 if ours["step"] == 1 else 0.05  # the rounding of one step moves the next
        for name in ("loss", "gradient_norm"):  # Adam forgives a wrong factor, the norm does not
            assert ours[name] == pytest.approx(theirs[name], rel=exact)
    assert set(files(run)) == OF_EVERY_RUN | PRODUCTS[method]
    assert json.loads((run / "resolved.json").read_text())["precision"] == "float32"


def test_exports_on_the_way_are_what_a_shorter_run_ends_with(world: World, tmp_path: Path) -> None:
    """With a constant rate, step 2 of 7 is the end of a run of 2."""
    optim = {"lr": 3e-3, "schedule": "constant", "warmup_fraction": 0.0}
    long = train_config("simclr", world, tmp_path / "long", export_every=2, optim=optim)
    short = train_config("simclr", world, tmp_path / "short", num_steps=2, optim=optim)
    train("simclr", long)
    train("simclr", short)
    kept = sorted(path.name for path in (tmp_path / "long" / "exports").iterdir())
    assert kept == ["step-2", "step-4", "step-6"]
    on_the_way = tmp_path / "long" / "exports" / "step-2" / "encoder"
    for name in ("encoder.json", "encoder.safetensors"):
        assert (on_the_way / name).read_bytes() == (tmp_path / "short" / "encoder" / name).read_bytes()
