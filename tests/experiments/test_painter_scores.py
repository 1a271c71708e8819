"""painter_scores.py: arms beside their references, painters of one seed, the best beside all, and the figure."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure

from painter_arms import ARMS
from painter_scores import (
    Curves,
    Score,
    best_table_of,
    draw,
    real_needed,
    share_of_steps,
    summarise,
    summarise_best,
    table_of,
)

CAPTIONS = "abcdefghij"


def judged(folder: Path, right: str) -> Path:
    """What a judge named one picture of each caption: rightly those of these captions."""
    path = folder / f"named {right}.parquet"
    named = ["cat" if caption in right else "dog" for caption in CAPTIONS]
    pq.write_table(pa.table({"label": ["cat"] * 10, "named": named, "caption_id": list(CAPTIONS)}), path)
    return path


def run(folder: Path, *fidelities: float) -> list[Score]:
    """A training with these scores along it; at its end so many of ten pictures were named rightly."""
    named = judged(folder, CAPTIONS[: round(10 * fidelities[-1])])
    return [Score(10 * (place + 1), value, None, None, named) for place, value in enumerate(fidelities)]


def summarised(name: str, num: int, curves: Curves, against: Sequence[str]) -> dict[str, Any]:
    """With the last scores of the curves as those by which painters are compared."""
    ends = {arm: [run[-1] for run in runs] for arm, runs in curves.items()}
    return summarise(name, num, curves, ends, against)


def test_every_arm_is_held_against_its_own_references(tmp_path: Path) -> None:
    curves = {
        "real": [run(tmp_path, 0.1, 0.3, 0.4)],
        "painted": [run(tmp_path, 0.2, 0.5, 0.6)],
        "painted + SimCLR": [run(tmp_path, 0.4, 0.6, 0.9)],
        "both": [run(tmp_path, 0.1, 0.2, 0.2)],
    }
    found = {name: summarised(name, 5, curves, ARMS[name].against) for name in curves}
    ahead = {
        name: {other: one["value"] for other, one in row["ahead_of"].items()} for name, row in found.items()
    }
    assert ahead == {
        "real": {},
        "painted": {"real": pytest.approx(0.2)},
        "painted + SimCLR": {"painted": pytest.approx(0.3)},
        "both": {"real": pytest.approx(-0.2), "painted": pytest.approx(-0.4)},
    }
    assert {name: row["share_of_steps_to_end_of"] for name, row in found.items()} == {
        "real": {"real": 1},
        "painted": {"real": 2 / 3},
        "painted + SimCLR": {"real": 1 / 3, "painted": 2 / 3},
        "both": {"real": None, "painted": None},
    }
    assert table_of(list(found.values()))[3][:3] == ("both", "5", "20.0")
    assert table_of(list(found.values()))[2][3].startswith("+30.0 [") and [
        line[4] for line in table_of(list(found.values()))
    ] == ["100 of real", "67 of real", "33 of real, 67 of painted", ""]
    assert share_of_steps([run(tmp_path, 0.1, 0.3), run(tmp_path, 0.3, 0.1)], 0.2) == 0.5


def test_the_best_are_compared_with_all_of_the_same_captions(tmp_path: Path) -> None:
    seeds = [{"all": run(tmp_path, 0.5)[0], "best": run(tmp_path, 0.7)[0]} for _ in range(2)]
    found = summarise_best("real", 5, seeds)
    assert (found["all"], found["best"]) == (0.5, pytest.approx(0.7))
    assert found["ahead"]["value"] == pytest.approx(0.2)
    (line,) = best_table_of([found])
    assert line[:4] == ("real", "5", "50.0", "70.0") and line[4].startswith("+20.0 [")


def test_the_best_and_all_are_by_the_same_painters(tmp_path: Path) -> None:
    """What trainings differ in says nothing of a difference that all of them show."""
    seeds = [
        {kind: Score(10, len(right) / 10, None, None, judged(tmp_path, right)) for kind, right in one.items()}
        for one in ({"all": "", "best": "a"}, {"all": CAPTIONS[1:], "best": CAPTIONS})
    ]
    ahead = summarise_best("real", 5, seeds)["ahead"]
    assert ahead["value"] == pytest.approx(0.1) and ahead["low"] > -1e-9 and ahead["high"] < 0.45


def test_captions_without_a_picture_on_one_side_are_compared_on_neither(tmp_path: Path) -> None:
    mine, theirs = run(tmp_path, 0.5), run(tmp_path, 0.3)
    fewer = [tmp_path / f"fewer-{number}.parquet" for number in range(2)]
    for score, path in zip((mine[-1], theirs[-1]), fewer, strict=True):
        pq.write_table(pq.read_table(score.named).slice(1), path)  # without one that both named rightly
    fewer_of_mine, fewer_of_theirs = (
        [dataclasses.replace(score, named=path)]
        for score, path in zip((mine[-1], theirs[-1]), fewer, strict=True)
    )
    ahead = [
        summarised("both", 5, {"both": [one], "real": [other]}, ("real",))["ahead_of"]["real"]
        for one, other in ((fewer_of_mine, fewer_of_theirs), (mine, fewer_of_theirs), (fewer_of_mine, theirs))
    ]
    assert ahead[0] == ahead[1] == ahead[2] and ahead[0]["value"] == pytest.approx(2 / 9)


def test_kid_stands_in_the_table_and_under_fidelity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def far(fidelity: float, *kids: float | None) -> list[Score]:
        scores = run(tmp_path, *[fidelity] * len(kids))
        return [
            dataclasses.replace(one, kid=kid, kid_floor=0.002) for one, kid in zip(scores, kids, strict=True)
        ]

    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: (figures.append(self), Path(path).touch()))
    curves = {"real": [far(0.5, 0.3, 0.1), far(0.5, 0.3, 0.2)], "both": [far(0.6, 0.2, 0.05)] * 2}
    results = [summarised(name, num, curves, ()) for num in (5, 9) for name in curves]
    assert [line[5] for line in table_of(results)] == ["0.15 (0.002)", "0.05 (0.002)"] * 2
    draw(results, tmp_path / "figure.png")
    labels = [axes.get_ylabel().split()[0] for axes in figures[0].axes]
    assert labels == ["prompt", "prompt", "KID", "KID"]
    lines = {line.get_label(): list(line.get_ydata()) for line in figures[0].axes[2].get_lines()}
    assert lines["real"] == pytest.approx([0.3, 0.15])
    assert lines["real against real, 95 %"] == [0.002, 0.002]

    without = [summarised("real", 5, {"real": [far(0.5, None, None)]}, ())]
    assert table_of(without)[0][5] == ""
    draw(without, tmp_path / "figure.png")
    assert len(figures[1].axes) == 1


def test_every_arm_has_references_among_the_arms() -> None:
    arms = ARMS
    assert {other for arm in arms.values() for other in arm.against} == {"real", "painted", "both"}
    aligned = {name: arm.against for name, arm in arms.items() if arm.align}
    assert all(against == (arms[name].source,) for name, against in aligned.items()) and len(aligned) == 6


def test_how_many_real_pictures_equal_both_kinds(tmp_path: Path) -> None:
    ends = {
        100: {"real": run(tmp_path, 0.2), "both": run(tmp_path, 0.3)},
        400: {"real": run(tmp_path, 0.4), "both": run(tmp_path, 0.5)},
    }
    found = real_needed(ends)
    assert [one["pictures"] for one in found] == [pytest.approx(200), None]
    assert found[1]["said"] == "not reached with the most that were tried, 400"
    assert real_needed({100: {"real": ends[100]["real"]}}) == []


def test_painters_of_one_seed_are_compared(tmp_path: Path) -> None:
    """What seeds differ in on both sides says nothing of a difference that all of them show."""
    real = [run(tmp_path, share)[0] for share in (0.1, 0.4, 0.7)]
    painted = [run(tmp_path, share)[0] for share in (0.2, 0.5, 0.8)]
    curves = {"real": [[one] for one in real], "painted": [[one] for one in painted]}
    ahead = summarised("painted", 5, curves, ("real",))["ahead_of"]["real"]
    assert ahead["value"] == pytest.approx(0.1)
    assert ahead["low"] > -0.3 and ahead["high"] < 0.5, (
        "unpaired, the spread of the seeds alone would be 0.7 either way"
    )


def test_the_end_is_of_more_pictures_than_the_curve(tmp_path: Path) -> None:
    curves = {"real": [run(tmp_path, 0.2, 0.4)], "both": [run(tmp_path, 0.3, 0.6)]}
    ends = {"real": run(tmp_path, 0.5), "both": run(tmp_path, 0.4)}
    found = summarise("both", 5, curves, ends, ("real",))
    assert found["final_fidelity"] == 0.4 and found["ahead_of"]["real"]["value"] == pytest.approx(-0.1)
    assert found["fidelity"] == [[0.3, 0.6]] and found["share_of_steps_to_end_of"]["real"] == 1
