"""Evaluation of encoders: frozen features, probes chosen on validation, tests with intervals, baselines."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tyro

from stablerep import config as config_module
from stablerep import cost, runtime
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.evaluation.arrangement import Arrangement, GeometryConfig
from stablerep.evaluation.benchmarks import BENCHMARKS, BenchmarkData, is_benchmark, of_world
from stablerep.evaluation.classify import ProbeProtocol
from stablerep.evaluation.composition import PAIRS, Composition
from stablerep.evaluation.contract import Measure, Subject, Tools
from stablerep.evaluation.earlier import Keeper
from stablerep.evaluation.fairness import Fairness, FairnessConfig
from stablerep.evaluation.few_shot import FewShot, FewShotConfig
from stablerep.evaluation.finetune import FineTune, FineTuneConfig
from stablerep.evaluation.measuring import Found, Known, Measuring
from stablerep.evaluation.retrieval import Retrieval, RetrievalConfig
from stablerep.evaluation.scores import RAW, UNTRAINED, Scores, in_order
from stablerep.evaluation.segmentation import Segmentation, SegmentationConfig
from stablerep.evaluation.zero_shot import ZeroShot, ZeroShotConfig
from stablerep.features import RawPixels, untrained_encoder
from stablerep.models.encoder import Resize, load_encoder
from stablerep.probes import ProbeConfig
from stablerep.run import provenance


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measure the encoder of a run on real labelled pictures, beside baselines and further runs."""

    run: tyro.conf.Positional[Path]
    """Run or encoder folder, a shipped name, an official .pth file, timm:NAME[@FILE] or open_clip:NAME@FILE."""
    world: Path | None = None
    """Folder of a world, for the benchmark of its name: `icons` or `fashion`."""
    fashion: Path | None = None
    """Folder of the fashion world, where --world is the icons world."""
    benchmarks: tuple[str, ...] = ("icons",)
    """Real data to score on; docs/guides/evaluate.md lists which protocol reads which. With the fashion world alone
    `icons` stands for `fashion`."""
    protocols: tuple[str, ...] = ("knn", "linear")
    """How to measure: knn, linear, logistic, sgd, sgd-bn, few-shot, fine-tune, zero-shot, retrieval,
    composition, segmentation, fairness, geometry."""
    folder: Path | None = None
    """Folder of class folders (train/CLASS/..., test/CLASS/..., perhaps val/CLASS/...), for the benchmark `folder`."""
    table: Path | None = None
    """Image table with labels and splits, for the benchmark `table`."""
    datasets: Path | None = None
    """Folder that holds public data sets, each in its own layout."""
    download: bool = False
    """Fetch what is only named and not there: weights (timm:NAME, open_clip:NAME/TAG) and public data sets."""
    baselines: bool = True
    """Score raw pixels and the untrained encoder of the same architecture in the same table."""
    also: tuple[Path, ...] = ()
    """Further runs for the same table, such as SimCLR on as many real pictures."""
    num_train: int | None = None
    """At most so many labelled training pictures, the first in hash order; all where not given."""
    num_bootstrap: int = 1000
    """Replicates of the bootstrap over groups."""
    seed: int = 0
    """Seed of the bootstrap and of the untrained encoder."""
    batch_size: int = 256
    """Pictures per forward pass."""
    resize: Resize | None = None
    """How a picture becomes square: squash resizes each side by itself, crop takes the centre as published for `sgd`
    (square pictures stay whole); where not given, crop for `sgd` and `sgd-bn`, and squash for the others."""
    precision: runtime.Precision = "auto"
    """Number format of the forward pass; auto takes bfloat16 where it is faster."""
    device: str = "auto"
    """Where the encoders run: auto, cpu, cuda, mps."""
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    """Settings of the probes."""
    few_shot: FewShotConfig = field(default_factory=FewShotConfig)
    """Settings of `few-shot`."""
    fine_tune: FineTuneConfig = field(default_factory=FineTuneConfig)
    """Settings of `fine-tune`."""
    zero_shot: ZeroShotConfig = field(default_factory=ZeroShotConfig)
    """Settings of `zero-shot`."""
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    """Settings of `retrieval`."""
    segmentation: SegmentationConfig = field(default_factory=SegmentationConfig)
    """Settings of `segmentation`."""
    fairness: FairnessConfig = field(default_factory=FairnessConfig)
    """Settings of `fairness`."""
    geometry: GeometryConfig = field(default_factory=GeometryConfig)
    """Settings of `geometry`."""
    out: Path | None = None
    """Folder for scores.json and the cached features, beside the scores of earlier evaluations; the run folder where
    not given."""

    def __post_init__(self) -> None:
        for name, asked, known in (
            ("benchmarks", self.benchmarks, _every_benchmark(self)),
            ("protocols", self.protocols, tuple(PROTOCOLS)),
        ):
            wrong = [
                item
                for item in asked
                if item not in known and not (name == "benchmarks" and is_benchmark(item))
            ]
            if wrong or not asked:
                raise ValueError(f"{name} must be among {', '.join(known)}, got {', '.join(wrong) or 'none'}")
        if min(self.num_bootstrap, self.batch_size) < 1:
            raise ValueError("num_bootstrap and batch_size must be positive")


