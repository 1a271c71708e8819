"""Evaluation of encoders: frozen features, probes chosen on validation, tests with intervals, baselines."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tyro

from stablerep import config as config_module
from stablerep import runtime
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.evaluation.benchmarks import (
    BENCHMARKS,
    Benchmark,
    BenchmarkData,
    MissingDataError,
    Split,
    load_benchmark,
)
from stablerep.evaluation.intervals import GroupBootstrap
from stablerep.evaluation.scores import Kind, Outcome, Record, Scores
from stablerep.features import FrozenEncoder, RawPixels, extract, untrained_encoder
from stablerep.models.encoder import load_encoder
from stablerep.probes import PROBES, Labelled, Probe, ProbeConfig
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
    """Real labelled data to score on: icons, fashion, digits."""
    protocols: tuple[str, ...] = ("knn", "linear")
    """Probes on the frozen features: knn, linear."""
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
    download: bool = False
    """Fetch weights that are only named (timm:NAME, open_clip:NAME/TAG) from the hub."""
    out: Path | None = None
    """Folder for scores.json and the cached features; the run folder where not given."""

    def __post_init__(self) -> None:
        for name, asked, known in (
            ("benchmarks", self.benchmarks, BENCHMARKS),
            ("protocols", self.protocols, PROBES),
        ):
            wrong = [item for item in asked if item not in known]
            if wrong or not asked:
                raise ValueError(f"{name} must be among {', '.join(known)}, got {', '.join(wrong) or 'none'}")
        if min(self.num_bootstrap, self.batch_size) < 1:
            raise ValueError("num_bootstrap and batch_size must be positive")


@dataclass(frozen=True)
class _Candidate:
    name: str
    kind: Kind
    encoder: FrozenEncoder


@dataclass(frozen=True)
class _Measured:
    """One candidate under one protocol: the fitted probe, and its outcome in each test."""

    candidate: _Candidate
    probe: Probe
    outcomes: dict[str, Outcome]


def evaluate(config: EvaluateConfig, *, console: Console = Console(quiet=True)) -> Scores:  # noqa: B008
    """Score the run, baselines and further runs on every benchmark; write scores.json and return its content.

    A benchmark whose data are missing is reported in ``skipped`` with a sentence, never as a score. Features
    are cached by content below ``features/`` beside the scores. Raises ``UserError`` where nothing can run.
    """
    out = _out_folder(config)
    candidates = _candidates(config)
    benchmarks, skipped = _benchmarks(config, console)
    records: list[Record] = []
    outcomes: list[Outcome] = []
    for benchmark in benchmarks:
        measured = [
            result
            for candidate in candidates
            for result in _measure(candidate, benchmark, config, out / "features", console)
        ]
        records += _records(measured, benchmark, config)
        outcomes += [outcome for result in measured for outcome in result.outcomes.values()]
    scores = Scores(
        run=candidates[0].name,
        path=str(config.run),
        config=config_module.to_dict(config),
        precision=_precision(config),
        benchmarks={benchmark.name: _sizes(benchmark) for benchmark in benchmarks},
        skipped=skipped,
        provenance=provenance(),
        records=tuple(records),
        outcomes=tuple(outcomes),
    )
    console.say(f"scores of {scores.run}: {scores.write(out)}")
    return scores


def _out_folder(config: EvaluateConfig) -> Path:
    if config.out is None and not config.run.is_dir():
        raise UserError(f"{config.run} is not a folder, so its scores need a place: give --out")
    out = config.out or config.run
    if out.resolve() != config.run.resolve() and (out / "run.json").exists():
        raise UserError(
            f"{out} is the folder of another run, whose scores go there; give --out another folder"
        )
    return out


def _candidates(config: EvaluateConfig) -> list[_Candidate]:
    """The run first, then further runs, then the baselines, with distinct names."""
    device = runtime.pick_device(config.device)
    own = load_encoder(config.run, device, download=config.download)
    further = [(path, load_encoder(path, device, download=config.download)) for path in config.also]
    names = [config.run.resolve().name, *(path.resolve().name for path, _ in further)]
    if len(set(names)) < len(names):
        names = [str(config.run), *(str(path) for path, _ in further)]
    candidates = [_Candidate(names[0], "run", own)]
    candidates += [
        _Candidate(name, "further run", encoder)
        for name, (_, encoder) in zip(names[1:], further, strict=True)
    ]
    if config.baselines:
        untrained = untrained_encoder(own.config, config.seed).to(device)
        candidates.append(_Candidate("raw pixels", "baseline", RawPixels()))
        candidates.append(_Candidate("untrained encoder", "baseline", untrained))
    if len({candidate.name for candidate in candidates}) < len(candidates):
        raise UserError(
            f"two encoders of one table have the same name among {', '.join(names)}; rename a folder"
        )
    return candidates


def _benchmarks(config: EvaluateConfig, console: Console) -> tuple[list[Benchmark], dict[str, str]]:
    data = BenchmarkData(world=config.world, fashion=config.fashion, num_train=config.num_train)
    benchmarks: list[Benchmark] = []
    skipped: dict[str, str] = {}
    for name in config.benchmarks:
        try:
            benchmarks.append(load_benchmark(name, data))
        except MissingDataError as error:
            skipped[name] = str(error)
            console.say(f"skipped {error}")
    if not benchmarks:
        raise UserError("nothing to evaluate: " + "; ".join(skipped.values()))
    return benchmarks, skipped


def _measure(
    candidate: _Candidate, benchmark: Benchmark, config: EvaluateConfig, cache: Path, console: Console
) -> Iterator[_Measured]:
    console.say(f"{benchmark.name}: {candidate.name}")

    def labelled(split: Split) -> Labelled:
        features = extract(
            candidate.encoder,
            split.images,
            batch_size=config.batch_size,
            precision=config.precision,
            cache=cache,
            console=console,
        )
        return Labelled(features, split.labels)

    train, validation = labelled(benchmark.train), labelled(benchmark.validation)
    tests = {name: labelled(split) for name, split in benchmark.tests.items()}
    classes = np.array(benchmark.classes)
    for protocol in config.protocols:
        probe = PROBES[protocol](train, validation, len(classes), config.probe)
        outcomes = {
            name: Outcome(
                benchmark=benchmark.name,
                test=name,
                encoder=candidate.name,
                protocol=protocol,
                groups=np.array(benchmark.tests[name].groups),
                labels=classes[test.labels],
                predicted=classes[probe.probabilities(test.features).argmax(1)],
            )
            for name, test in tests.items()
        }
        yield _Measured(candidate, probe, outcomes)


def _records(measured: Sequence[_Measured], benchmark: Benchmark, config: EvaluateConfig) -> Iterator[Record]:
    """Test by test and protocol by protocol, the run before what it is compared with."""
    frequent = benchmark.classes[np.bincount(benchmark.train.labels).argmax()]
    for (test, split), protocol in itertools.product(benchmark.tests.items(), config.protocols):
        labels = np.array(benchmark.classes)[split.labels]
        seed = runtime.seed_for(config.seed, benchmark.name, test)
        bootstrap = GroupBootstrap(labels, split.groups, num=config.num_bootstrap, seed=seed)
        results = [result for result in measured if result.outcomes[test].protocol == protocol]
        accuracies = [bootstrap.accuracies(result.outcomes[test].correct) for result in results]
        for result, accuracy in zip(results, accuracies, strict=True):
            is_run = result.candidate.kind == "run"
            yield Record(
                benchmark=benchmark.name,
                test=test,
                encoder=result.candidate.name,
                kind=result.candidate.kind,
                fingerprint=result.candidate.encoder.fingerprint,
                protocol=protocol,
                mean_per_class=accuracy.interval("mean_per_class"),
                top1=accuracy.interval("top1"),
                ahead=None if is_run else accuracies[0].ahead_of(accuracy, "mean_per_class"),
                num_pictures=len(split),
                num_groups=bootstrap.num_groups,
                num_classes=bootstrap.num_classes,
                chance_mean_per_class=1 / len(benchmark.classes),
                chance_top1=float((labels == frequent).mean()),
                chosen=result.probe.chosen,
                chosen_on="validation",
                validation_accuracy=result.probe.validation_accuracy,
                note=result.probe.note,
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
