"""What a comparison and a circle leave on disk, with numbers that are easy to recognise."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from report_project import TESTS, write_paintings, write_run, write_world

from stablerep.cost import FILE, Cost, beside
from stablerep.store import ImageTable

ARMS = ("simclr:real", "stablerep:painted")
SIZES = (250, 1000, 4000)


def interval(value: float, half: float = 0.02) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def write_comparison(folder: Path, sizes: tuple[int, ...] = SIZES) -> Path:
    """compare.json: both arms rise with the number of captions, the second one faster; baselines stay."""
    rows: list[dict[str, Any]] = []
    for place, num in enumerate(sizes):
        for test in TESTS:
            for shift, protocol in enumerate(("linear", "knn")):
                base = 0.1 + 0.02 * shift
                reached = {
                    ARMS[0]: base + 0.05 * place,
                    ARMS[1]: base + 0.08 * place,
                    "raw pixels": 0.12,
                    "untrained encoder": 0.09,
                }
                for arm, value in reached.items():
                    ahead = None if arm == ARMS[0] else interval(value - reached[ARMS[0]])
                    summary = {
                        "benchmark": "icons", "test": test, "protocol": protocol, "num_runs": 3,
                        "mean_per_class": interval(value), "top1": interval(value), "per_run": [value] * 3,
                        "ahead": ahead,
                    }  # fmt: skip
                    rows.append({"arm": arm, "num_captions": num, "summary": summary})
    metrics = {"effective rank": 40.0, "concept over style": 2.0, "same concept": 0.5, "same style": 0.25}
    measurements = [
        {
            "arm": arm, "num_captions": num, "benchmark": "icons", "test": "all tests", "protocol": "geometry",
            "metric": metric, "per_run": [value, 1.5 * value] if arm in ARMS else [value],
        }
        for num in sizes
        for arm in (*ARMS, "raw pixels")
        for metric, value in metrics.items()
    ]  # fmt: skip
    settings = {"arms": list(ARMS), "num_steps": 1000, "seeds": [0, 1, 2], "num_captions": list(sizes)}
    folder.mkdir(parents=True, exist_ok=True)
    stored = {
        "config": settings,
        "provenance": {},
        "figure": "compare.png",
        "learning_rates": {},
        "rows": rows,
        "measurements": measurements,
    }
    (folder / "compare.json").write_text(json.dumps(stored), encoding="utf-8")
    return folder


def write_compared(folder: Path) -> Path:
    """A comparison with its tables, its runs, what they cost, and prompt matches."""
    write_comparison(folder)
    write_world(folder / "world")
    write_paintings(folder / "images.lance")
    write_matches(folder / "images.lance")
    for arm in ARMS:
        for num in SIZES:
            name = f"{arm.replace(':', '-')}-{num}-seed-0"
            config = {"data": {"origin": arm.partition(":")[2], "num_captions": num}}
            run = write_run(folder / "runs" / name, arm.partition(":")[0], config=config, finished=False)
            write_costs(run / FILE, Cost(step=f"train {arm.partition(':')[0]}", seconds=100, cpu_seconds=180))
    write_costs(beside(folder / "images.lance"), Cost(step="generate", seconds=3000, cpu_seconds=3600))
    return folder


def write_matches(images: Path) -> None:
    """Prompt matches 0.00, 0.01, ... in the order of the rows; the failed picture has none."""
    table = ImageTable.open(images)
    num = len(table)
    good = [status == "ok" for status in table.read(["status"])["status"].to_pylist()]
    matches = [number / 100 if ok else None for number, ok in zip(range(num), good, strict=True)]
    table.write_columns(np.arange(num), {"match": pa.array(matches, pa.float32())})


def write_costs(path: Path, *costs: Cost) -> None:
    path.write_text("".join(json.dumps(dataclasses.asdict(cost)) + "\n" for cost in costs), encoding="utf-8")


def write_circle(folder: Path, num_turns: int = 2) -> Path:
    """circle.json and the folders of its turns, each with paintings and an encoder's run."""
    turns = [
        {
            "number": number, "painter": f"painter-{number}",
            "encoder": {f"icons: {test}": interval(0.2 + 0.03 * number) for test in TESTS},
            "fidelity": interval(0.3 - 0.05 * number), "kid": 0.01 * number, "kid_floor": 0.001, "recall": 0.5,
            "coverage": None, "near_copies": None, "pictures": {"effective_rank": 30.5 + number},
        }
        for number in range(num_turns)
    ]  # fmt: skip
    write_world(folder / "world")
    write_run(folder / "judge", "supervised")
    for number in range(num_turns):
        write_paintings(folder / f"turn-{number}" / "images.lance", origin=f"painter-{number}")
        write_run(folder / f"turn-{number}" / "stablerep")
    (folder / "circle.json").write_text(json.dumps({"turns": turns}), encoding="utf-8")
    return folder
