"""The benches say whether their bars are reached, and ``make bench`` fails where one is not."""

import dataclasses
import importlib.util
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from generation import tiny_pipelines
from generation.some_captions import TEXTS, add_captions
from learning.tiny_training import ENCODER, HEAD
from stablerep.config import build
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
painting, copies_search, logistic_path = map(bench, ("painting", "copies_search", "logistic_path"))
audit_cost, audit_match, copies_planted, gallery = map(
    bench, ("audit_cost", "audit_match", "copies_planted", "gallery")
)


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


def painted(faster: float, outside: float) -> Any:
    seconds = {painting.PLAIN: 10 * faster, painting.OURS: 10, f"{painting.OURS}, compiled": 1}
    return painting.Measured(steps=8, num_pictures=128, seconds=seconds, outside=outside)


def searched(**changes: float) -> Any:
    return copies_search.Found(
        **({"size": 100_000, "seconds": 60, "gigabytes": 0.8, "recall": 1.0} | changes)
    )


def waited(page: float, search: float, **more: float) -> dict[str, float]:
    return {
        "open tables and model": 9,
        "first page": page,
        "search by words": search / 2,
        "search by meaning": search,
    } | more


@pytest.mark.parametrize(
    ("report", "found", "passed"),
    [
        (painting.report, (painted(1.5, 0.1), "icons"), True),
        (painting.report, (painted(1.49, 0.1), "icons"), False),  # whatever a compiled one does
        (painting.report, (painted(1.5, 0.11), "icons"), False),
        (copies_search.report, (searched(),), True),
        (copies_search.report, (searched(seconds=121),), False),
        (copies_search.report, (searched(gigabytes=2.1),), False),
        (copies_search.report, (searched(recall=0.98),), False),
        (copies_search.report, (searched(size=200_000, seconds=240, gigabytes=3),), True),
        (copies_search.report, (searched(size=200_000, recall=0.98),), False),
        (logistic_path.report, (3.0, 0.001), True),
        (logistic_path.report, (2.9, 0.0), False),
        (logistic_path.report, (11.5, 0.0011), False),
        (audit_cost.report, (0.25,), True),
        (audit_cost.report, (0.26,), False),
        (audit_match.report, (0.9,), True),
        (audit_match.report, (0.89,), False),
        (copies_planted.report, ({"identical": 1.0, "pasted": 0.95}, 0.0008), True),
        (copies_planted.report, ({"identical": 1.0, "pasted": 0.94}, 0.0008), False),
        (copies_planted.report, ({"identical": 1.0, "pasted": 1.0}, 0.001), False),
        (gallery.report, (waited(2.0, 1.0),), True),
        (gallery.report, (waited(2.1, 1.0),), False),
        (gallery.report, (waited(2.0, 1.1),), False),
        (gallery.report, (waited(0.1, 0.2, **{"first page in Chromium": 2.1}),), False),
    ],
)
def test_each_bench_says_whether_its_bars_are_kept(
    report: Any, found: tuple[Any, ...], passed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(*found) == passed
    assert capsys.readouterr().out.splitlines()[-1].startswith("PASSED: " if passed else "FAILED: ")


def run(module: Any, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit code of a bench that reads its words itself."""
    monkeypatch.setattr(sys, "argv", [module.__name__, *words])
    return int(module.main())


def test_a_small_search_is_judged_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--sizes", "200", "300", "--threads", str(torch.get_num_threads()))
    monkeypatch.setattr(copies_search, "MOST_GIGABYTES", 1000)  # of the process that tests
    assert run(copies_search, monkeypatch, *words) == 0
    monkeypatch.setattr(copies_search, "MOST_SECONDS", 0)
    assert run(copies_search, monkeypatch, *words) == 1


def test_a_small_path_is_judged_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"--examples": 90, "--features": 6, "--classes": 3, "--constants": 2}
    words = [
        *(str(word) for pair in sizes.items() for word in pair),
        "--threads",
        str(torch.get_num_threads()),
    ]
    monkeypatch.setattr(logistic_path, "LEAST_FASTER", 0)
    monkeypatch.setattr(logistic_path, "MOST_APART", 1)
    assert run(logistic_path, monkeypatch, *words) == 0
    monkeypatch.setattr(logistic_path, "LEAST_FASTER", 1e9)
    assert run(logistic_path, monkeypatch, *words) == 1


@pytest.mark.slow
def test_painting_is_judged_at_every_number_of_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_pipelines.pixart(tmp_path / "teacher")
    monkeypatch.setattr(
        painting, "write_world", lambda config: add_captions(config.out / "captions.lance", TEXTS)
    )
    monkeypatch.setattr(painting, "why_no_compile", lambda: "not in a test")
    config = painting.Config(
        teacher=str(tmp_path / "teacher"),
        num_captions=2,
        num_images=2,
        steps=(2, 3),
        where="split = 'train'",
        num_rounds=1,
    )
    monkeypatch.setattr(painting, "LEAST_FASTER", 0)
    monkeypatch.setattr(painting, "MOST_OUTSIDE", 1)
    assert painting.main(config) == 0
    said = capsys.readouterr().out
    assert [said.count(f"{config.teacher}: {steps} steps, 4 pictures") for steps in config.steps] == [1, 1]
    assert said.count("pictures/s") == 6 and said.count("PASSED: at ") == 2
    monkeypatch.setattr(painting, "MOST_OUTSIDE", 0)
    assert painting.main(dataclasses.replace(config, steps=(2,))) == 1


@pytest.mark.slow
def test_the_audit_of_matches_is_judged_on_swapped_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a tiny world, by a model that sees the colours of its labels, as its judge does."""
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "evaluation"))
    from tiny_icons import captions, drawing, image_row, real_rows, write_tables
    from tiny_joint import aligned_model, joint_run

    world = write_tables(tmp_path / "world", real_rows())
    run_folder = joint_run(tmp_path / "run", aligned_model())
    ImageTable.open_or_create(tmp_path / "painted.lance").append(
        image_row(caption, index, drawing(str(caption["label"]), 50_000 + 10 * row + index), origin="painter")
        for row, caption in enumerate(captions())
        for index in range(4)
    )
    words = {
        "--world": world, "--encoder": run_folder, "--judge": run_folder, "--training": tmp_path / "painted.lance",
        "--draws": 1, "--out": tmp_path / "found.json",
    }  # fmt: skip
    asked = [str(word) for pair in words.items() for word in pair]
    monkeypatch.setattr(audit_match, "LEAST_FOUND", 0.3)
    assert run(audit_match, monkeypatch, *asked) == 0
    monkeypatch.setattr(audit_match, "LEAST_FOUND", 1.01)
    assert run(audit_match, monkeypatch, *asked) == 1


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
    smallest = {"method": {"encoder": ENCODER, **HEAD}}
    monkeypatch.setattr(
        large_batch, "build", lambda kind, asked, **more: build(kind, asked, smallest, **more)
    )
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
