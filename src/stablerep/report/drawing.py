"""Drawings of matplotlib as inline SVG that takes its colours and fonts from the page.

Light, dark and print so need one file. matplotlib draws with stand-in colours; afterwards each of them becomes the CSS
variable of that role. Every figure is drawn twice, wide and narrow, because a plot that is merely shrunk cannot be
read on a phone.
"""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

WIDE, NARROW = 640, 350
"""Points."""
FONT_SIZE = 12

INK, MUTED, RULE = "#00ff01", "#00ff02", "#00ff03"
SERIES = tuple(f"#00fe0{index}" for index in range(1, 7))
_ROLES = {INK: "currentColor", MUTED: "var(--muted)", RULE: "var(--rule)"} | {
    colour: f"var(--series-{index})" for index, colour in enumerate(SERIES, 1)
}

_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": FONT_SIZE,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.titlesize": FONT_SIZE,
    "axes.titlelocation": "left",
    "axes.formatter.useoffset": False,
    "figure.facecolor": "none",
    "grid.color": RULE,
    "xtick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.color": RULE,
    "ytick.labelcolor": MUTED,
    "ytick.left": False,
    "lines.linewidth": 1.8,
}


@dataclass(frozen=True, kw_only=True)
class ResponsiveFigure:
    """One drawing in two widths; the page shows the one that fits."""

    wide: str
    narrow: str


def responsive(name: str, described: str, draw: Callable[[int], Figure]) -> ResponsiveFigure:
    """What ``draw`` draws for a width in points, wide and narrow, under a name of its own on the page."""
    with matplotlib.rc_context(_STYLE):
        return ResponsiveFigure(
            wide=_inline(draw(WIDE), f"{name}-wide", described),
            narrow=_inline(draw(NARROW), f"{name}-narrow", described),
        )


def key_sample(name: str, draw: Callable[[Any], object]) -> str:
    """A small drawing on axes of 26 x 10 points, as a legend shows it beside a name."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(26 / 72, 10 / 72))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set(xlim=(0, 26), ylim=(0, 10))
        draw(axes)
        return _inline(figure, name, "")


def _inline(figure: Figure, name: str, described: str) -> str:
    """The figure as an ``<svg>`` element for HTML: no namespaces, no metadata, no ids that nothing refers to."""
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(file.getvalue())
    text = ElementTree.tostring(root, encoding="unicode")
    referenced = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for key in list(element.attrib):
            value = element.attrib.pop(key)
            if key != "id" or value in referenced:
                element.set(key.rpartition("}")[2], _themed(value))
    _remove(root, ("metadata", "style"))
    width, height = root.get("viewBox", "0 0 0 0").split()[2:]
    root.attrib.update(
        {"width": width, "height": height, "stroke-linejoin": "round", "stroke-linecap": "butt"}
    )
    root.attrib.update({"role": "img", "aria-label": described} if described else {"aria-hidden": "true"})
    return ElementTree.tostring(root, encoding="unicode")


def _remove(root: ElementTree.Element, tags: Sequence[str]) -> None:
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in tags:
                parent.remove(child)


def _themed(attribute: str) -> str:
    for stand_in, role in _ROLES.items():
        attribute = attribute.replace(stand_in, role)
    attribute = re.sub(r"font: ([\d.]+px) [^;]*", r"font-size: \1; font-family: any", attribute)
    return re.sub(r"font-family: [^;]*", "font-family: var(--sans)", attribute)
