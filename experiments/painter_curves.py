"""Which sampler, how many steps, which guidance, and when: fidelity and KID of a teacher against forward passes.

Every setting paints the same captions with the same noise and is judged alike; defaults are then chosen from the table:

    python experiments/painter_curves.py --world icons --teacher icons --judge runs/judge --out curves

writes OUT/curves.json and OUT/curves.png; what is there already is neither painted nor judged again, and is refused
where it belongs to another world, teacher, judge or choice of captions and pictures.
"""

import dataclasses
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import tyro
from matplotlib.figure import Figure

from mistakes import in_one_sentence
from stablerep import config as config_module
from stablerep.captions.worlds import world_name
from stablerep.console import Console
from stablerep.evaluation.painting import PainterConfig, evaluate_painter
from stablerep.generation.execute import GenerateConfig, generate
from stablerep.generation.folders import find_teacher, read_defaults
from stablerep.generation.settings import SchedulerName
from stablerep.run import write_atomically, write_text
from stored import measured_once

ALWAYS = (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Curves:
    """The settings that are tried, every one with every other."""

    world: Path
    """Folder of the world that the teacher paints."""
    teacher: str
    """A shipped teacher or a folder."""
    judge: str
    """Encoder of the judge, trained on real pictures."""
    out: Path
    """Where tables, scores and the figure go."""
    schedulers: tuple[SchedulerName, ...] = ("teacher",)
    steps: tuple[int, ...] = (4, 8, 12, 20)
    guidance: tuple[float, ...] = (1.0, 2.0, 4.0, 6.0)
    intervals: tuple[tuple[float, float], ...] = (ALWAYS,)
    """Times (1 is noise) within which there is guidance."""
    num_captions: int = 500
    num_images: int = 2
    num_train: int | None = None
    """Real pictures that train the judge's probe, anew for every setting; all where not given."""
    where: str = "split = 'train' AND template = 'primary'"
    """Captions that are painted."""


SHARED = ("world", "teacher", "judge", "num_captions", "num_images", "num_train", "where")
"""What all points of a folder have in common."""


@dataclass(frozen=True)
class Setting:
    """How a point is painted."""

    scheduler: SchedulerName
    steps: int
    guidance: float
    interval: tuple[float, float]

    @property
    def name(self) -> str:
        """Of its files."""
        within = "" if self.interval == ALWAYS else "-within-{:g}-{:g}".format(*self.interval)
        return f"{self.scheduler}-{self.steps}-{self.guidance:g}{within}".replace("+", "p")


@dataclass(frozen=True, kw_only=True)
class Point:
    """One setting and what it reached."""

    scheduler: str
    steps: int
    guidance: float
    interval: tuple[float, float]
    forward_passes: int | None
    """Of the model per picture: two a step with guidance, one without; None where guidance is limited."""
    fidelity: float
    low: float
    high: float
    kid: float | None
    """None where too few painted captions have real pictures."""
    kid_floor: float | None
    images_per_second: float | None
    """None where the pictures were there already."""


def main(config: Curves) -> None:
    """Measure every setting, then print and draw the table."""
    console = Console()
    every = itertools.product(config.schedulers, config.steps, config.guidance, config.intervals)
    settings = [Setting(*one) for one in every]
    for setting in settings:
        _painting(config, setting)  # one that is wrong is refused before the first is painted
    points = [_measure(config, setting, console) for setting in settings]
    content = {
        "config": json.loads(json.dumps(dataclasses.asdict(config), default=str)),
        "points": [dataclasses.asdict(point) for point in points],
    }
    write_text(config.out / "curves.json", json.dumps(content, indent=2) + "\n")
    if any(point.forward_passes is not None for point in points):
        _draw(points, config.out / "curves.png")
    else:
        console.say("no figure: with limited guidance the passes of a picture are not known")
    rows = [
        (
            point.scheduler,
            str(point.steps),
            f"{point.guidance:g}",
            "-".join(f"{time:g}" for time in point.interval),
            f"{point.images_per_second:.1f}" if point.images_per_second else "",
            f"{100 * point.fidelity:.1f} [{100 * point.low:.1f}, {100 * point.high:.1f}]",
            "" if point.kid is None else f"{point.kid:.3g}",
        )
        for point in points
    ]
    console.table(
        str(config.out), ("sampler", "steps", "guidance", "within", "pictures/s", "fidelity, %", "KID"), rows
    )


def _measure(config: Curves, setting: Setting, console: Console) -> Point:
    """The point of a setting, from its file where it was measured with the same captions, pictures and judge."""
    shared = {name: getattr(config, name) for name in SHARED}
    path = config.out / f"{setting.name}.json"
    measured = measured_once(
        path, {**shared, **dataclasses.asdict(setting)}, lambda: _judged(config, setting, console)
    )
    return config_module.build(Point, dataclasses.asdict(setting), measured, origin=str(path))


def _painting(config: Curves, setting: Setting) -> GenerateConfig:
    """How a setting paints; ``UserError`` where it cannot."""
    # A teacher that limits guidance of its own is asked for guidance at all times; others know no interval.
    is_limited = read_defaults(find_teacher(config.teacher)).guidance_interval is not None
    asked = {
        "captions": config.world / "captions.lance",
        "out": config.out / f"{setting.name}.lance",
        "teacher": config.teacher,
        "num_images": config.num_images,
        "limit": config.num_captions,
        "where": config.where,
        "scheduler": setting.scheduler,
        "num_inference_steps": setting.steps,
        "guidance_scale": setting.guidance,
        "guidance_interval": setting.interval if is_limited or setting.interval != ALWAYS else None,
    }
    return config_module.build(GenerateConfig, asked, origin="painter curves")


def _judged(config: Curves, setting: Setting, console: Console) -> dict[str, Any]:
    """Paint with a setting and judge the pictures."""
    is_limited = setting.interval != ALWAYS
    painting = _painting(config, setting)
    painted = generate(painting, console=console)
    scores = evaluate_painter(
        PainterConfig(
            images=painting.out,
            world=config.world,
            judge=config.judge,
            benchmark=cast(Any, world_name(config.world)),
            num_train=config.num_train,
            search_copies=False,
            num_bootstrap=200,
            out=config.out / f"{setting.name}-scores.json",
        ),
        console=console,
    )
    reached = scores.fidelity.mean_per_class
    kid = scores.distances[0].kid if scores.distances else None
    return {
        "forward_passes": None if is_limited else setting.steps * (2 if setting.guidance > 1 else 1),
        "fidelity": reached.value,
        "low": reached.low,
        "high": reached.high,
        "kid": None if kid is None else kid.mean,
        "kid_floor": None if kid is None else kid.floor_95,
        "images_per_second": painted.images_per_second if painted.painted else None,
    }


def _draw(points: list[Point], path: Path) -> None:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    points = [point for point in points if point.forward_passes is not None]
    series = dict.fromkeys((point.scheduler, point.guidance) for point in points)
    for scheduler, guidance in series:
        mine = [point for point in points if (point.scheduler, point.guidance) == (scheduler, guidance)]
        passes = [point.forward_passes for point in mine]
        label = f"{scheduler}, guidance {guidance:g}"
        spread = [
            [100 * max(0.0, point.fidelity - point.low) for point in mine],
            [100 * max(0.0, point.high - point.fidelity) for point in mine],
        ]
        left.errorbar(
            passes, [100 * point.fidelity for point in mine], yerr=spread, marker="o", capsize=2, label=label
        )
        far = [(one.forward_passes, one.kid) for one in mine if one.kid is not None]
        right.plot([passes for passes, _ in far], [kid for _, kid in far], marker="o", label=label)
    floor = next((point.kid_floor for point in points if point.kid_floor is not None), None)
    if floor is not None:
        right.axhline(floor, linestyle=":", color="grey", label="real against real, 95 %")
    left.set_ylabel("prompt fidelity, %")
    right.set_ylabel("KID")
    for axes in (left, right):
        axes.set_xlabel("forward passes per picture")
        axes.spines[["top", "right"]].set_visible(False)
    right.legend(frameon=False, fontsize=8)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150))


if __name__ == "__main__":
    with in_one_sentence():
        main(tyro.cli(Curves, description=__doc__))
