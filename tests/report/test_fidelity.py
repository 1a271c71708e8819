"""What a judge says of a painter reaches the page with its interval and its controls."""

import json
from pathlib import Path

import pytest
from report_project import ORIGIN, write_paintings, write_run

from stablerep.errors import UserError
from stablerep.report.fidelity import read_fidelity
from stablerep.report.reading import open_project

STORED = {
    "origin": ORIGIN,
    "split": "validation",
    "seen_words": True,
    "num_captions_left_out": 17,
    "judge": "raw-pixels",
    "fidelity": {
        "mean_per_class": {"value": 0.312, "low": 0.29, "high": 0.334},
        "judge": {"value": 0.5, "low": 0.4, "high": 0.6},
        "of_judge": {"value": 0.624, "low": 0.58, "high": 0.668},
        "shuffled": 0.021,
        "num_pictures": 12345,
        "num_captions": 1234,
        "per_class": {name: share / 10 for share, name in enumerate("gfedcba")},
    },
    "distances": [
        {
            "encoder": "runs/judge",
            "num_pictures": 2000,
            "kid": {"mean": 0.0123, "standard_error": 0.0004, "floor_95": 0.0011},
            "cover": {"precision": 0.61, "recall": 0.32, "density": 0.713, "coverage": 0.5},
            "real_cover": {"precision": 0.7, "recall": 0.71, "density": 1.0, "coverage": 0.96},
        }
    ],
    "near_copies": {
        "share": {"value": 0.02, "low": 0.01, "high": 0.03},
        "false_alarms": 0.0098,
        "num_painted": 2000,
        "num_validation": 1017,
        "found": {"half size": 0.99, "mirrored": 1.0},
    },
}


def test_painters_that_were_measured_in_their_runs_are_on_the_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "painter", "text-to-image", finished=False)
    (run / "painter-scores.json").write_text(json.dumps(STORED))
    for folders in ((tmp_path,), (run,)):
        assert len(read_fidelity(open_project(folders, None, None, None))) == 1


def test_the_sentences_hold_value_interval_and_control(tmp_path: Path) -> None:
    write_paintings(tmp_path / "images.lance")
    (tmp_path / "painter-scores.json").write_text(json.dumps(STORED))
    [found] = read_fidelity(open_project((tmp_path,), None, None, None))
    fidelity, distance, copies = (sentence.replace("\u00a0", " ") for sentence in found.sentences)
    assert found.origin == ORIGIN
    assert "31.2 % (29.0 to 33.4) of 12,345 painted pictures" in fidelity
    assert (
        "shuffled 2.1 %. Judged were 1234 captions of the validation split, 17 left out for a word"
        in fidelity
    )
    assert fidelity.endswith("it names 50.0 %, so that paintings reach 62.4 % (58.0 to 66.8) of that.")
    assert (
        "2000 of each): KID 0.0123 ± 0.0004; between real pictures 95 % of the values stay below 0.0011"
        in distance
    )
    assert "recall 32.0 %" in distance
    assert (
        "2.0 % (1.0 to 3.0) of 2000 painted pictures lie above the threshold, which 1.0 % of 1017" in copies
    )
    assert copies.endswith("finds: 99.0 % half size, 100.0 % mirrored.")
    assert found.weakest.endswith(
        "least: g (0.0\u00a0%), f (10.0\u00a0%), e (20.0\u00a0%), d (30.0\u00a0%), c (40.0\u00a0%)."
    )


def test_damaged_scores_are_named(tmp_path: Path) -> None:
    write_paintings(tmp_path / "images.lance")
    (tmp_path / "painter-scores.json").write_text("{}")
    with pytest.raises(UserError, match=r"painter-scores.json does not hold painter scores"):
        read_fidelity(open_project((tmp_path,), None, None, None))


def test_a_filter_on_the_pictures_is_said(tmp_path: Path) -> None:
    write_paintings(tmp_path / "images.lance")
    chosen = STORED | {"where": "match_rank = 0", "keep": "keep", "num_left_out": 3210}
    (tmp_path / "painter-scores.json").write_text(json.dumps(chosen))
    [found] = read_fidelity(open_project((tmp_path,), None, None, None))
    said = found.sentences[0].replace("\u00a0", " ")
    assert "Only pictures with keep = true and match_rank = 0 were judged, 3210 left out. Of real" in said
