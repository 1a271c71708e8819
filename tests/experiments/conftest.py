"""The scripts of experiments/ are imported by their names, as Python runs them."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "experiments"))
