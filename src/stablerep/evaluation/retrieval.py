"""Retrieval: the texts of a picture among all texts, and the pictures of a text among all pictures.

Shapes: M queries, T candidates, E width of the joint space.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stablerep import runtime
from stablerep.evaluation.captioned import CAPTIONED, Captioned
from stablerep.evaluation.contract import NOTHING, Subject, Tools, described
from stablerep.evaluation.intervals import mean_interval
from stablerep.evaluation.scores import Measurement
from stablerep.match import image_vectors, text_vectors

_QUERIES = 1024


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """Settings of the protocol `retrieval`."""

    at: tuple[int, ...] = (1, 5, 10)
    """R@k: the share of queries with a match among the k nearest."""

    def __post_init__(self) -> None:
        if not self.at or min(self.at) < 1:
            raise ValueError(f"at must be positive, got {self.at}")


@dataclass(frozen=True)
class Retrieval:
    """R@k both ways; any of several texts of a picture, and any of several pictures of a text, is a match."""

    config: RetrievalConfig

    benchmarks = CAPTIONED
    trains_baselines = False

    @property
    def settings(self) -> Mapping[str, Any]:
        """The k."""
        return {"at": list(self.config.at)}

    def measure(self, subject: Subject, data: Captioned, tools: Tools) -> list[Measurement]:
        """R@k with intervals over groups of the queries."""
        model = tools.joint(subject)
        images = image_vectors(model, data.images, tools.matching, console=tools.console)
        texts = text_vectors(model, data.texts, tools.matching)
        metrics, chance = {}, {}
        for way, ranks, positives, groups in (
            (
                "image to text",
                *first_ranks(images, texts, data.image_concepts, data.text_concepts),
                data.groups,
            ),
            (
                "text to image",
                *first_ranks(texts, images, data.text_concepts, data.image_concepts),
                data.text_groups,
            ),
        ):
            candidates = len(texts) if way == "image to text" else len(images)
            seed = runtime.seed_for(tools.seed, "retrieval", data.name, way)
            for k in self.config.at:
                name = f"{way} R@{k}"
                metrics[name] = mean_interval(ranks < k, groups, num=tools.num_bootstrap, seed=seed)
                chance[name] = by_chance(positives, candidates, k)
        return [
            Measurement(
                **described(subject, data.name, data.test, "retrieval"),
                metrics=metrics,
                chance=chance,
                settings=self.settings,
                chosen={},
                chosen_on=NOTHING,
                sizes={"num_pictures": len(images), "num_texts": len(texts)},
            )
        ]


def first_ranks(
    queries: np.ndarray, candidates: np.ndarray, of_queries: np.ndarray, of_candidates: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rank (M,) of the best match of each query, from 0, and how many matches it has (M,).

    Vectors are (M, E) and (T, E); a match is of the same concept. Equals count against the match. A query without a
    match has rank T.
    """
    ranks = np.empty(len(queries), dtype=np.int64)
    positives = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), _QUERIES):
        rows = slice(start, start + _QUERIES)
        similarity = queries[rows] @ candidates.T
        match = of_queries[rows, None] == of_candidates[None]
        best = np.where(match, similarity, -np.inf).max(1)
        ranks[rows] = ((similarity >= best[:, None]) & ~match).sum(1)
        positives[rows] = match.sum(1)
    ranks[positives == 0] = len(candidates)
    return ranks, positives


def by_chance(positives: np.ndarray, num_candidates: int, k: int) -> float:
    """Expected R@k of an order drawn at random: 1 less the share of draws of k without a match, over queries."""
    missed = np.ones(len(positives))
    for drawn in range(min(k, num_candidates)):
        missed *= np.maximum(num_candidates - positives - drawn, 0) / (num_candidates - drawn)
    return float(1 - missed.mean())
