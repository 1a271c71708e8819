"""Which captions an audit of an edit asks: those that the edit was not solved for first."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stablerep.errors import UserError
from stablerep.generation.concepts import read_edits
from stablerep.workflows.edit import EditConfig, edit
from stablerep.workflows.edit_judges import Judge
from stablerep.workflows.edit_plan import Asked, AuditConfig, AuditPlan, AuditRequest, plan_audit
from workflows.test_edit import PAINT, SIZES, write_project

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("plan"))


@pytest.fixture
def planned(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., AuditPlan]:
    """What the audit of a removal would ask; nothing is edited or painted."""
    plans: list[AuditPlan] = []

    def stop(request: AuditRequest, judge: Judge) -> AuditPlan:
        plans.append(plan_audit(request, judge))
        raise UserError("the plan is enough")

    def plan(**changes: Any) -> AuditPlan:
        world = project / "world"
        places = {"teacher": str(project / "teacher"), "out": tmp_path / "edited", "judge": project / "judge"}
        tables = {"captions": world / "captions.lance", "world": world}
        settings = {"remove": ("cat",), "paint": PAINT, "audit": SIZES}
        with pytest.raises(UserError, match="the plan is enough"):
            edit(EditConfig(**(places | tables | settings | changes)))
        return plans[-1]

    monkeypatch.setattr("stablerep.workflows.edit.plan_audit", stop)
    return plan


def num_known(plan: AuditPlan) -> tuple[int, int]:
    return plan.num_known(plan.asked.edited["cat"]), plan.num_known(plan.asked.preserved)


def test_captions_that_the_edit_was_solved_for_are_asked_last(
    planned: Callable[..., AuditPlan], project: Path
) -> None:
    """Of each thing the judge can tell a red, a blue and a small one; the edit is solved for all red and blue ones."""
    plan = planned(where="split = 'train'", verify_captions=project / "world" / "captions.lance")
    first, second = plan.asked.edited["cat"]
    assert (first, second) in [("a small cat", "a red cat"), ("a small cat", "a blue cat")]
    assert {text.split()[1] for text in plan.asked.preserved} == {"small"}
    assert num_known(plan) == (1, 0)


def test_what_the_edit_is_restricted_to_its_audit_is_restricted_to(
    planned: Callable[..., AuditPlan],
) -> None:
    plan = planned(where="split = 'train'", num_preserved=0)
    assert {row["split"] for row in plan.asked.rows} == {"train"}
    assert num_known(plan) == (2, 0)
    assert num_known(planned()) == (2, 4)


def test_a_prompt_of_a_template_is_known_to_the_edit(planned: Callable[..., AuditPlan]) -> None:
    plan = planned()
    assert plan.num_known(["cat", "a cat", "a green cat"]) == 2


def test_of_two_concepts_in_one_caption_the_first_counts(
    planned: Callable[..., AuditPlan], project: Path, tmp_path: Path
) -> None:
    many = dataclasses.replace(SIZES, num_edited=9)
    asked = planned(remove=("cat", "red"), audit=many).asked.edited
    assert set(asked["cat"]) == {"a red cat", "a blue cat", "a small cat"}
    assert len(asked["red"]) == 5 and "a red cat" not in asked["red"]
    world = project / "world"
    both = EditConfig(
        teacher=str(project / "teacher"),
        out=tmp_path / "both",
        remove=("cat", "red"),
        captions=world / "captions.lance",
        where="label = 'cat' OR text = 'a blue dog'",
        judge=project / "judge",
        world=world,
        paint=PAINT,
        audit=many,
    )
    with pytest.raises(UserError, match="every caption that names 'red' is asked for another edited concept"):
        edit(both)
    assert not both.out.exists()


def test_what_is_left_of_a_caption_is_asked_for() -> None:
    edits = read_edits(["heart"], ["star=sun"], ["sign: red=0.5,blue=0.5"])
    edited = {
        "heart": ["a red heart", "hearts", "star and heart"],
        "star": ["star and heart"],
        "sign": ["a sign"],
    }
    asked = Asked(edited, [], [], [])
    assert asked.targets(edits) == {"a red heart": "a red", "star and heart": "sun and"}
    turned = Asked({"sun": ["a sun"], "moon": ["a moon"]}, [], [], [])
    assert turned.targets(read_edits([], ["sun=moon", "moon=sun"], [])) == {
        "a sun": "a moon",
        "a moon": "a sun",
    }


def test_another_seed_is_needed_to_say_how_far_pictures_move() -> None:
    with pytest.raises(ValueError, match="num_images must be at least 2"):
        AuditConfig(num_images=1)
    with pytest.raises(ValueError, match="sizes of an audit must be positive"):
        AuditConfig(num_images=0)


def test_the_judge_knows_which_meaning_is_edited(planned: Callable[..., AuditPlan]) -> None:
    plain, meant = (
        planned(remove=("red",), audit=dataclasses.replace(SIZES, edited_where=where))
        for where in (None, "text = 'a red cat'")
    )
    assert plain.phrases == meant.phrases == ["red"] and meant.asked.edited["red"] == ["a red cat"]
    assert (plain.classes[0] != meant.classes[0]).any()
