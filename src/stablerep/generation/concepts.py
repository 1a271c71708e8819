"""What to edit, in words: how an edit is written, which texts name a concept, and which prompt becomes which."""

import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from stablerep.errors import UserError
from stablerep.store import in_style, normalise_text

EditKind = Literal["remove", "replace", "rebalance"]

_GAP = re.compile(r"\s+(?=[,;.])")
_EMPTY = re.compile(r"^[\s,;.]+|(?<=[,;])\s*[,;]|[\s,;]+$")


@dataclass(frozen=True, kw_only=True)
class ConceptEdit:
    """One edit of one concept."""

    kind: EditKind
    concept: str
    """Word or phrase that the edit is about."""
    target: str = ""
    """What takes its place, for remove and replace; empty: nothing."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Rebalance: attribute -> wanted share; the shares add up to one."""

    def __str__(self) -> str:
        if self.kind == "rebalance":
            return f"{self.concept}: {','.join(f'{name}={share:g}' for name, share in self.shares.items())}"
        return f"{self.concept}={self.target}"


@dataclass(frozen=True)
class PromptPair:
    """A prompt that names a concept, and the same prompt with something else in its place."""

    source: str
    target: str


def read_edits(
    remove: Sequence[str], replace: Sequence[str], rebalance: Sequence[str], neutral: str = ""
) -> list[ConceptEdit]:
    """The edits as the user writes them: ``X``, ``A=B``, and ``C: a=0.5,b=0.5``.

    Raises ``UserError`` for one that cannot be read, and for a concept that is edited twice.
    """
    edits = [ConceptEdit(kind="remove", concept=_phrase(text, text), target=neutral) for text in remove]
    edits += [_read_replace(text) for text in replace]
    edits += [_read_rebalance(text) for text in rebalance]
    seen: set[str] = set()
    for edit in edits:
        if edit.concept.lower() in seen:
            raise UserError(f"concept {edit.concept!r} is edited twice; one edit per concept")
        seen.add(edit.concept.lower())
    return edits


def read_numbers(text: str) -> tuple[str, dict[str, float]]:
    """``C: a=0.5,b=0.5`` as concept and numbers; ``UserError`` for anything else."""
    concept, _, listed = text.partition(":")
    numbers: dict[str, float] = {}
    for part in listed.split(","):
        name, _, number = part.partition("=")
        with contextlib.suppress(ValueError):
            numbers[normalise_text(name)] = float(number)
    is_finite = all(map(math.isfinite, numbers.values()))
    if (
        not is_finite
        or len(numbers) < max(2, listed.count(",") + 1)
        or "" in numbers
        or not normalise_text(concept)
    ):
        raise UserError(
            f'{text!r} is not of the form "concept: attribute=number,attribute=number" with two attributes or more'
        )
    return normalise_text(concept), numbers


def mentions(text: str, concept: str) -> bool:
    """Whether a text names a concept: its words in this order, in either case, also with a plural s or es."""
    return _pattern(concept).search(text) is not None


def without(texts: Sequence[str], concepts: Sequence[str]) -> list[str]:
    """The texts that name none of the concepts."""
    patterns = [_pattern(concept) for concept in concepts]
    return [text for text in texts if not any(pattern.search(text) for pattern in patterns)]


def exchanged(text: str, targets: Mapping[str, str]) -> str:
    """The text with the target of each concept wherever it names it; what an empty target leaves behind is tidied.

    All at once, as edits are solved: what takes a concept's place is not exchanged again. Of concepts that share words
    the longest counts.
    """
    concepts = sorted(targets, key=len, reverse=True)
    named = re.compile("|".join(f"({_pattern(concept).pattern})" for concept in concepts), re.IGNORECASE)
    replaced = normalise_text(named.sub(lambda found: targets[concepts[(found.lastindex or 0) - 1]], text))
    return normalise_text(_EMPTY.sub("", _GAP.sub("", replaced)))


def prompt_pairs(
    concept: str,
    target: str,
    *,
    templates: Sequence[str],
    captions: Sequence[str],
    styles: Sequence[str],
    most: int,
) -> list[PromptPair]:
    """Prompts that name the concept, each with its counterpart: templates and captions in every style.

    Templates hold ``{}`` where the concept goes and are also asked without a style. Where the captions would become
    more than ``most`` prompts, each is asked in fewer styles, in one at least: caption i in style i mod their number
    and those that follow it.
    """
    for template in templates:
        if "{}" not in template:
            raise UserError(f"template {template!r} has no {{}} where the concept goes")
    asked: list[tuple[str, str | None]] = [
        (template.replace("{}", concept), style) for template in templates for style in (None, *styles)
    ]
    every = tuple(styles) or (None,)
    num_styles = min(len(every), max(1, most // max(1, len(captions))))
    asked += [
        (text, every[(number + turn) % len(every)])
        for number, text in enumerate(captions)
        for turn in range(num_styles)
    ]
    pairs = [
        PromptPair(in_style(text, style), _prompt(exchanged(text, {concept: target}), style))
        for text, style in asked
    ]
    return list(dict.fromkeys(pairs))


def _prompt(text: str, style: str | None) -> str:
    """As ``in_style``, but nothing in a style is the style alone."""
    return in_style(text, style) if text else style or ""


def _pattern(concept: str) -> re.Pattern[str]:
    words = r"\s+".join(re.escape(word) for word in concept.split())
    return re.compile(rf"(?<!\w){words}(?:s|es)?(?!\w)", re.IGNORECASE)


def _phrase(text: str, whole: str) -> str:
    phrase = normalise_text(text)
    if not phrase:
        raise UserError(f"{whole!r} names no concept; give a word or a phrase")
    return phrase


def _read_replace(text: str) -> ConceptEdit:
    concept, equals, target = text.partition("=")
    if not equals or not normalise_text(target):
        raise UserError(
            f'{text!r} is not of the form "concept=what takes its place"; use --remove to remove it'
        )
    return ConceptEdit(kind="replace", concept=_phrase(concept, text), target=normalise_text(target))


def _read_rebalance(text: str) -> ConceptEdit:
    concept, shares = read_numbers(text)
    if min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise UserError(
            f"the shares of {text!r} must be positive and add up to 1, got {sum(shares.values()):g}"
        )
    return ConceptEdit(kind="rebalance", concept=concept, shares=shares)
