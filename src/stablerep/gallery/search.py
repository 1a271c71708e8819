"""Find pictures: by the words of their captions, by what a text means, by what a picture looks like.

Shapes: M rows of the table, C captions, D width of the vectors.
"""

import re

import numpy as np
import pyarrow.compute as pc

from stablerep.gallery.index import PictureIndex
from stablerep.gallery.query import Hits
from stablerep.gallery.vectors import Vectors

MOST_HITS = 600
_WORD = re.compile(r"\S+")


def by_words(index: PictureIndex, text: str) -> Hits | None:
    """Rows whose caption has every word of the text, or a word that begins with it; None for an empty text."""
    words = _WORD.findall(text)
    if not words:
        return None
    is_hit = np.ones(index.num_captions, dtype=bool)
    for word in words:
        # RE2 takes \b for ASCII letters alone; a caption may be in any script.
        pattern = rf"(^|[^\pL\pN]){_quoted(word)}"
        found = pc.match_substring_regex(index.texts, pattern, ignore_case=True)
        is_hit &= pc.fill_null(found, False).to_numpy(zero_copy_only=False)
    scores = np.where(is_hit, 0.0, -np.inf).astype(np.float32)[index.caption]
    return Hits(scores, f"captions with {' and '.join(repr(word) for word in words)}", ranked=False)


def by_meaning(vectors: Vectors, text: str) -> Hits | None:
    """The pictures that an image-text model finds nearest to a text; None for an empty text."""
    if not text.strip():
        return None
    scores = vectors.scores(vectors.looker.text_vector(text.strip()), "text")
    return _best(scores, f"pictures nearest to {text.strip()!r} by {vectors.looker.name}", vectors)


def by_picture(vectors: Vectors, picture: bytes) -> Hits:
    """The pictures nearest to an uploaded one; ``UserError`` where it cannot be decoded."""
    scores = vectors.scores(vectors.looker.picture_vector(picture), "picture")
    return _best(scores, f"pictures nearest to yours by {vectors.looker.name}", vectors)


def by_row(index: PictureIndex, vectors: Vectors, position: int, picture: bytes) -> Hits:
    """The pictures nearest to one of a table; ``index`` need not be the table of the vectors."""
    vector = vectors.looker.picture_vector(picture)
    text = index.text(index.caption[position])
    how = f"pictures nearest to image {index.image_index[position]} of {text!r} by {vectors.looker.name}"
    return _best(vectors.scores(vector, "picture"), how, vectors)


def _best(scores: np.ndarray, how: str, vectors: Vectors) -> Hits:
    """The best hits alone: of a hundred thousand pictures all are near in some degree."""
    num_seen = int(np.isfinite(scores).sum())
    if num_seen > MOST_HITS:
        border = np.partition(scores, len(scores) - MOST_HITS)[len(scores) - MOST_HITS]
        scores = np.where(scores >= border, scores, -np.inf)
    if vectors.problem is not None:
        how += f", among {num_seen:,} only: {vectors.problem}"
    elif vectors.num_missing:
        how += f", among {num_seen:,} seen so far ({vectors.num_missing:,} are to come)"
    return Hits(scores, how)


def _quoted(word: str) -> str:
    """A word for RE2, which does not know every escape of Python."""
    return "".join(char if char.isalnum() or ord(char) > 127 else f"\\{char}" for char in word)
