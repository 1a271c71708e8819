"""A curve is one table and one figure, beside the paper's numbers, and says how long it took."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

import curve_figure
import tables
from claims_parts import PARTS
from durations import seconds_by_step, seconds_of_painting
from experiments.test_claims_tables import markdown, page_table
from paper import PAPER
from stablerep.errors import UserError


def row(
    arm: str, num_captions: int, score: float, protocol: str = "linear", ahead: float | None = None
) -> Any:
    def interval(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.01, "high": value + 0.01}

    test = {"benchmark": "fashion", "test": "official test", "protocol": protocol}
    scores = {"mean_per_class": interval(score), "ahead": None if ahead is None else interval(ahead)}
    return {"arm": arm, "num_captions": num_captions, "summary": test | scores}


def guidance() -> dict[str, Any]:
    """Two arms and a baseline at two values."""
    points = [
        {
            "value": scale,
            "place": scale,
            "line": "{arm}",
            "rows": [
                row("simclr:painted", 2000, 0.7 + scale / 100),
                row("stablerep:painted", 2000, 0.8, ahead=0.1 - scale / 100),
                row("untrained encoder", 2000, 0.5, ahead=-0.2),
            ],
            "measurements": [],
        }
        for scale in (1.0, 8.0)
    ]
    return {"part": "guidance", "points": points}


def headline() -> dict[str, Any]:
    """Painted pictures that equal twice as many real ones."""
    arms = (("stablerep-plus:painted", 1000, 0.8), ("clip:real", 1000, 0.7), ("clip:real", 4000, 0.9))
    points = [
        {"value": f"{num} {arm}", "place": num, "line": "{arm}", "rows": [row(arm, num // 2, score)]}
        for arm, num, score in arms
    ]
    test = {"benchmark": "fashion", "test": "official test", "protocol": "linear"}
    needed = [{"painted": 1000, **test, "pictures": 2000.0, "said": "reached with 2,000, interpolated"}]
    return {"part": "headline", "points": points, "needed": needed}


def test_a_curve_is_one_table_with_baselines_once() -> None:
    lines = tables.tables(guidance(), "guidance")
    assert lines[:7] == [
        "### guidance",
        "",
        "| guidance scale | arm | captions | fashion: official test, linear |",
        "|---|---|---|---|",
        "| 1.0 | simclr:painted | 2,000 | 71.0 [70.0, 72.0] |",
        "| 1.0 | stablerep:painted | 2,000 | 80.0 [79.0, 81.0] (-9.0 [-10.0, -8.0]) |",
        "| 8.0 | simclr:painted | 2,000 | 78.0 [77.0, 79.0] |",
    ]
    assert [line for line in lines if "untrained" in line] == [
        "|  | untrained encoder |  | 50.0 [49.0, 51.0] |"
    ]


def test_the_numbers_of_the_paper_stand_apart_and_are_those_of_the_page() -> None:
    published = markdown(tables.tables(guidance(), "guidance"))[1]
    assert published["2"]["ImageNet, linear probe unless said, %"] == "72.8"
    assert not any("paper" in line for line in tables.tables(guidance() | {"part": "kept"}, "kept"))
    assert {one.part for one in PAPER} <= PARTS.keys()
    page = page_table("1 million", "reproduce.md")
    columns = {"stablerep-plus:painted": "StableRep+, painted", "clip:real": "CLIP, real"}
    for one in PAPER:
        if one.part == "sizes":
            cell = page[one.value.removesuffix(" captions")][columns[one.arm]]
            assert float(cell.split(" / ")[0]) == one.percent, one


def test_time_is_said_where_it_was_recorded() -> None:
    assert not any("time" in line for line in tables.tables(guidance(), "guidance"))
    lines = tables.tables(guidance() | {"seconds": {"evaluate": 30.0, "generate": 3600.0}}, "guidance")
    assert lines[-2] == "Total time: 1 h 00 min (evaluate 30 s, generate 1 h 00 min)."


def test_seconds_are_those_of_the_first_process_of_every_step(tmp_path: Path) -> None:
    def write(path: Path, *costs: tuple[str, float, int]) -> None:
        path.parent.mkdir(exist_ok=True)
        lines = [
            {"step": step, "seconds": spent, "cpu_seconds": 0, "rank": rank} for step, spent, rank in costs
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    write(tmp_path / "part" / "costs.jsonl", ("train clip", 5, 0), ("train clip", 5, 1), ("train clip", 2, 0))
    write(tmp_path / "painted.costs.jsonl", ("generate", 7, 0), ("evaluate painter", 1, 0))
    painted, missing = tmp_path / "painted.lance", tmp_path / "missing.lance"
    spent = seconds_by_step([tmp_path / "part"], [painted, missing])
    assert spent == {"evaluate painter": 1, "generate": 7, "train clip": 7}
    assert (seconds_of_painting(painted), seconds_of_painting(missing)) == (7, 0)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Figure]]:
    """The figures that are saved."""
    saved: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (saved.append(self), save(self, *a, **k)))
    yield saved


def lines_of(figure: Figure) -> dict[str, list[tuple[float, float]]]:
    """By its label, the points of every line of the first panel."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    lines: list[Any] = [handle if hasattr(handle, "get_xydata") else handle[0] for handle in handles]
    return {
        label: [(x, round(y, 6)) for x, y in line.get_xydata()]
        for label, line in zip(labels, lines, strict=True)
    }


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_figure_shows_arms_and_the_paper(tmp_path: Path, drawn: list[Figure]) -> None:
    curve_figure.draw_curves(guidance(), tmp_path / "curve.png")
    assert lines_of(drawn[0]) == {
        "simclr:painted": [(1, 71), (8, 78)],
        "stablerep:painted": [(1, 80), (8, 80)],
        "the paper, stablerep:painted, ImageNet": [(2, 72.8), (3, 72.6), (4, 72.6)],
        "the paper, simclr:painted, ImageNet": [(8, 62)],
    }
    assert legend_of(drawn[0])[:2] == ["simclr:painted", "stablerep:painted"], "what was measured comes first"
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.format == "PNG"


