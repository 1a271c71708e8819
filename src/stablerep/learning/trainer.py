"""The only training loop: load, step, log, save; exact resume because every step is a function of its number."""

import contextlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter

from stablerep import runtime
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.learning.data import DataConfig, ViewSource
from stablerep.learning.method import Batch, Method
from stablerep.learning.optim import OptimConfig, build_optimizer, lr_at, peak_lr
from stablerep.run import Run


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What every method needs to be trained; each method adds its own settings under ``method``."""

    out: Path
    """Run folder; an unfinished run with the same settings is taken up where it stopped."""
    data: DataConfig
    """Which images make a batch."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser and schedule."""
    num_steps: int | None = None
    """Updates of the weights."""
    num_epochs: float | None = None
    """Passes over the captions, instead of num_steps."""
    seed: int = 0
    """Determines initial weights, order of the data, views and noise."""
    precision: runtime.Precision = "auto"
    """Of the encoder; the loss is always computed in float32."""
    compile: bool = True
    """Use torch.compile where a compiler is present."""
    device: str = "auto"
    log_every: int = 20
    """Steps between records in metrics.jsonl."""
    save_every: int = 500
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        if (self.num_steps is None) == (self.num_epochs is None):
            raise ValueError("give exactly one of num_steps and num_epochs")
        for name in ("num_steps", "num_epochs", "log_every", "save_every"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")

    @property
    def images_per_step(self) -> int:
        return self.data.captions_per_batch * self.data.images_per_caption * self.data.crops_per_image


@dataclass(frozen=True, kw_only=True)
class TrainSummary:
    """What a training run ended with."""

    run: Path
    product: Path
    num_steps: int
    loss: float | None
    images_seen: int
    seconds: float


def run_training(
    config: TrainConfig, kind: str, build: Callable[[], Method], *, console: Console
) -> TrainSummary:
    """Train until the configured number of steps and export the product; a finished run trains no further."""
    torch.manual_seed(runtime.seed_for(config.seed, "weights"))
    method = build()
    source = ViewSource(
        config.data, seed=config.seed, tokenize=method.tokenize if method.reads_text else None
    )
    num_steps = config.num_steps or _steps_of_epochs(config.num_epochs or 0, source.steps_per_epoch)
    run, dtype = _open_run(config, kind, source)
    loop = _Loop(config, run, method, num_steps, dtype)
    begin = time.monotonic()
    start = loop.resume()
    if runtime.rank() != 0:
        console = Console(quiet=True)
    _introduce(console, source, method, start, num_steps)
    with loop.curves(start), console.progress(kind, num_steps, "steps", done=start) as progress:
        for step, batch in enumerate(source.batches(start, num_steps), start):
            loss = loop.step(step, batch)
            progress.advance(note="" if loss is None else f"loss {loss:.4f}")
    if start < num_steps:
        loop.save(num_steps)
    product = method.export(run.path) if runtime.rank() == 0 else run.path
    return TrainSummary(
        run=run.path,
        product=product,
        num_steps=num_steps,
        loss=loop.last_loss,
        images_seen=num_steps * config.images_per_step,
        seconds=time.monotonic() - begin,
    )


def _steps_of_epochs(num_epochs: float, steps_per_epoch: int) -> int:
    """At least one step; the product is rounded first, as 1.1 * 10 is a little more than 11."""
    return max(1, math.ceil(round(num_epochs * steps_per_epoch, 6)))


def _open_run(config: TrainConfig, kind: str, source: ViewSource) -> tuple[Run, torch.dtype]:
    """Rank 0 goes first, so that the others find the folder as it left it, or fail as it did."""
    try:
        if runtime.rank() == 0:
            _open_resolved(config, kind, source)
    finally:
        runtime.barrier()
    return _open_resolved(config, kind, source)


def _open_resolved(config: TrainConfig, kind: str, source: ViewSource) -> tuple[Run, torch.dtype]:
    """The run folder, and the precision: what the settings leave open is decided once, by the run's first process.

    Otherwise a timing could choose another precision after a resume, or a table that grew could change the batches.
    """
    run = Run.open_or_create(config.out, config, kind=kind)
    data = {"captions": len(source.caption_ids), "images": source.num_images, "digest": source.digest()}
    path = run.path / "resolved.json"
    if not path.exists():
        dtype = runtime.pick_precision(config.precision, runtime.pick_device(config.device))
        run.write_json(path.name, {"precision": str(dtype).removeprefix("torch."), "data": data})
    resolved = json.loads(path.read_text(encoding="utf-8"))
    if resolved["data"] != data:
        there = resolved["data"]
        raise UserError(
            f"{run.path}: the images or captions changed since this run began (then {there['captions']} captions with "
            f"{there['images']} images, now {data['captions']} with {data['images']}); give another output folder"
        )
    return run, getattr(torch, resolved["precision"])


def _remove_torn_files(folder: Path) -> None:
    """Remove what processes left that were killed while they wrote (see ``run.write_atomically``)."""
    for path in folder.rglob(".*"):
        if re.fullmatch(r"\..+\.[0-9a-f]{16}", path.name):
            path.unlink()


def _introduce(console: Console, source: ViewSource, method: Method, start: int, num_steps: int) -> None:
    parameters = sum(parameter.numel() for parameter in method.parameters() if parameter.requires_grad)
    console.say(
        f"{len(source.caption_ids)} captions with {source.num_images} images; {parameters / 1e6:.1f} M parameters; "
        + (f"going on at step {start} of {num_steps}" if start else f"{num_steps} steps")
    )


class _Loop:
    """The mutable state of a run: weights, optimiser, and what was last logged."""

    def __init__(
        self, config: TrainConfig, run: Run, method: Method, num_steps: int, dtype: torch.dtype
    ) -> None:
        data = config.data
        self.config, self.run, self.method, self.num_steps = config, run, method, num_steps
        self.device = runtime.pick_device(config.device)
        self.dtype = dtype
        self.peak = peak_lr(
            config.optim,
            captions=data.captions_per_batch,
            images_per_caption=data.images_per_caption,
            crops_per_image=data.crops_per_image,
        )
        method.to(self.device).train()
        encoder = method.encoder()
        if encoder is not None and self.device.type == "cpu" and self.dtype is torch.bfloat16:
            encoder.set_fused_attention(False)  # measured: the fused kernel is slow in bfloat16 on CPUs
        if config.compile and runtime.why_no_compile() is None:
            for module in method.hot_modules():
                module.compile(dynamic=False)
        self.optimizer = build_optimizer(config.optim, method, self.peak)
        self.encode: nn.Module = method
        if runtime.world_size() > 1:
            self.encode = DistributedDataParallel(method, broadcast_buffers=False)
        self.writer: SummaryWriter | None = None
        self.last_loss: float | None = None
        self._logged = (0, time.monotonic())

    def resume(self) -> int:
        """Load the last checkpoint, if any, and return the number of steps it holds."""
        if runtime.rank() == 0:
            _remove_torn_files(self.run.path)
        state = self.run.load_checkpoint()
        if state is None:
            return 0
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.last_loss = state["loss"]
        step = int(state["step"])
        self._logged = (step, time.monotonic())
        return step

    @contextlib.contextmanager
    def curves(self, start: int) -> Iterator[None]:
        """TensorBoard curves while steps are taken; they forget what a killed process drew past its checkpoint."""
        if runtime.rank() != 0 or start == self.num_steps:
            yield
            return
        first = start * self.config.images_per_step + 1
        self.writer = SummaryWriter(self.run.path / "tensorboard", purge_step=first if start else None)
        try:
            yield
        finally:
            self.writer.close()

    def save(self, step: int) -> None:
        """Write the checkpoint that holds ``step`` finished steps."""
        if runtime.rank() == 0:
            self.run.save_checkpoint(
                {
                    "step": step,
                    "loss": self.last_loss,
                    "method": self.method.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                }
            )

    def step(self, step: int, batch: Batch) -> float | None:
        """One update; returns the loss where this step is logged."""
        batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        torch.manual_seed(runtime.seed_for(self.config.seed, "step", step, runtime.rank()))
        rate = lr_at(self.config.optim, self.peak, step, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with runtime.autocast(self.dtype, self.device):
            features = self.encode(batch)
        result = self.method.loss(features, batch)
        # Losses sum over the ranks, DistributedDataParallel averages gradients: the factor turns its mean into a sum.
        (result.loss * runtime.world_size()).backward()  # type: ignore[no-untyped-call]
        norm = self._gradient_norm()
        self._refuse_non_finite(step, result.loss.detach(), norm, batch)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.after_step()
        logged = (
            self._log(step, rate, norm, result.loss.detach(), result.logs) if self._is_logged(step) else None
        )
        if (step + 1) % self.config.save_every == 0 and step + 1 < self.num_steps:
            self.save(step + 1)
        return logged

    def _gradient_norm(self) -> Tensor:
        limit = self.config.optim.clip_norm
        parameters = [parameter for parameter in self.method.parameters() if parameter.grad is not None]
        return nn.utils.clip_grad_norm_(parameters, math.inf if limit is None else limit)

    def _refuse_non_finite(self, step: int, loss: Tensor, norm: Tensor, batch: Batch) -> None:
        if bool(torch.isfinite(runtime.all_reduce_sum(loss)) & torch.isfinite(norm)):
            return
        name = f"nonfinite-rank{runtime.rank()}.pt"
        torch.save({"step": step, "batch": batch}, self.run.path / name)
        raise UserError(
            f"{self.run.path}: loss {float(loss)} and gradient norm {float(norm)} after {step} steps, before the "
            f"next update; the last checkpoint is intact and the batch is in {name}; lower the learning rate or set "
            "clip_norm"
        )

    def _is_logged(self, step: int) -> bool:
        return (step + 1) % self.config.log_every == 0 or step in (0, self.num_steps - 1)

    def _log(self, step: int, rate: float, norm: Tensor, loss: Tensor, logs: dict[str, Tensor]) -> float:
        self.last_loss = float(runtime.all_reduce_sum(loss))
        images = self.config.images_per_step
        last_step, last_time = self._logged
        now = time.monotonic()
        self._logged = (step + 1, now)
        record: dict[str, Any] = {
            "step": step + 1,
            "images_seen": (step + 1) * images,
            "loss": self.last_loss,
            "learning_rate": rate,
            "gradient_norm": float(norm),
            "images_per_second": (step + 1 - last_step) * images / max(now - last_time, 1e-9),
            **{name: float(value) for name, value in logs.items()},
        }
        if self.writer is not None:
            self.run.log(record)
            for name, value in record.items():
                if name not in ("step", "images_seen"):
                    self.writer.add_scalar(name, value, global_step=record["images_seen"])
        return self.last_loss
