"""Evaluation of painters: prompt fidelity, distance to real pictures, and near-copies of what they learned from."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from stablerep import cost, runtime
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.evaluation.asked import (
    Asked,
    Counterparts,
    Wanted,
    read_asked,
    read_paintings,
    real_counterparts,
)
from stablerep.evaluation.benchmarks import (
    Benchmark,
    BenchmarkData,
    first_in_hash_order,
    load_benchmark,
    of_world,
)
from stablerep.evaluation.contact_sheet import Block, save_sheet
from stablerep.evaluation.distances import DistanceConfig, Distances, measure_distances
from stablerep.evaluation.fidelity import Fidelity, Named, prompt_fidelity
from stablerep.evaluation.intervals import Interval
from stablerep.evaluation.near_copies import NearCopies, NearCopyConfig, find_near_copies
from stablerep.evaluation.painter import SCORES, captions_to_paint, find_painter, scores_of
from stablerep.features import FrozenEncoder, RawPixels, extract
from stablerep.generation.execute import GenerateConfig, generate
from stablerep.models.encoder import load_encoder
from stablerep.probes import Labelled, Probe, ProbeConfig, fit_linear
from stablerep.row_keys import literal
from stablerep.run import write_atomically, write_text
from stablerep.storage import file_beside

RAW_PIXELS = "raw-pixels"


@dataclass(frozen=True, kw_only=True)
class PainterConfig:
    """Measure a painter: whether it paints what captions ask for, how like real pictures, and how many near-copies.

    Neither the judge nor the second encoder may have aligned the painter or filtered its pictures: a painter that was
    made to please an encoder is not measured by it.
    """

    images: tyro.conf.Positional[Path]
    """Table of painted pictures (images.lance); or a painter, which then paints first: the run that trained it, a
    diffusers folder, a shipped teacher by name, or the hub id of one."""
    world: Path
    """Folder of the world: its real pictures train the judge, its captions say what was asked for."""
    judge: str
    """Encoder of the judge: a run, an encoder folder, a shipped name, or raw-pixels; never one that saw these
    paintings."""
    second: str | None = None
    """A second encoder, independent of the judge, for the distances to real pictures."""
    benchmark: Literal["icons", "fashion"] | None = None
    """Which real pictures train the judge: the training split of this benchmark; where not given, of the one that the
    world is called, and icons where the folder holds no world.json."""
    num_train: int | None = None
    """Train it on so many of them; on all where not given."""
    origin: str | None = None
    """Which painter's pictures; needed where the table holds those of several."""
    where: str | None = None
    """Judge only the pictures that match a filter, such as "match_rank = 0" for the best of each caption."""
    keep: str | None = None
    """Judge only the pictures where this column is true, such as the mask of an audit."""
    num_captions: int = 500
    """Where a painter is given: of the captions that are judged it paints so many that have real pictures, the first by
    their ids (hashes)."""
    num_images: int = 4
    """Where a painter is given: pictures that it paints of each."""
    split: Literal["train", "validation", "test", "all"] = "all"
    """Captions whose pictures are judged."""
    seen_words: bool = False
    """Only captions made of words that occur in training captions."""
    num_bootstrap: int = 1000
    """Replicates of the bootstrap over captions."""
    seed: int = 0
    """Seed of the bootstrap, of the shuffled control, of which pictures are drawn, and of what a painter paints."""
    batch_size: int = 256
    """Pictures per forward pass."""
    precision: runtime.Precision = "auto"
    """Number format of the forward pass; auto takes bfloat16 where it is faster."""
    device: str = "auto"
    """Where the encoders run: auto, cpu, cuda, mps."""
    download: bool = False
    """Fetch a model given by its name from the hub if it is not in the local cache yet."""
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    """Settings of the judge's linear probe."""
    distances: DistanceConfig = field(default_factory=DistanceConfig)
    """Settings of the distances to real pictures."""
    search_copies: bool = True
    """Search the training pictures for near-copies, which takes the longest."""
    copies: NearCopyConfig = field(default_factory=NearCopyConfig)
    """Settings of that search."""
    out: Path | None = None
    """Where to write the scores; painter-scores.json beside the table, or in the painter's run, where not given. Beside
    it: what the judge named every picture (painter-scores-named.parquet), the pairs that are most alike
    (painter-scores-nearest.png), features, cached by content, in features/, and what a painter painted
    (painter-scores-painted.lance)."""

    def __post_init__(self) -> None:
        if min(self.num_bootstrap, self.batch_size, self.num_captions, self.num_images) < 1:
            raise ValueError("num_bootstrap, batch_size, num_captions and num_images must be positive")


