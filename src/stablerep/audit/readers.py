"""Reads attributes from pictures: a probe on an encoder's features, or zero-shot by an image-text model.

Both are fitted or calibrated on real pictures whose value is known: on the pictures of one half of their groups the
probe is trained, on the other half the reader learns when to abstain and is tested. Each test picture is answered at
the level that the pictures of other groups set: a level looks more accurate on the pictures that it was chosen on.

Shapes: M pictures, C values, D features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stablerep import runtime
from stablerep.audit.attributes import Attribute
from stablerep.audit.shares import Checked, abstention_level
from stablerep.probes import Labelled, ProbeConfig, fit_linear

Probabilities = Callable[[np.ndarray], np.ndarray]
_FEWEST = 4  # groups of a value: two to train on, two to test on
_FOLDS = 10  # few pictures set no level: nine tenths of them set nearly the same as all


@dataclass(frozen=True)
class Reader:
    """A reader with what is known of its errors."""

    probabilities: Probabilities
    level: float
    """Confidence below which it abstains; infinite where it always does."""
    tested: Checked
    """What it answers to its test pictures, at levels that others of them set."""

    def answers(self, features: np.ndarray) -> np.ndarray:
        """Values (M,) of features (M, D), -1 where it abstains."""
        return _answers(self.probabilities(features), self.level)


def make_reader(
    attribute: Attribute,
    real: tuple[np.ndarray, np.ndarray, Sequence[str]],
    zero_shot: Probabilities | None,
    seed: int,
) -> Reader | str:
    """Of real pictures (features, values or -1, groups); a probe where no zero-shot reader is given.

    Where too few real pictures state a value there is none, and a sentence says so.
    """
    features, labels, groups = real
    is_test = _parts(groups, 2, seed) == 1
    for number, value in enumerate(attribute.names):
        found = set(np.asarray(groups)[labels == number])
        if len(found) < _FEWEST or not (
            (labels[is_test] == number).any() and (labels[~is_test] == number).any()
        ):
            return (
                f"real pictures of {len(found)} groups state {value!r}, at least {_FEWEST} are needed; widen its "
                "pattern, or give a larger table with --reference"
            )
    learn, test = (labels >= 0) & ~is_test, (labels >= 0) & is_test
    probabilities = zero_shot or _fit(features[learn], labels[learn], np.asarray(groups)[learn], seed)
    tested, subjects = probabilities(features[test]), np.asarray(groups)[test]
    level = _level(tested, labels[test], attribute.accuracy)
    said = _cross_fitted(tested, labels[test], _parts(subjects, _FOLDS, seed), attribute.accuracy)
    if (said < 0).all():
        level = float("inf")  # the pictures that it was chosen on are all that speaks for it
    return Reader(probabilities, level, Checked(labels[test], said, subjects))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Rows (M, C) as probabilities."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    result: np.ndarray = powers / powers.sum(1, keepdims=True)
    return result


def _answers(probabilities: np.ndarray, level: float) -> np.ndarray:
    return np.where(probabilities.max(1) >= level, probabilities.argmax(1), -1)


def _level(probabilities: np.ndarray, labels: np.ndarray, accuracy: float) -> float:
    """The confidence from which on probabilities (M, C) are as accurate as is wanted."""
    return abstention_level(probabilities.max(1), probabilities.argmax(1) == labels, accuracy)


def _cross_fitted(
    probabilities: np.ndarray, labels: np.ndarray, parts: np.ndarray, accuracy: float
) -> np.ndarray:
    """Answers (M,) to the pictures of each part, at the level that the pictures of all other parts set."""
    said = np.full(len(labels), -1)
    for part in np.unique(parts):
        own = parts == part
        said[own] = _answers(probabilities[own], _level(probabilities[~own], labels[~own], accuracy))
    return said


def _parts(groups: Sequence[str] | np.ndarray, num: int, seed: int) -> np.ndarray:
    """Which of ``num`` parts each picture (M,) is in: groups are dealt out in a random order."""
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
    place = runtime.numpy_generator("bias halves", seed).permutation(len(names))
    part: np.ndarray = place[codes] % num
    return part


def _fit(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int) -> Probabilities:
    is_validation = _parts(groups, 2, seed + 1) == 1
    num_values = int(labels.max()) + 1
    both = all(len(np.unique(labels[part])) == num_values for part in (is_validation, ~is_validation))
    train, validation = (~is_validation, is_validation) if both else (slice(None), slice(None))
    fitted = fit_linear(
        Labelled(features[train], labels[train]),
        Labelled(features[validation], labels[validation]),
        num_values,
        ProbeConfig(linear=replace(ProbeConfig().linear, num_l2=7)),
    )
    return fitted.probabilities


def tested_quality(reader: Reader, attribute: Attribute) -> dict[str, Any]:
    """How the reader does on real test pictures, by value, abstentions apart."""
    said, truth = reader.tested.said, reader.tested.truth
    answered = said >= 0
    right = said == truth
    by_value = {}
    for number, value in enumerate(attribute.names):
        own = answered & (truth == number)
        by_value[value] = float(right[own].mean()) if own.any() else None
    known = [share for share in by_value.values() if share is not None]
    return {
        "test pictures": len(truth),
        "answered": float(answered.mean()),
        "accuracy of answers": float(right[answered].mean()) if answered.any() else None,
        "accuracy wanted": attribute.accuracy,
        "accuracy by value": by_value,
        "worst value": min(known, default=None),
        "gap between values": max(known) - min(known) if known else None,
    }
