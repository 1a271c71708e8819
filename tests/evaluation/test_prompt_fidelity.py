"""Prompt fidelity and its ratio to the judge's own accuracy, by hand."""

import numpy as np
import pytest

from stablerep.errors import UserError
from stablerep.evaluation.fidelity import Named, prompt_fidelity

PAINTED = Named(
    named=np.array(["a", "a", "b", "a", "b", "a"]),
    labels=np.array(["a", "a", "a", "a", "b", "b"]),
    groups=np.array(["1", "1", "2", "2", "3", "3"]),
)


def real(named: str, labels: str) -> Named:
    return Named(
        np.array(list(named)), np.array(list(labels)), np.array([str(row) for row in range(len(labels))])
    )


def test_fidelity_by_hand() -> None:
    fidelity = prompt_fidelity(PAINTED, real("aabb", "aabb"))
    assert fidelity.mean_per_class.value == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert fidelity.top1.value == pytest.approx(4 / 6)
    assert fidelity.per_class == {"a": 0.75, "b": 0.5}
    assert fidelity.num_captions == 3 and fidelity.num_pictures == 6


def test_ratio_is_to_the_judge_on_the_painted_classes() -> None:
    judge = real("ab" * 40 + "a" * 20 + "b" * 60 + "x" * 50, "a" * 80 + "a" * 20 + "b" * 60 + "c" * 50)
    fidelity = prompt_fidelity(PAINTED, judge)
    assert fidelity.judge.value == pytest.approx((0.6 + 1) / 2)  # class c was not painted
    assert fidelity.of_judge is not None
    assert fidelity.of_judge.value == pytest.approx(0.625 / 0.8)
    assert fidelity.of_judge.low < fidelity.of_judge.value < fidelity.of_judge.high


def test_a_judge_that_is_never_right_gives_no_ratio() -> None:
    assert prompt_fidelity(PAINTED, real("bbaa", "aabb")).of_judge is None
    with pytest.raises(UserError, match="no real test picture shows a class that was painted"):
        prompt_fidelity(PAINTED, real("cc", "cc"))