def _every_benchmark(config: EvaluateConfig) -> tuple[str, ...]:
    """What any protocol can measure on."""
    names = [name for protocol in PROTOCOLS.values() for name in protocol(config).benchmarks]
    return tuple(dict.fromkeys([*BENCHMARKS, *names]))


PROTOCOLS: Mapping[str, Callable[[EvaluateConfig], Measure]] = {
    "knn": lambda config: ProbeProtocol("knn", config.probe),
    "linear": lambda config: ProbeProtocol("linear", config.probe),
    "logistic": lambda config: ProbeProtocol("logistic", config.probe),
    "sgd": lambda config: ProbeProtocol("sgd", config.probe),
    "sgd-bn": lambda config: ProbeProtocol("sgd-bn", config.probe),
    "few-shot": lambda config: FewShot(config.few_shot),
    "fine-tune": lambda config: FineTune(config.fine_tune),
    "zero-shot": lambda config: ZeroShot(config.zero_shot),
    "retrieval": lambda config: Retrieval(config.retrieval),
    "composition": lambda _: Composition(PAIRS),
    "segmentation": lambda config: Segmentation(config.segmentation),
    "fairness": lambda config: Fairness(
        config.fairness,
        {"linear": ProbeProtocol("linear", config.probe), "zero-shot": ZeroShot(config.zero_shot)},
    ),
    "geometry": lambda config: Arrangement(config.geometry),
}
"""Every protocol by its name on the command line, with the settings that it takes from the configuration."""


_RESIZE: Mapping[str, Resize] = {"sgd": "crop", "sgd-bn": "crop"}
"""What published protocols do to a picture; the others squash it."""


def evaluate(
    config: EvaluateConfig,
    *,
    console: Console = Console(quiet=True),  # noqa: B008
    known: Known | None = None,
) -> Scores:
    """Score the run, baselines and further runs on every benchmark; the scores of this evaluation.

    scores.json holds them beside those of earlier evaluations that still hold (see ``earlier.Combined``), and is
    written after each encoder and protocol, so that a kill loses what was being measured and no more. A benchmark whose
    data are missing, or a protocol that does not apply, is reported in ``skipped`` with a sentence, never as a score.
    Features are cached by content below ``features/`` beside the scores. ``known`` gathers what evaluations find of
    baselines; given to the next, it spares measuring them again on the same data with the same settings.
    Raises ``UserError`` where nothing can run, or earlier scores cannot be read.
    """
    config = _in_its_world(config)
    keeper = Keeper(_out_folder(config), console)  # what cannot be kept is refused before hours of measuring
    with cost.metered("evaluate", keeper.folder / cost.FILE):
        return _score(config, keeper, {} if known is None else known, console)


def _in_its_world(config: EvaluateConfig) -> EvaluateConfig:
    """The configuration with a fashion world where its benchmark looks for it; without another one it is measured."""
    if config.world is not None and of_world(config.world) == "fashion":
        config = replace(config, world=None, fashion=config.fashion or config.world)
    if config.benchmarks == ("icons",) and config.world is None and config.fashion is not None:
        return replace(config, benchmarks=("fashion",))
    return config


