"""A map of pictures: alike pictures lie near each other in the plane.

Shapes: S pictures of the map, D width of the vectors.
"""

import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image

from stablerep import runtime
from stablerep.errors import UserError
from stablerep.gallery.pictures import open_picture

Projection = Literal["umap", "t-sne", "pca"]
MOST_POINTS = 2000
TILE = 32
"""Side in pixels of a picture in the atlas."""
ATLAS_COLUMNS = 40
_FEWEST = 10  # t-SNE and UMAP need neighbours


@dataclass(frozen=True)
class Map:
    """Where pictures lie, and how that was found."""

    rows: np.ndarray
    """Positions in the table (S,)."""
    places: np.ndarray
    """Coordinates (S, 2) in [0, 1]."""
    how: Projection
    num_chosen: int
    """Pictures that the map is a sample of."""


def projections() -> tuple[Projection, ...]:
    """The projections that are installed, the quickest of the good ones first."""
    every: tuple[Projection, ...] = get_args(Projection)
    return tuple(name for name in every if name != "umap" or importlib.util.find_spec("umap") is not None)


def sample(rows: np.ndarray, most: int = MOST_POINTS) -> np.ndarray:
    """At most so many of some rows, the same ones for the same rows, ascending."""
    if len(rows) <= most:
        return np.sort(rows)
    generator = np.random.default_rng(runtime.seed_for("gallery map", len(rows), int(rows[0]), int(rows[-1])))
    return np.sort(generator.choice(rows, size=most, replace=False))


def project(rows: np.ndarray, vectors: np.ndarray, how: Projection, num_chosen: int) -> Map:
    """Lay pictures out by their vectors (S, D); those without one (NaN) are left out.

    UMAP: McInnes et al. 2018; t-SNE: van der Maaten and Hinton 2008. Both have a fixed seed and one thread,
    so that the same pictures give the same map. Fewer than ten pictures are laid out by PCA.
    """
    seen = np.isfinite(vectors).all(axis=1)
    rows, vectors = rows[seen], vectors[seen]
    if len(rows) < 2:
        raise UserError("a map needs at least two pictures that can be read; choose more of them")
    how = how if len(rows) >= _FEWEST else "pca"
    if how not in projections():
        raise UserError(
            "UMAP needs umap-learn; pip install '.[map]' in the clone of stablerep, or choose t-SNE or PCA"
        )
    places = {"umap": _umap, "t-sne": _tsne, "pca": _pca}[how](vectors)
    low, high = np.percentile(places, [0.5, 99.5], axis=0)
    scaled = np.clip((places - low) / np.maximum(high - low, 1e-12), 0, 1)
    return Map(rows, scaled.astype(np.float32), how, num_chosen)


def _pca(vectors: np.ndarray) -> np.ndarray:
    from sklearn.decomposition import PCA

    places: np.ndarray = PCA(n_components=min(2, *vectors.shape), random_state=0).fit_transform(vectors)
    return np.pad(places, ((0, 0), (0, 2 - places.shape[1])))


def _tsne(vectors: np.ndarray) -> np.ndarray:
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(vectors) - 1) / 3)
    places: np.ndarray = TSNE(
        perplexity=perplexity, metric="cosine", init="random", max_iter=500, random_state=0
    ).fit_transform(vectors)
    return places


def _umap(vectors: np.ndarray) -> np.ndarray:
    import umap

    places: np.ndarray = umap.UMAP(
        n_neighbors=min(15, len(vectors) - 1), min_dist=0.1, metric="cosine", random_state=0, n_jobs=1
    ).fit_transform(vectors)
    return places


def atlas(images: Sequence[bytes]) -> bytes:
    """Small copies of pictures on one JPEG, row by row, so that a map of thousands is one request."""
    num_rows = -(-len(images) // ATLAS_COLUMNS)
    sheet = Image.new("RGB", (ATLAS_COLUMNS * TILE, max(1, num_rows) * TILE), "white")
    for number, encoded in enumerate(images):
        picture = open_picture(encoded)
        if picture is not None:
            picture.thumbnail((TILE, TILE))
            row, column = divmod(number, ATLAS_COLUMNS)
            sheet.paste(picture, (column * TILE, row * TILE))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
