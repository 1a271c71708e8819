"""Rebalancing: how much of each attribute a concept needs until its pictures show them in the wanted shares.

v = W (c + sum_i alpha_i a_i) as in Unified Concept Editing (Gandikota et al. 2024), with the strengths alpha found by
painting: measure the shares, add to each attribute what it lacks, edit again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stablerep.audit.shares import Checked
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.evaluation.intervals import Interval
from stablerep.generation.concepts import ConceptEdit
from stablerep.generation.edit_targets import TextSide
from stablerep.generation.editor import Alphas, Editor, apply, weights_of
from stablerep.generation.pictures import encode_picture
from stablerep.generation.pipelines import DiffusersTeacher
from stablerep.generation.settings import GenerateConfig
from stablerep.runtime import seed_for
from stablerep.store import in_style
from stablerep.workflows.edit_judges import Judge, mean_accuracy
from stablerep.workflows.edit_scores import attribute_shares

_MOST = 4.0  # by which a round may change the step of the next
_NUM_BOOTSTRAP = 1000


@dataclass(frozen=True, kw_only=True)
class BalanceConfig:
    """How the strengths of a rebalance are found."""

    num_images: int = 96
    """Pictures painted of each concept in a round."""
    rounds: int = 10
    """Edits that are tried at most."""
    step: float = 2.0
    """What is first added to a strength for a share that is missing altogether; later rounds follow the response."""
    max_strength: float = 2.0
    """No strength goes further, and the nearest shares within it are kept: an attribute that a concept never shows
    could be forced only where pictures of everything dissolve."""
    tolerance: float = 0.03
    """Done when no share is further from its aim; shares are corrected for what the judge mistakes, where it can be
    tested."""
    min_accuracy: float = 0.7
    """Share of held-out real pictures of the attributes that the judge must name rightly, where it can be tested: what
    cannot tell them apart would lead the search anywhere."""
    prompt: str = "a {}"
    """What is painted, with {} where the concept goes; in every style of the teacher in turn."""

    def __post_init__(self) -> None:
        if min(self.num_images, self.rounds) < 1 or min(self.step, self.max_strength) <= 0:
            raise ValueError("num_images, rounds, step and max_strength must be positive")
        if "{}" not in self.prompt:
            raise ValueError(f"prompt must hold {{}} where the concept goes, got {self.prompt!r}")


@dataclass(frozen=True, kw_only=True)
class Balance:
    """The strengths that came nearest, and the shares that were measured with them."""

    alphas: Mapping[str, float]
    shares: Mapping[str, Interval]
    before: Mapping[str, Interval]
    """Shares of the unedited teacher."""

    def lacking(self, wanted: Mapping[str, float]) -> np.ndarray:
        """What each share lacks of its aim."""
        return np.array([share - self.shares[name].value for name, share in wanted.items()])

    def error(self, wanted: Mapping[str, float]) -> float:
        """The largest distance of a share from its aim."""
        return float(np.abs(self.lacking(wanted)).max())


class Balancer:
    """Tries strengths on a teacher in memory, which is left as it was."""

    def __init__(
        self, editor: Editor, painter: DiffusersTeacher, judge: Judge, config: BalanceConfig, seed: int
    ) -> None:
        self._editor = editor
        self._painter = painter
        self._judge = judge
        self._config = config
        self._seed = seed

    def find(self, edits: Sequence[ConceptEdit], given: Alphas, console: Console) -> dict[str, Balance]:
        """Strengths for each of the concepts; of all that were tried those measured nearest to the aim.

        All concepts are edited together in each round, since an edit of one may move another; ``given`` are the
        strengths of further ones. Raises ``UserError`` where the judge has no real pictures of an attribute, or does
        not tell them apart.
        """
        tested = {edit.concept: self._tested(edit, console) for edit in edits}
        side = TextSide(self._painter)
        original = weights_of(side)
        searches = [_Search(edit, self._config.step, self._config.max_strength) for edit in edits]
        try:
            for number in range(self._config.rounds + 1):
                asked = {search.edit.concept: search.asked(self._config.tolerance) for search in searches}
                alphas = {**given, **asked}
                apply(side, self._editor.changes(alphas) if number else {}, original)
                for search in searches:
                    if not search.is_done(self._config.tolerance):
                        search.learn(self._shares(search.edit, tested[search.edit.concept]))
                        console.say(f"round {number} of {self._config.rounds}: {search}")
                if all(search.is_done(self._config.tolerance) for search in searches):
                    break
        finally:
            apply(side, {}, original)
        for search in searches:
            if search.is_at_limit:
                console.say(
                    f"{search.edit.concept}: no strength up to {self._config.max_strength:g} brings the shares "
                    "further; beyond (--balance.max-strength) other pictures change as well"
                )
        return {search.edit.concept: search.balance() for search in searches}

    def _tested(self, edit: ConceptEdit, console: Console) -> Checked | None:
        """What the judge mistakes, as far as it can be tested; ``UserError`` where that is too much."""
        tested, least = self._judge.tested(list(edit.shares)), self._config.min_accuracy
        attributes = " and ".join(edit.shares)
        # Raises for an attribute that it could not name after painting.
        self._judge.phrases(list(edit.shares))
        if tested is None:
            console.say(
                f"{edit.concept}: the judge leads the search untested, as no world with held-out real pictures of "
                f"{attributes} is given; look at the pictures"
            )
        elif (accuracy := mean_accuracy(tested)) < least:
            raise UserError(
                f"{edit.concept}: the judge names only {accuracy:.0%} of held-out real pictures of "
                f"{attributes} rightly (wanted {least:.0%}), so the shares of a painter cannot be read; "
                "name the attributes otherwise, give another --judge or --alphas, or lower --balance.min-accuracy"
            )
        return tested

    def _shares(self, edit: ConceptEdit, tested: Checked | None) -> dict[str, Interval]:
        """Paint the concept and count how often each attribute is shown."""
        text, styles = self._config.prompt.replace("{}", edit.concept), self._painter.styles
        prompts = [
            in_style(text, styles[number % len(styles)] if styles else None)
            for number in range(self._config.num_images)
        ]
        conditioning = dict(
            zip(dict.fromkeys(prompts), self._painter.encode(list(dict.fromkeys(prompts))), strict=True)
        )
        images: list[bytes] = []
        for begin in range(0, len(prompts), self._painter.batch_size):
            part = prompts[begin : begin + self._painter.batch_size]
            # The same noise in every round: what differs is the edit.
            seeds = [seed_for("balance", self._seed, text, begin + number) for number in range(len(part))]
            painted = self._painter.paint([conditioning[prompt] for prompt in part], seeds)
            good = [
                picture
                for picture, reason in zip(painted.pictures, painted.reasons, strict=True)
                if reason is None
            ]
            images += [encode_picture(picture, GenerateConfig(format="png")).data for picture in good]
        if not images:
            raise UserError(f"the teacher paints nothing for {text!r} that could be judged")
        named = self._judge.named(self._judge.vectors(images), list(edit.shares))
        return attribute_shares(named, list(edit.shares), tested, num=_NUM_BOOTSTRAP, seed=self._seed)


class _Search:
    """The strengths of one concept, moved by what its shares lack."""

    def __init__(self, edit: ConceptEdit, step: float, most: float) -> None:
        self.edit = edit
        self._most = most
        self.alphas = dict.fromkeys(edit.shares, 0.0)
        self._step = step
        self._has_crossed = False
        self._tried: list[Balance] = []

    def __str__(self) -> str:
        last = self._tried[-1]
        return f"{self.edit.concept}: " + ", ".join(
            f"{name} {share.in_percent()} % (alpha {last.alphas[name]:+.2f})"
            for name, share in last.shares.items()
        )

    @property
    def is_at_limit(self) -> bool:
        """Whether the next strengths are those tried last, as there are no larger ones."""
        if not self._tried:
            return False
        last, following = (np.array(list(one.values())) for one in (self._tried[-1].alphas, self.alphas))
        return bool(np.allclose(last, following) and np.isclose(np.abs(last).max(), self._most))

    def is_done(self, tolerance: float) -> bool:
        is_near = bool(self._tried) and self._tried[-1].error(self.edit.shares) <= tolerance
        return is_near or self.is_at_limit

    def asked(self, tolerance: float) -> Mapping[str, float]:
        """The strengths to edit with: those that came near enough, else those to try next."""
        return self._tried[-1].alphas if self.is_done(tolerance) else self.alphas

    def learn(self, shares: Mapping[str, Interval]) -> None:
        """Note what the strengths gave, and choose the next ones.

        Strengths add up to zero: what attributes have in common would push the concept away from itself.
        """
        before = self._tried[0].shares if self._tried else shares
        self._tried.append(Balance(alphas=dict(self.alphas), shares=dict(shares), before=dict(before)))
        self._step *= self._correction()
        lacking = self._tried[-1].lacking(self.edit.shares)
        moved = np.array(list(self.alphas.values())) + self._step * lacking
        moved -= moved.mean()
        moved *= min(1.0, self._most / max(float(np.abs(moved).max()), 1e-12))
        self.alphas = dict(zip(self.alphas, moved.tolist(), strict=True))

    def _correction(self) -> float:
        """What the step should have been over what it was: a secant, held back, as shares are noisy."""
        if len(self._tried) < 2:
            return 1.0
        before, last = self._tried[-2:]
        moved = np.array([last.alphas[name] - before.alphas[name] for name in self.edit.shares])
        lacking = [tried.lacking(self.edit.shares) for tried in (before, last)]
        gain = float(moved @ (lacking[0] - lacking[1])) / max(float(moved @ moved), 1e-12)
        factor = float(np.clip(1 / (self._step * gain), 1 / _MOST, _MOST)) if gain > 0 else _MOST
        if float(lacking[0] @ lacking[1]) < 0:
            # Past its aim: from now on it lies between, however flat the shares are on either side.
            self._has_crossed = True
            return min(factor, 0.5)
        return min(factor, 1.0) if self._has_crossed else factor

    def balance(self) -> Balance:
        return min(self._tried, key=lambda tried: tried.error(self.edit.shares))