def _score(config: EvaluateConfig, keeper: Keeper, known: Known, console: Console) -> Scores:
    """Every benchmark, by every protocol."""
    subjects = _subjects(config)
    encoders = {subject.name: subject.fingerprint for subject in subjects}
    of_all = _common(config, subjects[0])

    def so_far(found: Found) -> Scores:
        return Scores(
            **of_all,
            benchmarks=dict(found.sizes),
            skipped=dict(found.skipped),
            records=in_order(found.records),
            outcomes=tuple(found.outcomes),
            measurements=in_order(found.measurements),
        )

    measuring = Measuring(
        subjects=subjects,
        measures={name: PROTOCOLS[name](config) for name in config.protocols},
        data=_data(config),
        tools=_tools(config, keeper.folder, console),
        keep=lambda found: keeper.keep(so_far(found), encoders),
        resize={name: config.resize or _RESIZE.get(name, "squash") for name in config.protocols},
        known=known,
        conditions=_conditions(config),
    )
    for name in dict.fromkeys(config.benchmarks):
        measuring.on(name)
    scores = so_far(measuring.found)
    if not scores.records and not scores.measurements:
        raise UserError("nothing to evaluate: " + "; ".join(scores.skipped.values()))
    console.say(f"scores of {scores.run}: {keeper.keep(scores, encoders)}")
    return scores


def _common(config: EvaluateConfig, run: Subject) -> dict[str, Any]:
    """What the scores of an evaluation say of all of it."""
    dtype = runtime.pick_precision(config.precision, runtime.pick_device(config.device))
    return {
        "run": run.name,
        "path": str(config.run),
        "config": config_module.to_dict(config),
        "precision": str(dtype).removeprefix("torch."),
        "provenance": provenance(),
    }


def _conditions(config: EvaluateConfig) -> str:
    """All settings but those that say which runs are measured, and where the scores go."""
    settings = config_module.to_dict(config)
    return json.dumps({name: value for name, value in settings.items() if name not in ("run", "also", "out")})


def _tools(config: EvaluateConfig, out: Path, console: Console) -> Tools:
    return Tools(
        cache=out / "features",
        batch_size=config.batch_size,
        precision=config.precision,
        device=config.device,
        seed=config.seed,
        num_bootstrap=config.num_bootstrap,
        console=console,
        download=config.download,
        protocols=config.protocols,
    )


def _data(config: EvaluateConfig) -> BenchmarkData:
    return BenchmarkData(
        world=config.world,
        fashion=config.fashion,
        num_train=config.num_train,
        folder=config.folder,
        table=config.table,
        datasets=config.datasets,
        download=config.download,
    )


def _out_folder(config: EvaluateConfig) -> Path:
    if not config.run.exists() and ":" not in str(config.run) and len(config.run.parts) > 1:
        raise UserError(f"there is no run or encoder at {config.run}")
    if config.out is None and not config.run.is_dir():
        raise UserError(f"{config.run} is not a folder, so its scores need a place: give --out")
    out = config.out or config.run
    if out.resolve() != config.run.resolve() and (out / "run.json").exists():
        raise UserError(
            f"{out} is the folder of another run, whose scores go there; give --out another folder"
        )
    return out


def _subjects(config: EvaluateConfig) -> list[Subject]:
    """The run first, then further runs, then the baselines, with distinct names."""
    device = runtime.pick_device(config.device)
    own = load_encoder(config.run, device, download=config.download)
    further = [(path, load_encoder(path, device, download=config.download)) for path in config.also]
    names = [config.run.resolve().name, *(path.resolve().name for path, _ in further)]
    if len(set(names)) < len(names):
        names = [str(config.run), *(str(path) for path, _ in further)]
    subjects = [Subject(names[0], "run", own, config.run)]
    subjects += [
        Subject(name, "further run", encoder, path)
        for name, (path, encoder) in zip(names[1:], further, strict=True)
    ]
    if config.baselines:
        untrained = untrained_encoder(own.config, config.seed).to(device)
        subjects.append(Subject(RAW, "baseline", RawPixels()))
        subjects.append(Subject(UNTRAINED, "baseline", untrained))
    if len({subject.name for subject in subjects}) < len(subjects):
        raise UserError(
            f"two encoders of one table have the same name among {', '.join(names)}; rename a folder"
        )
    return subjects
