"""Reads attributes from pictures: a probe on an encoder's features, or zero-shot by an image-text model.

Both are fitted or calibrated on real pictures whose value is known: on the pictures of one half of their groups the
probe is trained, on the other half the reader is tested and learns when to abstain.

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


@dataclass(frozen=True)
class Reader:
    """A reader with what is known of its errors."""

    probabilities: Probabilities
    level: float
    """Confidence below which it abstains."""
    tested: Checked
    """What it answers to its test pictures."""

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
    is_test = _halves(groups, seed)
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
    tested = probabilities(features[test])
    level = abstention_level(tested.max(1), tested.argmax(1) == labels[test], attribute.accuracy)
    return Reader(
        probabilities, level, Checked(labels[test], _answers(tested, level), np.asarray(groups)[test])
    )


def softmax(logits: np.ndarray) -> np.ndarray:
    """Rows (M, C) as probabilities."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    result: np.ndarray = powers / powers.sum(1, keepdims=True)
    return result


def _answers(probabilities: np.ndarray, level: float) -> np.ndarray:
    return np.where(probabilities.max(1) >= level, probabilities.argmax(1), -1)


def _halves(groups: Sequence[str] | np.ndarray, seed: int) -> np.ndarray:
    """Which pictures (M,) are for testing: those of every other group in a random order."""
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
    place = runtime.numpy_generator("bias halves", seed).permutation(len(names))
    half: np.ndarray = place[codes] % 2 == 1
    return half


def _fit(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int) -> Probabilities:
    is_validation = _halves(groups, seed + 1)
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
