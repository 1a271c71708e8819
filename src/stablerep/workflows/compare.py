"""A matrix of runs under equal conditions: arms (method and source) x numbers of captions x seeds.

Every arm gets the same captions, the same number of updates and of pictures seen, and the same number of tries at its
learning rate. Every stage goes on where a stopped comparison left it.
"""

import bisect
import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

import tyro

from stablerep import config as config_module
from stablerep import runtime
from stablerep.captions.worlds import WORLDS, WorldConfig, world_of, write_world
from stablerep.console import Console
from stablerep.errors import NonFiniteError, UserError
from stablerep.evaluation.benchmarks import BenchmarkData, is_benchmark, load_benchmark
from stablerep.evaluation.classify import ProbeProtocol
from stablerep.evaluation.finetune import FineTune
from stablerep.evaluation.measuring import Known
from stablerep.evaluation.protocols import PROTOCOLS, EvaluateConfig, evaluate
from stablerep.evaluation.public import SEVERAL
from stablerep.evaluation.scores import Scores
from stablerep.evaluation.zero_shot import ZeroShot
from stablerep.generation.execute import GenerateConfig, generate
from stablerep.learning.data import ViewSource
from stablerep.learning.methods import METHODS, train
from stablerep.learning.trainer import TrainConfig
from stablerep.report.comparison import draw_comparison
from stablerep.run import provenance, write_text
from stablerep.workflows.compare_results import (
    Comparison,
    MetricRow,
    Row,
    metric_rows_of,
    prefix_of,
    rows_of,
)
from stablerep.workflows.conditions import (
    Views,
    captions_to_paint,
    had_by_all,
    refuse_too_few,
    refuse_unequal,
    usable_captions,
    without,
)
from stablerep.workflows.recipe import Recipe

_FURTHER = 64
"""Captions painted in place of failed ones, without one that can be used, after which no more are tried."""


