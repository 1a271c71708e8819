"""The painted pictures that lie nearest to real test pictures in the feature space of a trained encoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stablerep import runtime
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.evaluation.benchmarks import HELD_OUT_STYLE
from stablerep.features import TableImages, extract
from stablerep.models.encoder import Encoder, load_encoder
from stablerep.report.pictures import Picture, choose, to_picture
from stablerep.report.reading import Project, RunFolder
from stablerep.report.settings import grouped
from stablerep.store import OK, REAL, ImageTable

_NUM_NEAREST = 5


@dataclass(frozen=True, kw_only=True)
class NeighbourConfig:
    """How much the search for neighbours looks at."""

    num_queries: int = 12
    """Real test pictures that are shown with their nearest painted pictures; 0 leaves the search out."""
    max_searched: int = 20_000
    """At most so many painted pictures are searched, chosen by hash."""
    device: str = "auto"
    """Where the encoder runs: auto, cpu, cuda, mps."""

    def __post_init__(self) -> None:
        if self.num_queries < 0 or self.max_searched < 1:
            raise ValueError(
                f"num_queries must not be negative and max_searched must be positive, got {self.num_queries} and "
                f"{self.max_searched}"
            )


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """A painted picture and its similarity to the query."""

    picture: Picture
    caption: str
    similarity: float


@dataclass(frozen=True, kw_only=True)
class Query:
    """A real picture with what was found for it, nearest first."""

    picture: Picture
    caption: str
    nearest: tuple[Neighbour, ...]


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """What the section says, and its rows; no rows where the sentence says why."""

    sentence: str
    queries: tuple[Query, ...] = ()


@dataclass(frozen=True)
class _Row:
    """Where an image is, and whose it is."""

    table: ImageTable
    position: int
    caption_id: str
    identity: str


def find_neighbours(
    project: Project, run: RunFolder | None, config: NeighbourConfig, seed: int, console: Console
) -> Neighbours:
    """The nearest painted pictures by centred cosine similarity, or a sentence on why there are none to show."""
    if config.num_queries == 0:
        return Neighbours(sentence="Left out on request.")
    if run is None or run.encoder is None:
        return Neighbours(sentence="Left out: none of the runs has exported an encoder.")
    queries, style = _test_rows(project)
    if not queries:
        return Neighbours(sentence="Left out: the tables hold no real test pictures.")
    paintings = _rows(project, (pc.field("origin") != REAL) & (pc.field("status") == OK))
    if not paintings:
        return Neighbours(sentence="Left out: the tables hold no painted pictures.")
    queries = _by_hash(queries, config.num_queries, seed)
    searched = _by_hash(paintings, config.max_searched, seed)
    try:
        encoder = load_encoder(run.encoder, runtime.pick_device(config.device))
        similarity = _similarities(encoder, queries, searched, console)
    except UserError as error:
        return Neighbours(sentence=f"Left out: {error}.")
    part = "" if len(searched) == len(paintings) else f" of {grouped(len(paintings))}, chosen by hash"
    return Neighbours(
        sentence=(
            f"{len(queries)} real test pictures{style}, chosen by hash, each with the {_NUM_NEAREST} painted "
            f"pictures that the encoder of {run.name} finds most alike among {grouped(len(searched))}{part}. "
            "Below each its cosine similarity, after the mean of the painted pictures was subtracted."
        ),
        queries=_found(project, queries, searched, similarity),
    )


def _test_rows(project: Project) -> tuple[list[_Row], str]:
    """Real test pictures, of the held-out style where there is one, and how the page calls them."""
    is_test = (pc.field("origin") == REAL) & (pc.field("status") == OK) & (pc.field("split") == "test")
    held_out = _rows(project, is_test & (pc.field("style") == HELD_OUT_STYLE))
    return (
        (held_out, f" in the held-out style “{HELD_OUT_STYLE}”")
        if held_out
        else (_rows(project, is_test), "")
    )


def _rows(project: Project, wanted: pc.Expression) -> list[_Row]:
    found: dict[str, _Row] = {}
    for table in project.images:
        keys = table.read(["origin", "caption_id", "image_index", "status", "split", "style"])
        keys = keys.append_column("position", pa.array(np.arange(len(keys))))
        for row in keys.filter(wanted).to_pylist():
            identity = f"{row['origin']}/{row['caption_id']}/{row['image_index']}"
            found.setdefault(identity, _Row(table, row["position"], row["caption_id"], identity))
    return list(found.values())


def _by_hash(rows: Sequence[_Row], count: int, seed: int) -> list[_Row]:
    by_identity = {row.identity: row for row in rows}
    return [by_identity[identity] for identity in choose(by_identity, count, seed)]


def _similarities(
    encoder: Encoder, queries: Sequence[_Row], searched: Sequence[_Row], console: Console
) -> np.ndarray:
    """Cosine similarities (Q, M) of Q queries to M painted pictures, both centred on the painted ones."""
    painted = _features(encoder, searched, console)
    real = _features(encoder, queries, Console(quiet=True))
    mean = painted.mean(axis=0)
    similarity: np.ndarray = _normalised(real - mean) @ _normalised(painted - mean).T
    return similarity


def _features(encoder: Encoder, rows: Sequence[_Row], console: Console) -> np.ndarray:
    """Features (M, D) of rows that may lie in several tables, in the order of the rows."""
    order = sorted(range(len(rows)), key=lambda index: (rows[index].table.path, rows[index].position))
    parts = [
        extract(
            encoder,
            TableImages(rows[indices[0]].table, [rows[index].position for index in indices]),
            console=console,
        )
        for indices in (list(group) for _, group in groupby(order, key=lambda index: rows[index].table.path))
    ]
    features: np.ndarray = np.concatenate(parts)[np.argsort(order)]
    return features


def _normalised(features: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    normalised: np.ndarray = features / np.maximum(norms, np.finfo(features.dtype).tiny)
    return normalised


def _found(
    project: Project, queries: Sequence[_Row], searched: Sequence[_Row], similarity: np.ndarray
) -> tuple[Query, ...]:
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :_NUM_NEAREST]
    shown = [*queries, *(searched[index] for index in np.unique(nearest))]
    texts = project.texts(sorted({row.caption_id for row in shown}))

    def caption(row: _Row) -> str:
        return texts.get(row.caption_id, f"caption {row.caption_id}")

    def picture(row: _Row, what: str) -> Picture:
        return to_picture(row.table.take_images([row.position])[0], f"{what} picture of “{caption(row)}”")

    return tuple(
        Query(
            picture=picture(query, "real"),
            caption=caption(query),
            nearest=tuple(
                Neighbour(
                    picture=picture(searched[column], "painted"),
                    caption=caption(searched[column]),
                    similarity=float(similarity[row, column]),
                )
                for column in nearest[row]
            ),
        )
        for row, query in enumerate(queries)
    )
