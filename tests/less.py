"""Less of what takes long and no test of a whole command looks at."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sklearn.datasets

from stablerep.evaluation.scores import summarise
from stablerep.report import drawing
from stablerep.workflows import circle, compare


def few_digits(load: Callable[[], Any] = sklearn.datasets.load_digits) -> Any:
    """Twenty of each digit, in place of ``sklearn.datasets.load_digits``."""
    digits = load()
    rows = np.concatenate([np.flatnonzero(digits.target == digit)[:20] for digit in range(10)])
    return SimpleNamespace(images=digits.images[rows], target=digits.target[rows])


def do_less(patch: pytest.MonkeyPatch) -> None:
    """Few digits, and few replicates in summaries over seeds."""
    patch.setattr(sklearn.datasets, "load_digits", few_digits)
    patch.setitem(summarise.__kwdefaults__, "num_bootstrap", 50)


def write_no_figures(patch: pytest.MonkeyPatch) -> None:
    """Reports and workflows without their figures, which take longer than all else where all else is small."""
    patch.setattr(drawing, "_inline", lambda *_: "<svg></svg>")
    patch.setattr(compare, "draw_comparison", lambda _, path: path)
    patch.setattr(circle, "draw_turns", lambda _, path: path)
