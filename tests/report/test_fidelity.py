"""What a judge says of a painter reaches the page with its interval and its controls."""

import json
from pathlib import Path

import pytest
from report_project import ORIGIN, write_paintings

from stablerep.errors import UserError
from stablerep.report.fidelity import read_fidelity
from stablerep.report.reading import open_project

STORED = {
    "origin": ORIGIN,
    "judge": "raw-pixels",
    "judge_test": {"value": 0.5, "low": 0.4, "high": 0.6},
    "fidelity": {
        "mean_per_class": {"value": 0.312, "low": 0.29, "high": 0.334},
        "shuffled": 0.021,
        "num_pictures": 12345,
        "per_class": {name: share / 10 for share, name in enumerate("gfedcba")},
    },
}


def test_the_sentence_holds_value_interval_and_control(tmp_path: Path) -> None:
    write_paintings(tmp_path / "images.lance")
    (tmp_path / "painter-scores.json").write_text(json.dumps(STORED))
    [found] = read_fidelity(open_project((tmp_path,), None, None, None))
    assert found.origin == ORIGIN
    assert "31.2\u00a0% (29.0 to 33.4) of 12,345 painted pictures" in found.sentence
    assert "shuffled 2.1\u00a0%" in found.sentence
    assert found.sentence.endswith("test pictures it names 50.0\u00a0%.")
    assert found.weakest.endswith(
        "least: g (0.0\u00a0%), f (10.0\u00a0%), e (20.0\u00a0%), d (30.0\u00a0%), c (40.0\u00a0%)."
    )


def test_damaged_scores_are_named(tmp_path: Path) -> None:
    write_paintings(tmp_path / "images.lance")
    (tmp_path / "painter-scores.json").write_text("{}")
    with pytest.raises(UserError, match=r"painter-scores.json does not hold painter scores"):
        read_fidelity(open_project((tmp_path,), None, None, None))
