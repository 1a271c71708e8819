"""Shares of values in pictures with their intervals, beside captions and target, as one figure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

from stablerep.run import write_atomically


def draw_shares(path: Path, findings: Mapping[str, Any]) -> None:
    """One panel for each attribute and group of ``audit bias``, written as PNG."""
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    panels = [
        (f"{name}: {group}", found)
        for name, finding in findings.items()
        for group, found in finding["groups"].items()
    ]
    figure = Figure(figsize=(6, 1 + 1.6 * len(panels)), layout="constrained")
    for number, (title, found) in enumerate(panels, start=1):
        axes = figure.add_subplot(len(panels), 1, number)
        for place, (value, one) in enumerate(found["shares"].items()):
            axes.barh(place, one["value"], color="#7aa6c2", label="pictures" if not place else None)
            axes.plot([one["low"], one["high"]], [place, place], color="black")
            if found["target"] is not None:
                axes.plot(
                    found["target"][value], place, "k|", markersize=18, label=None if place else "target"
                )
            if found["captions"] is not None:
                axes.plot(
                    found["captions"][value], place, "o", color="#b5532d", label=None if place else "captions"
                )
        axes.set_yticks(range(len(found["shares"])), list(found["shares"]))
        axes.set_xlim(0, 1)
        axes.set_title(title, fontsize=9, loc="left")
        axes.legend(fontsize=7, loc="lower right")
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110))
