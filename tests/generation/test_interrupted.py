"""SIGKILL at random moments: the resumed table is the undisturbed one. ``bench/kill_generate.py`` does it at length."""

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

import processes

BENCH = Path(__file__).parents[2] / "bench" / "kill_generate.py"


@pytest.fixture
def kill_generate(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("kill_generate", BENCH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "kill_generate", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_killed_and_resumed_run_gives_the_same_table(
    kill_generate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With half the captions of the benchmark; twelve commits are enough to be killed between them."""
    processes.serve()
    monkeypatch.setattr(kill_generate, "NUM_CAPTIONS", 12)
    config = dataclasses.replace(kill_generate.prepare(tmp_path), limit=12)
    verdict = kill_generate.kill_and_compare(config, num_kills=2, seed=0)
    assert len(verdict.rows_at_kill) >= 2
    assert verdict.passed, str(verdict)


def test_verdict_fails_where_a_table_differs(kill_generate: ModuleType) -> None:
    assert not kill_generate.Verdict([1], num_tables=2, num_equal=1).passed
    assert not kill_generate.Verdict([], num_tables=0, num_equal=0).passed
    assert kill_generate.Verdict([1], num_tables=1, num_equal=1).passed