@dataclass(frozen=True, kw_only=True)
class PainterScores:
    """What was measured of one painter, beside what a perfect and a blind painter would reach."""

    origin: str
    split: str
    seen_words: bool
    num_captions_left_out: int
    """Captions of the split with a word that no training caption has, where ``seen_words`` leaves them out."""
    judge: str
    judge_fingerprint: str
    judge_validation: float
    """Mean per-class accuracy of the judge on the real validation pictures, which chose its L2 constant."""
    judge_test: Interval
    """The same on the real pictures of the benchmark's first test, which chose nothing."""
    chance: float
    """One over the number of classes that the judge knows."""
    fidelity: Fidelity
    distances: tuple[Distances, ...]
    """To real pictures of the same captions, by encoder; none where there are too few pictures, or no real ones."""
    near_copies: NearCopies | None
    """None where they were not searched."""
    num_failed: int
    """Failed paintings: rows without a picture to judge."""
    num_not_judged: int
    """Pictures whose caption has no label, or one that the judge does not know."""
    where: str | None = None
    keep: str | None = None
    num_left_out: int = 0
    """Pictures that ``where`` and ``keep`` left out; failed paintings are counted whatever these say."""
    num_training_captions: int = 0
    """Painted captions of the training split, whose concepts the judge knows, unlike those of its real test pictures:
    with them prompt fidelity over the judge may exceed one."""

    HEADER: ClassVar[tuple[str, ...]] = ("", "value")

    def rows(self) -> list[list[str]]:
        """The scores as rows of text under ``HEADER``."""
        ratio = self.fidelity.of_judge
        rows = [
            ["prompt fidelity, mean per class, %", self.fidelity.mean_per_class.in_percent()],
            ["prompt fidelity, all pictures, %", self.fidelity.top1.in_percent()],
            ["the judge on real test pictures of these classes, %", self.fidelity.judge.in_percent()],
            ["prompt fidelity over the judge, %", ratio.in_percent() if ratio else "none"],
            ["the judge on all real test pictures, %", self.judge_test.in_percent()],
            ["the judge on real validation pictures, %", f"{100 * self.judge_validation:.1f}"],
            ["captions shuffled, %", f"{100 * self.fidelity.shuffled:.1f}"],
            ["chance, %", f"{100 * self.chance:.1f}"],
            ["captions, pictures", f"{self.fidelity.num_captions:,}, {self.fidelity.num_pictures:,}"],
            ["captions of concepts that the judge learned from", f"{self.num_training_captions:,}"],
        ]
        if self.seen_words:
            rows.append(["captions left out for an unseen word", f"{self.num_captions_left_out:,}"])
        if self.where or self.keep:
            rows.append(["pictures left out by the filter", f"{self.num_left_out:,}"])
        if self.num_failed or self.num_not_judged:
            counts = f"{self.num_failed:,}, {self.num_not_judged:,}"
            rows.append(["not judged: failed paintings, pictures without a known label", counts])
        for number, distances in enumerate(self.distances):
            rows += _distance_rows(distances, ("judge", "second")[number])
        return [*rows, *(_copy_rows(self.near_copies) if self.near_copies else [])]

    def to_json(self) -> dict[str, Any]:
        """Plain values, as written to painter-scores.json."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain


def _distance_rows(distances: Distances, role: str) -> list[list[str]]:
    kid, cover, real = distances.kid, distances.cover, distances.real_cover
    return [
        [f"{role}: KID, {kid.size:,} each", f"{kid.mean:.3g} ± {kid.standard_error:.1g}"],
        [f"{role}: KID, real against real, 95 % below", f"{kid.floor_95:.3g}"],
        [
            f"{role}: precision, recall, % (real)",
            f"{100 * cover.precision:.1f}, {100 * cover.recall:.1f} "
            f"({100 * real.precision:.1f}, {100 * real.recall:.1f})",
        ],
        [
            f"{role}: density, coverage (real)",
            f"{cover.density:.2f}, {cover.coverage:.2f} ({real.density:.2f}, {real.coverage:.2f})",
        ],
    ]


def _copy_rows(copies: NearCopies) -> list[list[str]]:
    return [
        ["near-copies of training pictures, %", copies.share.in_percent()],
        ["false alarms on real validation pictures, %", f"{100 * copies.false_alarms:.1f}"],
        *([f"planted copies found: {name}, %", f"{100 * share:.1f}"] for name, share in copies.found.items()),
    ]


def evaluate_painter(config: PainterConfig, *, console: Console = Console(quiet=True)) -> PainterScores:  # noqa: B008
    """Measure the painted pictures of a table; write painter-scores.json and the pairs nearest to one another.

    A painter in place of the table paints first, by ``generate``: what it painted before is not painted again. Raises
    ``UserError`` where no picture can be judged, or the table has several painters and none is chosen.
    """
    painter = find_painter(config.images, download=config.download)
    data = BenchmarkData(world=config.world, fashion=config.world)
    benchmark = load_benchmark(config.benchmark or of_world(config.world), data)
    asked = read_asked(config.world, config.split, seen_words=config.seen_words)
    if config.seen_words:
        console.say(f"{len(asked.labels):,} captions are made of seen words, {asked.num_left_out:,} are not")
    if painter is not None:
        known = captions_to_paint(config.world, asked, benchmark.classes)
        asked = asked.only(known[: config.num_captions], config.num_images)
        config = _painted(painter, asked, config, console)
    with cost.metered("evaluate painter", cost.beside(config.images)):
        return _measure(config, benchmark, asked, console)


def _painted(painter: str, asked: Asked, config: PainterConfig, console: Console) -> PainterConfig:
    """The same about the table that the painter paints its captions into."""
    if config.origin is not None:
        raise UserError(
            f"--origin {config.origin} chooses a painter of a table, and {config.images} is one painter; leave it out"
        )
    scores = scores_of(config.images, config.out)
    ids = ", ".join(map(literal, asked.labels))
    asking = GenerateConfig(
        captions=config.world / "captions.lance",
        where=f"id IN ({ids})",
        teacher=painter,
        out=scores.with_name(f"{scores.stem}-painted.lance"),
        num_images=config.num_images,
        seed=config.seed,
        device=config.device,
        download=config.download,
    )
    painted = generate(asking, console=console)
    return dataclasses.replace(config, images=painted.path, origin=painted.origin, out=scores)


def _measure(config: PainterConfig, benchmark: Benchmark, asked: Asked, console: Console) -> PainterScores:
    wanted = Wanted(config.origin, config.where, config.keep)
    paintings = read_paintings(config.images, wanted, asked, benchmark.classes)
    judge = _train_judge(config, benchmark, console)
    painted = _features(judge.encoder, paintings.images, config, console)
    on_test = _on_test(judge, benchmark, config, console)
    named = Named(judge.name(painted), paintings.labels, paintings.captions)
    counterparts = real_counterparts(config.world, paintings, seed=config.seed)
    if not len(counterparts.real):
        console.say("no painted caption has a real picture: there are no distances")
    distances = [_distances(config.judge, judge.encoder, painted, counterparts, config, console)]
    if config.second is not None:
        second = _load(config.second, config)
        theirs = _features(second, paintings.images, config, console)
        distances.append(_distances(config.second, second, theirs, counterparts, config, console))
    copies, pairs = None, list[Block]()
    if config.search_copies:
        console.say(config.copies.search_of(len(paintings.images), len(benchmark.train)))
        copies, pairs = find_near_copies(
            paintings,
            asked.texts,
            benchmark,
            config.copies,
            num_bootstrap=config.num_bootstrap,
            seed=config.seed,
        )
    scores = PainterScores(
        origin=paintings.origin,
        split=config.split,
        seen_words=config.seen_words,
        num_captions_left_out=asked.num_left_out,
        judge=config.judge,
        judge_fingerprint=judge.encoder.fingerprint,
        judge_validation=judge.probe.validation_accuracy,
        judge_test=on_test.accuracies(config.num_bootstrap, "judge on all", config.seed).mean_per_class,
        chance=1 / len(benchmark.classes),
        fidelity=prompt_fidelity(named, on_test, num_bootstrap=config.num_bootstrap, seed=config.seed),
        distances=tuple(found for found in distances if found is not None),
        near_copies=copies,
        num_failed=paintings.num_failed,
        num_not_judged=paintings.num_not_judged,
        where=config.where,
        keep=config.keep,
        num_left_out=paintings.num_left_out,
        num_training_captions=len(asked.training.intersection(paintings.captions)),
    )
    _write_named(named, _scores_path(config))
    _write(scores, pairs, _scores_path(config), console)
    return scores


def _write_named(named: Named, scores: Path) -> None:
    """For each picture, ordered by identity, its caption, the label asked for and what the judge named it."""
    table = pa.table({"caption_id": named.groups, "label": named.labels, "named": named.named})
    path = scores.with_name(f"{scores.stem}-named.parquet")
    write_atomically(path, lambda temporary: pq.write_table(table, temporary))


def _scores_path(config: PainterConfig) -> Path:
    return config.out or file_beside(config.images, SCORES, "--out")


def _write(scores: PainterScores, pairs: Sequence[Block], path: Path, console: Console) -> None:
    write_text(path, json.dumps(scores.to_json(), indent=2) + "\n")
    console.say(f"scores of {scores.origin}: {path}")
    if pairs:
        sheet = path.with_name(f"{path.stem}-nearest.png")
        save_sheet(sheet, pairs, columns=6)
        console.say(f"the pairs most alike, painted and real: {sheet}")


@dataclass(frozen=True)
class _Judge:
    """A linear probe on frozen features, trained on real training pictures only."""

    encoder: FrozenEncoder
    probe: Probe
    classes: np.ndarray

    def name(self, features: np.ndarray) -> np.ndarray:
        """The class name (M,) that it gives each picture, by its features (M, D)."""
        named: np.ndarray = self.classes[self.probe.probabilities(features).argmax(1)]
        return named


def _train_judge(config: PainterConfig, benchmark: Benchmark, console: Console) -> _Judge:
    encoder = _load(config.judge, config)
    some = (
        benchmark.train
        if config.num_train is None
        else first_in_hash_order(benchmark.train, config.num_train)
    )
    train, validation = (
        Labelled(_features(encoder, split.images, config, console), split.labels)
        for split in (some, benchmark.validation)
    )
    probe = fit_linear(train, validation, len(benchmark.classes), config.probe)
    return _Judge(encoder, probe, np.array(benchmark.classes))


def _on_test(judge: _Judge, benchmark: Benchmark, config: PainterConfig, console: Console) -> Named:
    """What the judge names the real pictures of the first test, which chose nothing."""
    test = next(iter(benchmark.tests.values()))
    features = _features(judge.encoder, test.images, config, console)
    return Named(judge.name(features), judge.classes[test.labels], np.array(test.groups))


def _load(name: str, config: PainterConfig) -> FrozenEncoder:
    if name == RAW_PIXELS:
        return RawPixels()
    return load_encoder(name, runtime.pick_device(config.device), download=config.download)


def _features(
    encoder: FrozenEncoder, images: Sequence[bytes], config: PainterConfig, console: Console
) -> np.ndarray:
    return extract(
        encoder,
        images,
        batch_size=config.batch_size,
        precision=config.precision,
        cache=_scores_path(config).parent / "features",
        console=console,
    )


def _distances(
    name: str,
    encoder: FrozenEncoder,
    painted: np.ndarray,
    counterparts: Counterparts,
    config: PainterConfig,
    console: Console,
) -> Distances | None:
    if not len(counterparts.real):
        return None
    return measure_distances(
        painted[counterparts.painted],
        _features(encoder, counterparts.real, config, console),
        config.distances,
        captions=counterparts.captions,
        seed=config.seed,
        encoder=(name, encoder.fingerprint),
    )
