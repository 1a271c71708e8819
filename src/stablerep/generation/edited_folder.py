"""An edited teacher on disk: the parent's folder with some weights changed, and a record of what was done to it."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import save_file
from torch import Tensor

from stablerep.errors import UserError
from stablerep.generation.editing import mapped
from stablerep.generation.folders import DEFAULTS, INDEX, components, read_index
from stablerep.run import read_json, whole_folder, write_text

RECORD = "edit.json"
_PAPERS = ("README", "LICENSE", "LICENCE", "NOTICE")
# What the hub reads of a card where it comes first.
_HEADER = re.compile(r"\A(---\n.*?^---\n)?", re.MULTILINE | re.DOTALL)
_NOTE = f"> Edited: `{RECORD}` says what was changed. What follows describes the parent.\n\n"


def read_edit(folder: Path) -> dict[str, Any] | None:
    """What was done to an edited teacher; None for one that was not edited. Its audit is no part of it."""
    if not (folder / RECORD).exists():
        return None
    return {name: value for name, value in read_record(folder).items() if name != "audit"}


def read_record(folder: Path) -> dict[str, Any]:
    """The whole ``edit.json`` of a folder; ``UserError`` where it cannot be read."""
    return read_json(folder / RECORD)


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Replace the record of an edited teacher."""
    write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")


def write_edited(
    parent: Path, out: Path, component: str, changes: Mapping[str, Tensor], record: Mapping[str, Any]
) -> None:
    """Write the folder ``out``: the parent's files as they are, but for the named weights of one component.

    ``changes`` maps the name of a weight to the matrix that it is multiplied by from the right. The folder appears
    whole or not at all. Raises ``UserError`` where ``out`` is taken, and where a weight is in none of the files.
    """
    with whole_folder(out) as folder:
        for name in (INDEX, DEFAULTS):
            if (parent / name).exists():
                shutil.copyfile(parent / name, folder / name)
        _copy_papers(parent, folder)
        for name in components(read_index(parent)):
            if (parent / name).is_dir():  # links of the hub's cache become files
                shutil.copytree(parent / name, folder / name)
        _change_weights(folder / component, changes)
        write_record(folder, record)


def _copy_papers(parent: Path, out: Path) -> None:
    """Licence and card go with the weights; the card says, below its header, that these are others."""
    for path in sorted(parent.iterdir()):
        if path.is_file() and path.stem.split(".")[0].upper() in _PAPERS:
            text = path.read_text(encoding="utf-8", errors="replace")
            if path.stem.upper() == "README":
                text = _HEADER.sub(lambda header: header[0] + _NOTE, text, count=1)
            write_text(out / path.name, text)


def _change_weights(folder: Path, changes: Mapping[str, Tensor]) -> None:
    """Rewrite the safetensors files of a component that hold a weight to change, in the dtype that they have."""
    missing = set(changes)
    for path in sorted(folder.glob("*.safetensors")):
        with safetensors.safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if not changes.keys() & set(names):
                continue
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in names}
        for name in changes.keys() & tensors.keys():
            tensors[name] = mapped(tensors[name], changes[name]).contiguous()
        path.unlink()  # the tensors are still read from it, and would be overwritten
        save_file(tensors, path, metadata=metadata)
        missing -= tensors.keys()
    if missing:
        raise UserError(f"{folder} has no safetensors file with the weight {sorted(missing)[0]!r}")
