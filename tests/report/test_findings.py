"""The headline claims no more than the intervals carry."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from report_project import TESTS, write_run, write_scores

from stablerep.evaluation.intervals import Interval
from stablerep.report.findings import Findings, find
from stablerep.report.reading import open_project
from stablerep.report.scores import Measured, read_scores

NEVER_SAW = "On subjects it never saw, drawn by a hand it never saw, "
MAY_HAVE_SEEN = "On icons (test captions, held-out style), "


def findings(folder: Path, ahead: tuple[float, float, float], config: dict[str, object]) -> Findings:
    """What is found where the run is ahead of raw pixels by this value, low and high."""
    run = write_run(folder / "run-a", config=config, finished=False)
    write_scores(run, {"run-a": 0.7, "raw pixels": 0.4})
    project = open_project((run,), None, None, None)
    interval = Interval(value=ahead[0], low=ahead[1], high=ahead[2])
    measured = [
        replace(
            scores,
            records=tuple(replace(record, ahead=record.ahead and interval) for record in scores.records),
        )
        for scores in read_scores(project)
    ]
    return find(project, [], measured)


@pytest.mark.parametrize(
    ("ahead", "sentence"),
    [
        ((0.2, 0.1, 0.3), "It is ahead of raw pixels by 20.0 points (10.0 to 30.0)."),
        ((-0.2, -0.3, -0.1), "It is behind raw pixels by 20.0 points (10.0 to 30.0)."),
        ((0.2, -0.01, 0.3), "Between it and raw pixels no difference is shown: the interval includes zero."),
        ((0.2, 0.0, 0.3), "Between it and raw pixels no difference is shown: the interval includes zero."),
    ],
)
def test_a_difference_is_claimed_only_where_the_interval_excludes_zero(
    tmp_path: Path, ahead: tuple[float, float, float], sentence: str
) -> None:
    assert findings(tmp_path, ahead, {}).remarks[1] == sentence


@pytest.mark.parametrize(
    ("data", "beginning"),
    [
        ({"origin": "painted", "where": "split <> 'test'"}, NEVER_SAW),
        ({"origin": "any", "exclude_styles": ["fluent"], "where": "split = 'train'"}, NEVER_SAW),
        (
            {"origin": "painted", "where": "(split = 'train') AND caption_id NOT IN ('0f', '1e')"},
            NEVER_SAW,
        ),
        ({"origin": "any", "exclude_styles": [], "where": "split = 'train'"}, MAY_HAVE_SEEN),
        ({"origin": "painted"}, MAY_HAVE_SEEN),
        ({"origin": "painted", "where": "status = 'ok'"}, MAY_HAVE_SEEN),
        ({"origin": "painted", "where": "split = 'train' OR split = 'test'"}, MAY_HAVE_SEEN),
    ],
)
def test_never_saw_is_said_only_of_runs_that_left_out_the_style_and_the_captions_of_the_test(
    tmp_path: Path, data: dict[str, object], beginning: str
) -> None:
    assert findings(tmp_path, (0.2, 0.1, 0.3), {"data": data}).headline.startswith(beginning)


@pytest.mark.parametrize(
    ("protocol", "how"),
    [
        ("linear", "Measured by linear probe on frozen features, as the mean over 3 classes"),
        ("fine-tune", "Measured by fine-tuning, as the mean over 3 classes"),
    ],
)
def test_only_what_leaves_the_encoder_alone_is_on_frozen_features(
    tmp_path: Path, protocol: str, how: str
) -> None:
    run = write_run(tmp_path / "run-a", finished=False)
    write_scores(run, {"run-a": 0.7})
    scores = json.loads((run / "scores.json").read_text())
    scores["records"] = [
        record | {"protocol": protocol} for record in scores["records"] if record["protocol"] == "linear"
    ]
    (run / "scores.json").write_text(json.dumps(scores))
    (run / "predictions.parquet").unlink()
    project = open_project((run,), None, None, None)
    assert find(project, [], read_scores(project)).remarks[0].startswith(how)


def test_the_headline_is_about_stablerep_and_mentions_the_others(tmp_path: Path) -> None:
    for name, kind, rate in (("a-simclr", "simclr", 0.8), ("b-stablerep", "stablerep", 0.6)):
        write_scores(
            write_run(tmp_path / "runs" / name, kind, finished=False), {name: rate, "raw pixels": 0.4}
        )
    project = open_project((tmp_path,), None, None, None)
    measured = read_scores(project)
    found = find(project, [], measured)

    def value(scores: Measured) -> str:
        return next(
            f"{100 * record.mean_per_class.value:.1f}\u00a0%"
            for record in scores.records
            if record.kind == "run" and (record.test, record.protocol) == (TESTS[1], "linear")
        )

    assert [scores.run for scores in measured] == ["a-simclr", "b-stablerep"]
    assert f"names {value(measured[1])} correctly" in found.headline
    assert found.remarks[-1] == f"Other runs in the same test: a-simclr {value(measured[0])}."
