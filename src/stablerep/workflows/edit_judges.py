"""Who says what a picture shows: an image-text model by the words, any other encoder by real pictures of them.

Shapes: M pictures, C classes, E width of the vectors, R real pictures.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from stablerep import runtime
from stablerep.audit.shares import Checked
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.features import Extraction, FrozenEncoder, TableImages, extract
from stablerep.generation.concepts import mentions
from stablerep.generation.settings import PaintConfig
from stablerep.match import image_vectors, text_vectors
from stablerep.models.encoder import load_encoder
from stablerep.models.joint import ImageText, NoTextTowerError, load_image_text
from stablerep.store import OK, REAL, CaptionTable, ImageTable

_SHRINKAGE = 0.1
"""Share of the identity in the covariance within classes. On real icons of the validation split a supervised encoder
names 19 % of 60 classes rightly with 0.1, 18 % with 0.5 or 0.01, and 14 % without a covariance."""


class Judge(Protocol):
    """Holds pictures against classes, each given by the texts of captions or by a phrase that captions contain."""

    @property
    def fingerprint(self) -> str:
        """Identity of the encoder that judges."""

    def has(self, text: str) -> bool:
        """Whether a caption can be a class."""

    def vectors(self, images: Sequence[bytes]) -> np.ndarray:
        """Vectors (M, E) of pictures."""

    def captions(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors (C, E) of captions, one class each."""

    def phrases(self, phrases: Sequence[str], meant: Collection[str] | None = None) -> np.ndarray:
        """Vectors (C, E) of words or phrases: whatever is called so, and by none of the other phrases.

        Of words with several meanings ``meant`` holds the captions that have the right one; the others do not count
        where real pictures of these are there.
        """

    def similarities(self, vectors: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """How well each picture fits each class (M, C)."""

    def named(self, vectors: np.ndarray, phrases: Sequence[str]) -> np.ndarray:
        """Which of the phrases (M,) each picture fits best."""

    def tested(self, phrases: Sequence[str]) -> Checked | None:
        """What ``named`` says of real validation pictures of the phrases; None where some phrase has none."""


def mean_accuracy(tested: Checked) -> float:
    """Mean per phrase of the pictures that are named rightly."""
    right = tested.said == tested.truth
    return float(np.mean([right[tested.truth == number].mean() for number in np.unique(tested.truth)]))


def open_judge(run: Path, world: Path | None, paint: PaintConfig, console: Console) -> Judge:
    """The judge of a run, a file or a name: by its words if it has any, else by the real pictures of ``world``.

    Device, and whether anything may be fetched, are those of ``paint``. Raises ``UserError`` where there is no such
    model, and where it knows no words and no world is given.
    """
    device, download = runtime.pick_device(paint.device), paint.download
    try:
        model = load_image_text(run, device, download=download)
    except NoTextTowerError as error:
        if world is None:
            raise UserError(
                f"judge {run} knows no words; give --world with real pictures, or an image-text model"
            ) from error
        return PictureJudge(load_encoder(run, device, download=download), world, console)
    return WordJudge(model, console, None if world is None else RealPictures.of(world))


@dataclass(frozen=True)
class RealPictures:
    """The real pictures (R) of a world that may be looked at: those of the test split are left alone."""

    table: ImageTable
    positions: np.ndarray
    texts: Sequence[str]
    """(R,) their captions."""
    is_training: np.ndarray
    """(R,) whether an encoder of this world may have learned from them."""
    labels: np.ndarray
    """(R,)."""
    captions: Sequence[str]
    """(R,) ids."""
    groups: np.ndarray
    """(R,) their groups, or their captions where a picture has none."""

    @classmethod
    def of(cls, world: Path) -> "RealPictures":
        """Read what is known of them; no picture is decoded."""
        table = ImageTable.open(world / "images.lance")
        rows = table.read(["origin", "caption_id", "status", "split", "label", "group"])
        origin, caption, status, split, label, group = (
            np.array(rows[name].to_pylist(), dtype=object) for name in rows.column_names
        )
        good = np.flatnonzero((origin == REAL) & (status == OK) & (split != "test"))
        captions = CaptionTable.open(world / "captions.lance").read(["id", "text"])
        text_of = dict(zip(captions["id"].to_pylist(), captions["text"].to_pylist(), strict=True))
        texts = [text_of.get(one, "") for one in caption[good]]
        groups = [own or one for own, one in zip(group[good], caption[good], strict=True)]
        is_training, ids = split[good] == "train", caption[good].tolist()
        return cls(table, good, texts, is_training, label[good], ids, np.array(groups, dtype=object))

    def images(self) -> TableImages:
        """All of them, in order."""
        return TableImages(self.table, self.positions)

    def naming(self, phrases: Sequence[str]) -> list[list[int]]:
        """For each phrase the pictures whose caption names it and none of the others."""
        found: list[list[int]] = [[] for _ in phrases]
        for number, text in enumerate(self.texts):
            naming = [place for place, phrase in enumerate(phrases) if mentions(text, phrase)]
            if len(naming) == 1:
                found[naming[0]].append(number)
        return found

    def held_out(self, phrases: Sequence[str]) -> list[np.ndarray]:
        """The same as arrays, of the pictures outside the training split."""
        rows = (np.array(some, dtype=np.int64) for some in self.naming(phrases))
        return [some[~self.is_training[some]] for some in rows]

    def checked(self, rows: Sequence[np.ndarray], said: np.ndarray) -> Checked:
        """What a judge says (M,) of the pictures in these rows of each phrase, one after the other."""
        truth = np.repeat(np.arange(len(rows)), [len(some) for some in rows])
        return Checked(truth, said, self.groups[np.concatenate(rows)])


@dataclass(frozen=True)
class WordJudge:
    """An image-text model: cosines of pictures and words."""

    model: ImageText
    console: Console
    real: RealPictures | None = None
    """On which it can be tested."""

    @property
    def fingerprint(self) -> str:
        return self.model.fingerprint

    def has(self, text: str) -> bool:
        """Any text will do."""
        return bool(text)

    def vectors(self, images: Sequence[bytes]) -> np.ndarray:
        """Unit vectors (M, E)."""
        return image_vectors(self.model, images, Extraction(), console=self.console)

    def captions(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (C, E)."""
        return text_vectors(self.model, texts, Extraction())

    def phrases(self, phrases: Sequence[str], meant: Collection[str] | None = None) -> np.ndarray:
        """Unit vectors (C, E) of "a X", whatever is ``meant``."""
        del meant
        return self.captions([f"a {phrase}" for phrase in phrases])

    def similarities(self, vectors: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Cosines (M, C)."""
        cosines: np.ndarray = vectors @ classes.T
        return cosines

    def named(self, vectors: np.ndarray, phrases: Sequence[str]) -> np.ndarray:
        """The phrase (M,) with the largest cosine."""
        best: np.ndarray = self.similarities(vectors, self.phrases(phrases)).argmax(axis=1)
        return best

    def tested(self, phrases: Sequence[str]) -> Checked | None:
        """On the real pictures outside the training split."""
        if self.real is None:
            return None
        real, rows = self.real, self.real.held_out(phrases)
        if not all(map(len, rows)):
            return None
        images = TableImages(real.table, real.positions[np.concatenate(rows)])
        return real.checked(rows, self.named(self.vectors(images), phrases))


class PictureJudge:
    """An encoder without words: classes are means of real pictures, compared where the encoder tells classes apart.

    Features are whitened by their covariance within the labels of the world, as in linear discriminant analysis: a
    direction in which pictures of one label differ anyway, such as colour, says little. Real pictures of the test split
    are left alone.
    """

    def __init__(self, encoder: FrozenEncoder, world: Path, console: Console) -> None:
        self._encoder = encoder
        self._console = console
        self._pictures = real = RealPictures.of(world)
        captions = CaptionTable.open(world / "captions.lance").read(["id", "text", "concept"]).to_pylist()
        concept_of = {row["id"]: row["concept"] or row["id"] for row in captions}
        self._concept_of_text = {row["text"]: concept_of[row["id"]] for row in captions}
        self._rows: dict[str, list[int]] = {}
        for number, one in enumerate(real.captions):
            self._rows.setdefault(concept_of.get(one, one), []).append(number)
        features = extract(encoder, real.images(), console=console)
        self._centre, self._whitening = features.mean(axis=0), _whitening(features, real.labels)
        self._real = (features - self._centre) @ self._whitening

    @property
    def fingerprint(self) -> str:
        return self._encoder.fingerprint

    def has(self, text: str) -> bool:
        """Whether the world has a picture of what the caption says, in whatever words."""
        return self._concept_of_text.get(text, "") in self._rows

    def vectors(self, images: Sequence[bytes]) -> np.ndarray:
        """Whitened features (M, E)."""
        features = extract(self._encoder, images, console=self._console)
        whitened: np.ndarray = (features - self._centre) @ self._whitening
        return whitened

    def captions(self, texts: Sequence[str]) -> np.ndarray:
        """Means (C, E) of the real pictures of each caption; ``UserError`` for one without any."""
        return np.stack(
            [self._mean(self._rows.get(self._concept_of_text.get(one, ""), []), one) for one in texts]
        )

    def phrases(self, phrases: Sequence[str], meant: Collection[str] | None = None) -> np.ndarray:
        """Means (C, E) of the real pictures whose caption names one phrase and no other; ``UserError`` for none.

        Of a phrase of which captions are ``meant`` only pictures of these count.
        """
        rows = self._pictures.naming(phrases)
        if meant is not None:
            texts = self._pictures.texts
            rows = [[row for row in some if texts[row] in meant] or some for some in rows]
        return np.stack([self._mean(some, phrase) for some, phrase in zip(rows, phrases, strict=True)])

    def similarities(self, vectors: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Cosines (M, C) around the mean of all real pictures: what all share, as white paper, does not count."""
        cosines: np.ndarray = _unit(vectors) @ _unit(classes).T
        return cosines

    def named(self, vectors: np.ndarray, phrases: Sequence[str]) -> np.ndarray:
        """The phrase (M,) by linear discriminants between the real pictures of the phrases alone.

        What tells a woman from a man is among what the labels of the world do not care for, so the covariance within
        labels would hide it.
        """
        return self._discriminate(
            vectors, [np.array(rows) for rows in self._pictures.naming(phrases)], phrases
        )

    def tested(self, phrases: Sequence[str]) -> Checked | None:
        """Trained on the training split, tested on the rest; ``named``, which learns from both, errs rather less."""
        rows = [np.array(some, dtype=np.int64) for some in self._pictures.naming(phrases)]
        learned = [some[self._pictures.is_training[some]] for some in rows]
        held_out = self._pictures.held_out(phrases)
        if not all(map(len, learned)) or not all(map(len, held_out)):
            return None
        said = self._discriminate(self._real[np.concatenate(held_out)], learned, phrases)
        return self._pictures.checked(held_out, said)

    def _discriminate(
        self, vectors: np.ndarray, rows: Sequence[np.ndarray], phrases: Sequence[str]
    ) -> np.ndarray:
        means = np.stack([self._mean(list(some), phrase) for some, phrase in zip(rows, phrases, strict=True)])
        every = np.concatenate(rows)
        index = np.repeat(np.arange(len(rows)), [len(some) for some in rows])
        whitening = _whitening(self._real[every], index)
        distances = ((vectors @ whitening)[:, None] - (means @ whitening)[None]) ** 2
        nearest: np.ndarray = distances.sum(axis=2).argmin(axis=1)
        return nearest

    def _mean(self, rows: Sequence[int], name: str) -> np.ndarray:
        if not rows:
            raise UserError(
                f"the judge's world has no real picture of {name!r}; name it otherwise, or give another judge"
            )
        mean: np.ndarray = self._real[list(rows)].mean(axis=0)
        return mean


def _whitening(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The matrix (E, E) that makes the covariance within labels round."""
    names, index = np.unique(labels.astype(str), return_inverse=True)
    means = np.stack([features[index == number].mean(axis=0) for number in range(len(names))])
    rest = features - means[index]
    covariance = rest.T.astype(np.float64) @ rest / len(rest)
    size = len(covariance)
    round_one = np.eye(size) * np.trace(covariance) / size
    values, axes = np.linalg.eigh((1 - _SHRINKAGE) * covariance + _SHRINKAGE * round_one)
    whitening: np.ndarray = (axes / np.sqrt(np.maximum(values, 1e-12))).astype(np.float32)
    return whitening


def _unit(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit
