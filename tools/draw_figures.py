"""Draw the figures of docs/images anew: ``python -m tools.draw_figures PROJECT``, with a project of the quickstart.

Only the figure of painted pictures needs the project; without one the others are drawn.
"""

import argparse
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image

from stablerep.store import CaptionTable, ImageTable

_OUT = Path(__file__).parents[1] / "docs" / "images"
_INK, _FAINT = "#263238", "#90a4ae"
_HUES = ("#00796b", "#c75b12", "#5e5aa8")
_SHOWN = (
    "a growing heart, affection and valentines",
    "a picture of the moon",
    "a picture of a pensive face",
)
_STYLE = {"svg.fonttype": "path", "svg.hashsalt": "stablerep", "font.size": 9, "text.color": _INK}


def main() -> None:
    """Draw what can be drawn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project", nargs="?", type=Path, help="folder that `stablerep quickstart` wrote")
    project = parser.parse_args().project
    matplotlib.use("svg")
    with matplotlib.rc_context(_STYLE):
        for name, draw in FIGURES.items():
            _save(draw(), name)
        if project is not None:
            drawn = io.BytesIO()
            _painted(project).savefig(drawn, format="png", dpi=110)
            Image.open(drawn).convert("RGB").quantize(128).save(_OUT / "positives.png", optimize=True)


def _targets() -> Any:
    """Which pairs attract, as matrices: the one loss with other labels."""
    captions, images = np.repeat([0, 1, 2], 4), np.repeat(np.arange(6), 2)
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1])
    panels = {
        "SimCLR\none image, two crops": _among(images),
        "StableRep\nimages of one caption": _among(captions),
        "supervised\nimages of one label": _among(labels),
        "CLIP\nimages and texts": np.where(captions[:, None] == np.arange(3), 1.0, 0.0),
    }
    figure, axes = plt.subplots(1, 4, figsize=(8.4, 2.5), width_ratios=(12, 12, 12, 5))
    colours = matplotlib.colors.ListedColormap(["#eceff1", _HUES[0], "#b0bec5"])
    for axis, (title, matrix) in zip(axes, panels.items(), strict=True):
        axis.pcolormesh(matrix, cmap=colours, vmin=0, vmax=2, edgecolors="white", linewidth=0.8)
        axis.invert_yaxis()
        axis.set(aspect="equal", xticks=[], yticks=[])
        axis.set_title(title, fontsize=9)
        axis.spines[:].set_visible(False)
        for row in (4, 8):
            axis.axhline(row, color=_FAINT, linewidth=1)
    axes[0].set_ylabel("12 views\nof 3 captions", fontsize=9)
    figure.tight_layout()
    return figure


def _among(labels: np.ndarray) -> np.ndarray:
    """1 where two views are positives of each other, 2 where a view meets itself, else 0."""
    matrix: np.ndarray = (labels[:, None] == labels).astype(float)
    np.fill_diagonal(matrix, 2.0)
    return matrix


def _flow() -> Any:
    """The flow as files: boxes are what lies on disk, arrows are commands."""
    figure, axis = _canvas(8.4, 1.6)
    boxes = (
        "captions.lance",
        "images.lance",
        "score columns,\nkeep mask",
        "runs/NAME",
        "scores.json",
        "report/\nindex.html",
    )
    arrows = ("generate", "audit", "train", "evaluate", "report")
    places = np.linspace(0.075, 0.925, len(boxes))
    axis.set(ylim=(0.28, 1))
    for place, text in zip(places, boxes, strict=True):
        _box(axis, place, 0.45, text, _HUES[0])
    for begin, end, text in zip(places, places[1:], arrows, strict=False):
        _arrow(axis, (begin + 0.062, 0.45), (end - 0.062, 0.45))
        axis.text((begin + end) / 2, 0.73, text, ha="center", fontsize=9, color=_HUES[1], weight="bold")
    axis.text(0.075, 0.93, "captions, world", ha="center", fontsize=9, color=_HUES[1], weight="bold")
    _arrow(axis, (0.075, 0.88), (0.075, 0.66))
    return figure


def _circle() -> Any:
    """Painter, pictures, encoder, next painter; the real pictures measure and never train."""
    figure, axis = _canvas(6.4, 3.0)
    _box(axis, 0.14, 0.68, "painter of\nturn n", _HUES[1], width=0.2)
    _box(axis, 0.5, 0.68, "painted\npictures", _HUES[0], width=0.2)
    _box(axis, 0.86, 0.68, "StableRep\nencoder", _HUES[2], width=0.2)
    _box(axis, 0.5, 0.2, "painter of\nturn n + 1", _HUES[1], width=0.2)
    for begin, end, text in ((0.25, 0.39, "paints"), (0.61, 0.75, "train")):
        _arrow(axis, (begin, 0.68), (end, 0.68))
        axis.text((begin + end) / 2, 0.76, text, ha="center", fontsize=9)
    _arrow(axis, (0.5, 0.52), (0.5, 0.36))
    axis.text(0.51, 0.43, "learns from", fontsize=9)
    _arrow(axis, (0.83, 0.52), (0.62, 0.24), bend=-0.2)
    axis.text(0.74, 0.12, "is aligned to what\nthe encoder sees", fontsize=9, ha="left")
    _arrow(axis, (0.38, 0.2), (0.14, 0.52), bend=-0.25)
    axis.text(0.06, 0.27, "next turn", fontsize=9)
    return figure


FIGURES: dict[str, Callable[[], Any]] = {"targets": _targets, "flow": _flow, "circle": _circle}
"""Figures by name, each drawn from nothing but code."""


def _painted(project: Path) -> Any:
    """Captions, the pictures that were painted for them, and which of them attract."""
    captions = CaptionTable.open(project / "world" / "captions.lance").read(["id", "text"]).to_pylist()
    ids = {row["text"]: row["id"] for row in captions}
    table = ImageTable.open(project / "images.lance")
    figure, axes = plt.subplots(3, 4, figsize=(4.2, 3.8))
    for row, (text, hue) in enumerate(zip(_SHOWN, _HUES, strict=True)):
        positions = table.positions(f"caption_id = '{ids[text]}' AND status = 'ok'")[:4]
        _row(axes[row], table.take_images(positions), text, hue)
    figure.subplots_adjust(0.02, 0.02, 0.98, 0.94, wspace=0.06, hspace=0.3)
    return figure


def _row(axes: Sequence[Any], pictures: Sequence[bytes], text: str, hue: str) -> None:
    for axis, picture in zip(axes, pictures, strict=True):
        axis.imshow(np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")))
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set(color=hue, linewidth=2.5)
    axes[0].set_title(f"“{text}”", loc="left", fontsize=9, color=hue)


def _canvas(width: float, height: float) -> tuple[Any, Any]:
    figure = plt.figure(figsize=(width, height))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, 1), ylim=(0, 1))
    axis.axis("off")
    return figure, axis


def _box(axis: Any, x: float, y: float, text: str, hue: str, width: float = 0.12) -> None:
    shape = FancyBboxPatch(
        (x - width / 2, y - 0.14),
        width,
        0.28,
        boxstyle="round,pad=0,rounding_size=0.02",
        fc="white",
        ec=hue,
        lw=1.6,
    )
    axis.add_patch(shape)
    axis.text(x, y, text, ha="center", va="center", fontsize=8.5)


def _arrow(axis: Any, begin: tuple[float, float], end: tuple[float, float], bend: float = 0.0) -> None:
    style = f"arc3,rad={bend}"
    axis.add_patch(
        FancyArrowPatch(
            begin, end, arrowstyle="-|>", mutation_scale=11, color=_FAINT, connectionstyle=style, lw=1.4
        )
    )


def _save(figure: Any, name: str) -> None:
    figure.savefig(_OUT / f"{name}.svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    plt.close(figure)


if __name__ == "__main__":
    main()
