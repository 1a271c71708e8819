"""What tables.py prints of the raw numbers is what docs/results.md says."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import tables
from mistakes import in_one_sentence
from stablerep.errors import UserError
from stablerep.run import read_json

ROOT = Path(__file__).parents[2]
MEASURED = ROOT / "experiments" / "measured"
Table = dict[str, dict[str, str]]
"""First column -> other column -> cell."""


def markdown(lines: list[str]) -> list[Table]:
    """The tables in lines of Markdown, in their order."""
    found: list[Table] = []
    header: list[str] = []
    for line in lines:
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            header = []
        elif not header:
            header = cells
            found.append({})
        elif not set(line) <= set("|-"):
            found[-1][cells[0]] = dict(zip(header[1:], cells[1:], strict=True))
    return found


def page_table(first: str, page: str = "results.md") -> Table:
    """The table of the page that has a row of this name, alone or before others."""
    tables_of_page = markdown((ROOT / "docs" / page).read_text(encoding="utf-8").splitlines())
    return next(table for table in tables_of_page if next(iter(table), None) == first)


def printed(name: str) -> list[Table]:
    return markdown(tables.tables(read_json(MEASURED / f"{name}.json"), name))


def numbers(cell: str) -> list[float]:
    return [float(number) for number in re.findall(r"[-+]?\d+(?:\.\d+)?", cell)]


def assert_same(page: str, ours: str) -> None:
    """The last digit may differ: the raw numbers are kept rounded."""
    assert numbers(page), page
    assert len(numbers(ours)) == len(numbers(page))
    assert numbers(ours) == pytest.approx(numbers(page), abs=0.1001), (page, ours)


NAMES = {
    "StableRep": "stablerep",
    "StableRep+": "stablerep-plus",
    "CLIP": "clip",
    "SimCLR": "simclr",
    "supervised": "supervised",
}


def arm(said: str) -> str:
    """The page's name of an arm or baseline as the scripts name it."""
    learner, _, source = said.partition(", ")
    return f"{NAMES[learner]}:{source}" if source else {"untrained": "untrained encoder"}.get(said, said)


def test_the_held_out_style_with_the_sign_of_the_page() -> None:
    ours = printed("icons-held-out")[0]
    page = page_table("test captions, held-out style")
    assert len(page) == 3
    for test, cells in page.items():
        for said, cell in cells.items():
            score, bracket, ahead = ours[arm(said)][f"icons: {test}, linear"].partition(" (")
            if bracket:  # the page leaves the interval of the others' scores out
                score = score.split()[0]
            assert_same(cell, score + bracket + ahead)


def test_the_matrix() -> None:
    ours = printed("fashion-matrix")
    content = read_json(MEASURED / "fashion-matrix.json")["points"][0]["measurements"]
    of_fashion = [
        one for one in content if one["benchmark"] == "fashion"
    ]  # another test would take its place
    geometries = markdown(tables._other([{"measurements": of_fashion}], "matrix"))[0]
    page = page_table("StableRep, painted")
    assert len(page) == 10
    for said, cells in page.items():
        scores, geometry = ours[0][arm(said)], geometries[f"{arm(said)}, 2,000"]
        assert_same(cells["linear probe, %"], scores["fashion: official test, linear"].split(" (")[0])
        assert_same(cells["k-NN, %"], scores["fashion: official test, knn"].split(" (")[0])
        for column, metric in (
            ("concepts explain, % of variance", "concept variance"),
            ("nearest shows same concept, %", "same concept"),
        ):
            assert abs(float(cells[column]) - 100 * numbers(geometry[metric])[0]) <= 0.51
        assert abs(float(cells["effective rank"]) - numbers(geometry["effective rank"])[0]) <= 0.51


def test_the_differences_of_the_matrix() -> None:
    ours = printed("fashion-matrix")[-1]
    page = page_table("StableRep, painted over SimCLR, real")
    assert len(page) == 10
    for said, cells in page.items():
        first, other = map(arm, said.split(" over "))
        for column, cell in cells.items():
            kind = {"linear probe": "linear", "k-NN": "knn"}[column]
            assert_same(cell, ours[f"{first} over {other}"][f"fashion: official test, {kind}"])


def test_no_minus_stands_before_nothing() -> None:
    zero = {"value": 0.0, "low": 0.0, "high": 0.0}
    assert tables._said({"mean_per_class": zero, "ahead": zero}) == "0.0 [0.0, 0.0] (+0.0 [+0.0, +0.0])"


def test_a_mistake_ends_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, in_one_sentence():
        tables.main([])
    assert end.value.code == 2
    assert capsys.readouterr().err == "no file is named; give a compare.json or PART.json\n"


@pytest.mark.parametrize("name", ["scores.json", "curve.json"])
def test_a_file_of_another_script_is_refused(name: str, tmp_path: Path) -> None:
    found = {"scores.json": {"records": []}, "curve.json": {"judge": "raw-pixels", "points": [{"steps": 4}]}}
    (tmp_path / name).write_text(json.dumps(found[name]))
    with pytest.raises(UserError, match=f"{name} holds no scores of a comparison; give a compare.json"):
        tables.main([tmp_path / name])


@pytest.mark.parametrize("error", [ValueError, KeyError])
def test_a_bug_keeps_its_traceback(error: Any) -> None:
    with pytest.raises(error), in_one_sentence():
        raise error("x")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        tables.main([Path("none.json")])
