"""The figure of a circle: no point is cut off, and the axis begins where it misleads nobody."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from stablerep.report.turns import Point, draw_turns

CURVES: dict[str, list[Point | None]] = {
    "with intervals": [(0.84, 0.83, 0.86), (0.83, 0.81, 0.84)],
    "without": [(0.8, 0.8, 0.8), (0.6, 0.6, 0.6)],
    "below zero": [(-0.002, -0.002, -0.002), (0.001, 0.001, 0.001)],
    "once": [None, (0.5, 0.4, 0.7)],
    "nothing": [(0.0, 0.0, 0.0)],
    "hardly moving": [(41.0, 41.0, 41.0), (40.0, 40.0, 40.0)],
}


def test_every_interval_lies_inside_its_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure,
        "savefig",
        lambda figure, *args, **more: (drawn.append(figure), save(figure, *args, **more))[1],
    )
    path = draw_turns(CURVES, tmp_path / "circle.png")
    assert Image.open(path).size[0] > 500
    panels = {axes.get_title(loc="left"): axes.get_ylim() for axes in drawn[0].axes if axes.get_visible()}
    assert panels.keys() == CURVES.keys()
    for title, curve in CURVES.items():
        points = [point for point in curve if point is not None]
        bottom, top = panels[title]
        lowest, highest = min(low for _, low, _ in points), max(high for _, _, high in points)
        assert bottom <= lowest and highest + 0.05 * (highest - bottom) < top
    assert panels["with intervals"][0] > 0.7, "small differences are seen beside their intervals"
    assert panels["without"][0] == 0, (
        "nothing but the length of the way to zero says how much a difference is"
    )
    assert panels["below zero"][0] == -0.002
