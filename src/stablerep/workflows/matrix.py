"""What a comparison is asked for, and its runs: folders are named, and those that are empty filled."""

import bisect
import contextlib
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

import tyro

from stablerep import config as config_module
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
from stablerep.locks import BusyError, alone
from stablerep.models.encoder import load_encoder
from stablerep.run import read_json, write_text
from stablerep.workflows.compare_results import prefix_of
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


_MEASURED = "measured.json"
"""Beside the scores of a table: what they were measured of."""

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
    num_real: int | None = None
    """Real pictures of each caption to learn from: the first ones; all of them where not given."""
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
        for name in ("num_images", "num_real", "num_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if min(self.num_captions) < 1:
            raise ValueError(f"num_captions must be at least 1, got {min(self.num_captions)}")
        if any(rate <= 0 for rate in self.learning_rates):
            raise ValueError(f"learning_rates must be positive, got {self.learning_rates}")

    @property
    def chosen_world(self) -> str:
        """The world that was given, else the one of the recipe's name."""
        return self.world or self.settings


Cell = tuple[str, int]
"""An arm and a number of captions."""


class Matrix:
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
        self._began = time.time()
        self._trained: set[Path] = set()
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
            world = WorldConfig(name=cast(Any, config.chosen_world), out=self.world)
            with alone(config.out / ".world.lock"):
                write_world(world, console=self.console)
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

    def measure(self, num: int, seed: int, rates: Mapping[Cell, float]) -> Scores:
        """Every arm at this size and seed, and the baselines, in one table.

        Raises ``BusyError`` where another process is at a part of it, after all others were trained.
        """
        runs: list[Path] = []
        busy: list[BusyError] = []
        for arm in self.config.arms:
            try:
                runs.append(self._train(arm, self._run_config(arm, num, seed, rates.get((arm, num)))))
            except BusyError as error:
                busy.append(error)
        if busy:
            raise busy[0]
        return self._evaluate(runs, self.config.out / "scores" / f"{num}-captions-seed-{seed}", {})

    def reached(self, arm: str, num: int, rate: float) -> float | None:
        """What a learning rate reaches on validation, None where the loss did not stay finite."""
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

    def _train(self, arm: str, run: TrainConfig) -> Path:
        if run.out not in self._trained:
            train(arm.partition(":")[0], run, console=self.console)
            self._trained.add(run.out)
        return run.out

    def _evaluate(self, runs: Sequence[Path], out: Path, more: Mapping[str, Any]) -> Scores:
        """Baselines are drawn with one seed, so that only the runs differ from table to table."""
        asked = self._measuring({"run": runs[0], "also": list(runs[1:]), "out": out, **more})
        measured = {
            "config": config_module.to_dict(asked),
            "encoders": [load_encoder(run).fingerprint for run in runs],
        }
        with alone(out / ".measure.lock", f"{out}: another process measures there"):
            if self._did_another(out / _MEASURED, measured):
                return Scores.read(out)
            scores = evaluate(asked, console=self.console, known=self.known)
            write_text(out / _MEASURED, json.dumps(measured, indent=2) + "\n")
        return scores

    def _did_another(self, path: Path, measured: Mapping[str, Any]) -> bool:
        """Whether a process beside this one has measured the same; what is older is measured again."""
        is_new = path.exists() and path.stat().st_mtime >= self._began
        return is_new and bool(read_json(path) == json.loads(json.dumps(measured)))

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
        if source != "painted" and self.config.num_real is not None:
            data["num_real"] = self.config.num_real
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
