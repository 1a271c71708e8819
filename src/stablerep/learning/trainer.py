"""The only training loop: load, step, log, save; exact resume because every step is a function of its number."""

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from stablerep import runtime
from stablerep.config import FREE
from stablerep.console import Console
from stablerep.errors import NonFiniteError, UserError
from stablerep.learning.contrastive import require_positives
from stablerep.learning.data import DataConfig, ViewSource
from stablerep.learning.method import Batch, Method
from stablerep.learning.opening import Resolved, open_run
from stablerep.learning.optim import OptimConfig, build_optimizer, lr_at, peak_lr
from stablerep.learning.replay import Taken, save_replay
from stablerep.learning.speed import flops_per_caption, traced
from stablerep.learning.step import Encoding, compute_gradients
from stablerep.run import Run, torn_files, whole_folder


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What every method needs to be trained; each method adds its own settings under ``method``."""

    out: Path = field(metadata=FREE)
    """Run folder; an unfinished run with the same settings is taken up where it stopped. Settings that say where and
    how it is computed, not what, may then be others: where the data lie, device, threads, micro_batch, how often it is
    saved."""
    data: DataConfig
    """Which images make a batch."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser and schedule."""
    num_steps: int | None = None
    """Updates of the weights; this or ``num_epochs`` is needed."""
    num_epochs: float | None = None
    """Passes over the captions, instead of num_steps."""
    seed: int = 0
    """Determines initial weights, order of the data, views and noise."""
    precision: runtime.Precision = "auto"
    """Of the encoder; the loss is always computed in float32."""
    micro_batch: int | None = field(default=None, metadata=FREE)
    """Captions per forward pass on each process, where the whole batch does not fit into memory: the loss and its
    gradient stay those of the whole batch, for 12 to 38 % more time (gradient caching; docs/performance.md)."""
    gradient_checkpointing: bool = field(default=False, metadata=FREE)
    """Compute the inside of the encoder's blocks again in the backward pass, instead of keeping it in memory."""
    attention: Literal["auto", "fused", "plain"] = "auto"
    """Of the encoder: torch's fused kernel or the spelled-out softmax; auto takes the faster one, measured once."""
    compile: bool = field(default=True, metadata=FREE)
    """Use torch.compile where a compiler is present."""
    device: str = field(default="auto", metadata=FREE)
    """Where to compute, such as cpu, cuda:1 or mps; auto takes a GPU where there is one."""
    log_every: int = field(default=20, metadata=FREE)
    """Steps between records in metrics.jsonl."""
    save_every: int = field(default=500, metadata=FREE)
    """Steps between checkpoints."""
    export_every: int | None = field(default=None, metadata=FREE)
    """Steps between exports that are kept, each below exports/step-N of the run folder, to be measured as a curve."""
    profile: int | None = field(default=None, metadata=FREE)
    """Steps to trace, from the third on, into trace.json of the run folder."""

    def __post_init__(self) -> None:
        if (self.num_steps is None) == (self.num_epochs is None):
            raise ValueError("say how long to train: --num-steps N or --num-epochs N, one of the two")
        for name in (
            "num_steps",
            "num_epochs",
            "micro_batch",
            "log_every",
            "save_every",
            "export_every",
            "profile",
        ):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")

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
    """Views that counted, those of repeated images left out."""
    seconds: float


def run_training(
    config: TrainConfig, kind: str, build: Callable[[], Method], *, console: Console
) -> TrainSummary:
    """Train until the configured number of steps and export the product; a finished run trains no further."""
    torch.manual_seed(runtime.seed_for(config.seed, "weights"))
    method = build()
    if config.gradient_checkpointing and method.encoder() is None:
        raise UserError(
            f"gradient_checkpointing: {kind} learns no encoder; leave it out and lower micro_batch"
        )
    source = ViewSource(
        config.data, seed=config.seed, tokenize=method.tokenize if method.reads_text else None
    )
    require_positives(method, source)
    with open_run(config, kind, source, method) as (run, resolved):
        return _trained(_Loop(config, run, method, source, resolved), kind, console)


