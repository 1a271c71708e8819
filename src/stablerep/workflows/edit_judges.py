"""Who says what a picture shows: an image-text run by the words, any other encoder by real pictures of them.

Shapes: M pictures, C classes, E width of the vectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from stablerep import runtime
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.features import TableImages, extract
from stablerep.generation.concepts import mentions
from stablerep.match import MatchConfig, image_vectors, text_vectors
from stablerep.models.encoder import load_encoder
from stablerep.models.joint import load_image_text
from stablerep.store import OK, REAL, CaptionTable, ImageTable

_MOST_PICTURES = 400
"""Real pictures that describe one class, the first in the order of the table."""


@dataclass(frozen=True)
class Described:
    """C classes by one vector or more: vectors (V, E), and the class (V,) of each.

    A class without a vector is one that could not be described.
    """

    vectors: np.ndarray
    owner: np.ndarray
    num_classes: int

    @property
    def known(self) -> np.ndarray:
        """Which classes (C,) have a vector."""
        known: np.ndarray = np.isin(np.arange(self.num_classes), self.owner)
        return known


class Judge:
    """Holds pictures against classes. A class is a list of texts: its captions, or phrases that captions contain.

    ``world`` holds the real pictures that an encoder without words needs. Raises ``UserError`` where it is missing.
    """

    def __init__(self, run: Path, world: Path | None, device: str, console: Console) -> None:
        place = runtime.pick_device(device)
        self._console = console
        self._model = load_image_text(run, place) if (run / "text").is_dir() else None
        self._encoder = None if self._model is not None else load_encoder(run, place)
        self._world = None
        if self._encoder is not None:
            if world is None:
                raise UserError(
                    f"judge {run} knows no words; give --world with real pictures, or an image-text run"
                )
            self._world = _World(world)

    @property
    def fingerprint(self) -> str:
        """Identity of the encoder that judges."""
        fingerprint: str = (self._model or self._encoder).fingerprint  # type: ignore[union-attr]
        return fingerprint

    def has(self, text: str) -> bool:
        """Whether a caption can be a class: an encoder without words needs real pictures of it."""
        return self._world is None or bool(self._world.of_captions([text]))

    def vectors(self, images: Sequence[bytes]) -> np.ndarray:
        """Unit vectors (M, E) of pictures."""
        if self._model is not None:
            return image_vectors(self._model, images, MatchConfig(), console=self._console)
        assert self._encoder is not None
        return extract(self._encoder, images, console=self._console)

    def captions(self, classes: Sequence[Sequence[str]]) -> Described:
        """Classes given by their captions: a picture fits one as well as it fits the best of its captions."""
        texts = [text for part in classes for text in part]
        owner = np.repeat(np.arange(len(classes)), [len(part) for part in classes])
        if self._model is not None:
            return Described(text_vectors(self._model, texts, MatchConfig()), owner, len(classes))
        assert self._world is not None
        return self._by_pictures([self._world.of_captions([text]) for text in texts], owner, len(classes))

    def phrases(self, phrases: Sequence[str]) -> Described:
        """Classes given by a word or phrase: pictures whose caption names this one and none of the others."""
        owner = np.arange(len(phrases))
        if self._model is not None:
            return Described(text_vectors(self._model, phrases, MatchConfig()), owner, len(phrases))
        assert self._world is not None
        others = [[other for other in phrases if other != phrase] for phrase in phrases]
        found = [self._world.that_mention(*pair) for pair in zip(phrases, others, strict=True)]
        return self._by_pictures(found, owner, len(phrases))

    def _by_pictures(self, found: Sequence[Sequence[int]], owner: np.ndarray, num_classes: int) -> Described:
        """Mean vectors of real pictures; what there is no picture of has no vector."""
        assert self._world is not None
        parts = [rows for rows in found if rows]
        if not parts:
            raise UserError("the judge's world has no real picture of anything that is asked for")
        vectors = self.vectors(self._world.pictures([row for rows in parts for row in rows]))
        ends = np.cumsum([len(rows) for rows in parts])[:-1]
        means = np.stack([part.mean(axis=0) for part in np.split(vectors, ends)])
        return Described(means, owner[[bool(rows) for rows in found]], num_classes)

    def similarities(self, vectors: np.ndarray, described: Described) -> np.ndarray:
        """How well each picture fits each class (M, C); minus infinity for classes that are not known.

        Features of an encoder without words are taken relative to the mean over the classes: what all pictures share,
        such as white paper, does not count.
        """
        classes = described.vectors
        if self._model is None:
            centre = classes.mean(axis=0)
            vectors, classes = _unit(vectors - centre), _unit(classes - centre)
        one_by_one = vectors @ classes.T
        similarity = np.full((len(vectors), described.num_classes), -np.inf)
        for column, number in enumerate(described.owner):
            similarity[:, number] = np.maximum(similarity[:, number], one_by_one[:, column])
        return similarity


class _World:
    """Real pictures by what their captions say."""

    def __init__(self, folder: Path) -> None:
        self._table = ImageTable.open(folder / "images.lance")
        rows = self._table.read(["origin", "caption_id", "status"])  # row i is at position i
        good = pc.and_(pc.equal(rows["origin"], REAL), pc.equal(rows["status"], OK)).to_numpy()
        captions = CaptionTable.open(folder / "captions.lance").read(["id", "text", "concept"]).to_pylist()
        concept_of = {row["id"]: row["concept"] or row["id"] for row in captions}
        text_of = {row["id"]: row["text"] for row in captions}
        self._concept_of_text = {row["text"]: concept_of[row["id"]] for row in captions}
        self._of_concept: dict[str, list[int]] = {}
        self._texts: dict[int, str] = {}
        for position in np.flatnonzero(good):
            caption = rows["caption_id"][int(position)].as_py()
            self._of_concept.setdefault(concept_of.get(caption, caption), []).append(int(position))
            self._texts[int(position)] = text_of.get(caption, "")

    def of_captions(self, texts: Sequence[str]) -> list[int]:
        """Positions of the pictures that show what one of the captions says, in whatever words."""
        concepts = dict.fromkeys(self._concept_of_text.get(text, "") for text in texts)
        return [row for concept in concepts for row in self._of_concept.get(concept, ())][:_MOST_PICTURES]

    def that_mention(self, phrase: str, others: Sequence[str]) -> list[int]:
        """Positions of pictures whose caption names the phrase and none of the others."""
        found = [
            row
            for row, text in self._texts.items()
            if mentions(text, phrase) and not any(mentions(text, other) for other in others)
        ]
        return found[:_MOST_PICTURES]

    def pictures(self, positions: Sequence[int]) -> TableImages:
        """Their encoded bytes."""
        return TableImages(self._table, positions)


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: np.ndarray = vectors / np.maximum(length, 1e-12)
    return unit
