"""What an audit of an edit measures, from pairs of pictures: the same caption and seed, before and after.

Shapes: M pairs, C classes, E width of the judge's vectors.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from stablerep.audit.shares import Checked, ShareBootstrap, Shown
from stablerep.decoding import decode_image
from stablerep.evaluation.intervals import Accuracies, GroupBootstrap, Interval, mean_interval


@dataclass(frozen=True, kw_only=True)
class Control:
    """What the parent paints with the same seeds where a concept's target is asked for: the best an edit can reach."""

    num_pictures: int
    """Those of captions of which the edit leaves something to ask for."""
    named: Interval
    """Share in which the concept fits best all the same."""
    fall_above: Interval | None
    """Of the same captions, (before - after) over (before - control): 1 is a perfect edit, 0 none. None where to the
    judge the parent may not paint the concept more often when it is asked for."""


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
    """One minus their ratio; None where the parent may never have painted the concept."""
    control: Control | None
    """None for a rebalance, and where the edit leaves nothing of the captions."""
    unasked: Interval
    """Share of the parent's pictures of the captions that stay in which this concept fits best: the judge's habit."""
    rank_before: float
    """Median rank of the concept among all classes, one where it fits best."""
    rank_after: float
    as_target_before: float | None
    """Replace: share of pictures that fit what took the concept's place best; None for other edits."""
    as_target_after: float | None
    shares_before: Mapping[str, Interval]
    """Rebalance: share of pictures by the attribute that they show, as ``attribute_shares`` says."""
    shares_after: Mapping[str, Interval]
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
    """How far pictures moved. A ratio of 0: the same pictures; of 1: as different as with another seed.

    Ratios are None where no caption has two pictures.
    """

    pixels: float
    """Mean absolute difference of pixels, of 1 at most."""
    pixel_ratio: float | None
    feature_ratio: float | None
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
    """Classes of which a picture must fit its own best: edited concepts, what replaces them, and one for each caption
    that is preserved or only competes."""
    num_images: int
    """Pictures of each caption."""
    num_failed: int
    """Pairs of which either picture failed."""
    edited: tuple[EditedConcept, ...]
    preserved: Preserved
    num_edited_known: int
    """Captions naming an edited concept that the edit was solved for: of others it may reach less."""
    num_preserved_known: int
    """Captions that stay and were preserved by name: others may move further."""
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
        known = f"{self.num_edited_known} edited, {self.num_preserved_known} others"
        rows.append([f"captions that the edit was solved for: {known}", "", "", ""])
        for name, moved in (("edited", self.moved_edited), ("others", self.moved_preserved)):
            rows.append([f"{name}: pixels moved, % of another seed", "", "", _in_percent(moved.pixel_ratio)])
            rows.append([f"{name}: features moved, %", "", "", _in_percent(moved.feature_ratio)])
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
    if one.control is not None:
        above = one.control.fall_above
        fell = "" if above is None else f"{-100 * above.value:+.0f} % of what is above it"
        rows.append(
            [f"{one.concept}: named where its target is asked, %", one.control.named.in_percent(), "", fell]
        )
    rows.append([f"{one.concept}: named in others unasked, %", one.unasked.in_percent(), "", ""])
    rows.append([f"{one.concept}: median rank", f"{one.rank_before:g}", f"{one.rank_after:g}", ""])
    if one.as_target_before is not None and one.as_target_after is not None:
        shares = one.as_target_before, one.as_target_after
        rows.append(
            [f"{one.concept}: named as its target, %", *(f"{100 * share:.1f}" for share in shares), ""]
        )
    for name, wanted in one.wanted.items():
        percent = one.shares_before[name].in_percent(), one.shares_after[name].in_percent()
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
    parts: Sequence[np.ndarray], groups: Sequence[str] | np.ndarray, num: int, seed: int
) -> list[Accuracies]:
    """The share of each part (M,) that is right, with replicates that share their draws of groups."""
    bootstrap = GroupBootstrap(np.zeros(len(groups), dtype=np.int64), groups, num=num, seed=seed)
    return [bootstrap.accuracies(part) for part in parts]


