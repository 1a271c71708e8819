"""Comparisons and circles on the page: the numbers of their files, and what may be said of them."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from html_page import ParsedPage
from report_project import TESTS, write_run, write_scores
from report_trends import ARMS, SIZES, write_circle, write_comparison

from stablerep.errors import UserError
from stablerep.report.circles import read_circles
from stablerep.report.reading import open_project
from stablerep.report.scores import read_scores
from stablerep.report.sizes import (
    baselines_ahead,
    comparison_trends,
    concept_trends,
    find_compared,
    read_comparisons,
    run_trends,
)


@pytest.fixture(scope="module")
def compared(compared_and_turned: Path) -> ParsedPage:
    return ParsedPage(compared_and_turned.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_every_number_of_a_comparison_is_in_a_table(compared: ParsedPage) -> None:
    tables = [table for table in compared.tables if table[0][0] == "captions"]
    assert len(tables) == len(TESTS) * 2
    assert tables[0][0] == ["captions", *(str(size) for size in SIZES)]
    assert tables[0][1] == [ARMS[0], "10.0 8.0 \u2013 12.0", "15.0 13.0 \u2013 17.0", "20.0 18.0 \u2013 22.0"]
    assert tables[0][2][3] == "26.0 24.0 \u2013 28.0 +6.0  (+4.0 to +8.0)"
    assert tables[0][3] == ["raw pixels", *["12.0 10.0 \u2013 14.0"] * 3]


@pytest.mark.slow
def test_concepts_and_styles_of_a_comparison_are_in_a_table_for_each_size(compared: ParsedPage) -> None:
    tables = [table for table in compared.tables if "concept over style" in table[0]]
    assert len(tables) == len(SIZES)
    assert tables[0] == [
        ["encoder", "effective rank", "concept over style", "same concept, %", "same style, %"],
        *([arm, "50 ± 14", "2.5 ± 0.71", "62.5 ± 17.7", "31.2 ± 8.8"] for arm in ARMS),
        ["raw pixels", "40", "2", "50.0", "25.0"],
    ]
    assert "Concept, not pixels: icons: all tests" in compared.visible


def test_a_comparison_without_geometry_says_nothing_of_concepts(tmp_path: Path) -> None:
    folder = _with_runs(write_comparison(tmp_path / "compare"))
    stored = json.loads((folder / "compare.json").read_text())
    del stored["measurements"]  # as an earlier version wrote it
    (folder / "compare.json").write_text(json.dumps(stored))
    assert concept_trends(read_comparisons(open_project((folder,), None, None, None))) == []


@pytest.mark.slow
def test_the_headline_of_a_comparison_claims_what_its_intervals_carry(compared: ParsedPage) -> None:
    headline = "From 4000 captions, stablerep:painted learns to name 26.0 % correctly; simclr:real 20.0 %,"
    assert headline in compared.visible.replace("\u00a0", " ")
    assert "stablerep:painted is ahead of simclr:real by 6.0 points (4.0 to 8.0)." in compared.visible
    assert "No encoder has been measured" not in compared.visible


def test_a_difference_within_its_interval_is_not_claimed(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path / "compare", sizes=(250,))
    (comparison,) = read_comparisons(open_project((_with_runs(folder),), None, None, None))
    found = find_compared(comparison)
    assert found is not None
    assert "Between simclr:real and stablerep:painted no difference is shown" in found.remarks[1]
    (trend, _) = comparison_trends([comparison])
    assert trend.is_beside and trend.tables[0].columns == ("linear probe", "k-NN")  # one size makes no line
    assert (
        trend.figure is not None and "raw pixels" in trend.figure.wide and "captions" not in trend.figure.wide
    )
    assert not any(cell.is_shown for _, _, cells in trend.tables[0].rows for cell in cells if cell)


def test_a_comparison_by_fine_tuning_is_not_on_frozen_features(tmp_path: Path) -> None:
    folder = _with_runs(write_comparison(tmp_path / "compare", sizes=(250,)))
    stored = json.loads((folder / "compare.json").read_text())
    stored["rows"] = [row for row in stored["rows"] if row["summary"]["protocol"] == "linear"]
    for protocol, how in (("linear", "linear probe on frozen features"), ("fine-tune", "fine-tuning")):
        for row in stored["rows"]:
            row["summary"]["protocol"] = protocol
        (folder / "compare.json").write_text(json.dumps(stored))
        (comparison,) = read_comparisons(open_project((folder,), None, None, None))
        found = find_compared(comparison)
        assert found is not None and f") by {how}, as the mean over classes" in found.remarks[0]


def test_a_baseline_that_scores_higher_is_said(tmp_path: Path) -> None:
    folder = _with_runs(write_comparison(tmp_path / "compare", sizes=(250,)))
    found = baselines_ahead(read_comparisons(open_project((folder,), None, None, None)))
    test = f"icons: {TESTS[0]}, linear probe, 250 captions"
    assert (
        f"{test}: {ARMS[0]} 10.0\u00a0%, {ARMS[1]} 10.0\u00a0%, less than raw pixels (12.0\u00a0%)." in found
    )


@pytest.mark.slow
def test_the_figure_has_a_line_per_arm_and_names_every_size(tmp_path: Path) -> None:
    folder = _with_runs(write_comparison(tmp_path / "compare"))
    trend = comparison_trends(read_comparisons(open_project((folder,), None, None, None)))[0]
    assert [name for _, name in trend.keys] == [*ARMS, "raw pixels, untrained encoder"]
    assert trend.figure is not None
    for svg in (trend.figure.wide, trend.figure.narrow):
        texts = [element.text for element in ElementTree.fromstring(svg).iter("text")]
        assert {"250", "1 k", "4 k", "captions learned from"} <= set(texts)
        assert "var(--series-2)" in svg and "var(--muted)" in svg


@pytest.mark.slow
def test_many_runs_stand_below_one_another(compared: ParsedPage) -> None:
    settings = next(table for table in compared.tables if table[0][0] == "run")
    assert len(settings) == 1 + len(ARMS) * len(SIZES) + 3  # and those of the circle
    assert {"method", "data num captions"} & set(settings[0])
    assert "Training: 9 runs" in compared.visible


@pytest.mark.slow
def test_runs_of_several_sizes_make_the_same_figure(tmp_path: Path) -> None:
    for size, rate in ((100, 0.4), (1000, 0.6)):
        run = write_run(
            tmp_path / "runs" / f"a-{size}", config={"data": {"num_captions": size}}, finished=False
        )
        write_scores(run, {run.name: rate})
    project = open_project((tmp_path,), None, None, None)
    trends = run_trends(project, read_scores(project))
    assert [trend.title for trend in trends] == [f"icons: {test}" for test in TESTS]
    assert trends[0].figure is not None
    assert trends[0].tables[0].columns == ("100", "1000")


@pytest.mark.slow
def test_several_seeds_of_one_method_are_lines_of_their_own(tmp_path: Path) -> None:
    for size, seed, rate in ((100, 0, 0.4), (100, 1, 0.5), (1000, 0, 0.6), (1000, 1, 0.7)):
        config = {"seed": seed, "data": {"num_captions": size}}
        run = write_run(tmp_path / "runs" / f"a-{size}-{seed}", config=config, finished=False)
        write_scores(run, {run.name: rate})
    project = open_project((tmp_path,), None, None, None)
    table = run_trends(project, read_scores(project))[0].tables[0]
    assert [name.partition(", seed ")[2] for name, _, _ in table.rows] == ["0", "1"]
    assert all(len({cell.value for cell in cells if cell}) == 2 for _, _, cells in table.rows)


def test_runs_of_one_size_make_no_figure(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run = write_run(tmp_path / "runs" / name, config={"data": {"num_captions": 100}}, finished=False)
        write_scores(run, {run.name: 0.5})
    project = open_project((tmp_path,), None, None, None)
    assert run_trends(project, read_scores(project)) == []


@pytest.mark.slow
def test_a_circle_shows_its_turns_runs_and_pictures(tmp_path: Path) -> None:
    folder = write_circle(tmp_path / "circle")
    project = open_project((folder,), None, None, None)
    assert len(project.runs) == 3 and len(project.images) == 3
    (trend,) = read_circles(project)
    rows = {name: cells for name, _, cells in trend.tables[0].rows}
    assert [cell.value for cell in rows["prompt fidelity, %"] if cell] == ["30.0", "25.0"]
    assert [cell.value for cell in rows["KID"] if cell] == ["0.0000", "0.0100"]
    assert "coverage" not in rows and "near-copies, %" not in rows


@pytest.mark.slow
def test_a_circle_is_on_the_page(compared: ParsedPage) -> None:
    assert "What the turns changed" in compared.visible


@pytest.mark.parametrize("name", ["compare.json", "circle.json"])
def test_a_file_that_holds_something_else_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / name).write_text(json.dumps({"rows": [{}], "turns": [{}]}), encoding="utf-8")
    project = open_project((tmp_path,), None, None, None)
    with pytest.raises(UserError, match=name):
        (read_comparisons if name == "compare.json" else read_circles)(project)


def _with_runs(folder: Path) -> Path:
    (folder / "runs").mkdir()
    return folder
