"""Evaluation of painters: does a classifier trained on real pictures see what the caption asked for?"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import tyro

from stablerep import runtime
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.evaluation.benchmarks import Benchmark, BenchmarkData, load_benchmark
from stablerep.evaluation.intervals import GroupBootstrap, Interval
from stablerep.features import FrozenEncoder, RawPixels, TableImages, extract
from stablerep.models.encoder import load_encoder
from stablerep.probes import Labelled, Probe, ProbeConfig, fit_linear, mean_per_class_accuracy
from stablerep.run import write_text
from stablerep.store import OK, REAL, CaptionTable, ImageTable

RAW_PIXELS = "raw-pixels"
_NUM_SHUFFLES = 200


@dataclass(frozen=True, kw_only=True)
class PainterConfig:
    """Measure prompt fidelity: the share of painted pictures that a judge trained on real ones names rightly."""

    images: tyro.conf.Positional[Path]
    """Table of painted pictures (images.lance)."""
    world: Path
    """Folder of the world: its real pictures train the judge, its captions say what was asked for."""
    judge: str
    """Encoder of the judge: a run, an encoder folder, a shipped name, or raw-pixels; never one that saw these
    paintings."""
    benchmark: Literal["icons", "fashion"] = "icons"
    """Which real pictures train the judge: the training split of this benchmark."""
    origin: str | None = None
    """Which painter's pictures; needed where the table holds those of several."""
    split: Literal["train", "validation", "test", "all"] = "all"
    """Captions whose pictures are judged."""
    num_bootstrap: int = 1000
    """Replicates of the bootstrap over captions."""
    seed: int = 0
    """Seed of the bootstrap and of the shuffled control."""
    batch_size: int = 256
    """Pictures per forward pass."""
    precision: runtime.Precision = "auto"
    """Number format of the forward pass; auto takes bfloat16 where it is faster."""
    device: str = "auto"
    """Where the judge runs: auto, cpu, cuda, mps."""
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    """Settings of the judge's linear probe."""
    out: Path | None = None
    """Where to write the scores; painter-scores.json beside the table where not given."""

    def __post_init__(self) -> None:
        if min(self.num_bootstrap, self.batch_size) < 1:
            raise ValueError("num_bootstrap and batch_size must be positive")


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How often the judge named painted pictures by the label of their caption."""

    mean_per_class: Interval
    """Prompt fidelity: share named rightly, mean over classes, interval over captions."""
    top1: Interval
    """Share named rightly, over all pictures."""
    shuffled: float
    """Mean per class where each caption has the label of another: what a painter that cannot read reaches."""
    num_pictures: int
    num_captions: int
    per_class: Mapping[str, float]
    """Share named rightly, by class."""


@dataclass(frozen=True, kw_only=True)
class PainterScores:
    """Prompt fidelity of one painter, beside what a perfect and a blind painter would reach."""

    origin: str
    judge: str
    judge_fingerprint: str
    judge_validation: float
    """Mean per-class accuracy of the judge on the real validation pictures, which chose its L2 constant."""
    judge_test: Interval
    """The same on the real pictures of the benchmark's first test, which chose nothing."""
    chance: float
    """One over the number of classes that the judge knows."""
    fidelity: Fidelity
    num_failed: int
    """Failed paintings: rows without a picture to judge."""
    num_not_judged: int
    """Pictures whose caption has no label, or one that the judge does not know."""

    HEADER: ClassVar[tuple[str, ...]] = ("", "share, %")

    def rows(self) -> list[list[str]]:
        """The scores as rows of text under ``HEADER``."""
        return [
            ["prompt fidelity, mean per class", self.fidelity.mean_per_class.in_percent()],
            ["prompt fidelity, all pictures", self.fidelity.top1.in_percent()],
            ["the judge on real test pictures", self.judge_test.in_percent()],
            ["the judge on real validation pictures", f"{100 * self.judge_validation:.1f}"],
            ["captions shuffled", f"{100 * self.fidelity.shuffled:.1f}"],
            ["chance", f"{100 * self.chance:.1f}"],
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain values, as written to painter-scores.json."""
        return dataclasses.asdict(self)


def evaluate_painter(config: PainterConfig, *, console: Console = Console(quiet=True)) -> PainterScores:  # noqa: B008
    """Judge the painted pictures of a table and write painter-scores.json.

    Raises ``UserError`` where no picture can be judged, or the table has several painters and none is chosen.
    """
    benchmark = load_benchmark(config.benchmark, BenchmarkData(world=config.world, fashion=config.world))
    origin, paintings = _read_paintings(config, benchmark.classes)
    judge = _train_judge(config, benchmark, console)
    named = judge.names(paintings.images, console)
    test = next(iter(benchmark.tests.values()))
    right = judge.classes[test.labels] == judge.names(test.images, console)
    reached = GroupBootstrap(test.labels, test.groups, num=config.num_bootstrap, seed=config.seed)
    scores = PainterScores(
        origin=origin,
        judge=config.judge,
        judge_fingerprint=judge.encoder.fingerprint,
        judge_validation=judge.probe.validation_accuracy,
        judge_test=reached.accuracies(right).interval("mean_per_class"),
        chance=1 / len(benchmark.classes),
        fidelity=prompt_fidelity(
            named, paintings.labels, paintings.captions, num_bootstrap=config.num_bootstrap, seed=config.seed
        ),
        num_failed=paintings.num_failed,
        num_not_judged=paintings.num_not_judged,
    )
    path = config.out or config.images.parent / "painter-scores.json"
    write_text(path, json.dumps(scores.to_json(), indent=2) + "\n")
    console.say(f"prompt fidelity of {origin}: {path}")
    return scores


def prompt_fidelity(
    named: np.ndarray, labels: np.ndarray, captions: np.ndarray, *, num_bootstrap: int = 1000, seed: int = 0
) -> Fidelity:
    """Agreement of what the judge named (M,) with the labels (M,) of the captions (M,) of M paintings."""
    bootstrap = GroupBootstrap(labels, captions, num=num_bootstrap, seed=seed)
    accuracies = bootstrap.accuracies(named == labels)
    ids, first, caption_of = np.unique(captions, return_index=True, return_inverse=True)
    rng = runtime.numpy_generator("shuffled captions", seed)
    shuffled = [
        mean_per_class_accuracy(other, named)
        for other in (rng.permutation(labels[first])[caption_of] for _ in range(_NUM_SHUFFLES))
    ]
    return Fidelity(
        mean_per_class=accuracies.interval("mean_per_class"),
        top1=accuracies.interval("top1"),
        shuffled=float(np.mean(shuffled)),
        num_pictures=len(labels),
        num_captions=len(ids),
        per_class={str(name): float((named[labels == name] == name).mean()) for name in np.unique(labels)},
    )


@dataclass(frozen=True)
class _Paintings:
    """M painted pictures with the caption and the label that were asked for."""

    images: Sequence[bytes]
    captions: np.ndarray
    labels: np.ndarray
    num_failed: int
    num_not_judged: int


@dataclass(frozen=True)
class _Judge:
    """A linear probe on frozen features, trained on real training pictures only."""

    config: PainterConfig
    encoder: FrozenEncoder
    probe: Probe
    classes: np.ndarray

    def names(self, images: Sequence[bytes], console: Console) -> np.ndarray:
        """The class name (M,) that it gives each picture."""
        features = _features(self.encoder, images, self.config, console)
        named: np.ndarray = self.classes[self.probe.probabilities(features).argmax(1)]
        return named


def _train_judge(config: PainterConfig, benchmark: Benchmark, console: Console) -> _Judge:
    device = runtime.pick_device(config.device)
    encoder: FrozenEncoder = RawPixels() if config.judge == RAW_PIXELS else load_encoder(config.judge, device)
    train, validation = (
        Labelled(_features(encoder, split.images, config, console), split.labels)
        for split in (benchmark.train, benchmark.validation)
    )
    probe = fit_linear(train, validation, len(benchmark.classes), config.probe)
    return _Judge(config, encoder, probe, np.array(benchmark.classes))


def _features(
    encoder: FrozenEncoder, images: Sequence[bytes], config: PainterConfig, console: Console
) -> np.ndarray:
    return extract(encoder, images, batch_size=config.batch_size, precision=config.precision, console=console)


def _read_paintings(config: PainterConfig, classes: Sequence[str]) -> tuple[str, _Paintings]:
    """The painter's name and its pictures, ordered by identity, with what their captions asked for."""
    table = ImageTable.open(config.images)
    columns = table.read(["origin", "caption_id", "image_index", "status"])  # row i is at position i
    origins, captions, statuses = (
        np.array(columns[name].to_pylist()) for name in ("origin", "caption_id", "status")
    )
    origin = _choose_origin(sorted(set(origins) - {REAL}), config)
    label_of = _labels_asked_for(config)
    of_split = (origins == origin) & np.isin(captions, list(label_of))
    good = np.flatnonzero(of_split & (statuses == OK))
    good = good[np.lexsort((columns["image_index"].to_numpy()[good], captions[good]))]
    labels = np.array([label_of[caption] or "" for caption in captions[good]])
    judged = np.isin(labels, classes)
    if not judged.any():
        raise UserError(
            f"{config.images}: no picture of {origin} belongs to a caption of {config.world} "
            f"(split {config.split}) with a label that the judge knows; give the world that was painted"
        )
    return origin, _Paintings(
        images=TableImages(table, good[judged]),
        captions=captions[good][judged],
        labels=labels[judged],
        num_failed=int((of_split & (statuses != OK)).sum()),
        num_not_judged=int((~judged).sum()),
    )


def _choose_origin(origins: Sequence[str], config: PainterConfig) -> str:
    if config.origin in origins:
        return str(config.origin)
    if config.origin is None and len(origins) == 1:
        return origins[0]
    problem = (
        "several painters" if config.origin is None and origins else f"no painter {config.origin or 'at all'}"
    )
    raise UserError(
        f"{config.images} holds the pictures of {problem} (found: {', '.join(origins) or 'none'}); "
        "choose one with --origin"
    )


def _labels_asked_for(config: PainterConfig) -> dict[str, str | None]:
    """Caption id -> label, of the captions of the split."""
    where = None if config.split == "all" else f"split = '{config.split}'"
    rows = CaptionTable.open(config.world / "captions.lance").read(["id", "label"], where)
    return dict(zip(rows["id"].to_pylist(), rows["label"].to_pylist(), strict=True))
