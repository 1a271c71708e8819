"""Weight files that others wrote: opened without running anything, and brought to plain names."""

import argparse
import contextlib
import errno
import pickle
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from stablerep.errors import UserError

SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".tar", ".safetensors")
_WRAPPERS = ("model", "state_dict")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a checkpoint, on the CPU, without the prefix ``module.`` of a wrapped model.

    A pickled file may hold tensors, plain values and ``argparse.Namespace`` (the options in the official StableRep
    files); anything else is refused before it runs. Of a checkpoint of a training run, what stands under ``model`` or
    ``state_dict`` is taken. Raises ``UserError`` for what is refused, damaged, or holds no tensors.
    """
    content = _read(path)
    for name in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds no named tensors but {type(content).__name__}; save a state dict")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(
            f"{path} holds no named tensors; its entries are {', '.join(map(str, content))[:200]}"
        )
    if all(name.startswith("module.") for name in tensors):
        return {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def put(model: nn.Module, tensors: Mapping[str, Tensor], origin: object) -> None:
    """Give a model its weights; ``UserError`` that names what is missing, unknown or of another shape."""
    expected = model.state_dict()
    wanted = {name: tensor.shape for name, tensor in expected.items()}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise UserError(
            f"{origin} does not fit the model it should fill; missing, unknown or of another shape: "
            f"{', '.join(wrong[:5])}{more}"
        )
    model.load_state_dict({name: tensor.to(expected[name].dtype) for name, tensor in tensors.items()})


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Without the bars and notes of diffusers and transformers; their settings are put back."""
    # Imported here because they take seconds, which other weight files need not wait for.
    import diffusers
    import transformers

    modules = (diffusers.utils.logging, transformers.utils.logging)
    before = [(module.get_verbosity(), module.is_progress_bar_enabled()) for module in modules]
    for module in modules:
        module.set_verbosity_error()
        module.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # Newer versions rename arguments that older ones require.
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for module, (verbosity, bars) in zip(modules, before, strict=True):
            module.set_verbosity(verbosity)
            if bars:
                module.enable_progress_bar()


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} was not opened: it holds more than tensors and options, or is no checkpoint "
            f"({_reason(error)}); where you trust it, save its weights as safetensors"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, SafetensorError) as error:
        if (
            isinstance(error, OSError) and error.errno != errno.EINVAL
        ):  # which torch raises for half an archive
            raise
        raise UserError(
            f"{path} is damaged or no checkpoint ({_reason(error)}); download or export it again"
        ) from error


def _reason(error: BaseException) -> str:
    """What torch says of a file, without its advice to open it in spite of that."""
    text = str(error).split("WeightsUnpickler error:")[-1].strip() or type(error).__name__
    return text.splitlines()[0].split(". ")[0].rstrip(".")
