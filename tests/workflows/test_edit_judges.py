"""Judges of pictures on a world whose things differ in colour, the search for strengths, and the scores of an audit."""

import dataclasses
import io
import json
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models.test_foreign import tiny_clip
from stablerep.audit.shares import Checked
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.evaluation.intervals import Interval
from stablerep.features import RawPixels, untrained_encoder
from stablerep.generation.concepts import read_edits
from stablerep.generation.editor import Editor
from stablerep.generation.settings import PaintConfig
from stablerep.models.encoder import Encoder, EncoderConfig, save_encoder
from stablerep.models.joint import ImageText, save_image_text
from stablerep.models.text import LearnedVocabulary, TextConfig, TextTower, train_tokenizer
from stablerep.workflows.edit import EditConfig, edit
from stablerep.workflows.edit_balance import BalanceConfig, _Search
from stablerep.workflows.edit_judges import (
    PictureJudge,
    RealPictures,
    WordJudge,
    mean_accuracy,
    open_judge,
)
from stablerep.workflows.edit_scores import Ranks, attribute_shares, fall, fall_above, how_far, paired
from workflows import tiny_drawings
from workflows.test_edit import PAINT, SIZES, write_project

TINY = EncoderConfig(
    architecture="vit_tiny_patch16_224", image_size=16, patch_size=8, width=24, depth=1, num_heads=3
)
QUIET, CPU = Console(quiet=True), PaintConfig(device="cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_drawings.write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def judge(world: Path) -> PictureJudge:
    return PictureJudge(RawPixels(4), world, QUIET)


def drawings(*things: str) -> list[bytes]:
    return [tiny_drawings.drawing(thing, 500 + number) for number, thing in enumerate(things)]


def test_real_pictures_say_what_a_phrase_looks_like(judge: PictureJudge) -> None:
    vectors = judge.vectors(drawings("cat", "dog", "sun", "dog"))
    similarities = judge.similarities(vectors, judge.phrases(["dog", "cat", "sun"]))
    assert similarities.argmax(axis=1).tolist() == [1, 0, 2, 0]
    assert judge.named(vectors, ["cat", "dog", "sun"]).tolist() == [0, 1, 2, 1]
    tested = judge.tested(["cat", "dog"])
    assert tested is not None and mean_accuracy(tested) == 1.0
    assert sorted(zip(tested.truth.tolist(), tested.groups, strict=True)) == [
        (number, f"small/{thing}")
        for number, thing in enumerate(("cat", "dog"))
        for _ in tiny_drawings.STYLES
    ]


def test_of_a_word_with_several_meanings_only_what_is_meant_counts(judge: PictureJudge) -> None:
    meant = {"a red cat", "of another world"}
    red, boat = judge.phrases(["red", "boat"], meant)
    np.testing.assert_array_equal(red, judge.captions(["a red cat"])[0])
    np.testing.assert_array_equal(
        boat, judge.phrases(["red", "boat"])[1], "none of the captions is of a boat"
    )
    assert not np.allclose(red, judge.phrases(["red", "boat"])[0])


def test_real_pictures_say_what_a_caption_looks_like(judge: PictureJudge) -> None:
    vectors = judge.vectors(drawings("cat", "boat"))
    classes = judge.captions(["a red boat", "a blue cat"])
    assert judge.similarities(vectors, classes).argmax(axis=1).tolist() == [1, 0]


def test_pictures_of_the_test_split_are_left_alone(judge: PictureJudge) -> None:
    assert judge.has("a red cat") and judge.has("a small cat")
    assert not judge.has("a round cat") and not judge.has("a cat")
    with pytest.raises(UserError, match="no real picture of 'round'; name it otherwise"):
        judge.phrases(["round", "red"])
    with pytest.raises(UserError, match="no real picture of 'a round cat'"):
        judge.captions(["a round cat"])


def test_an_accuracy_needs_validation_pictures_of_every_phrase(judge: PictureJudge) -> None:
    assert judge.tested(["red", "small"]) is None  # no small thing is of the training split


def test_a_run_without_words_needs_a_world(tmp_path: Path, world: Path) -> None:
    save_encoder(untrained_encoder(TINY), tmp_path / "encoder")
    with pytest.raises(UserError, match="knows no words; give --world"):
        open_judge(tmp_path, None, CPU, QUIET)
    assert isinstance(open_judge(tmp_path, world, CPU, QUIET), PictureJudge)


def test_a_run_with_words_is_asked_by_them(tmp_path: Path, world: Path) -> None:
    torch.manual_seed(0)
    text = TextConfig(width=24, depth=1, num_heads=3, num_tokens=16, vocabulary=64, joint_width=8)
    vocabulary = LearnedVocabulary(train_tokenizer(["a red cat", "a blue dog"], 64))
    save_image_text(ImageText(Encoder(TINY), TextTower(text, vocabulary)), tmp_path)
    judge = open_judge(tmp_path, None, CPU, QUIET)
    assert isinstance(judge, WordJudge)
    vectors, classes = judge.vectors(drawings("cat", "dog")), judge.phrases(["cat", "dog"])
    np.testing.assert_allclose(classes, judge.captions(["a cat", "a dog"]))
    similarities = judge.similarities(vectors, classes)
    assert similarities.shape == (2, 2) and np.abs(similarities).max() <= 1 + 1e-5
    assert judge.named(vectors, ["cat", "dog"]).tolist() == similarities.argmax(axis=1).tolist()
    assert judge.tested(["cat", "dog"]) is None and judge.has("anything")
    other = open_judge(tmp_path, world, CPU, QUIET)
    pictures = RealPictures.of(world)
    held_out = [
        [row for row in rows if not pictures.is_training[row]] for rows in pictures.naming(["cat", "dog"])
    ]
    right = [
        [int(other.named(other.vectors([pictures.images()[row]]), ["cat", "dog"])[0]) for row in rows]
        for rows in held_out
    ]
    expected = np.mean([np.mean(np.array(part) == number) for number, part in enumerate(right)])
    tested = other.tested(["cat", "dog"])
    assert tested is not None and mean_accuracy(tested) == pytest.approx(expected)
    assert other.tested(["cat", "unicorn"]) is None


def test_an_open_clip_model_is_asked_by_its_words(tmp_path: Path) -> None:
    tiny_clip(tmp_path / "clip", quick_gelu=True)
    judge = open_judge(tmp_path / "clip", None, CPU, QUIET)
    assert isinstance(judge, WordJudge)
    assert judge.similarities(judge.vectors(drawings("cat")), judge.phrases(["cat", "dog"])).shape == (1, 2)


def known(shares: Sequence[float], names: Iterable[str]) -> dict[str, Interval]:
    """Shares of these names without an error."""
    return {
        name: Interval(value=share, low=share, high=share) for name, share in zip(names, shares, strict=True)
    }


@pytest.mark.parametrize("slope", [0.05, 0.3, 3.0, 40.0])
@pytest.mark.parametrize("shares", ["woman=0.5,man=0.5", "woman=0.5,man=0.3,robot=0.2"])
def test_the_search_finds_strengths_whatever_the_response(slope: float, shares: str) -> None:
    (edit,) = read_edits([], [], [f"doctor: {shares}"])
    search, offsets = _Search(edit, 2.0, 1000.0), np.array([-2.0, 2.0, 0.0])[: len(edit.shares)]
    for _ in range(40):
        if search.is_done(0.03):
            break
        logits = offsets + slope * np.array(list(search.alphas.values()))
        search.learn(known((np.exp(logits) / np.exp(logits).sum()).tolist(), edit.shares))
    found = search.balance()
    assert found.error(edit.shares) <= 0.03
    assert sum(found.alphas.values()) == pytest.approx(0, abs=1e-9)
    assert found.before["man"].value > 0.8


def test_an_attribute_that_is_never_shown_is_not_forced() -> None:
    """Where shares hardly answer, strengths would grow until nothing is left of any picture."""
    (edit,) = read_edits([], [], ["doctor: woman=0.5,man=0.5"])
    search, rounds = _Search(edit, 2.0, 5.0), 0
    while not search.is_done(0.03) and rounds < 40:
        search.learn(
            known((0.02 + 0.001 * search.alphas["woman"], 0.98 - 0.001 * search.alphas["woman"]), edit.shares)
        )
        rounds += 1
    assert search.is_at_limit and rounds < 10
    assert search.balance().alphas == {"woman": pytest.approx(5), "man": pytest.approx(-5)}


def test_the_best_try_is_kept() -> None:
    (edit,) = read_edits([], [], ["doctor: woman=0.5,man=0.5"])
    search = _Search(edit, 1.0, 5.0)
    for share in (0.1, 0.45, 0.9):
        search.learn(known((share, 1 - share), edit.shares))
    best = search.balance()
    assert best.shares["woman"].value == 0.45 and best.before["woman"].value == 0.1
    assert best.alphas == {"woman": pytest.approx(0.4), "man": pytest.approx(-0.4)}


@pytest.mark.slow
def test_accepted_strengths_stay_while_another_concept_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One picture a round: whatever it shows, it is as near as asked to halves, and not to thirds."""
    project, asked = write_project(tmp_path), list[dict[str, dict[str, float]]]()
    changes = Editor.changes

    def noted(editor: Editor, alphas: Any = None) -> dict[str, torch.Tensor]:
        asked.append({name: dict(strengths) for name, strengths in alphas.items()})
        return changes(editor, alphas)

    monkeypatch.setattr(Editor, "changes", noted)
    config = EditConfig(
        teacher=str(project / "teacher"),
        out=tmp_path / "edited",
        rebalance=("sun: red=0.5,blue=0.5", "cat: red=0.4,blue=0.3,small=0.3"),
        judge=project / "judge",
        world=project / "world",
        verify=False,
        balance=BalanceConfig(num_images=1, rounds=2, tolerance=0.5),
        paint=PAINT,
    )
    found = edit(config).alphas
    assert [one["sun"] for one in asked] == [{"red": 0.0, "blue": 0.0}] * 3, "two rounds, and the edit itself"
    assert all(asked[0]["cat"].values()) and found["sun"] == asked[-1]["sun"]


def test_a_rebalance_searches_with_weights_that_can_change_whatever_paints_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled on a CPU they are constants: every round would paint as the first."""

    def compiled(*_: Any) -> None:
        raise AssertionError("compiled a painter whose weights change")

    monkeypatch.setattr("stablerep.generation.pipelines.compile_denoiser", compiled)
    project = write_project(tmp_path)
    config = EditConfig(
        teacher=str(project / "teacher"),
        out=tmp_path / "edited",
        rebalance=("sun: red=0.5,blue=0.5",),
        judge=project / "judge",
        world=project / "world",
        verify=False,
        balance=BalanceConfig(num_images=1, rounds=1),
        paint=dataclasses.replace(PAINT, compile=True),
    )
    assert set(edit(config).alphas["sun"]) == {"red", "blue"}


def four_in_five() -> Checked:
    """A judge that errs in a fifth of the pictures of either kind."""
    truth = np.arange(400) % 2
    return Checked(truth, np.where(np.arange(400) // 2 % 5 == 0, 1 - truth, truth), np.arange(400))


def test_shares_are_those_behind_what_the_judge_mistakes() -> None:
    """Of 100 pictures 20 show the first; a fifth of these is mistaken for the other, and the other way round."""
    named = np.repeat([0, 1, 0, 1], [16, 4, 16, 64])
    counted = attribute_shares(named, ["red", "blue"], None, num=300, seed=0)
    assert counted["red"].value == 0.32 and counted["red"].low > 0.2
    found = attribute_shares(named, ["red", "blue"], four_in_five(), num=300, seed=0)
    assert found["red"].value == pytest.approx(0.2, abs=0.01) and found["red"].low < 0.1
    assert found["red"].high - found["red"].low > 1.3 * (counted["red"].high - counted["red"].low)
    assert found["red"].value + found["blue"].value == pytest.approx(1)


@pytest.mark.slow
def test_a_rebalance_is_led_by_shares_behind_what_its_judge_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three in eight pictures are named blue by a judge that errs in a fifth: three in ten are."""
    project = write_project(tmp_path)
    monkeypatch.setattr(PictureJudge, "tested", lambda *_: four_in_five())
    monkeypatch.setattr(PictureJudge, "named", lambda _, vectors, __: (np.arange(len(vectors)) % 8 < 3) * 1)
    asked = EditConfig(
        teacher=str(project / "teacher"),
        out=tmp_path / "edited",
        captions=project / "world" / "captions.lance",
        rebalance=("sun: red=0.7,blue=0.3",),
        judge=project / "judge",
        world=project / "world",
        balance=BalanceConfig(num_images=8, rounds=1),
        audit=dataclasses.replace(SIZES, num_images=8),
        paint=PAINT,
    )
    audit = edit(asked).audit
    (row,) = json.loads((asked.out / "edit.json").read_text())["edits"]
    measured, accuracy = row["measured"]["blue"], 0.8
    assert measured["value"] == pytest.approx((3 / 8 - (1 - accuracy)) / (2 * accuracy - 1), abs=0.01)
    assert measured["low"] < measured["value"] < measured["high"] and set(row["alphas"].values()) == {0}
    assert audit is not None and audit.edited[0].judge_accuracy == pytest.approx(accuracy)
    assert audit.edited[0].shares_after["blue"].value == pytest.approx(measured["value"])


def test_ranks_count_the_classes_that_fit_better() -> None:
    similarities = np.array([[0.9, 0.1, 0.5], [0.2, 0.3, 0.4]])
    ranks = Ranks.among(similarities, np.array([0, 0]))
    assert ranks.rank.tolist() == [1, 3] and ranks.best.tolist() == [0, 2]


def test_a_fall_is_one_minus_the_ratio_with_the_same_draws() -> None:
    before, after = np.array([True] * 8 + [False] * 2), np.array([True] * 2 + [False] * 8)
    found = fall(*paired([before, after], np.arange(10), 200, 0))
    assert found is not None and found.value == pytest.approx(0.75)
    assert 0.2 < found.low < found.value < found.high <= 1
    same = fall(*paired([before, before], np.arange(10), 200, 0))
    assert same is not None and (same.low, same.high) == (0, 0)
    assert fall(*paired([~before & after, after], np.arange(10), 200, 0)) is None


def test_that_nothing_is_left_of_few_pictures_is_not_certain() -> None:
    """Of 10 pictures without the concept the share that have it may be 1 - 0.025^(1/10), or 31 %."""
    before, none = np.array([True] * 8 + [False] * 2), np.zeros(10, bool)
    found = fall(*paired([before, none], np.arange(10), 200, 0))
    assert found is not None and (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(1 - (1 - 0.025**0.1) / 0.8)
    above = fall_above(*paired([before, none, none], np.arange(10), 200, 0))
    assert above is not None and (above.value, above.low) == (1, found.low)


def test_a_fall_above_the_control_is_whole_where_the_control_is_reached() -> None:
    before, control = np.arange(40) < 32, np.arange(40) >= 32
    whole = fall_above(*paired([before, control, control], np.arange(40), 200, 0))
    assert whole is not None and (whole.value, whole.low, whole.high) == (1, 1, 1)
    half = fall_above(*paired([before, np.arange(40) < 20, control], np.arange(40), 200, 0))
    assert half is not None and half.value == pytest.approx(12 / 24) and half.low < 0.5 < half.high
    assert fall_above(*paired([before, control, before], np.arange(40), 200, 0)) is None, "nothing to lose"
    assert fall_above(*paired([control, before, ~before & ~control], np.arange(40), 200, 0)) is not None


def solid(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (value,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def test_how_far_is_measured_in_other_seeds() -> None:
    before, after = [solid(0), solid(100)], [solid(50), solid(100)]
    vectors = np.array([[0.0], [2.0]]), np.array([[1.0], [2.0]])
    moved = how_far((before, after), vectors, np.array(["a", "a"]))
    assert moved.pixels == pytest.approx(25 / 255)
    assert moved.pixel_ratio == pytest.approx(0.25)
    assert moved.feature_ratio == pytest.approx(0.25)


def test_a_lone_picture_says_not_how_far_others_moved() -> None:
    before, after = [solid(0), solid(100), solid(0)], [solid(50), solid(100), solid(250)]
    vectors = np.array([[0.0], [2.0], [0.0]]), np.array([[1.0], [2.0], [9.0]])
    moved = how_far((before, after), vectors, np.array(["a", "a", "b"]))
    assert moved.pixels == pytest.approx(100 / 255)
    assert moved.pixel_ratio == pytest.approx(0.25)
    assert moved.feature_ratio == pytest.approx(0.25)
    alone = how_far((before, after), vectors, np.array(["a", "b", "c"]))
    assert alone.pixels == pytest.approx(100 / 255)
    assert alone.pixel_ratio is None and alone.feature_ratio is None


def test_distances_hold_two_pictures_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[int] = []
    pictures = weakref.WeakSet[torch.Tensor]()

    def decode(data: bytes) -> torch.Tensor:
        picture = torch.full((3, 4, 4), data[0], dtype=torch.uint8)
        pictures.add(picture)
        alive.append(len(pictures))
        return picture

    monkeypatch.setattr("stablerep.workflows.edit_scores.decode_image", decode)
    images, vectors = [bytes([number]) for number in range(20)], np.arange(20.0)[:, None]
    how_far((images, images), (vectors, vectors), np.repeat(["a", "b"], 10))
    assert max(alive) <= 4
