"""What pages ask for more than once: what was made of the same is copied, and not made again."""

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stablerep.captions.worlds import WorldConfig
from stablerep.learning.trainer import TrainConfig
from stablerep.workflows.circle import CircleConfig
from stablerep.workflows.matrix import CompareConfig

MADE: dict[str, tuple[Any, Path]] = {}
"""What a command has returned, and a copy of what it left, by what determined both."""


def once(words: str, config: Any, make: Callable[[], Any], folder: Path) -> Any:
    """What ``make`` returns and leaves in ``config.out``; copies of that are kept in a folder."""
    key = _key(words, config)
    if key is None:
        return make()
    if key not in MADE:
        result = make()
        if key not in MADE:  # a command may call a function whose work is kept, too
            there = folder / str(len(MADE))
            shutil.copytree(config.out, there)
            MADE[key] = result, there
        return result
    result, there = MADE[key]
    shutil.rmtree(config.out, ignore_errors=True)
    shutil.copytree(there, config.out)
    return result


def _key(words: str, config: Any) -> str | None:
    """What determines a world, a comparison, a circle or a run; None of all else, and under torchrun."""
    if "RANK" in os.environ:
        return None
    if isinstance(config, WorldConfig):
        return repr(dataclasses.replace(config, out=Path()))
    if isinstance(config, CompareConfig | CircleConfig):
        return repr(config)
    return f"{words} {config!r} {_state(config)}" if isinstance(config, TrainConfig) else None


def _state(config: Any) -> str:
    """Which files lie where a configuration points to: their names, sizes and times, which copies share."""
    digest = hashlib.blake2b()
    for place in sorted(set(_places(config))):
        for file in sorted((place, *place.rglob("*"))):
            if file.is_file():
                found = file.stat()
                digest.update(f"{file} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _places(value: Any) -> Iterator[Path]:
    """The paths in a configuration, at any depth, at which something lies."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _places(getattr(value, field.name))
    elif isinstance(value, tuple):
        for one in value:
            yield from _places(one)
    elif isinstance(value, str | Path) and os.path.exists(value):  # noqa: PTH110 - too long a name is none
        yield Path(value)
