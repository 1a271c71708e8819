"""Near-copies: the share of painted pictures that repeat a real training picture, beside the measure's own errors.

The threshold is set on real validation pictures, which are no copies of training pictures since twins share a group
and a group lies in one split. The share is therefore to be read against ``false_alarms``: a painter that copies no
more than another artist would stays near it. Its interval says how uncertain the threshold is, too. Copies that were
planted show what the measure sees.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from stablerep import runtime
from stablerep.copies import DISTORTIONS, CopySearch, Nearest, alarm_threshold, distorted, nearest, to_side
from stablerep.evaluation.asked import Paintings
from stablerep.evaluation.benchmarks import Benchmark
from stablerep.evaluation.contact_sheet import Block
from stablerep.evaluation.intervals import Interval


@dataclass(frozen=True, kw_only=True)
class NearCopyConfig:
    """How many pictures are searched, and how sure an alarm must be."""

    num_pictures: int = 2_000
    """At most so many painted and so many validation pictures, drawn at random."""
    false_alarms: float = 0.01
    """Share of real validation pictures that the threshold may flag."""
    num_planted: int = 200
    """Training pictures of which copies are planted, once for each distortion."""
    num_shown: int = 24
    """Painted pictures nearest to a training picture, written as a sheet of pairs."""
    search: CopySearch = field(default_factory=CopySearch)
    """How two pictures are compared."""

    def __post_init__(self) -> None:
        if not 0 <= self.false_alarms < 1:
            raise ValueError(f"false_alarms must be in [0, 1), got {self.false_alarms}")
        if min(self.num_pictures, self.num_planted, self.num_shown) < 1:
            raise ValueError("num_pictures, num_planted and num_shown must be positive")

    def search_of(self, num_painted: int, num_training: int) -> str:
        """What is searched, in one sentence: it may take long."""
        num = min(num_painted, self.num_pictures)
        return f"near-copies: {num:,} painted pictures against {num_training:,} of training"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A painted picture and the training picture that it resembles most."""

    caption_id: str
    text: str
    group: str
    """Of the real picture."""
    similarity: float


@dataclass(frozen=True, kw_only=True)
class NearCopies:
    """Which painted pictures lie nearer to a training picture than real validation pictures do."""

    share: Interval
    """Share of painted pictures above the threshold, interval over captions and the groups of validation pictures."""
    threshold: float
    """Correlation above which a picture counts as a near-copy."""
    false_alarms: float
    """Share of real validation pictures above the threshold."""
    found: Mapping[str, float]
    """Share of planted copies above the threshold, by what was done to them."""
    median_painted: float
    """Median correlation of painted pictures with their nearest training picture."""
    median_real: float
    """The same of real validation pictures."""
    num_painted: int
    num_validation: int
    num_training: int
    num_planted: int
    nearest: tuple[Pair, ...]
    """The painted pictures most like a training picture, most alike first."""


def find_near_copies(
    paintings: Paintings,
    texts: Mapping[str, str],
    benchmark: Benchmark,
    config: NearCopyConfig,
    *,
    num_bootstrap: int,
    seed: int,
) -> tuple[NearCopies, list[Block]]:
    """Search the training pictures for each painted one; the measure, and the nearest pairs as blocks of a sheet."""
    rows = _some(len(paintings.images), config.num_pictures, "painted", seed)
    training = benchmark.train.images
    references = to_side(training, config.search.side)
    found = nearest(_pictures(paintings.images, rows, config), references, config.search)
    validation = _some(len(benchmark.validation), config.num_pictures, "validation", seed)
    known = nearest(_pictures(benchmark.validation.images, validation, config), references, config.search)
    threshold = alarm_threshold(known.similarity, config.false_alarms)
    captions = paintings.captions[rows]
    genuine = Alike.of(known.similarity, np.asarray(benchmark.validation.groups)[validation])
    alike = Alike.of(found.similarity, captions)
    top = np.argsort(-found.similarity, kind="stable")[: config.num_shown]
    pairs = tuple(_pair(row, captions, found, benchmark, texts) for row in top)
    planted = _some(len(training), config.num_planted, "planted", seed)
    measured = NearCopies(
        share=share_above(alike, genuine, config.false_alarms, num=num_bootstrap, seed=seed),
        threshold=threshold,
        false_alarms=float((known.similarity > threshold).mean()),
        found=_found_planted(training, planted, references, threshold, config),
        median_painted=float(np.median(found.similarity)),
        median_real=float(np.median(known.similarity)),
        num_painted=len(rows),
        num_validation=len(validation),
        num_training=len(training),
        num_planted=len(planted),
        nearest=pairs,
    )
    blocks = [
        Block(
            (paintings.images[int(rows[row])], training[found.index[row]]),
            f"{pair.similarity:.3f} {pair.text}",
        )
        for row, pair in zip(top, pairs, strict=True)
    ]
    return measured, blocks


