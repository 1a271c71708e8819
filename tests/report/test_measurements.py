"""Measurements in the report: every metric once, encoders under one another."""

import dataclasses
import json
from pathlib import Path

from stablerep.evaluation.intervals import Interval
from stablerep.evaluation.scores import Measurement
from stablerep.report.measurements import measurement_rows
from stablerep.report.scores import Measured
from stablerep.report.write import ReportConfig, write_report


def measurement(encoder: str, value: float) -> Measurement:
    return Measurement(
        benchmark="icons", test="scenes", encoder=encoder, kind="run", fingerprint=encoder, protocol="segmentation",
        metrics={
            "miou": Interval(value=value, low=value - 0.1, high=value + 0.1),
            "pixel accuracy": Interval(value=0.9, low=0.8, high=1.0),
        },
        chance={"miou": 0.05}, settings={}, chosen={}, chosen_on="validation", sizes={"num_pictures": 3},
    )  # fmt: skip


def measured(folder: Path, *found: Measurement) -> Measured:
    return Measured(
        folder=folder, run="a", records=(), skipped={}, left_out={}, outcomes=(), measurements=found
    )


def test_encoders_stand_under_one_another_and_nothing_twice(tmp_path: Path) -> None:
    first = measured(tmp_path, measurement("mine", 0.4), measurement("colour only", 0.2))
    rows = measurement_rows([first, measured(tmp_path, measurement("colour only", 0.3))])
    assert [(row.metric, row.encoder) for row in rows] == [
        ("miou", "mine"),
        ("miou", "colour only"),
        ("pixel accuracy", "mine"),
        ("pixel accuracy", "colour only"),
    ]
    assert [row.chance for row in rows] == [0.05, 0.05, None, None]
    assert rows[1].score.value == 0.2  # the first of two evaluations, as in the score tables


def test_encoders_of_one_name_are_told_apart_by_their_weights(tmp_path: Path) -> None:
    """Such as the untrained encoders of two architectures, or runs whose folders are called alike."""
    rows = measurement_rows(
        [
            measured(
                tmp_path, dataclasses.replace(measurement("untrained encoder", value), fingerprint=weights)
            )
            for value, weights in ((0.4, "a" * 64), (0.3, "b" * 64))
        ]
    )
    assert [(row.encoder, row.score.value) for row in rows if row.metric == "miou"] == [
        ("untrained encoder (aaaaaa)", 0.4),
        ("untrained encoder (bbbbbb)", 0.3),
    ]


def test_the_page_shows_them_where_there_are_no_other_scores(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    stored = {
        "run": "run", "path": str(run), "config": {}, "precision": "float32", "benchmarks": {}, "skipped": {},
        "provenance": {}, "records": [], "measurements": [dataclasses.asdict(measurement("mine", 0.4))],
    }  # fmt: skip
    (run / "scores.json").write_text(json.dumps(stored))
    (run / "run.json").write_text(json.dumps({"kind": "stablerep", "config": {}}))
    page = tmp_path / "index.html"
    write_report(ReportConfig(folders=(run,), out=page))
    text = page.read_text()
    assert "Other protocols" in text
    assert "No scores were found" not in text
