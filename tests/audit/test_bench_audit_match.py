"""The benchmark of `audit match`: what its judge accepts by chance."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

PATH = Path(__file__).parents[2] / "bench" / "audit_match.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_audit_match", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for their names
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("min_confidence", [0.0, 0.6])
def test_what_is_accepted_by_chance_is_the_mean_over_shuffled_labels(
    bench: ModuleType, min_confidence: float
) -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(["bird", "fish", "tree"], 300, p=[0.6, 0.3, 0.1])
    named = bench.Named(rng.choice(["bird", "fish", "stone"], 300, p=[0.5, 0.3, 0.2]), rng.random(300))
    shuffled = [named.accepted(rng.permutation(labels), min_confidence).mean() for _ in range(2000)]
    assert named.by_chance(labels, min_confidence) == pytest.approx(np.mean(shuffled), abs=0.003)
    assert named.by_chance(labels, 1.1) == 0