@dataclass(frozen=True)
class Alike:
    """How like their nearest reference M pictures are, and which are drawn together."""

    similarity: np.ndarray
    """(M,)."""
    group: np.ndarray
    """Numbers from zero (M,)."""

    @classmethod
    def of(cls, similarity: np.ndarray, groups: np.ndarray) -> "Alike":
        """Of the names (M,) of the groups."""
        return cls(similarity, np.unique(groups, return_inverse=True)[1])

    @property
    def num_groups(self) -> int:
        return int(self.group.max()) + 1

    def drawn(self, rng: np.random.Generator) -> np.ndarray:
        """The similarities of as many groups as there are, drawn with replacement."""
        times = np.bincount(rng.integers(self.num_groups, size=self.num_groups), minlength=self.num_groups)
        similarity: np.ndarray = np.repeat(self.similarity, times[self.group])
        return similarity


def share_above(painted: Alike, genuine: Alike, rate: float, *, num: int, seed: int) -> Interval:
    """Share of painted pictures above the threshold that genuine ones set, with its bootstrap interval.

    Each of ``num`` replicates draws captions, and groups of genuine pictures, which set the threshold anew. Where no
    picture or all are above the threshold, the interval reaches as far as ``Interval.of_share`` says or the replicates.
    """
    rng = runtime.numpy_generator("bootstrap of near-copies", seed)
    value = float((painted.similarity > alarm_threshold(genuine.similarity, rate)).mean())
    shares = np.empty(num)
    for number in range(num):
        threshold = alarm_threshold(genuine.drawn(rng), rate)
        shares[number] = (painted.drawn(rng) > threshold).mean()
    interval = Interval.of_share(value, shares, painted.num_groups)
    if value not in (0, 1):
        return interval
    drawn = Interval.around(value, shares)
    return Interval(value=value, low=min(interval.low, drawn.low), high=max(interval.high, drawn.high))


def _some(total: int, most: int, what: str, seed: int) -> np.ndarray:
    """Ascending rows, all or a random choice of the most that are wanted."""
    return np.sort(runtime.numpy_generator("near-copies", what, seed).permutation(total)[:most])


def _pictures(images: Sequence[bytes], rows: np.ndarray, config: NearCopyConfig) -> Tensor:
    return to_side([images[int(row)] for row in rows], config.search.side)


def _pair(
    row: int, captions: np.ndarray, found: Nearest, benchmark: Benchmark, texts: Mapping[str, str]
) -> Pair:
    return Pair(
        caption_id=str(captions[row]),
        text=texts[captions[row]],
        group=benchmark.train.groups[found.index[row]],
        similarity=float(found.similarity[row]),
    )


def _found_planted(
    training: Sequence[bytes], rows: np.ndarray, references: Tensor, threshold: float, config: NearCopyConfig
) -> dict[str, float]:
    """Share of distorted training pictures above the threshold, by distortion."""
    return {
        name: float((nearest(copies, references, config.search).similarity > threshold).mean())
        for name in DISTORTIONS
        for copies in [to_side([distorted(training[int(row)], name) for row in rows], config.search.side)]
    }
