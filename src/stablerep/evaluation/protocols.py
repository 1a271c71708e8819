"""Evaluation of encoders: frozen features, probes chosen on validation, tests with intervals, baselines."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from stablerep import config as config_module
from stablerep import cost, runtime
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.evaluation.arrangement import Arrangement, GeometryConfig
from stablerep.evaluation.benchmarks import (
    BENCHMARKS,
    Benchmark,
    BenchmarkData,
    MissingDataError,
    is_benchmark,
    load_benchmark,
)
from stablerep.evaluation.classify import ProbeProtocol
from stablerep.evaluation.composition import PAIRS, Composition
from stablerep.evaluation.contract import Classified, Measure, NotMeasurableError, Subject, Tools
from stablerep.evaluation.fairness import Fairness, FairnessConfig
from stablerep.evaluation.few_shot import FewShot, FewShotConfig
from stablerep.evaluation.finetune import FineTune, FineTuneConfig
from stablerep.evaluation.intervals import GroupBootstrap
from stablerep.evaluation.public import TORCHVISION
from stablerep.evaluation.retrieval import Retrieval, RetrievalConfig
from stablerep.evaluation.scores import Measurement, Outcome, Record, Scores
from stablerep.evaluation.segmentation import Segmentation, SegmentationConfig
from stablerep.evaluation.zero_shot import ZeroShot, ZeroShotConfig
from stablerep.features import RawPixels, untrained_encoder
from stablerep.models.encoder import load_encoder
from stablerep.probes import ProbeConfig
from stablerep.run import provenance


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measure the encoder of a run on real labelled pictures, beside baselines and further runs."""

    run: tyro.conf.Positional[Path]
    """Run or encoder folder, a shipped name, an official .pth file, timm:NAME[@FILE] or open_clip:NAME@FILE."""
    world: Path | None = None
    """Folder of the icons world, for the benchmark `icons`."""
    fashion: Path | None = None
    """Folder of the fashion world, for the benchmark `fashion`."""
    benchmarks: tuple[str, ...] = ("icons",)
    """Real data to score on; docs/guides/evaluate.md lists which protocol reads which."""
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
    """Folder for scores.json and the cached features; the run folder where not given."""

    def __post_init__(self) -> None:
        for name, asked, known in (
            ("benchmarks", self.benchmarks, _every_benchmark(self)),
            ("protocols", self.protocols, tuple(PROTOCOLS)),
        ):
            any_of_torchvision = TORCHVISION if name == "benchmarks" else " "
            wrong = [item for item in asked if item not in known and not item.startswith(any_of_torchvision)]
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


@dataclass(frozen=True)
class _Result:
    """One encoder under one protocol on one benchmark of pictures with classes."""

    subject: Subject
    classified: Classified
    protocol: str
    settings: Mapping[str, Any]
    outcomes: dict[str, Outcome]


