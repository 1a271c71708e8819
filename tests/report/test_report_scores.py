"""Scores of several files in one table: each encoder once, contradictions said aloud."""

import json
from pathlib import Path

import pytest
from report_project import CLASSES, TESTS, write_run, write_scores

from stablerep.report.reading import open_project
from stablerep.report.scores import ScoreTable, read_scores, score_shortcomings, score_tables, weakest_classes


def measured_project(folder: Path, pixels: float) -> tuple[list[ScoreTable], list[str]]:
    """Two runs, each evaluated beside raw pixels; in the second file raw pixels reach the share ``pixels``."""
    for name, others in (("a", {"raw pixels": 0.4}), ("b", {"raw pixels": pixels})):
        write_scores(
            write_run(folder / "runs" / name, finished=False), {name: 0.6 if name == "a" else 0.7, **others}
        )
    measured = read_scores(open_project((folder,), None, None, None))
    return score_tables(measured), score_shortcomings(measured)


@pytest.mark.slow
def test_a_baseline_of_two_files_has_one_row(tmp_path: Path) -> None:
    tables, sentences = measured_project(tmp_path, pixels=0.4)
    assert [table.title for table in tables] == [f"icons: {test}" for test in TESTS]
    assert [(row.encoder, row.learned) for row in tables[0].rows] == [
        ("b", True),
        ("a", True),
        ("raw pixels", False),
    ]
    assert tables[0].sentence == "90 pictures in 45 groups and 3 classes. Guessing evenly gives 33.3\u00a0%."
    assert not [sentence for sentence in sentences if "more than once" in sentence]


@pytest.mark.slow
def test_contradicting_files_are_reported(tmp_path: Path) -> None:
    _, sentences = measured_project(tmp_path, pixels=0.5)
    contradictions = [sentence for sentence in sentences if "measured more than once" in sentence]
    assert len(contradictions) == 4  # two tests, two protocols
    assert all(sentence.startswith("raw pixels") for sentence in contradictions)


@pytest.mark.slow
def test_encoders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    measured_project(tmp_path, pixels=0.4)
    path = tmp_path / "runs/b/scores.json"
    path.write_text(path.read_text().replace("print of raw pixels", "another raw pixels"))
    tables = score_tables(read_scores(open_project((tmp_path,), None, None, None)))
    assert {row.encoder for row in tables[0].rows} == {"a", "b", "raw pixels (print )", "raw pixels (anothe)"}


def test_scores_without_predictions_are_shown_without_classes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", finished=False)
    write_scores(run, {"a": 0.6})
    project = open_project((run,), None, None, None)
    sentence = weakest_classes(read_scores(project)[0])[0]
    assert all(name in sentence for name in CLASSES)
    (run / "predictions.parquet").unlink()
    measured = read_scores(project)
    assert weakest_classes(measured[0]) == []
    assert len(score_tables(measured)) == 2


def test_weakest_classes_count_right_predictions(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", finished=False)
    scores = write_scores(run, {"a": 0.6, "raw pixels": 0.2})
    outcome = next(o for o in scores.outcomes if (o.encoder, o.test, o.protocol) == ("a", TESTS[1], "linear"))
    counted = {name: int((outcome.predicted[outcome.labels == name] == name).sum()) for name in CLASSES}
    expected = ", ".join(
        f"{name} ({counted[name]} of 30)" for name in sorted(CLASSES, key=lambda name: (counted[name], name))
    )
    measured = read_scores(open_project((run,), None, None, None))
    assert weakest_classes(measured[0]) == [f"Where a is weakest on icons: {TESTS[1]}: {expected}."]


def test_notes_of_the_fit_reach_the_reader(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", finished=False)
    write_scores(run, {"a": 0.6})
    stored = json.loads((run / "scores.json").read_text())
    stored["records"][0]["note"] = "the strongest constant was chosen"
    (run / "scores.json").write_text(json.dumps(stored))
    sentences = score_shortcomings(read_scores(open_project((run,), None, None, None)))
    assert "a, k-NN on icons: the strongest constant was chosen." in sentences
