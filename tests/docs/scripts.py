"""The scripts that pages call, at their smallest: the same ``main`` with other sizes."""

import importlib
import multiprocessing
import multiprocessing.pool
import sys
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro
from smaller import smaller

SIZES: Mapping[str, tuple[str, ...]] = {
    "bench/caching.py": ("--image-size", "16", "--rounds", "1"),
    "bench/large_batch.py": ("--captions", "2", "--image-size", "16", "--no-compile"),
    "bench/loss.py": ("--rows", "2000", "--dim", "8", "--plain-at", "500", "1000", "--rounds", "1"),
    "bench/painting.py": (
        "--num-captions", "1", "--num-images", "1", "--num-rounds", "1", "--teacher", "runs/painter/teacher",
    ),
    "experiments/claims.py": ("--num-captions", "8", "--seeds", "0", "--headline", "16", "--times", "1"),
}  # fmt: skip
"""What follows the words of the page; the last of two equal options counts."""

BUILDERS = ("ContrastiveConfig", "build")
"""What a script builds configurations with, which come out small."""


class Here:
    """A process whose work is done in this one, at once."""

    exitcode = 0

    def __init__(self, *, target: Callable[..., None], args: tuple[Any, ...]) -> None:
        self.target, self.args = target, args

    def start(self) -> None:
        self.target(*self.args)

    def join(self) -> None:
        """It has ended already."""


class Threads:
    """A context of multiprocessing without processes: what they need of memory says nothing."""

    Pool = multiprocessing.pool.ThreadPool
    Process = Here


def small(build: Callable[..., Any]) -> Callable[..., Any]:
    """The same builder of smaller configurations."""
    return lambda *asked, **more: smaller(build(*asked, **more), Path.cwd())


def run(words: list[str]) -> None:
    """Run a script with the words of its page; missing a bar at such a size is no fault, all else is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing, "get_context", lambda *_: Threads)
        patch.setattr(torch, "compile", lambda model, **_: model)
        patch.setattr(sys, "argv", [*words, *SIZES[words[0]]])
        script = Path(words[0]).resolve()
        patch.syspath_prepend(str(script.parent))
        patch.delitem(sys.modules, script.stem, raising=False)
        # By its name, so that its processes find what they are sent.
        module = importlib.import_module(script.stem)
        for name in set(BUILDERS) & set(vars(module)):
            patch.setattr(module, name, small(getattr(module, name)))
        settings = typing.get_type_hints(module.main).get("config")
        code = module.main(*([] if settings is None else [tyro.cli(settings)]))
        del sys.modules[script.stem]
        assert code in (None, 0, 1), words
