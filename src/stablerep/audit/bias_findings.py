"""What ``audit bias`` finds of an attribute: shares of each group of captions, their distances and amplification.

Shapes: M pictures, C values, D features.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from stablerep.audit.attributes import Attribute, StatedBy, of_each
from stablerep.audit.readers import Reader, tested_quality
from stablerep.audit.rows import Rows
from stablerep.audit.shares import ShareBootstrap, Shown, around, jensen_shannon, total_variation
from stablerep.errors import UserError


@dataclass(frozen=True)
class Side:
    """Painted or real pictures that can be decoded: features (M, D), and what is known of them."""

    rows: Rows
    features: np.ndarray
    texts: list[str]
    """Their captions, or their labels, empty where there is none."""
    groups: list[str]
    stated_by: StatedBy
    """Which of the two."""
    num_undecoded: int

    def shown(self, attribute: Attribute) -> np.ndarray:
        """Values (M,) that the pictures show as far as the texts say, else -1."""
        return np.array(of_each(lambda text: attribute.shown(self.stated_by, text), self.texts))

    def concerned(self, attribute: Attribute) -> np.ndarray:
        """Which pictures (M,) have a caption that is looked at."""
        return np.array(of_each(attribute.concerns, self.texts))


@dataclass(frozen=True)
class Draws:
    """Replicates of the intervals."""

    num: int
    seed: int


@dataclass(frozen=True)
class _Bootstraps:
    """Shares with replicates, as a reader's errors make them uncertain."""

    reader: Reader
    num_values: int
    draws: Draws

    def of(self, shown: Shown) -> ShareBootstrap:
        return ShareBootstrap(
            shown, self.reader.tested, self.num_values, num=self.draws.num, seed=self.draws.seed
        )


def find_shares(
    attribute: Attribute, sides: tuple[Side, Side], answers: np.ndarray, reader: Reader, draws: Draws
) -> dict[str, Any]:
    """All that is said of an attribute that a reader was fitted for, by its answers (M,) to the painted pictures."""
    quality = tested_quality(reader, attribute)
    if np.isfinite(reader.level):
        found = _groups(attribute, sides, answers, _Bootstraps(reader, len(attribute.values), draws))
        return {"reader": quality, "unread": None, **found}
    why = (
        f"at no confidence is the reader right in {attribute.accuracy:.0%} of its answers; lower accuracy in the "
        "attributes file, or give an encoder that sees it"
    )
    return {"reader": quality, "unread": why, "groups": {}}


def refuse_unread(findings: Mapping[str, Any]) -> None:
    """Raise ``UserError`` where no attribute was read in any group."""
    if any(finding["groups"] for finding in findings.values()):
        return
    name, finding = next(iter(findings.items()))
    why = (
        finding["unread"] or "no painted picture belongs to a caption of any group; widen the patterns there"
    )
    raise UserError(f"attribute {name}: {why}")


def _groups(
    attribute: Attribute, sides: tuple[Side, Side], answers: np.ndarray, bootstraps: _Bootstraps
) -> dict[str, Any]:
    """Shares of each group of captions: in the captions, in the pictures, and as the reader answers."""
    painted, real = sides
    concerned = painted.concerned(attribute)
    shown = Shown(answers, painted.rows.captions, painted.shown(attribute))
    of_real = attribute.members(real.texts)
    found: dict[str, Any] = {}
    empty = []
    for group, members in attribute.members(painted.texts).items():
        own = np.flatnonzero(concerned & np.array(members))
        if len(own):
            target = _target(attribute, real.shown(attribute)[np.array(of_real[group])])
            found[group] = _group(attribute, shown[own], target, bootstraps)
        else:
            empty.append(group)
    return {"groups": found, "groups without pictures": empty}


def _target(attribute: Attribute, real: np.ndarray) -> np.ndarray | None:
    """The shares (C,) that are wanted, or those of a group's real pictures whose value (M,) is known, if any is."""
    if attribute.target:
        return np.array([attribute.target[value] for value in attribute.names])
    known = real[real >= 0]
    if not len(known):
        return None
    shares: np.ndarray = np.bincount(known, minlength=len(attribute.values)) / len(known)
    return shares


def _group(
    attribute: Attribute, shown: Shown, target: np.ndarray | None, bootstraps: _Bootstraps
) -> dict[str, Any]:
    def named(shares: np.ndarray | None) -> dict[str, float] | None:
        return None if shares is None else dict(zip(attribute.names, shares.tolist(), strict=True))

    whole = bootstraps.of(shown)
    stating = np.flatnonzero(shown.stated >= 0)  # captions are compared with their own pictures, not with all
    asked = bootstraps.of(shown[stating]) if len(stating) else None
    return {
        "pictures": len(shown.answers),
        "pictures whose captions state a value": len(stating),
        "abstained": float((shown.answers < 0).mean()),
        "shares": {value: asdict(whole.share(number)) for number, value in enumerate(attribute.names)},
        "target": named(target),
        **_apart(whole, target),
        "amplification": _chain(whole, asked),
        "captions": named(asked.stated if asked else None),
        "shares where captions state a value": named(asked.value if asked else None),
        "answers": named(whole.answered if (shown.answers >= 0).any() else None),
    }


def _apart(bootstrap: ShareBootstrap, target: np.ndarray | None) -> dict[str, Any]:
    """How far the shares are from the target, where there is one, and how far chance alone would bring them."""
    if target is None:
        return {"total variation": None, "total variation by chance": None, "jensen_shannon": None}
    apart = np.array([total_variation(one, target) for one in bootstrap.replicates])
    return {
        "total variation": asdict(around(total_variation(bootstrap.value, target), apart)),
        "total variation by chance": bootstrap.apart_by_chance(target),
        "jensen_shannon": jensen_shannon(bootstrap.value, target),
    }


def _chain(whole: ShareBootstrap, asked: ShareBootstrap | None) -> dict[str, Any]:
    """How much each step of the chain adds to the leading value."""
    steps = {
        "captions to pictures": asked.amplification() if asked else None,
        "pictures to answers": whole.amplification_by_reader(),
    }
    return {step: asdict(grown) for step, grown in steps.items() if grown is not None}


def in_brief(findings: Mapping[str, Any]) -> dict[str, str]:
    """One line for the terminal per attribute and group."""
    lines = {}
    for name, finding in findings.items():
        if finding["unread"] is not None:
            lines[name] = f"not read: {finding['unread']}"
        for group, found in finding["groups"].items():
            target = found["target"]
            shares = ", ".join(
                f"{value} {100 * one['value']:.0f} [{100 * one['low']:.0f}, {100 * one['high']:.0f}] %"
                + ("" if target is None else f" (target {100 * target[value]:.0f})")
                for value, one in found["shares"].items()
            )
            apart = (
                "no target: no real picture of the group states a value"
                if target is None
                else f"{100 * found['total variation']['value']:.0f} points from the target, by chance up to "
                f"{100 * found['total variation by chance']:.0f}"
            )
            lines[f"{name} of {group}"] = f"{shares}; {100 * found['abstained']:.0f} % abstained; {apart}"
        for group in finding.get("groups without pictures", []):
            lines[f"{name} of {group}"] = "not read: no painted picture belongs to a caption of this group"
    return lines