def _trained(loop: "_Loop", kind: str, console: Console) -> TrainSummary:
    """The steps that are left, from the last checkpoint on."""
    config, run, num_steps = loop.config, loop.run, loop.num_steps
    begin = time.monotonic()
    start = loop.resume()
    if runtime.rank() != 0:
        console = Console(quiet=True)
    _introduce(console, loop.source, loop.method, start, num_steps)
    if start < num_steps and loop.compiles:
        console.say(
            "the first step compiles the model, which takes a minute or two; --no-compile leaves it out"
        )
    with (
        loop.curves(start),
        traced(config.profile, run.path / "trace.json") as trace,
        console.progress(kind, num_steps, "steps", done=start) as progress,
    ):
        for step, batch in loop.batches(start):
            loss = loop.step(step, batch)
            # Exported before it is saved: what goes on at a checkpoint would not come back to an earlier export.
            if config.export_every and (step + 1) % config.export_every == 0:
                loop.export(step + 1)
            if (step + 1) % config.save_every == 0 and step + 1 < num_steps:
                loop.save(step + 1)
            progress.advance(note="" if loss is None else f"loss {loss:.4f}")
            trace()
    if start < num_steps:
        loop.save(num_steps)
    product = loop.method.export(run.path) if runtime.rank() == 0 else run.path
    return TrainSummary(
        run=run.path,
        product=product,
        num_steps=num_steps,
        loss=loop.last_loss,
        images_seen=round(num_steps * config.images_per_step * loop.source.share_that_counts),
        seconds=time.monotonic() - begin,
    )


def _steps_of_epochs(num_epochs: float, steps_per_epoch: int) -> int:
    """At least one step; the product is rounded first, as 1.1 * 10 is a little more than 11."""
    return max(1, math.ceil(round(num_epochs * steps_per_epoch, 6)))


def _introduce(console: Console, source: ViewSource, method: Method, start: int, num_steps: int) -> None:
    parameters = sum(parameter.numel() for parameter in method.parameters() if parameter.requires_grad)
    by_table = [
        f"{number} of {path}"
        for number, path in zip(source.images_by_table, source.config.images, strict=True)
    ]
    console.say(
        f"{len(source.caption_ids)} captions with {source.num_images} images"
        + (f" ({', '.join(by_table)})" if len(by_table) > 1 else "")
        + f"; {parameters / 1e6:.1f} M parameters; "
        + (f"going on at step {start} of {num_steps}" if start else f"{num_steps} steps")
    )
    if source.share_that_counts < 1:
        console.say(
            f"captions have fewer images than the {source.config.images_per_caption} that a batch takes of each: "
            f"{100 * source.share_that_counts:.0f} % of the views count, the others repeat one and stay out of the loss"
        )


