"""What a training run leaves behind: which files, which state, which log; and how a run is stopped on the way."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stablerep.cost import FILE
from stablerep.learning import trainer
from stablerep.run import Run

ENCODER = {"encoder/encoder.json", "encoder/encoder.safetensors"}
TEXT = {"text/text.json", "text/text.safetensors", "text/tokenizer.json"}
PAINTER = {
    "teacher/README.md",
    "teacher/model_index.json",
    "teacher/scheduler/scheduler_config.json",
    "teacher/stablerep.json",
    "teacher/text_encoder/config.json",
    "teacher/text_encoder/model.safetensors",
    "teacher/tokenizer/tokenizer.json",
    "teacher/tokenizer/tokenizer_config.json",
    "teacher/transformer/config.json",
    "teacher/transformer/diffusion_pytorch_model.safetensors",
    "teacher/vae/config.json",
    "teacher/vae/diffusion_pytorch_model.safetensors",
}
PRODUCTS = {
    "stablerep": ENCODER,
    "stablerep-plus": ENCODER | TEXT,
    "simclr": ENCODER,
    "supervised": ENCODER,
    "clip": ENCODER | TEXT,
    "autoencoder": {"autoencoder/config.json", "autoencoder/diffusion_pytorch_model.safetensors"},
    "text-to-image": PAINTER,
    "lora": PAINTER | {"lora/pytorch_lora_weights.safetensors"},
    "distillation": PAINTER,
}
OF_EVERY_RUN = {
    "run.json",
    "config.toml",
    "provenance.json",
    "resolved.json",
    "metrics.jsonl",
    "checkpoint.pt",
}


def files(folder: Path) -> dict[str, bytes]:
    """Every file below the folder but the TensorBoard curves, whose names hold time and machine, costs and lock."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "tensorboard"]
    paths = [path for path in paths if path.name not in (FILE, ".train.lock")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def state(run: Path) -> dict[str, Any]:
    """The checkpoint as one flat dict of tensors and numbers."""
    loaded = torch.load(run / "checkpoint.pt", weights_only=True)
    flat = {f"method.{name}": value for name, value in loaded["method"].items()}
    for number, values in loaded["optimizer"]["state"].items():
        flat |= {f"optimizer.{number}.{name}": value for name, value in values.items()}
    return flat | {"step": loaded["step"], "loss": loaded["loss"]}


def assert_same_run(run: Path, reference: Path, method: str) -> None:
    """Weights, optimiser, log and product of two runs are equal to the bit."""
    ours, theirs = state(run), state(reference)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        same = torch.equal(ours[name], value) if isinstance(value, Tensor) else ours[name] == value
        assert same, f"{name} differs"
    assert log(run) == log(reference)
    product, expected = files(run), files(reference)
    assert all(product[name] == expected[name] for name in PRODUCTS[method])


def log(run: Path) -> list[dict[str, Any]]:
    """The log without what a clock wrote."""
    clock = (
        "time",
        "images_per_second",
        "model_flops_per_second",
        "share_of_matmul_rate",
        "share_of_time_waiting",
    )
    return [
        {name: value for name, value in record.items() if name not in clock}
        for record in Run.open(run).metrics()
    ]


class Killed(BaseException):
    """What stops a training in this process as a kill would, but for the files that are open."""


@contextlib.contextmanager
def killed_at(moment: int | str) -> Iterator[None]:
    """Stop the training in the block before a step (0, 1, ...), or before the export."""

    def step(loop: Any, number: int, batch: Any) -> Any:
        if number == moment:
            raise Killed
        return original_step(loop, number, batch)

    def export(*_: Any) -> Any:
        raise Killed

    original_step = trainer._Loop.step
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(trainer._Loop, "step", step)
        if moment == "export":
            for cls in trainer.Method.__subclasses__():
                patch.setattr(cls, "export", export)
        yield