Source = Literal["real", "painted", "both"]


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Which methods learn from which pictures, and how often; everything else comes from the settings recipe."""

    settings: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")] = "icons"
    """Recipe, by name or path, that says how to paint, how each method trains, and on what it is measured."""
    out: Path
    """Folder of the comparison; a stopped one goes on from what is there, and arms, seeds or sizes may be added."""
    world: str | None = None
    """Captions and real pictures: an embedded world by name, a folder that `stablerep world` wrote, or a folder with a
    captions.lance and an images.lance of your own; where not given, the embedded world of the recipe's name."""
    arms: tuple[str, ...] = ("simclr:real", "stablerep:painted")
    """METHOD:SOURCE each, with a source among real, painted, both; differences are taken to the first."""
    num_captions: tuple[int, ...] = (1000,)
    """Numbers of captions to learn from; the smaller sets are parts of the larger ones."""
    num_images: int = 4
    """Pictures painted per caption (K), and learned from: the first that pass the filters, where there are more."""
    painted: Path | None = None
    """Table to paint into and to learn from, so that comparisons can share it; images.lance of the folder where not
    given."""
    num_steps: int = 1000
    """Updates of the weights of every run."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Run seeds: weights, order, views. The pictures are painted once, with the first."""
    learning_rates: tuple[float, ...] = ()
    """Peak learning rates that every arm tries with the first seed, at each size; the best by linear probe on the
    validation pictures of the world is used. Each arm's own where empty."""
    download: bool = False
    """Fetch what the recipe only names and is not there: the teacher, and public data sets to measure on."""

    def __post_init__(self) -> None:
        if self.world is None and self.settings not in WORLDS:
            config_module.read_recipe(self.settings)  # that there is none is said first
            raise ValueError(
                f"world must name {', '.join(WORLDS)}, or a folder of captions and real pictures: recipe "
                f"{self.settings} is not named like a world"
            )
        learners = [name for name, entry in METHODS.items() if entry.learns_encoder]
        for arm in self.arms:
            method, _, source = arm.partition(":")
            if method not in learners or source not in get_args(Source):
                raise ValueError(
                    f"arms must be METHOD:SOURCE with a method of {', '.join(learners)} and a source of "
                    f"{', '.join(get_args(Source))}, got {arm!r}"
                )
        for name in ("arms", "num_captions", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} must hold different values, got {values}")
        for name in ("num_images", "num_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if min(self.num_captions) < 1:
            raise ValueError(f"num_captions must be at least 1, got {min(self.num_captions)}")
        if any(rate <= 0 for rate in self.learning_rates):
            raise ValueError(f"learning_rates must be positive, got {self.learning_rates}")

    @property
    def chosen_world(self) -> str:
        """The world that was given, else the one of the recipe's name."""
        return self.world or self.settings


def compare(
    config: CompareConfig,
    *,
    console: Console = Console(quiet=True),  # noqa: B008
    known: Known | None = None,
) -> Comparison:
    """Paint, train, measure and summarise what is missing; writes compare.json and compare.png.

    ``known`` gathers what is found of baselines, which further comparisons on the same data need not measure again.
    Raises ``UserError`` where the arms cannot see the same captions or the same number of pictures, and where no
    protocol of the recipe can measure them, before anything is painted as far as that can be known.
    """
    runtime.require_one_process()
    matrix = _Matrix(config, {} if known is None else known, console)
    matrix.check_protocols()
    matrix.prepare()
    cells = [(arm, num) for num in config.num_captions for arm in config.arms]
    searched = {cell: matrix.search(*cell) for cell in cells} if config.learning_rates else {}
    rates = {cell: _best(cell, reached) for cell, reached in searched.items()}
    rows: list[Row] = []
    metrics: list[MetricRow] = []
    for num in config.num_captions:
        scores = [matrix.measure(num, seed, rates) for seed in config.seeds]
        rows += rows_of(config.arms, num, scores)
        metrics += metric_rows_of(config.arms, num, scores)
    if not rows:
        raise UserError(
            f"recipe {config.settings}: no protocol gave accuracies on its benchmarks; what was measured is in "
            f"{config.out / 'scores'}; add the benchmark of the world to [evaluate]"
        )
    found = Comparison(
        path=config.out / "compare.json",
        figure=draw_comparison([row.point for row in rows], config.out / "compare.png"),
        views_per_step={f"{arm} {num}": matrix.views[arm, num].counting for arm, num in cells},
        searched={
            f"{arm} {num}": {f"{rate:g}": accuracy for rate, accuracy in reached.items()}
            for (arm, num), reached in searched.items()
        },
        learning_rates={f"{arm} {num}": rate for (arm, num), rate in rates.items()},
        rows_found=tuple(rows),
        metrics_found=tuple(metrics),
    )
    asked = config_module.to_dict(config) | {"world": config.chosen_world}
    content = {"config": asked, "provenance": provenance(), **found.to_json()}
    write_text(found.path, json.dumps(content, indent=2) + "\n")
    console.say(f"{found.path}, {found.figure}")
    return found


Cell = tuple[str, int]
"""An arm and a number of captions."""


class _Matrix:
    """Names the folders of a comparison and fills those that are empty."""

    def __init__(self, config: CompareConfig, known: Known, console: Console) -> None:
        self.config, self.known, self.console = config, known, console
        self.is_embedded = config.chosen_world in WORLDS
        self.world = config.out / "world" if self.is_embedded else Path(config.chosen_world)
        self.painted = config.painted or config.out / "images.lance"
        self.recipe = Recipe.read(config.settings, "compare")
        # What is no world is refused now, not when the first run is measured.
        self.benchmark = config.chosen_world if self.is_embedded else world_of(self.world)
        """That of the world's name, by which learning rates are chosen; of a user's own the first of the recipe."""
        self.views: Mapping[Cell, Views] = {}
        """Pictures of a step; of arms whose pictures are not there yet, as many as if no painting failed."""
        self._having: dict[str, frozenset[str]] = {}
        """Captions with usable pictures, of arms whose pictures are there, and those that are to be painted."""
        self._captions: list[str] = []
        """Those that all arms have, in the order of their ids."""

    def check_protocols(self) -> None:
        """Refuse a recipe by which some arm would have no accuracy, which else would show after all training."""
        asked = self._measuring({"run": self.config.out})
        measured = [name for name in asked.benchmarks if is_benchmark(name) and name not in SEVERAL]
        measured = [name for name in measured if name not in WORLDS or name == self.benchmark]
        naming = [
            name
            for name in asked.protocols
            if isinstance(PROTOCOLS[name](asked), ProbeProtocol | FineTune | ZeroShot)
        ]
        if not naming or not measured:
            raise UserError(
                f"recipe {self.config.settings}: none of [evaluate] protocols ({', '.join(asked.protocols)}) names "
                f"classes on one of its benchmarks ({', '.join(asked.benchmarks)}) that {self.config.chosen_world} has "
                f"pictures for, and accuracies are compared; add linear or knn, and {self.benchmark or 'table'}"
            )
        if self.benchmark is None:
            self.benchmark = measured[0]
            data = BenchmarkData(
                folder=asked.folder, table=asked.table, datasets=asked.datasets, download=asked.download
            )
            load_benchmark(self.benchmark, data)
        blind = [arm for arm in self.config.arms if not self._reads_text(arm)]
        if blind and naming == ["zero-shot"]:
            raise UserError(
                f"recipe {self.config.settings}: of [evaluate] protocols only zero-shot names classes, and "
                f"{', '.join(blind)} reads no text; add linear or knn"
            )

    def prepare(self) -> None:
        """The world's tables, the pictures that painted arms learn from, and the captions that all arms have."""
        config, most = self.config, max(self.config.num_captions)
        if self.is_embedded:
            write_world(
                WorldConfig(name=cast(Any, config.chosen_world), out=self.world), console=self.console
            )
        real = [arm for arm in config.arms if arm.endswith(":real")]
        order = captions_to_paint(self._painting()) if len(real) < len(config.arms) else []
        if order:
            self._having["to be painted"] = frozenset(order)
        self._look(real)
        refuse_too_few(self._having, most, config.settings)
        self._captions = had_by_all(self._having)
        self._check_views()
        if order:
            self._paint(order, most)
            self._check_views()

    def search(self, arm: str, num: int) -> dict[float, float | None]:
        """What each learning rate reaches on validation, None where the loss did not stay finite."""
        return {rate: self._reached(arm, num, rate) for rate in self.config.learning_rates}

    def measure(self, num: int, seed: int, rates: Mapping[Cell, float]) -> Scores:
        """Every arm at this size and seed, and the baselines, in one table."""
        runs = [
            self._train(arm, self._run_config(arm, num, seed, rates.get((arm, num))))
            for arm in self.config.arms
        ]
        return self._evaluate(runs, self.config.out / "scores" / f"{num}-captions-seed-{seed}", {})

    def _paint(self, order: Sequence[str], most: int) -> None:
        """Paint until all arms have as many captions as are asked for: where all paintings of one failed, the next.

        ``UserError`` where further ones do not help, as those that an audit would have to judge first.
        """
        candidates, num, before, further = self._captions, most, -1, 0
        while True:
            limit = bisect.bisect_right(order, candidates[num - 1])
            generate(dataclasses.replace(self._painting(), limit=limit), console=self.console)
            self._look(self.config.arms)
            self._captions = had_by_all(self._having)
            if len(self._captions) >= most:
                return
            is_fruitless = len(self._captions) <= before and further >= _FURTHER
            if num == len(candidates) or is_fruitless:
                refuse_too_few(self._having, most, self.config.settings)
            further = max(2 * further, most - len(self._captions))
            before, num = len(self._captions), min(len(candidates), num + further)

    def _look(self, arms: Sequence[str]) -> None:
        """Note of which captions these arms have usable pictures."""
        for arm in arms:
            self._having[arm] = usable_captions(self._made(arm, 1, 0, None).data)

    def _check_views(self) -> None:
        """Refuse arms that would not see equally many pictures."""
        for num in self.config.num_captions:
            runs = {arm: self._run_config(arm, num, self.config.seeds[0], None) for arm in self.config.arms}
            seen = {arm: self._views_of(arm, run) for arm, run in runs.items()}
            self.views = {**self.views, **{(arm, num): views for arm, views in seen.items()}}
            # Real pictures beside too few painted ones may make up for them, which shows when these are there.
            unknown = {arm for arm in seen if arm.endswith(":both") and arm not in self._having}
            certain = {arm: views for arm, views in seen.items() if views.share == 1 or arm not in unknown}
            refuse_unequal(certain, self.config.settings)

    def _views_of(self, arm: str, run: TrainConfig) -> Views:
        if arm in self._having:
            return Views(run.images_per_step, ViewSource(run.data, seed=run.seed).share_that_counts)
        return Views(run.images_per_step, min(1.0, self.config.num_images / run.data.images_per_caption))

    def _reached(self, arm: str, num: int, rate: float) -> float | None:
        run = self._run_config(arm, num, self.config.seeds[0], rate)
        with contextlib.suppress(NonFiniteError):
            if not _diverged(run.out):
                self._train(arm, run)
        if _diverged(run.out):
            self.console.say(f"{run.out}: the loss did not stay finite, so this learning rate loses")
            return None
        own = {"benchmarks": [self.benchmark], "protocols": ["linear"], "baselines": False}
        record = self._evaluate([run.out], self.config.out / "search" / run.out.name, own).records[0]
        assert record.validation_accuracy is not None  # by which a linear probe chooses
        return record.validation_accuracy

    def _train(self, arm: str, run: TrainConfig) -> Path:
        return train(arm.partition(":")[0], run, console=self.console).run

    def _evaluate(self, runs: Sequence[Path], out: Path, more: Mapping[str, Any]) -> Scores:
        """Baselines are drawn with one seed, so that only the runs differ from table to table."""
        settings = {"run": runs[0], "also": list(runs[1:]), "out": out}
        return evaluate(self._measuring({**settings, **more}), console=self.console, known=self.known)

    def _measuring(self, settings: Mapping[str, Any]) -> EvaluateConfig:
        """What the recipe says of measuring; where it is silent, geometry is measured beside accuracies."""
        silent = {
            "protocols": [*EvaluateConfig.protocols, "geometry"],
            "table": self.world / "images.lance",
        }
        place = {"icons": "world", "fashion": "fashion"}.get(self.benchmark or "")
        given = {**settings, **self._fetching, **({} if place is None else {place: self.world})}
        return self.recipe.configure(EvaluateConfig, ("evaluate",), given, silent=silent)

    def _run_config(self, arm: str, num: int, seed: int, rate: float | None) -> TrainConfig:
        """A run of this arm on the captions that all arms have."""
        made = self._made(arm, num, seed, rate)
        shared, having = set(self._captions[:num]), self._having.get(arm, frozenset())
        left_out = sorted(
            caption for caption in having - shared if caption < self._captions[num - 1]
        )  # those that follow are beyond num_captions
        return dataclasses.replace(made, data=without(made.data, left_out))

    def _made(self, arm: str, num: int, seed: int, rate: float | None) -> TrainConfig:
        """A run of this arm on the captions of its own pictures."""
        method, _, source = arm.partition(":")
        tables = {"real": [self.world / "images.lance"], "painted": [self.painted]}
        data: dict[str, Any] = {
            "images": tables.get(source) or [*tables["painted"], *tables["real"]],
            "captions": self.world / "captions.lance",
            "num_captions": num,
        }
        if source != "real":
            data["num_painted"] = self.config.num_images
        name = prefix_of(arm, num) + f"{seed}" + ("" if rate is None else f"-lr-{rate:g}")
        settings: dict[str, Any] = {
            "out": self.config.out / "runs" / name,
            "num_steps": self.config.num_steps,
            "seed": seed,
            "data": data,
        }
        if rate is not None:
            settings["optim"] = {"lr": rate}
        return self.recipe.configure(METHODS[method].config, ("train", method), settings)

    def _painting(self) -> GenerateConfig:
        settings = {
            "captions": self.world / "captions.lance",
            "out": self.painted,
            "num_images": self.config.num_images,
            "seed": self.config.seeds[0],
            **self._fetching,
        }
        return self.recipe.configure(GenerateConfig, ("generate",), settings)

    @property
    def _fetching(self) -> Mapping[str, bool]:
        """Of what may be fetched: where the command does not ask for it, the recipe may."""
        return {"download": True} if self.config.download else {}

    def _reads_text(self, arm: str) -> bool:
        made = self._made(arm, self.config.num_captions[0], self.config.seeds[0], None)
        return hasattr(getattr(made, "method", None), "text")


def _diverged(run: Path) -> bool:
    """Whether training stopped there because the loss did not stay finite; the trainer then leaves the step behind."""
    return any(run.glob("nonfinite-rank*.pt"))


def _best(cell: Cell, reached: Mapping[float, float | None]) -> float:
    finite = {rate: accuracy for rate, accuracy in reached.items() if accuracy is not None}
    if not finite:
        raise UserError(
            f"{cell[0]} with {cell[1]} captions: the loss did not stay finite at any learning rate of "
            f"{', '.join(f'{rate:g}' for rate in reached)}; try smaller ones (--learning-rates)"
        )
    return max(finite, key=finite.__getitem__)