class _Loop:
    """The mutable state of a run: weights, optimiser, and what was last logged."""

    def __init__(
        self, config: TrainConfig, run: Run, method: Method, source: ViewSource, resolved: Resolved
    ) -> None:
        data = config.data
        self.config, self.run, self.method, self.source, self.resolved = config, run, method, source, resolved
        self.num_steps = config.num_steps or _steps_of_epochs(config.num_epochs or 0, source.steps_per_epoch)
        self.device = runtime.pick_device(config.device)
        self.encoding = Encoding(seed=config.seed, dtype=resolved.dtype, micro_batch=config.micro_batch)
        self.peak = peak_lr(
            config.optim,
            captions=data.captions_per_batch,
            images_per_caption=data.images_per_caption,
            crops_per_image=data.crops_per_image,
        )
        method.to(self.device).train()
        self.optimizer = build_optimizer(config.optim, method, self.peak)
        self.writer: SummaryWriter | None = None
        self.last_loss: float | None = None
        self.flops_per_step: int | None = None
        self._logged = (0, time.monotonic())
        self._waited = 0.0

    def resume(self) -> int:
        """Load the last checkpoint, if any, and return the number of steps it holds."""
        if runtime.rank() == 0:
            for torn in torn_files(self.run.path):
                torn.unlink()
        state = self.run.load_checkpoint()
        step = 0
        if state is not None:
            self.method.load_state_dict(state["method"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.last_loss = state["loss"]
            step = int(state["step"])
        runtime.copy_from_first_rank(self.method)
        self._logged = (step, time.monotonic())
        return step

    @contextlib.contextmanager
    def curves(self, start: int) -> Iterator[None]:
        """TensorBoard curves while steps are taken; they forget what a killed process drew past its checkpoint."""
        if runtime.rank() != 0 or start == self.num_steps:
            yield
            return
        first = round(start * self.config.images_per_step * self.source.share_that_counts) + 1
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

    def export(self, step: int) -> None:
        """Keep what ``step`` finished steps have learned, whole or not at all."""
        if runtime.rank() == 0:
            path = self.run.path / "exports" / f"step-{step}"
            shutil.rmtree(path, ignore_errors=True)  # of a process that was killed before its checkpoint
            with whole_folder(path) as folder:
                self.method.export(folder)

    def batches(self, start: int) -> Iterator[tuple[int, Batch]]:
        """The remaining steps with their batches; counts the time for which the loop waits."""
        if start < self.num_steps:  # now, as threads that prepare batches will want the processor
            runtime.matmul_rate(self.resolved.dtype, self.device)
        batches = self.source.batches(start, self.num_steps)
        for step in range(start, self.num_steps):
            begin = time.monotonic()
            batch = next(batches)
            self._waited += time.monotonic() - begin
            yield step, batch

    def step(self, step: int, batch: Batch) -> float | None:
        """One update; returns the loss where this step is logged."""
        batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        if self.flops_per_step is None:
            self._prepare(batch)
        rate = lr_at(self.config.optim, self.peak, step, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        result = compute_gradients(self.method, batch, self.encoding, step)
        norm = self._gradient_norm()
        self._refuse_non_finite(step, result.loss.detach(), norm, batch)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.after_step()
        if not self._is_logged(step):
            return None
        return self._log(step, rate, norm, result.loss.detach(), result.logs)

    @property
    def compiles(self) -> bool:
        """Whether the first step compiles what takes most of the time."""
        return self.config.compile and runtime.why_no_compile() is None

    def _gradient_norm(self) -> Tensor:
        limit = self.config.optim.clip_norm
        parameters = [parameter for parameter in self.method.parameters() if parameter.grad is not None]
        return nn.utils.clip_grad_norm_(parameters, math.inf if limit is None else limit)

    def _prepare(self, batch: Batch) -> None:
        """Count what a step costs, then make the modules fast; the counter sees only what runs as written."""
        per_caption = flops_per_caption(self.method, batch, self.encoding)
        self.flops_per_step = per_caption * self.config.data.captions_per_batch
        encoder = self.method.encoder()
        if encoder is not None:
            encoder.set_fused_attention(self.resolved.attention == "fused")
            encoder.set_checkpointing(self.config.gradient_checkpointing)
        if self.compiles:
            for module in self.method.hot_modules():
                module.compile(dynamic=False)

    def _refuse_non_finite(self, step: int, loss: Tensor, norm: Tensor, batch: Batch) -> None:
        if bool(torch.isfinite(runtime.all_reduce_sum(loss)) & torch.isfinite(norm)):
            return
        name = f"nonfinite-rank{runtime.rank()}.pt"
        taken = Taken(step, batch, self.encoding)
        captions = save_replay(self.run.path / name, taken, self.method, self.source.caption_ids)
        others = f" and {len(captions) - 3} others" if len(captions) > 3 else ""
        raise NonFiniteError(
            f"{self.run.path}: loss {float(loss)} and gradient norm {float(norm)} after {step} steps, before the "
            f"next update, with captions {', '.join(captions[:3])}{others}; the last checkpoint is intact, and what "
            f"replays the step is in {name}; lower the learning rate or set clip_norm"
        )

    def _is_logged(self, step: int) -> bool:
        return (step + 1) % self.config.log_every == 0 or step in (0, self.num_steps - 1)

    def _log(self, step: int, rate: float, norm: Tensor, loss: Tensor, logs: dict[str, Tensor]) -> float:
        self.last_loss = float(runtime.all_reduce_sum(loss))
        images = self.config.images_per_step * self.source.share_that_counts
        last_step, last_time = self._logged
        now = time.monotonic()
        waited, self._waited = self._waited, 0.0
        self._logged = (step + 1, now)
        per_second = (step + 1 - last_step) / max(now - last_time, 1e-9)
        assert self.flops_per_step is not None  # counted before the first step
        flops = per_second * self.flops_per_step
        best = runtime.matmul_rate(self.resolved.dtype, self.device) * runtime.world_size()
        record: dict[str, Any] = {
            "step": step + 1,
            "images_seen": round((step + 1) * images),
            "loss": self.last_loss,
            "learning_rate": rate,
            "gradient_norm": float(norm),
            "images_per_second": per_second * images,
            "model_flops_per_second": flops,
            "share_of_matmul_rate": flops / best,
            "share_of_time_waiting": waited / max(now - last_time, 1e-9),
            **{name: float(value) for name, value in logs.items()},
        }
        if self.writer is not None:
            self.run.log(record)
            for name, value in record.items():
                if name not in ("step", "images_seen"):
                    self.writer.add_scalar(name, value, global_step=record["images_seen"])
        return self.last_loss