@dataclass
class _Found:
    """What was measured so far."""

    records: list[Record] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    sizes: dict[str, Mapping[str, int]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def evaluate(config: EvaluateConfig, *, console: Console = Console(quiet=True)) -> Scores:  # noqa: B008
    """Score the run, baselines and further runs on every benchmark; write scores.json and return its content.

    A benchmark whose data are missing, or a protocol that does not apply, is reported in ``skipped`` with a sentence,
    never as a score. Features are cached by content below ``features/`` beside the scores. Raises ``UserError`` where
    nothing can run.
    """
    out = _out_folder(config)
    with cost.metered("evaluate", out / cost.FILE):
        scores = _score(config, out, console)
        console.say(f"scores of {scores.run}: {scores.write(out)}")
    return scores


def _score(config: EvaluateConfig, out: Path, console: Console) -> Scores:
    """Every benchmark, by every protocol."""
    subjects = _subjects(config)
    tools = Tools(
        cache=out / "features",
        batch_size=config.batch_size,
        precision=config.precision,
        device=config.device,
        seed=config.seed,
        num_bootstrap=config.num_bootstrap,
        console=console,
        download=config.download,
    )
    found = _Found()
    for name in config.benchmarks:
        _measure_benchmark(name, subjects, config, tools, found)
    if not found.records and not found.measurements:
        raise UserError("nothing to evaluate: " + "; ".join(found.skipped.values()))
    return Scores(
        run=subjects[0].name,
        path=str(config.run),
        config=config_module.to_dict(config),
        precision=_precision(config),
        benchmarks=found.sizes,
        skipped=found.skipped,
        provenance=provenance(),
        records=tuple(found.records),
        outcomes=tuple(found.outcomes),
        measurements=tuple(found.measurements),
    )


def _measure_benchmark(
    name: str, subjects: Sequence[Subject], config: EvaluateConfig, tools: Tools, found: _Found
) -> None:
    """All protocols on one benchmark; what cannot run says so."""
    measures = {protocol: PROTOCOLS[protocol](config) for protocol in config.protocols}
    data: dict[str, Any] = {}
    for protocol, measure in measures.items():
        if name not in measure.benchmarks and not (measure.benchmarks is BENCHMARKS and is_benchmark(name)):
            _skip(found, tools, f"{name}: {protocol}", _cannot(protocol, name, measure))
            continue
        try:
            data[protocol] = _loaded(name, measure, config, data)
        except MissingDataError as error:
            _skip(found, tools, name, str(error))
    results: list[_Result] = []
    for subject in subjects if data else ():
        for protocol in data:
            measure = measures[protocol]
            if subject.kind == "baseline" and not measure.trains_baselines:
                continue
            tools.console.say(f"{name}, {protocol}: {subject.name}")
            try:
                measured = measure.measure(subject, data[protocol], tools)
            except NotMeasurableError as error:
                _skip(found, tools, f"{name}: {protocol}: {subject.name}", f"{protocol}: {error}")
                continue
            if isinstance(measured, Classified):
                outcomes = _outcomes(measured, subject, data[protocol], protocol)
                results.append(_Result(subject, measured, protocol, measure.settings, outcomes))
            else:
                found.measurements += measured
    for benchmark in data.values():
        if isinstance(benchmark, Benchmark):
            found.sizes[name] = _sizes(benchmark)
            found.records += [] if benchmark.several else _records(results, benchmark, config)
            found.outcomes += [outcome for result in results for outcome in result.outcomes.values()]
            break


def _loaded(name: str, measure: Measure, config: EvaluateConfig, loaded: Mapping[str, Any]) -> Any:
    """The data of a benchmark; protocols that read the same pictures share them."""
    where = BenchmarkData(
        world=config.world,
        fashion=config.fashion,
        num_train=config.num_train,
        folder=config.folder,
        table=config.table,
        datasets=config.datasets,
        download=config.download,
    )
    if measure.benchmarks is not BENCHMARKS:
        return measure.benchmarks[name](where)
    shared = next((data for data in loaded.values() if isinstance(data, Benchmark)), None)
    return shared or load_benchmark(name, where)


def _cannot(protocol: str, name: str, measure: Measure) -> str:
    return f"protocol {protocol} does not measure on {name}; it knows {', '.join(measure.benchmarks)}"


def _skip(found: _Found, tools: Tools, key: str, sentence: str) -> None:
    if key not in found.skipped:
        found.skipped[key] = sentence
        tools.console.say(f"skipped {sentence}")


def _outcomes(
    classified: Classified, subject: Subject, benchmark: Benchmark, protocol: str
) -> dict[str, Outcome]:
    classes = np.array(benchmark.classes)
    return {
        name: Outcome(
            benchmark=benchmark.name,
            test=name,
            encoder=subject.name,
            protocol=protocol,
            groups=np.array(split.groups),
            labels=classes[split.labels],
            predicted=classes[classified.predicted[name]],
        )
        for name, split in benchmark.tests.items()
    }


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
        subjects.append(Subject("raw pixels", "baseline", RawPixels()))
        subjects.append(Subject("untrained encoder", "baseline", untrained))
    if len({subject.name for subject in subjects}) < len(subjects):
        raise UserError(
            f"two encoders of one table have the same name among {', '.join(names)}; rename a folder"
        )
    return subjects


def _records(measured: Sequence[_Result], benchmark: Benchmark, config: EvaluateConfig) -> Iterator[Record]:
    """Test by test and protocol by protocol, the run before what it is compared with."""
    frequent = benchmark.classes[np.bincount(benchmark.train.labels).argmax()]
    for (test, split), protocol in itertools.product(benchmark.tests.items(), config.protocols):
        labels = np.array(benchmark.classes)[split.labels]
        seed = runtime.seed_for(config.seed, benchmark.name, test)
        bootstrap = GroupBootstrap(labels, split.groups, num=config.num_bootstrap, seed=seed)
        results = [result for result in measured if result.protocol == protocol]
        accuracies = [bootstrap.accuracies(result.outcomes[test].correct) for result in results]
        for result, accuracy in zip(results, accuracies, strict=True):
            is_run = result.subject.kind == "run"
            yield Record(
                benchmark=benchmark.name,
                test=test,
                encoder=result.subject.name,
                kind=result.subject.kind,
                fingerprint=result.subject.encoder.fingerprint,
                protocol=protocol,
                mean_per_class=accuracy.interval("mean_per_class"),
                top1=accuracy.interval("top1"),
                ahead=None if is_run else accuracies[0].ahead_of(accuracy, "mean_per_class"),
                num_pictures=len(split),
                num_groups=bootstrap.num_groups,
                num_classes=bootstrap.num_classes,
                chance_mean_per_class=1 / len(benchmark.classes),
                chance_top1=float((labels == frequent).mean()),
                chosen=result.classified.chosen,
                chosen_on=result.classified.chosen_on,
                validation_accuracy=result.classified.validation_accuracy,
                note=result.classified.note,
                metric=benchmark.metric,
                settings={**result.settings, **result.classified.used},
                official=result.classified.official.get(test, {}),
            )


def _sizes(benchmark: Benchmark) -> dict[str, int]:
    splits = [benchmark.train, benchmark.validation, *benchmark.tests.values()]
    return {
        "num_train": len(benchmark.train),
        "num_validation": len(benchmark.validation),
        "num_classes": len(benchmark.classes),
        "num_left_out": sum(split.num_left_out for split in splits),
    }


def _precision(config: EvaluateConfig) -> str:
    dtype = runtime.pick_precision(config.precision, runtime.pick_device(config.device))
    return str(dtype).removeprefix("torch.")
