"""Workflows use every room: this makes the helper modules of the other rooms' tests importable here."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
