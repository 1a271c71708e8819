"""painter_claims.py, painter_curves.py and edit_icons.py: equal captions, measured once, decided, and refused."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tomli_w

import edit_icons
import painter_claims
import painter_curves
from learning.tiny_training import SIZE, image_row, write_images
from painter_arms import ARMS, chosen_arms
from stablerep.errors import UserError
from stablerep.store import REAL
from stored import measured_once


def test_what_is_measured_once_belongs_to_its_settings(tmp_path: Path) -> None:
    path, asked = tmp_path / "point.json", {"judge": Path("a"), "steps": (4, 8)}
    assert measured_once(path, asked, lambda: {"kid": None}) == {"kid": None}
    assert measured_once(path, asked, lambda: pytest.fail("measured again")) == {"kid": None}
    with pytest.raises(
        UserError, match=r"point.json belongs to other settings \(judge: 'a' there, 'b' asked\)"
    ):
        measured_once(path, {**asked, "judge": "b"}, dict)


def test_what_a_stopped_measurement_left_belongs_to_its_settings(tmp_path: Path) -> None:
    path = tmp_path / "point.json"
    with pytest.raises(KeyboardInterrupt):
        measured_once(path, {"where": "a"}, lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(UserError, match="where: 'a' there, 'b' asked"):
        measured_once(path, {"where": "b"}, dict)
    assert measured_once(path, {"where": "a"}, lambda: {"kid": 1}) == {"kid": 1}


def test_a_point_from_before_settings_were_kept_is_refused(tmp_path: Path) -> None:
    (tmp_path / "point.json").write_text(json.dumps({"fidelity": 0.5}))
    with pytest.raises(UserError, match="belongs to other settings"):
        measured_once(tmp_path / "point.json", {"judge": "a"}, dict)


# -- painter_curves ----------------------------------------------------------------------------------


@pytest.fixture
def curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., painter_curves.Curves]:
    """Two settings, with painting and judging that only say what they would."""
    share = SimpleNamespace(value=0.5, low=0.4, high=0.6)
    kid = SimpleNamespace(kid=SimpleNamespace(mean=0.1, floor_95=0.01))
    scores = SimpleNamespace(fidelity=SimpleNamespace(mean_per_class=share), distances=[kid])
    painted = SimpleNamespace(painted=1, images_per_second=2.0)
    monkeypatch.setattr(painter_curves, "generate", lambda *_, **__: painted)
    monkeypatch.setattr(painter_curves, "evaluate_painter", lambda *_, **__: scores)
    (tmp_path / "world.json").write_text(json.dumps({"world": "icons"}))
    places = {"world": tmp_path, "teacher": "icons", "judge": "judge", "out": tmp_path / "out"}
    sizes = {"steps": (4,), "guidance": (1.0, 2.0)}
    return lambda **changes: painter_curves.Curves(**(places | sizes | changes))


@pytest.mark.slow
def test_points_are_not_mixed_with_those_of_other_captions(
    curves: Callable[..., painter_curves.Curves], monkeypatch: pytest.MonkeyPatch
) -> None:
    painter_curves.main(curves())
    found = json.loads((curves().out / "curves.json").read_text())["points"]
    assert [(point["guidance"], point["forward_passes"]) for point in found] == [(1.0, 4), (2.0, 8)]
    monkeypatch.setattr(painter_curves, "generate", lambda *_, **__: pytest.fail("painted again"))
    painter_curves.main(curves())
    for changes, what in (
        ({"judge": "other"}, "judge: 'judge' there, 'other' asked"),
        ({"where": "true"}, "where: "),
        ({"num_captions": 7}, "num_captions: 500 there, 7 asked"),
    ):
        with pytest.raises(UserError, match=what):
            painter_curves.main(curves(**changes))


def test_guidance_that_is_always_limited_has_points_and_no_figure(
    curves: Callable[..., painter_curves.Curves],
) -> None:
    config = curves(intervals=((0.2, 0.9),))
    painter_curves.main(config)
    assert len(json.loads((config.out / "curves.json").read_text())["points"]) == 2
    assert not (config.out / "curves.png").exists()


def test_guidance_at_all_times_is_asked_of_a_teacher_that_limits_it(
    curves: Callable[..., painter_curves.Curves], tmp_path: Path
) -> None:
    setting = painter_curves.Setting("teacher", 4, 2.0, painter_curves.ALWAYS)
    (tmp_path / "stablerep.json").write_text(json.dumps({"guidance_interval": [0.2, 0.9]}))
    asked = [
        painter_curves._painting(curves(teacher=name), setting).guidance_interval
        for name in (str(tmp_path), "icons")
    ]
    assert asked == [painter_curves.ALWAYS, None]


def test_a_setting_that_is_wrong_is_refused_before_anything_is_painted(
    curves: Callable[..., painter_curves.Curves],
) -> None:
    for changes, what in (
        ({"intervals": (painter_curves.ALWAYS, (0.9, 0.2))}, "guidance_interval must be two times in order"),
        ({"steps": (4, 0)}, "num_inference_steps must be at least 1, got 0"),
    ):
        with pytest.raises(UserError, match=f"^painter curves: .*{what}"):
            painter_curves.main(curves(**changes))
    assert not curves().out.exists()


# -- painter_claims ----------------------------------------------------------------------------------


@pytest.fixture
def claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., painter_claims.Config]:
    """Twelve captions, of whose real pictures the first is by a held-out hand; paintings of all but one of them."""
    hands = {0: "fluent", 1: "noto"}
    real = [
        image_row(number, index, origin=REAL, style=hands[index]) for number in range(12) for index in hands
    ]
    write_images(tmp_path / "images.lance", real)
    (tmp_path / "world.json").write_text(json.dumps({"world": "icons"}))
    data = {"exclude_styles": ["fluent"], "captions_per_batch": 2, "view": {"image_size": SIZE}}
    learners = {"stablerep": {"data": data}, "text-to-image": {"data": data}}
    (tmp_path / "small.toml").write_text(tomli_w.dumps({"train": learners}))

    def paint(_: Any, table: Path, num_captions: int) -> dict[str, Any]:
        rows = [image_row(number, index) for number in range(11) for index in range(4)]
        write_images(table, rows)
        return {"num_pictures": num_captions}

    monkeypatch.setattr(painter_claims._Lab, "_paint_and_match", paint)
    recipe = str(tmp_path / "small.toml")
    names = {"settings": recipe, "painter": recipe, "teacher": "icons", "judge": "judge"}
    return lambda **changes: painter_claims.Config(
        **({"world": tmp_path, "out": tmp_path / "out", **names} | changes)
    )


def test_all_means_every_caption_with_a_picture_to_learn_from(
    claims: Callable[..., painter_claims.Config],
) -> None:
    assert painter_claims._Lab(claims(num_captions=(4, "all"))).sizes == [4, 12]
    with pytest.raises(UserError, match="none above the 12 captions"):
        painter_claims._Lab(claims(num_captions=(13,)))
    with pytest.raises(UserError, match="give different numbers"):
        painter_claims._Lab(claims(num_captions=(12, "all")))


def test_the_last_score_is_of_the_painter_at_the_end(claims: Callable[..., painter_claims.Config]) -> None:
    for num_points in (0, 3, 20):
        with pytest.raises(UserError, match=f"num_steps 10 must be a multiple of num_points {num_points}"):
            painter_claims._Lab(claims(num_steps=10, num_points=num_points))


def test_arms_that_learn_from_different_captions_are_refused(
    claims: Callable[..., painter_claims.Config],
) -> None:
    lab = painter_claims._Lab(claims(arms=("real", "painted", "both"), num_captions=(11,)))
    with pytest.raises(UserError, match=r"real and painted would learn from different captions \(\d of 11"):
        lab.check_same_captions(11)


def test_a_held_out_hand_takes_no_caption_away(claims: Callable[..., painter_claims.Config]) -> None:
    painter_claims._Lab(claims(arms=("real", "both"), num_captions=(12,))).check_same_captions(12)


def test_other_paintings_than_those_there_are_refused(claims: Callable[..., painter_claims.Config]) -> None:
    painter_claims._Lab(claims(num_captions=(4,)))._painted()
    with pytest.raises(UserError, match="num_images: 4 there, 5 asked"):
        painter_claims._Lab(claims(num_captions=(4,), num_images=5))._painted()


def test_a_sweep_has_an_arm_for_every_block_and_weight() -> None:
    arms = chosen_arms(("painted", "painted + StableRep", "both + SimCLR"), (2, 5), (0.5, 1.0))
    assert list(arms)[:3] == [
        "painted",
        "painted + StableRep, block 2, weight 0.5",
        "painted + StableRep, block 2, weight 1",
    ]
    assert len(arms) == 9 == len(set(map(painter_claims._plain, arms)))
    last = arms["both + SimCLR, block 5, weight 1"]
    assert (last.source, last.align, last.block, last.weight, last.against) == (
        "both",
        "simclr",
        5,
        1,
        ("both",),
    )
    one = chosen_arms(("painted + StableRep",), (4,), (0.3,))
    assert {name: (arm.block, arm.weight) for name, arm in one.items()} == {"painted + StableRep": (4, 0.3)}
    assert painter_claims._plain("painted, best half") == "painted-best-half", "as folders were called before"
    with pytest.raises(UserError, match=r"unknown arm 'reel'; there are: real, .*\(--arms\)"):
        chosen_arms(("reel",), (3,), (0.5,))


def test_a_painter_is_trained_as_its_arm_says(
    claims: Callable[..., painter_claims.Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: dict[str, Any] = {}

    def train(_: Any, method: str, __: str, settings: Any) -> Path:
        trained[method] = settings
        return Path(settings["out"])

    monkeypatch.setattr(painter_claims._Lab, "_train", train)
    monkeypatch.setattr(painter_claims._Lab, "_score", lambda *_: None)
    lab = painter_claims._Lab(claims(alignment_block=(2,), alignment_weight=(0.25,), num_captions=(4,)))
    lab.curve("painted + SimCLR", 4, 0)
    alignment = {"encoder": trained["simclr"]["out"], "block": 2, "weight": 0.25}
    assert trained["text-to-image"]["method"]["alignment"] == alignment
    for name, method in (("painted + CLIP text", "clip"), ("painted + StableRep+ text", "stablerep-plus")):
        lab.curve(name, 4, 1)
        assert trained["text-to-image"]["method"]["text_from"] == trained[method]["out"]
        assert "alignment" not in trained["text-to-image"]["method"]
        assert trained[method]["data"] == lab._data(ARMS["painted"], 4), "no real picture"
    lab.curve("painted", 4, 0)
    assert set(trained["text-to-image"]["method"]) == {"autoencoder"}


@pytest.mark.parametrize("matcher", [None, "runs/clip"])
def test_the_best_by_match_is_judged_beside_all(
    matcher: str | None, claims: Callable[..., painter_claims.Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, list[Any]] = {"paint": [], "match": [], "judge": []}

    def judge(config: Any) -> Any:
        asked["judge"].append(config)
        value = 0.5 if config.where is None else 0.7
        return SimpleNamespace(
            fidelity=SimpleNamespace(mean_per_class=SimpleNamespace(value=value)), distances=()
        )

    monkeypatch.setattr(painter_claims, "generate", lambda config, **_: asked["paint"].append(config))
    monkeypatch.setattr(painter_claims, "audit_match", lambda config, **_: asked["match"].append(config))
    monkeypatch.setattr(painter_claims, "evaluate_painter", judge)
    monkeypatch.setattr(painter_claims._Lab, "_matcher", lambda _: Path("own"))
    config = claims(best_of=8, matcher=matcher, num_steps=40, num_points=4, num_judged=5, num_captions=(4,))
    lab = painter_claims._Lab(config)
    found = lab.best_of("real", 4, 3)
    assert {kind: score.fidelity for kind, score in found.items()} == {"all": 0.5, "best": 0.7}
    (painted,), (matched,) = asked["paint"], asked["match"]
    assert (painted.num_images, painted.limit, painted.seed) == (8, 5, 3)
    assert painted.teacher.endswith("4-captions/real/seed-3/run/exports/step-40/teacher")
    assert (matched.images, matched.encoder) == (painted.out, matcher or "own")
    assert [(one.images, one.where) for one in asked["judge"]] == [
        (painted.out, None),
        (painted.out, "match_rank = 0"),
    ]
    assert len({one.out for one in asked["judge"]}) == 2
    assert lab.best_of("real", 4, 3) == found and len(asked["paint"]) == 1
    with pytest.raises(UserError, match="matcher: "):
        painter_claims._Lab(claims(**{**vars(config), "matcher": "another"})).best_of("real", 4, 3)


def test_an_end_is_judged_by_as_many_pictures_as_are_asked_for(
    claims: Callable[..., painter_claims.Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    painted: list[Any] = []
    judged_from: list[Any] = []
    share = SimpleNamespace(mean_per_class=SimpleNamespace(value=0.5))

    def judge(config: Any) -> Any:
        judged_from.append(config)
        return SimpleNamespace(fidelity=share, distances=())

    monkeypatch.setattr(painter_claims, "generate", lambda config, **_: painted.append(config))
    monkeypatch.setattr(painter_claims, "evaluate_painter", judge)
    for each in (8, 4):
        score = painter_claims._Lab(claims(num_images_at_end=each, num_captions=(4,))).end("real", 4, 3)
        assert f"end-{each}" in score.named.name
    assert [(one.num_images, one.limit) for one in painted] == [(8, None), (4, None)]
    assert painted[0].out != painted[1].out
    assert [one.images for one in judged_from] == [one.out for one in painted]


# -- edit_icons --------------------------------------------------------------------------------------


def test_an_unknown_edit_is_named_before_any_work(tmp_path: Path) -> None:
    places = {"world": tmp_path / "world", "judge": tmp_path / "judge", "out": tmp_path / "out"}
    with pytest.raises(UserError, match=r"^unknown edit 'remove-star'; there are: remove-heart, .*--edits"):
        edit_icons.main(edit_icons.Config(**places, edits=("remove-heart", "remove-star")))
    assert not (tmp_path / "out").exists()