def test_lines_stand_side_by_side_and_the_paper_beside_the_worlds_own_benchmark(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    content = guidance()
    for point in content["points"]:
        point["rows"] += [
            one | {"summary": one["summary"] | {"benchmark": "digits", "test": "test"}}
            for one in point["rows"]
        ]
    curve_figure.draw_curves(content, tmp_path / "curve.png")
    own, digits = drawn[0].axes[:2]
    assert [axes.get_title(loc="left") for axes in (own, digits)] == [
        "fashion: official test, linear",
        "digits: test, linear",
    ]
    assert not any("paper" in label for label in digits.get_legend_handles_labels()[1])
    first, second = (handle[0] for handle in digits.get_legend_handles_labels()[0])
    places = [line.get_transform().transform(line.get_xydata())[0] for line in (first, second)]
    assert places[1][0] - places[0][0] == pytest.approx(4 / 72 * drawn[0].dpi), (
        "at one value, four points apart"
    )
    assert places[0][1] < places[1][1], "and as high as they scored"


def test_the_outermost_of_many_lines_lies_inside(tmp_path: Path, drawn: list[Figure]) -> None:
    rows = [row(f"{name}:real", num, 0.8) for num in (250, 4000) for name in "abcdefgh"]
    content = {"part": "sizes", "points": [{"value": "sizes", "rows": rows}]}
    curve_figure.draw_curves(content, tmp_path / "curve.png")
    axes = drawn[0].axes[0]
    lines = [handle[0] for handle in axes.get_legend_handles_labels()[0]]
    places = [x for line in lines for x, _ in line.get_transform().transform(line.get_xydata())]
    edges = axes.get_window_extent()
    assert edges.x0 + 4 < min(places) and max(places) < edges.x1 - 4


def test_the_figure_of_the_headline_shows_the_crossing(tmp_path: Path, drawn: list[Figure]) -> None:
    curve_figure.draw_curves(headline(), tmp_path / "curve.png")
    assert lines_of(drawn[0])["as many real pictures reach it"] == [(1000, 80), (2000, 80)]
    assert legend_of(drawn[0])[:2] == ["stablerep-plus:painted", "clip:real"]
    assert [text.get_text() for text in drawn[0].axes[0].texts] == ["2,000"]


def test_sizes_lie_on_the_axis_of_captions(tmp_path: Path, drawn: list[Figure]) -> None:
    rows = [row("clip:real", num, num / 1000) for num in (500, 250)]
    curve_figure.draw_curves(
        {"part": "sizes", "points": [{"value": "sizes", "rows": rows}]}, tmp_path / "a.png"
    )
    assert lines_of(drawn[0]) == {"clip:real": [(250, 25), (500, 50)]}


def test_one_value_is_no_curve(tmp_path: Path) -> None:
    content = guidance()
    content["points"] = content["points"][:1]
    (tmp_path / "one.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="all scores lie at one value"):
        tables.main([tmp_path / "one.json"], tmp_path / "curve.png")
    with pytest.raises(UserError, match="would show 2 files; give one file"):
        tables.main([tmp_path / "one.json"] * 2, tmp_path / "curve.png")
    assert not (tmp_path / "curve.png").exists()
