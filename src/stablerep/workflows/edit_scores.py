"""What an audit of an edit measures, from pairs of pictures: the same caption and seed, before and after.

Shapes: M pairs, C classes, E width of the judge's vectors.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from stablerep.decoding import decode_image
from stablerep.evaluation.intervals import Accuracies, GroupBootstrap, Interval


@dataclass(frozen=True, kw_only=True)
class EditedConcept:
    """What became of one edited concept."""

    concept: str
    kind: str
    captions: tuple[str, ...]
    num_pictures: int
    before: Interval
    """Prompt fidelity of the parent: share of pictures whose own concept fits best of all that were asked for."""
    after: Interval
    """The same of the edited teacher."""
    fall: Interval | None
    """One minus their ratio; None where the parent never painted the concept."""
    rank_before: float
    """Median rank of the concept among all classes, one where it fits best."""
    rank_after: float
    as_target_before: float | None
    """Replace: share of pictures that fit what took the concept's place best; None without captions of it."""
    as_target_after: float | None
    shares_before: Mapping[str, float]
    """Rebalance: share of pictures by the attribute that fits best."""
    shares_after: Mapping[str, float]
    wanted: Mapping[str, float]
    judge_accuracy: float | None
    """Rebalance: mean per attribute of the real validation pictures that the judge names rightly."""


@dataclass(frozen=True, kw_only=True)
class Preserved:
    """What became of everything else."""

    num_captions: int
    num_pictures: int
    before: Interval
    """Prompt fidelity of the parent, interval over captions."""
    after: Interval
    change: Interval
    """Paired difference."""


@dataclass(frozen=True, kw_only=True)
class Moved:
    """How far pictures moved. A ratio of 0: the same pictures; of 1: as different as with another seed."""

    pixels: float
    """Mean absolute difference of pixels, of 1 at most."""
    pixel_ratio: float
    feature_ratio: float
    """In the judge's vectors."""


@dataclass(frozen=True, kw_only=True)
class CopyShares:
    """Share of pictures that nearly repeat a training picture."""

    before: Interval
    after: Interval
    false_alarms: float


@dataclass(frozen=True, kw_only=True)
class EditAudit:
    """Everything that was measured of parent and edited teacher."""

    judge: str
    judge_fingerprint: str
    num_classes: int
    """Classes of which a picture must fit its own best: the edited concepts, and one per preserved caption."""
    num_images: int
    """Pictures of each caption."""
    num_failed: int
    """Pairs of which either picture failed."""
    edited: tuple[EditedConcept, ...]
    preserved: Preserved
    moved_edited: Moved
    moved_preserved: Moved
    near_copies: CopyShares | None
    """None where no world was given or they were not searched."""
    origins: tuple[str, str]
    """Parent and edited teacher, as the tables of their pictures name them."""

    HEADER: ClassVar[tuple[str, ...]] = ("", "before", "after", "change")

    def rows(self) -> list[list[str]]:
        """The scores as rows of text under ``HEADER``."""
        rows = [row for one in self.edited for row in _concept_rows(one)]
        kept = self.preserved
        rows.append(
            [
                f"{kept.num_captions} others, named rightly, %",
                kept.before.in_percent(),
                kept.after.in_percent(),
                kept.change.in_percent(sign=True),
            ]
        )
        for name, moved in (("edited", self.moved_edited), ("others", self.moved_preserved)):
            rows.append(
                [f"{name}: pixels moved, % of another seed", "", "", f"{100 * moved.pixel_ratio:.1f}"]
            )
            rows.append([f"{name}: features moved, %", "", "", f"{100 * moved.feature_ratio:.1f}"])
        if self.near_copies is not None:
            shares = self.near_copies.before.in_percent(), self.near_copies.after.in_percent()
            rows.append(["near-copies, %", *shares, ""])
        return rows

    def to_json(self) -> dict[str, Any]:
        """Plain values, as written to edit.json."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain


def _concept_rows(one: EditedConcept) -> list[list[str]]:
    fell = "" if one.fall is None else f"{-100 * one.fall.value:+.0f} % of it"
    rows = [[f"{one.concept}: named rightly, %", one.before.in_percent(), one.after.in_percent(), fell]]
    rows.append([f"{one.concept}: median rank", f"{one.rank_before:g}", f"{one.rank_after:g}", ""])
    if one.as_target_before is not None and one.as_target_after is not None:
        shares = one.as_target_before, one.as_target_after
        rows.append(
            [f"{one.concept}: named as its target, %", *(f"{100 * share:.1f}" for share in shares), ""]
        )
    for name, wanted in one.wanted.items():
        shares = one.shares_before[name], one.shares_after[name]
        percent = (f"{100 * share:.1f}" for share in shares)
        rows.append([f"{one.concept}: {name}, %", *percent, f"wanted {100 * wanted:g}"])
    return rows


@dataclass(frozen=True)
class Ranks:
    """Rank of its own class (M,) for each picture, one where it fits best, and the class that fits best (M,)."""

    rank: np.ndarray
    best: np.ndarray

    @classmethod
    def among(cls, similarities: np.ndarray, own: np.ndarray) -> "Ranks":
        """From similarities (M, C) with the classes and the number of each picture's own class (M,)."""
        mine = np.take_along_axis(similarities, own[:, None], axis=1)
        return cls(1 + (similarities > mine).sum(axis=1), similarities.argmax(axis=1))


def paired(
    before: np.ndarray, after: np.ndarray, groups: Sequence[str] | np.ndarray, num: int, seed: int
) -> tuple[Accuracies, Accuracies]:
    """Shares of what is right (M,) before and after, with replicates that share their draws of groups."""
    bootstrap = GroupBootstrap(np.zeros(len(before), dtype=np.int64), groups, num=num, seed=seed)
    return bootstrap.accuracies(before), bootstrap.accuracies(after)


def fall(before: Accuracies, after: Accuracies) -> Interval | None:
    """One minus the ratio of two shares; None where the first may be zero."""
    first, second = before.replicates["top1"], after.replicates["top1"]
    if before.value["top1"] == 0 or first.min() == 0:
        return None
    return Interval.around(1 - after.value["top1"] / before.value["top1"], 1 - second / first)


def how_far(
    images: tuple[Sequence[bytes], Sequence[bytes]],
    vectors: tuple[np.ndarray, np.ndarray],
    captions: np.ndarray,
) -> Moved:
    """Distances between the pictures before and after, beside those between two seeds of one caption before."""
    pixels = [np.stack([decode_image(image).numpy() for image in part]) for part in images]
    other = _another_of_the_same(captions)
    change = _pixel_distance(pixels[0], pixels[1])
    natural = _pixel_distance(pixels[0], pixels[0][other])
    moved = np.linalg.norm(vectors[0] - vectors[1], axis=1).mean()
    apart = np.linalg.norm(vectors[0] - vectors[0][other], axis=1).mean()
    return Moved(
        pixels=change,
        pixel_ratio=change / max(natural, 1e-12),
        feature_ratio=float(moved / max(apart, 1e-12)),
    )


def _pixel_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference of uint8 pictures (M, 3, H, W), picture by picture to save memory."""
    distances = [np.abs(a.astype(np.float32) - b).mean() / 255 for a, b in zip(one, other, strict=True)]
    return float(np.mean(distances))


def _another_of_the_same(captions: np.ndarray) -> np.ndarray:
    """For each row (M,) the next row of the same caption, the first after the last."""
    other = np.arange(len(captions))
    for caption in np.unique(captions):
        rows = np.flatnonzero(captions == caption)
        other[rows] = np.roll(rows, -1)
    return other
