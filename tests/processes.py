"""Real processes that start at once: they are forked from a server that has imported everything they need."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

CONTEXT = multiprocessing.get_context("forkserver")
_PRELOAD = [  # nothing that imports Lance, which is not fork-safe
    "pandas",  # which Lance loads
    "pytest",
    "stablerep.generation.teacher",
    "stablerep.learning.lora",
    "stablerep.learning.step",
    "stablerep.learning.text_to_image",
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha",
    "transformers.models.t5.modeling_t5",
    "open_clip",
    "torch.utils.tensorboard",
]
_TIMEOUT = 300  # seconds; only a process that hangs needs them


def serve() -> None:
    """Start the server, of which a process has one. Scripts that fork from it too would have it import less."""
    CONTEXT.set_forkserver_preload(_PRELOAD)
    forkserver.ensure_running()


def start(function: Callable[[], Any], **environment: str) -> BaseProcess:
    """A process of its own that calls the function (picklable, of a module) with one thread."""
    serve()
    process = CONTEXT.Process(target=_call, args=(function, environment), daemon=True)
    process.start()
    return process


def as_torchrun_would(function: Callable[[], Any], folder: Path) -> list[Any]:
    """What the function returns (tensors and plain values) in two processes with torchrun's environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    folder.mkdir(parents=True, exist_ok=True)
    results = [folder / f"{rank}.pt" for rank in range(2)]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    ranks = [
        start(_Saved(function, result), **group, RANK=str(rank), LOCAL_RANK=str(rank))
        for rank, result in enumerate(results)
    ]
    for process in ranks:
        process.join(_TIMEOUT)
        process.kill()
    assert [process.exitcode for process in ranks] == [0, 0]
    return [torch.load(result, weights_only=True) for result in results]


class _Saved:
    """A call whose result goes to a file."""

    def __init__(self, function: Callable[[], Any], path: Path) -> None:
        self.function, self.path = function, path

    def __call__(self) -> None:
        torch.save(self.function(), self.path)


def _call(function: Callable[[], Any], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    function()
