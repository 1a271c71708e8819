"""Figures: values where they belong, colours left to the page, text that is text."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from stablerep.report.figures import Curve, Whisker, score_figure, series_key, training_figure

CURVES = [
    Curve(
        name=name,
        images_seen=range(0, 40_000, 100),
        loss=np.linspace(4, end, 400),
        learning_rate=[1e-3] * 400,
    )
    for name, end in (("a", 1.0), ("b", 2.0))
]
ROWS = ["plain", "<script> & $x^2$"]
WHISKERS = [
    Whisker(row=row, series=series, value=40.0 + 10 * series, low=35.0 + 10 * series, high=45.0 + 10 * series)
    for row in ROWS
    for series in (0, 1)
]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("text")]


@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_a_figure_takes_colours_and_fonts_from_the_page(width: str) -> None:
    for figure in (training_figure(CURVES, "t"), score_figure(WHISKERS, 33.3, "s")):
        svg = getattr(figure, width)
        assert "var(--series-1)" in svg and "var(--series-2)" in svg and "var(--muted)" in svg
        assert not re.search(r"#[0-9a-f]{6}\b", svg), "a colour of matplotlib's own would not follow the page"
        assert "DejaVu" not in svg and "font-family: var(--sans)" in svg
        assert "http" not in svg and "<style" not in svg and "metadata" not in svg


@pytest.mark.slow
def test_references_within_a_figure_resolve_and_stay_apart() -> None:
    figures = [
        training_figure(CURVES, "t"),
        score_figure(WHISKERS, 33.3, "s"),
        score_figure(WHISKERS, 33.3, "u"),
    ]
    ids = []
    for svg in [part for figure in figures for part in (figure.wide, figure.narrow)]:
        own = re.findall(r'\bid="([^"]+)"', svg)
        assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg)) == set(own)
        ids += own
    assert len(ids) == len(set(ids)) > 0


def test_names_are_neither_markup_nor_formulas() -> None:
    figure = score_figure(WHISKERS, 33.3, "s")
    for svg in (figure.wide, figure.narrow):
        assert ROWS[1] in texts(svg)


def test_dots_stand_at_their_values() -> None:
    root = ElementTree.fromstring(score_figure(WHISKERS, 33.3, "s").wide)
    ticks = {
        text.text: float(
            re.findall(r"[\d.]+", text.get("transform") or f"({text.get('x')})")[
                -2 if text.get("transform") else 0
            ]
        )
        for text in root.iter("text")
        if (text.text or "").isdigit()
    }
    dots = sorted(float(use.get("x", "nan")) for use in root.iter("use") if "series" in use.get("style", ""))
    per_cent = (ticks["40"] - ticks["0"]) / 40
    assert np.allclose([(dot - ticks["0"]) / per_cent for dot in dots], [40, 40, 50, 50], atol=0.5)


@pytest.mark.slow
def test_long_curves_are_thinned_and_short_ones_are_not() -> None:
    def longest(svg: str) -> int:
        return max(
            len(re.findall("[ML]", path.get("d", ""))) for path in ElementTree.fromstring(svg).iter("path")
        )

    short = [
        Curve(name="a", images_seen=range(50), loss=np.linspace(3, 1, 50) ** 2, learning_rate=[1e-3] * 50)
    ]
    noisy = [
        Curve(
            name="a",
            images_seen=range(9000),
            loss=np.random.default_rng(0).normal(size=9000),
            learning_rate=[1e-3] * 9000,
        )
    ]
    assert 40 <= longest(training_figure(short, "t").wide) <= 60
    assert longest(training_figure(noisy, "t").wide) <= 400  # the band runs there and back


def test_keys_differ_by_more_than_colour() -> None:
    lines = [re.sub(r"--series-\d", "", series_key("t", index)) for index in range(4)]
    dashes = [re.findall(r"stroke-dasharray: [^;\"]+", line) for line in lines]
    assert len({str(dash) for dash in dashes}) == 4
