"""Opening a run: its folder, and what the settings leave open, decided once by the first process that trains there."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from stablerep import runtime
from stablerep.errors import UserError
from stablerep.learning.data import ViewSource
from stablerep.learning.method import Method
from stablerep.locks import alone
from stablerep.run import LOCK, Run, read_json

_NAME = "resolved.json"


class Opening(Protocol):
    """What of a training configuration decides here."""

    @property
    def out(self) -> Path: ...
    @property
    def device(self) -> str: ...
    @property
    def precision(self) -> runtime.Precision: ...
    @property
    def attention(self) -> Literal["auto", "fused", "plain"]: ...


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """What the settings leave open."""

    dtype: torch.dtype
    attention: str | None
    """Fused or plain; None where the method learns no encoder."""


@contextlib.contextmanager
def open_run(
    config: Opening, kind: str, source: ViewSource, method: Method
) -> Iterator[tuple[Run, Resolved]]:
    """The run folder, opened or made, and what the settings leave open; no other command trains there meanwhile.

    Rank 0 goes first, so that the others find the folder as it left it, or fail as it did. Raises ``UserError`` where
    the folder holds something else, where the data changed since the run began, and on a machine that does not see
    the folder; ``BusyError`` where another command trains there.
    """
    busy = (
        f"{config.out}: another process trains there; wait until it has ended, or give another output folder"
    )
    with contextlib.ExitStack() as held:
        opened = None
        try:
            if runtime.rank() == 0:
                Run(config.out).claim()  # a folder of something else gets no lock
                held.enter_context(alone(config.out / LOCK, busy))
                opened = _open_resolved(config, kind, source, method)
        finally:
            there = int(runtime.gather(torch.tensor([int(opened is not None)]))[0])  # waits for rank 0, too
        if there and not (config.out / _NAME).exists():
            raise UserError(
                f"{config.out}: the run folder that the first process made is not to be seen from this machine; give "
                "--out on a disk that all machines share"
            )
        if opened is None:
            opened = _open_resolved(config, kind, source, method)
        if not there:  # what stopped rank 0 did not stop this one, such as the lock
            raise UserError(
                f"{config.out}: the first process could not open the run; its own message says why"
            )
        yield opened


def _open_resolved(config: Opening, kind: str, source: ViewSource, method: Method) -> tuple[Run, Resolved]:
    """The run folder, and what the settings leave open, decided once by the run's first process.

    Otherwise a timing could choose otherwise after a resume, or a table that grew could change the batches.
    """
    run = Run.open_or_create(config.out, config, kind=kind)
    data: dict[str, Any] = {
        "captions": len(source.caption_ids),
        "images": source.num_images,
        "digest": source.digest(),
    }
    path = run.path / _NAME
    if not path.exists():
        device = runtime.pick_device(config.device)
        dtype = runtime.pick_precision(config.precision, device)
        attention = _pick_attention(config, method, dtype, device)
        run.write_json(
            _NAME,
            {"precision": str(dtype).removeprefix("torch."), "attention": attention, "data": data},
        )
    resolved = read_json(path)
    if resolved["data"] != data:
        there = resolved["data"]
        if there["digest"].partition(":")[0] != data["digest"].partition(":")[0]:
            raise UserError(
                f"{run.path} was begun by another version of stablerep, which counted its data otherwise; finish it "
                "with that one, or give another output folder"
            )
        raise UserError(
            f"{run.path}: the images or captions changed since this run began (then {there['captions']} captions with "
            f"{there['images']} images, now {data['captions']} with {data['images']}); give another output folder"
        )
    return run, Resolved(dtype=getattr(torch, resolved["precision"]), attention=resolved["attention"])


def _pick_attention(config: Opening, method: Method, dtype: torch.dtype, device: torch.device) -> str | None:
    encoder = method.encoder()
    if encoder is None or config.attention != "auto":
        return None if encoder is None else config.attention
    return "fused" if runtime.fused_attention_pays(encoder.attention_shape, dtype, device) else "plain"