def attribute_shares(
    named: np.ndarray, attributes: Sequence[str], tested: Checked | None, *, num: int, seed: int
) -> dict[str, Interval]:
    """Share of the pictures that show each attribute, from what a judge names them (M,), with intervals.

    Where the judge was tested, its errors are corrected as those of a reader (``audit.shares``), and intervals are over
    pictures and the groups of its test; else they are over pictures alone.
    """
    pictures = np.arange(len(named))
    if tested is None:
        return {
            name: mean_interval(named == number, pictures, num=num, seed=seed)
            for number, name in enumerate(attributes)
        }
    shown = Shown(named, pictures, np.full(len(named), -1))
    found = ShareBootstrap(shown, tested, len(attributes), num=num, seed=seed)
    return {
        name: Interval(**dataclasses.asdict(found.share(number))) for number, name in enumerate(attributes)
    }


def fall(before: Accuracies, after: Accuracies) -> Interval | None:
    """One minus the ratio of two shares; None where the first may be zero."""
    first = before.replicates["top1"]
    if before.value["top1"] == 0 or first.min() == 0:
        return None
    return _part_lost(before, after, before.value["top1"], first)


def fall_above(before: Accuracies, after: Accuracies, control: Accuracies) -> Interval | None:
    """(before - after) over (before - control); None where the denominator may not be positive."""
    room = before.replicates["top1"] - control.replicates["top1"]
    if before.value["top1"] <= control.value["top1"] or room.min() <= 0:
        return None
    return _part_lost(before, after, before.value["top1"] - control.value["top1"], room)


def _part_lost(before: Accuracies, after: Accuracies, room: float, replicates: np.ndarray) -> Interval:
    """(before - after) over ``room``, which has ``replicates`` (B,).

    Where nothing is left no replicate says otherwise, however few the pictures: the lower end is then that of the upper
    one of the share that is left.
    """
    lost = before.value["top1"] - after.value["top1"]
    found = Interval.around(lost / room, (before.replicates["top1"] - after.replicates["top1"]) / replicates)
    if after.value["top1"] > 0:
        return found
    least = (lost - after.interval("top1").high) / room
    return dataclasses.replace(found, low=min(found.low, least))


def how_far(
    images: tuple[Sequence[bytes], Sequence[bytes]],
    vectors: tuple[np.ndarray, np.ndarray],
    captions: np.ndarray,
) -> Moved:
    """Distances between the pictures before and after, beside those between two seeds of one caption before.

    Ratios are of the pictures that have another seed; a lone one has none. Pictures are decoded pair by pair, however
    many there are.
    """
    before, after = images
    other = _another_of_the_same(captions)
    rows = np.flatnonzero(other != np.arange(len(other)))
    changes = _distances(zip(before, after, strict=True))
    if not len(rows):
        return Moved(pixels=float(changes.mean()), pixel_ratio=None, feature_ratio=None)
    natural = _distances((before[row], before[other[row]]) for row in rows.tolist())
    moved = np.linalg.norm(vectors[0][rows] - vectors[1][rows], axis=1)
    apart = np.linalg.norm(vectors[0][rows] - vectors[0][other[rows]], axis=1)
    return Moved(
        pixels=float(changes.mean()),
        pixel_ratio=float(changes[rows].mean() / max(natural.mean(), 1e-12)),
        feature_ratio=float(moved.mean() / max(apart.mean(), 1e-12)),
    )


def _in_percent(ratio: float | None) -> str:
    return "not known" if ratio is None else f"{100 * ratio:.1f}"


def _distances(pairs: Iterable[tuple[bytes, bytes]]) -> np.ndarray:
    return np.array([_pixel_distance(*pair) for pair in pairs])


def _pixel_distance(one: bytes, other: bytes) -> float:
    """Mean absolute difference of two encoded pictures, of 1 at most."""
    first, second = (decode_image(image).numpy().astype(np.float32) for image in (one, other))
    return float(np.abs(first - second).mean() / 255)


def _another_of_the_same(captions: np.ndarray) -> np.ndarray:
    """For each row (M,) the next row of the same caption, the first after the last."""
    other = np.arange(len(captions))
    for caption in np.unique(captions):
        rows = np.flatnonzero(captions == caption)
        other[rows] = np.roll(rows, -1)
    return other
