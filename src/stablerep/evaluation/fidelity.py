"""Prompt fidelity: does a classifier trained on real pictures see what the caption asked for?

Shapes: M pictures, B replicates of the bootstrap.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stablerep import runtime
from stablerep.errors import UserError
from stablerep.evaluation.intervals import GroupBootstrap, Interval
from stablerep.probes import mean_per_class_accuracy

_NUM_SHUFFLES = 200


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How often the judge named painted pictures by the label of their caption."""

    mean_per_class: Interval
    """Prompt fidelity: share named rightly, mean over classes, interval over captions."""
    top1: Interval
    """Share named rightly, over all pictures."""
    judge: Interval
    """Mean per-class accuracy of the judge on real test pictures of the classes that were painted."""
    of_judge: Interval | None
    """Prompt fidelity over that accuracy, one where paintings are named as well as real pictures; None where a
    judge that may be never right gives no ratio. The real test pictures are of concepts that the judge never saw: of
    captions whose concepts it learned from, paintings are easier to name, and the ratio may exceed one."""
    shuffled: float
    """Mean per class where each caption has the label of another: what a painter that cannot read reaches."""
    num_pictures: int
    num_captions: int
    per_class: Mapping[str, float]
    """Share named rightly, by class."""


@dataclass(frozen=True)
class Named:
    """What a judge named M pictures, what they show, and which of them succeed or fail together."""

    named: np.ndarray
    labels: np.ndarray
    groups: np.ndarray

    def of_classes(self, classes: np.ndarray) -> "Named":
        """The pictures that show one of these classes."""
        rows = np.isin(self.labels, classes)
        return Named(self.named[rows], self.labels[rows], self.groups[rows])

    def accuracies(self, num_bootstrap: int, *identity: int | str) -> "Reached":
        """Agreement of names and labels, with an interval over groups."""
        seed = runtime.seed_for(*identity)
        bootstrap = GroupBootstrap(self.labels, self.groups, num=num_bootstrap, seed=seed)
        found = bootstrap.accuracies(self.named == self.labels)
        return Reached(
            found.interval("mean_per_class"), found.interval("top1"), found.replicates["mean_per_class"]
        )


@dataclass(frozen=True)
class Reached:
    """Two accuracies and the replicates (B,) of the first."""

    mean_per_class: Interval
    top1: Interval
    replicates: np.ndarray


def prompt_fidelity(painted: Named, real: Named, *, num_bootstrap: int = 1000, seed: int = 0) -> Fidelity:
    """Fidelity of paintings, grouped by caption, beside the accuracy of the same judge on real pictures.

    The judge is held to the real pictures of the painted classes only, so that easy classes on one side do not
    count; the interval of the ratio draws captions and real groups independently. Raises ``UserError`` where no
    real picture shows a painted class.
    """
    real = real.of_classes(painted.labels)
    if not len(real.labels):
        raise UserError(
            "no real test picture shows a class that was painted; judge more captions, see --split"
        )
    reached = painted.accuracies(num_bootstrap, "paintings", seed)
    judge = real.accuracies(num_bootstrap, "judge", seed)
    ratio = None
    if judge.mean_per_class.value > 0 and judge.replicates.min() > 0:
        value = reached.mean_per_class.value / judge.mean_per_class.value
        ratio = Interval.around(value, reached.replicates / judge.replicates)
    return Fidelity(
        mean_per_class=reached.mean_per_class,
        top1=reached.top1,
        judge=judge.mean_per_class,
        of_judge=ratio,
        shuffled=_shuffled(painted, seed),
        num_pictures=len(painted.labels),
        num_captions=len(np.unique(painted.groups)),
        per_class={
            str(label): float((painted.named[painted.labels == label] == label).mean())
            for label in np.unique(painted.labels)
        },
    )


def _shuffled(painted: Named, seed: int) -> float:
    """Mean per-class accuracy after labels changed places between captions, mean over shuffles."""
    _, first, caption_of = np.unique(painted.groups, return_index=True, return_inverse=True)
    rng = runtime.numpy_generator("shuffled captions", seed)
    others = (rng.permutation(painted.labels[first])[caption_of] for _ in range(_NUM_SHUFFLES))
    return float(np.mean([mean_per_class_accuracy(labels, painted.named) for labels in others]))
