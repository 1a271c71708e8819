"""A matrix of runs under equal conditions: arms (method and source) x numbers of captions x seeds.

Every arm gets the same captions, the same number of updates and of pictures seen, and the same number of tries at its
learning rate. Every stage goes on where a stopped comparison left it.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, cast, get_args

from stablerep import config as config_module
from stablerep.captions.worlds import WORLDS, WorldConfig, world_name, write_world
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.evaluation.protocols import EvaluateConfig, evaluate
from stablerep.evaluation.scores import Scores, Summary, summarise
from stablerep.generation.execute import GenerateConfig, generate
from stablerep.learning.data import ViewSource
from stablerep.learning.methods import METHODS, train
from stablerep.learning.trainer import TrainConfig
from stablerep.report.comparison import Point, draw_comparison
from stablerep.run import provenance, write_text

T = TypeVar("T")

Source = Literal["real", "painted", "both"]


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Which methods learn from which pictures, and how often; everything else comes from the settings recipe."""

    out: Path
    """Folder of the comparison; a stopped one goes on from what is there, and arms, seeds or sizes may be added."""
    world: str = "icons"
    """Captions and real pictures: the name of an embedded world, or a folder that `stablerep world` wrote."""
    settings: str = "icons"
    """Recipe, by name or path, that says how to paint, how each method trains, and on what it is measured."""
    arms: tuple[str, ...] = ("simclr:real", "stablerep:painted")
    """METHOD:SOURCE each, with a source among real, painted, both; differences are taken to the first."""
    num_captions: tuple[int, ...] = (1000,)
    """Numbers of captions to learn from; the smaller sets are parts of the larger ones."""
    num_images: int = 4
    """Pictures painted per caption (K)."""
    painted: Path | None = None
    """Table to paint into and to learn from, so that comparisons can share it; images.lance of the folder where not
    given. All its pictures are learned from, so a comparison of fewer needs a filter in its recipe."""
    num_steps: int = 1000
    """Updates of the weights of every run."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Run seeds: weights, order, views. The pictures are painted once, with the first."""
    learning_rates: tuple[float, ...] = ()
    """Peak learning rates that every arm tries with the first seed, at each size; the best by linear probe on
    validation is used. Each arm's own where empty."""

    def __post_init__(self) -> None:
        for arm in self.arms:
            method, _, source = arm.partition(":")
            if method not in METHODS or source not in get_args(Source):
                raise ValueError(
                    f"arms must be METHOD:SOURCE with a method of {', '.join(METHODS)} and a source of "
                    f"{', '.join(get_args(Source))}, got {arm!r}"
                )
        for name in ("arms", "num_captions", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} must hold different values, got {values}")
        for name, least in (("num_images", 1), ("num_steps", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One arm, or one baseline, at one number of captions in one test under one protocol, over all seeds."""

    arm: str
    num_captions: int
    summary: Summary

    @property
    def test(self) -> tuple[str, str, str]:
        """Benchmark, test and protocol."""
        return self.summary.benchmark, self.summary.test, self.summary.protocol


@dataclass(frozen=True, kw_only=True)
class MetricRow:
    """One metric of a protocol that names no classes, of one arm or baseline at one size, seed by seed."""

    arm: str
    num_captions: int
    benchmark: str
    test: str
    protocol: str
    metric: str
    per_run: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a comparison found; ``compare.json`` holds the same."""

    path: Path
    figure: Path
    learning_rates: Mapping[str, float]
    """Chosen on validation: arm and number of captions -> peak learning rate; empty where none was searched."""
    rows_found: tuple[Row, ...]
    metrics_found: tuple[MetricRow, ...] = ()
    """What protocols that name no classes found, such as `geometry`."""

    HEADER: ClassVar[tuple[str, ...]] = ("test", "arm", "captions", "per class, %", "against first")

    def rows(self) -> list[list[str]]:
        """The rows as text under ``HEADER``."""
        ordered = sorted(self.rows_found, key=lambda row: row.test)
        return [
            [
                " ".join(row.test),
                row.arm,
                str(row.num_captions),
                row.summary.mean_per_class.in_percent(),
                "" if row.summary.ahead is None else row.summary.ahead.in_percent(sign=True),
            ]
            for row in ordered
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "figure": str(self.figure),
            "learning_rates": dict(self.learning_rates),
            "rows": [dataclasses.asdict(row) for row in self.rows_found],
            "measurements": [dataclasses.asdict(one) for one in self.metrics_found],
        }


def compare(config: CompareConfig, *, console: Console = Console(quiet=True)) -> Comparison:  # noqa: B008
    """Paint, train, measure and summarise what is missing; writes compare.json and compare.png.

    Raises ``UserError`` where the arms would not see the same captions or the same number of pictures.
    """
    matrix = _Matrix(config, console)
    matrix.check_equal_batches()
    matrix.prepare()
    rates = {(arm, num): matrix.choose_rate(arm, num) for num in config.num_captions for arm in config.arms}
    rows: list[Row] = []
    metrics: list[MetricRow] = []
    for num in config.num_captions:
        scores = [matrix.measure(num, seed, rates) for seed in config.seeds]
        rows += _rows(config, num, scores)
        metrics += _metric_rows(config, num, scores)
    found = Comparison(
        path=config.out / "compare.json",
        figure=draw_comparison([_point(row) for row in rows], config.out / "compare.png"),
        learning_rates={f"{arm} {num}": rate for (arm, num), rate in rates.items() if rate is not None},
        rows_found=tuple(rows),
        metrics_found=tuple(metrics),
    )
    content = {"config": config_module.to_dict(config), "provenance": provenance(), **found.to_json()}
    write_text(found.path, json.dumps(content, indent=2) + "\n")
    console.say(f"{found.path}, {found.figure}")
    return found


Rates = Mapping[tuple[str, int], float | None]


class _Matrix:
    """Names the folders of a comparison and fills those that are empty."""

    def __init__(self, config: CompareConfig, console: Console) -> None:
        self.config, self.console = config, console
        self.world = config.out / "world" if config.world in WORLDS else Path(config.world)
        self.painted = config.painted or config.out / "images.lance"
        self.recipe = config_module.read_recipe(config.settings)

    def prepare(self) -> None:
        """The world's tables, and the pictures that painted arms learn from."""
        config = self.config
        if config.world in WORLDS:
            write_world(WorldConfig(name=cast(Any, config.world), out=self.world), console=self.console)
        if any(not arm.endswith(":real") for arm in config.arms):
            painting = {
                "captions": self.world / "captions.lance",
                "out": self.painted,
                "seed": config.seeds[0],
            }
            sizes = {"limit": max(config.num_captions), "num_images": config.num_images}
            generate(self._configure(GenerateConfig, ("generate",), painting | sizes), console=self.console)
        for num in config.num_captions:
            self._check_same_captions(num)

    def check_equal_batches(self) -> None:
        """Refuse arms whose batches hold different numbers of pictures, before anything is painted."""
        num = self.config.num_captions[0]
        seen = {
            arm: self._run_config(arm, num, self.config.seeds[0], None).images_per_step
            for arm in self.config.arms
        }
        if len(set(seen.values())) > 1:
            listed = ", ".join(f"{arm} {count}" for arm, count in seen.items())
            raise UserError(
                f"the arms would see different numbers of pictures per step ({listed}); give recipe "
                f"{self.config.settings} equal products of captions_per_batch, images_per_caption and crops_per_image"
            )

    def choose_rate(self, arm: str, num: int) -> float | None:
        """The learning rate that does best on validation, None where none is searched."""
        if not self.config.learning_rates:
            return None
        seed = self.config.seeds[0]
        reached = {}
        for rate in self.config.learning_rates:
            run = self._train(arm, num, seed, rate)
            record = self._evaluate([run], self.config.out / "search" / run.name).records
            mine = [one for one in record if one.kind == "run" and one.protocol == "linear"]
            reached[rate] = mine[0].validation_accuracy or 0.0
        return max(reached, key=lambda rate: reached[rate])

    def measure(self, num: int, seed: int, rates: Rates) -> Scores:
        """Every arm at this size and seed, and the baselines, in one table."""
        runs = [self._train(arm, num, seed, rates[arm, num]) for arm in self.config.arms]
        return self._evaluate(runs, self.config.out / "scores" / f"{num}-captions-seed-{seed}")

    def _train(self, arm: str, num: int, seed: int, rate: float | None) -> Path:
        settings = self._run_config(arm, num, seed, rate)
        return train(arm.partition(":")[0], settings, console=self.console).run

    def _evaluate(self, runs: Sequence[Path], out: Path) -> Scores:
        """Baselines are drawn with one seed, so that only the runs differ from table to table."""
        place = "fashion" if world_name(self.world) == "fashion" else "world"
        settings = {"run": runs[0], "also": list(runs[1:]), place: self.world, "out": out}
        return evaluate(self._configure(EvaluateConfig, ("evaluate",), settings), console=self.console)

    def _run_config(self, arm: str, num: int, seed: int, rate: float | None) -> TrainConfig:
        method, _, source = arm.partition(":")
        tables = {"real": [self.world / "images.lance"], "painted": [self.painted]}
        name = f"{method}-{source}-{num}-seed-{seed}" + ("" if rate is None else f"-lr-{rate:g}")
        settings: dict[str, Any] = {
            "out": self.config.out / "runs" / name,
            "num_steps": self.config.num_steps,
            "seed": seed,
            "data": {
                "images": tables.get(source) or [*tables["painted"], *tables["real"]],
                "captions": self.world / "captions.lance",
                "num_captions": num,
            },
        }
        if rate is not None:
            settings["optim"] = {"lr": rate}
        return self._configure(METHODS[method].config, ("train", method), settings)

    def _check_same_captions(self, num: int) -> None:
        """Filters and failures may take captions away from one source and not from another."""
        seed = self.config.seeds[0]
        chosen = {
            arm: set(ViewSource(self._run_config(arm, num, seed, None).data, seed=seed).caption_ids)
            for arm in self.config.arms
        }
        first, *others = chosen.items()
        for arm, captions in others:
            if captions != first[1]:
                raise UserError(
                    f"{first[0]} and {arm} would learn from different captions ({len(captions ^ first[1])} of {num} "
                    "are in one of them only); let the filters (where) of the recipe choose the same ones"
                )

    def _configure(self, config_class: type[T], command: tuple[str, ...], settings: Mapping[str, Any]) -> T:
        table = config_module.recipe_table(self.recipe, command, self.config.settings)
        return config_module.build(config_class, table, settings, origin="compare")


def _rows(config: CompareConfig, num: int, scores: Sequence[Scores]) -> list[Row]:
    """The arms, then the baselines, each over all seeds, with the paired difference to the first arm."""
    names = [f"{arm.replace(':', '-')}-{num}-seed-" for arm in config.arms]
    first = [seen_as(one, names[0]) for one in scores]
    rows = []
    for arm, name in zip(config.arms, names, strict=True):
        against = [] if arm == config.arms[0] else first
        mine = summarise([seen_as(one, name) for one in scores], against=against)
        rows += [Row(arm=arm, num_captions=num, summary=summary) for summary in mine]
    for baseline in dict.fromkeys(
        record.encoder for record in scores[0].records if record.kind == "baseline"
    ):
        mine = summarise([seen_as(scores[0], baseline)], against=first)
        rows += [Row(arm=baseline, num_captions=num, summary=summary) for summary in mine]
    return rows


def _metric_rows(config: CompareConfig, num: int, scores: Sequence[Scores]) -> list[MetricRow]:
    """The metrics of all arms, then of the baselines, with one value per seed."""
    arms = {f"{arm.replace(':', '-')}-{num}-seed-": arm for arm in config.arms}
    values: dict[tuple[str, str, str, str, str], list[float]] = {}
    for one in scores:
        for found in one.measurements:
            arm = next(
                (arm for prefix, arm in arms.items() if found.encoder.startswith(prefix)), found.encoder
            )
            for metric, value in found.metrics.items():
                key = (arm, found.benchmark, found.test, found.protocol, metric)
                values.setdefault(key, []).append(value.value)
    return [
        MetricRow(
            arm=arm,
            num_captions=num,
            benchmark=benchmark,
            test=test,
            protocol=protocol,
            metric=metric,
            per_run=tuple(per_run),
        )
        for (arm, benchmark, test, protocol, metric), per_run in values.items()
    ]


def seen_as(scores: Scores, prefix: str) -> Scores:
    """The same evaluation, as that of another encoder of its table, the first whose name begins so."""
    name = next(record.encoder for record in scores.records if record.encoder.startswith(prefix))
    return dataclasses.replace(scores, run=name)


def _point(row: Row) -> Point:
    benchmark, test, protocol = row.test
    return Point(
        panel=f"{benchmark}: {test}, {protocol}",
        arm=row.arm,
        num_captions=row.num_captions,
        score=row.summary.mean_per_class,
    )
