"""The protocol `geometry`: whether an encoder puts concepts together, or hands that draw.

Shapes: M pictures, D features.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stablerep import config as config_module
from stablerep import runtime
from stablerep.evaluation.benchmarks import BENCHMARKS, Benchmark, Split
from stablerep.evaluation.contract import NOTHING, NotMeasurableError, Subject, Tools, described
from stablerep.evaluation.geometry import Geometry, with_parts
from stablerep.evaluation.intervals import Interval
from stablerep.evaluation.scores import Measurement

_NUMBERS = ("effective_rank", "alignment", "uniformity", "concept_over_style")
_COUNTS = ("num_pictures",)


@dataclass(frozen=True, kw_only=True)
class GeometryConfig:
    """Settings of the protocol `geometry`."""

    most: int = 4000
    """At most so many test pictures, whole groups of them."""
    folds: int = 20
    """Parts of the groups; the intervals come from leaving out one after the other."""

    def __post_init__(self) -> None:
        if min(self.most, self.folds) < 3:
            raise ValueError(f"most and folds must be at least 3, got {self.most} and {self.folds}")


@dataclass(frozen=True)
class Arrangement:
    """How test pictures lie in the space of features, where the pictures of one group show one concept.

    All tests are taken together, so that a concept is met in all its styles, held-out ones among them. Intervals are
    those of a grouped jackknife (Efron and Tibshirani 1993, section 11.5), because pictures drawn twice, as a
    bootstrap draws them, would be their own nearest neighbours.
    """

    config: GeometryConfig

    benchmarks = BENCHMARKS
    trains_baselines = True

    @property
    def settings(self) -> Mapping[str, Any]:
        """How many pictures, and how the intervals were found."""
        return config_module.to_dict(self.config)

    def measure(self, subject: Subject, data: Benchmark, tools: Tools) -> list[Measurement]:
        """One measurement over all tests of the benchmark.

        Raises ``NotMeasurableError`` where there are fewer groups than parts to leave out.
        """
        splits = list(data.tests.values())
        groups = np.concatenate([np.array(split.groups) for split in splits])
        styles = np.concatenate([_styles(split) for split in splits])
        if len(np.unique(styles)) < 2:  # of one style alone nothing can be said
            styles = np.full(len(styles), "")
        features = np.concatenate([tools.features(subject.encoder, split.images) for split in splits])
        order = runtime.numpy_generator("geometry", tools.seed, data.name).permutation(np.unique(groups))
        kept = _first(order, groups, self.config.most)
        if len(kept) < self.config.folds:
            raise NotMeasurableError(
                f"{data.name}: {len(kept)} groups of pictures are fewer than the {self.config.folds} parts of the "
                "jackknife; give fewer --geometry.folds or more --geometry.most"
            )
        rows = np.flatnonzero(np.isin(groups, kept))
        fold_of = {group: place % self.config.folds for place, group in enumerate(kept)}
        folds = np.array([fold_of[group] for group in groups[rows]])
        metrics = _with_intervals(features[rows], groups[rows], styles[rows], folds)
        return [
            Measurement(
                **described(
                    subject, data.name, "all tests" if len(splits) > 1 else next(iter(data.tests)), "geometry"
                ),
                metrics=metrics,
                chance={},
                settings=self.settings,
                chosen={},
                chosen_on=NOTHING,
                sizes={"num_pictures": len(rows), "num_groups": len(kept)},
                numbers=tuple(name for name in map(_plain, _NUMBERS) if name in metrics),
            )
        ]


def _with_intervals(
    features: np.ndarray, groups: np.ndarray, styles: np.ndarray, folds: np.ndarray
) -> dict[str, Interval]:
    """Every value that can be said of features (M, D), with the jackknife's standard error over folds (M,).

    Intervals of shares end where shares end.
    """
    whole, without = with_parts(features, groups, styles, folds)
    parts = [_values(part) for part in without]
    found = {}
    for name, value in _values(whole).items():
        values = np.array([part[name] for part in parts if name in part])
        one = Interval.normal(value, math.sqrt((len(values) - 1) * float(values.var())))
        is_share = name not in map(_plain, _NUMBERS)
        found[name] = (
            dataclasses.replace(one, low=max(0.0, one.low), high=min(1.0, one.high)) if is_share else one
        )
    return found


def _first(order: np.ndarray, groups: np.ndarray, most: int) -> np.ndarray:
    """Groups from the front of an order whose pictures are at most so many."""
    names, counts = np.unique(groups, return_counts=True)
    count_of = dict(zip(names, counts, strict=True))
    running = np.cumsum([count_of[group] for group in order])
    kept: np.ndarray = order[: int(np.searchsorted(running, most, side="right"))]
    return kept


def _styles(split: Split) -> np.ndarray:
    """The style of each picture (M,), empty where unknown."""
    unknown = np.full(len(split), "", dtype=np.str_)
    return np.asarray(split.attributes.get("style", unknown), dtype=np.str_)


def _values(geometry: Geometry) -> dict[str, float]:
    """The values that can be said, under the names that tables show."""
    plain = dataclasses.asdict(geometry)
    return {
        _plain(name): float(value)
        for name, value in plain.items()
        if name not in _COUNTS and value is not None
    }


def _plain(name: str) -> str:
    return name.replace("_", " ")
