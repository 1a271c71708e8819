"""The benches say whether their bars are reached, and ``make bench`` fails where one is not."""

import importlib.util
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from stablerep.store import ImageTable

ROOT = Path(__file__).parents[2]


def bench(name: str) -> Any:
    """A script of bench/ as a module; not by the path of that folder, where names of other rooms' tests lie as well."""
    spec = importlib.util.spec_from_file_location(f"bench_{name}", ROOT / "bench" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


caching, large_batch, loader, loss = map(bench, ("caching", "large_batch", "loader", "loss"))


def measured(seconds: float, megabytes: float) -> Any:
    return loss.Measured(seconds=seconds, megabytes=megabytes, value=9.0, gradient=torch.ones(2, 2))


def options(**changes: int) -> Namespace:
    return Namespace(**({"rows": 8256, "dim": 256, "ranks": 1, "threads": 1} | changes))


@pytest.mark.parametrize(
    ("seconds", "megabytes", "ranks", "reached"),
    [
        (0.9, 140, 1, True),
        (1.1, 140, 1, False),
        (0.9, 160, 1, False),
        (1.4, 160, 2, True),
        (1.6, 1, 2, False),
    ],
)
def test_the_loss_is_judged_at_the_published_size(
    seconds: float, megabytes: float, ranks: int, reached: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"plain": measured(6.0, 1500), "blockwise": measured(seconds, megabytes)}
    assert loss.report(found, options(ranks=ranks)) == reached
    said = capsys.readouterr().out
    assert ("MISSED" in said) == (not reached)
    assert (
        f"bar {loss.LEAST_FASTER[ranks]}: {'reached' if 6 / seconds >= loss.LEAST_FASTER[ranks] else 'MISSED'}"
        in said
    )


def test_other_sizes_of_the_loss_have_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert loss.report({"plain": measured(1, 1), "blockwise": measured(9, 9)}, options(rows=2000))
    assert "bar" not in capsys.readouterr().out


@pytest.mark.parametrize(("megabytes", "reached"), [(1499, True), (1501, False)])
def test_the_large_loss_stays_in_its_memory(megabytes: float, reached: bool) -> None:
    assert loss.report({"blockwise": measured(20, megabytes)}, options(rows=32_768)) == reached


def test_what_plain_would_need_grows_with_the_square() -> None:
    seen = {rows: 40 + 20 * (rows / 1024) ** 2 for rows in (4096, 8192, 16_384)}
    assert loss.plain_would_need(seen, 32_768) == pytest.approx(40 + 20 * 32**2)


@pytest.mark.parametrize(
    ("large", "small", "reached"), [(2.1, 4.1, True), (1.9, 4.1, False), (2.1, 3.9, False)]
)
def test_the_loader_is_judged_against_the_plain_way_from_512_px(
    large: float, small: float, reached: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = {512: loader.Rates(100 * large, 100), 256: loader.Rates(100 * small, 300), 64: loader.Rates(1, 2)}
    assert loader.report(rates) == reached
    assert ("MISSED" in capsys.readouterr().out) == (not reached)


@pytest.mark.parametrize(("peak", "passed"), [(1300, True), (1350, False)])
def test_memory_of_caching_is_judged_above_what_was_there(
    peak: float, passed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = caching.Measured(seconds=10, peak=2500, before=900)
    small = caching.Measured(seconds=1, peak=1220, before=900)
    # 1350 of 1220 MB would look harmless: most of both was there before the first step.
    assert caching.report(whole, caching.Measured(seconds=12, peak=peak, before=900), small) == passed
    assert capsys.readouterr().out.startswith("PASSED" if passed else "FAILED")


def test_make_bench_runs_all_and_fails_where_one_missed(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\necho "ran $*"\ncase "$1" in *slow*) exit 1;; esac\n')
    python.chmod(0o755)
    (tmp_path / "installed").touch()  # newer than what it is made of, so that nothing is installed

    def bench(*scripts: str) -> subprocess.CompletedProcess[str]:
        given = (
            f"BIN={python.parent}",
            f"INSTALLED={tmp_path / 'installed'}",
            f"BENCHMARKS={' '.join(scripts)}",
        )
        return subprocess.run(
            ["make", "bench", *given], cwd=ROOT, capture_output=True, text=True, check=False
        )

    done = bench("a.py", "slow.py:--ranks:2", "b.py")
    assert [line for line in done.stdout.splitlines() if line.startswith("ran")] == [
        "ran a.py",
        "ran slow.py --ranks 2",
        "ran b.py",
    ]
    assert done.returncode != 0
    assert "missed a bar, or failed: slow.py --ranks 2\n" in done.stderr
    assert bench("a.py", "b.py").returncode == 0


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    documented = {
        line.split(":")[0] for line in makefile.splitlines() if ": " in line and " ## " in line[:200]
    }
    listed = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    targets = {line.split()[1] for line in listed.splitlines()}
    assert "claims-painter" in targets
    assert targets == {name for name in documented if name.replace("-", "").isalpha()}


@pytest.mark.slow
def test_the_large_batch_goes_on_where_it_is_kept_and_is_judged_by_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"--captions": "2", "--micro-batch": "1", "--num-steps": "1", "--image-size": "16"}
    asked = [word for pair in sizes.items() for word in pair]
    monkeypatch.setattr(sys, "argv", ["large_batch.py", *asked, "--no-compile", "--out", str(tmp_path)])
    assert large_batch.main() == 0
    first = capsys.readouterr().out
    assert "2 captions of 6 images, 1 captions at a time: 1 steps in " in first
    assert "PASSED: peak of memory" in first
    version = ImageTable.open(tmp_path / "images.lance").version
    weights = (tmp_path / "run" / "checkpoint.pt").stat().st_mtime_ns
    assert large_batch.main() == 1
    assert "holds all 1 steps, so that nothing was measured" in capsys.readouterr().out
    assert ImageTable.open(tmp_path / "images.lance").version == version, "nothing is painted again"
    assert (tmp_path / "run" / "checkpoint.pt").stat().st_mtime_ns == weights, "nothing is trained again"
    monkeypatch.setattr(large_batch, "MOST_GIGABYTES", 0)
    monkeypatch.setattr(sys, "argv", [*sys.argv[:-1], str(tmp_path / "other")])
    assert large_batch.main() == 1
    assert "FAILED: peak of memory" in capsys.readouterr().out
