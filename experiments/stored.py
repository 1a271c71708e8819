"""What is measured once: a file keeps the result with the settings that led to it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stablerep.config import differing_fields
from stablerep.errors import UserError
from stablerep.run import read_json, write_text


def measured_once(
    path: Path, settings: Mapping[str, Any], measure: Callable[[], Mapping[str, Any]]
) -> dict[str, Any]:
    """The plain values in the file at ``path``, measured and written there where they are missing.

    Raises ``UserError`` where the file belongs to other settings, naming those that differ.
    """
    asked = json.loads(json.dumps(dict(settings), default=str))
    if not path.exists():  # written first: what a stopped measurement leaves belongs to these settings
        write_text(path, json.dumps({"settings": asked}, indent=1) + "\n")
    there = read_json(path)
    differences = differing_fields(there.get("settings", {}), asked)
    if differences:
        raise UserError(
            f"{path} belongs to other settings ({'; '.join(differences)}); "
            "give another --out, or the same settings to go on"
        )
    if "measured" not in there:
        there["measured"] = json.loads(json.dumps(dict(measure()), default=str))
        write_text(path, json.dumps(there, indent=1) + "\n")
    measured: dict[str, Any] = there["measured"]
    return measured
