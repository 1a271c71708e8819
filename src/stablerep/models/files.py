"""Models on disk: a folder with a description (JSON: configuration, fingerprint) and the weights (safetensors)."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from stablerep.errors import UserError
from stablerep.run import write_atomically, write_text

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """The two files of one kind of model."""

    name: str
    """Stem of both files."""
    what: str
    """What a message calls the model, with its article."""
    version: int
    """Of the description; another one is refused."""

    @property
    def description(self) -> str:
        return f"{self.name}.json"

    @property
    def weights(self) -> str:
        return f"{self.name}.safetensors"

    def write(self, folder: Path, tensors: Tensors, description: Mapping[str, Any]) -> None:
        """Write the weights and the description, each file replaced atomically.

        A pair that was torn by a kill in between is refused later, as the fingerprint differs.
        """
        detached = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        # as bytes: save_file would leave a file that only its owner can read
        data = safetensors.torch.save(detached)
        write_atomically(folder / self.weights, lambda path: _write_bytes(path, data))
        head = {"format": f"stablerep-{self.name}", "version": self.version}
        write_text(folder / self.description, json.dumps(head | dict(description), indent=2) + "\n")

    def read_description(self, folder: Path) -> dict[str, Any]:
        """What ``write`` was given; raises ``UserError`` where it is damaged or of another kind."""
        path = folder / self.description
        try:
            description = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:  # covers broken UTF-8 and broken JSON
            raise UserError(f"{path} is damaged ({error}); export it again") from error
        if not isinstance(description, dict) or description.get("format") != f"stablerep-{self.name}":
            raise UserError(f"{path} does not describe {self.what} of this program")
        if description.get("version") != self.version:
            raise UserError(
                f"{path} has format version {description.get('version')}, this program reads {self.version}"
            )
        if not isinstance(description.get("config"), dict) or not isinstance(
            description.get("fingerprint"), str
        ):
            raise UserError(f"{path} is damaged (no config or no fingerprint); export it again")
        return description

    def read_weights(self, folder: Path, expected: Tensors) -> dict[str, Tensor]:
        """The weights, with names and shapes as expected; raises ``UserError`` where they are not."""
        path = folder / self.weights
        if not path.is_file():
            raise UserError(
                f"{path} is missing; the folder of {self.what} holds {self.description} and {self.weights}"
            )
        try:
            tensors: dict[str, Tensor] = safetensors.torch.load_file(path)
        except SafetensorError as error:
            raise UserError(
                f"{path} is not a safetensors file or is damaged ({error}); export it again"
            ) from error
        wanted = {name: tensor.shape for name, tensor in expected.items()}
        found = {name: tensor.shape for name, tensor in tensors.items()}
        wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        if wrong:
            raise UserError(
                f"{path} does not fit the configuration beside it; missing, unknown or of another shape: "
                f"{', '.join(wrong[:5])}"
            )
        return tensors

    def require_fingerprint(self, folder: Path, found: str, described: str) -> None:
        """Raise ``UserError`` where the weights are not those that the description was written for."""
        if found != described:
            raise UserError(
                f"{folder / self.weights} does not belong to the {self.description} beside it: its fingerprint is "
                f"{found}, described is {described}; export it again"
            )


def fingerprint(config: Mapping[str, Any], tensors: Tensors) -> str:
    """Hash of a configuration and of weights, by name, precision, shape and bits."""
    digest = hashlib.blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        data = tensor.detach().cpu().contiguous()
        digest.update(f"\x1f{name}\x1f{data.dtype}\x1f{tuple(data.shape)}\x1f".encode())
        digest.update(data.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)
