"""Edits in words: how they are written, what names a concept, and which prompt becomes which."""

import pytest

from stablerep.errors import UserError
from stablerep.generation.concepts import (
    PromptPair,
    exchanged,
    mentions,
    prompt_pairs,
    read_edits,
    read_numbers,
    without,
)


def test_edits_are_read_as_they_are_written() -> None:
    removed, replaced, rebalanced = read_edits(
        ["red  heart"], ["cat = a dog"], ["doctor: woman=0.25, man=0.75"], "thing"
    )
    assert (removed.kind, removed.concept, removed.target) == ("remove", "red heart", "thing")
    assert (replaced.kind, replaced.concept, replaced.target) == ("replace", "cat", "a dog")
    assert rebalanced.shares == {"woman": 0.25, "man": 0.75}
    assert str(rebalanced) == "doctor: woman=0.25,man=0.75"


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ((["", "x"], [], []), "names no concept"),
        (([], ["cat"], []), "not of the form"),
        (([], ["cat="], []), "use --remove"),
        (([], [], ["doctor"]), "not of the form"),
        (([], [], ["doctor: woman=1"]), "two attributes or more"),
        (([], [], ["doctor: woman=much,man=0.5"]), "two attributes or more"),
        (([], [], ["doctor: woman=nan,man=0.5"]), "two attributes or more"),
        (([], [], ["doctor: woman=0.5,man=0.6"]), "add up to 1, got 1.1"),
        (([], [], ["doctor: woman=1.5,man=-0.5"]), "must be positive"),
        ((["cat"], ["Cat=dog"], []), "'Cat' is edited twice"),
    ],
)
def test_what_cannot_be_read_is_named(asked: tuple[list[str], list[str], list[str]], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        read_edits(*asked)


def test_strengths_are_written_like_shares() -> None:
    assert read_numbers("doctor: woman=0.3,man=-0.3") == ("doctor", {"woman": 0.3, "man": -0.3})


@pytest.mark.parametrize("text", ["a heart", "two Hearts, love", "heart-shaped", "HEART"])
def test_a_text_names_a_concept_as_a_word_and_in_the_plural(text: str) -> None:
    assert mentions(text, "heart")


@pytest.mark.parametrize("text", ["a hearth", "sweetheart", "a red cart"])
def test_parts_of_other_words_do_not_count(text: str) -> None:
    assert not mentions(text, "heart")


def test_a_phrase_is_its_words_in_order() -> None:
    assert without(["red  hearts", "a heart, red", "a red car"], ["red heart"]) == [
        "a heart, red",
        "a red car",
    ]


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [
        ("a red heart, love", "", "a red, love"),
        ("heart", "", ""),
        ("heart, love", "", "love"),
        ("love, heart", "", "love"),
        ("love, heart, red", "", "love, red"),
        ("love; heart; red", "", "love; red"),
        ("two hearts and a Heart", "star", "two star and a star"),
        ("a heart", r"\1", r"a \1"),
    ],
)
def test_something_else_takes_its_place(text: str, target: str, expected: str) -> None:
    assert exchanged(text, {"heart": target}) == expected


def test_several_concepts_are_exchanged_at_once() -> None:
    turned = {"sun": "moon", "moon": "star", "full moon": ""}
    assert exchanged("a sun, two moons and a full moon", turned) == "a moon, two star and a"


def test_prompts_are_asked_in_the_styles_of_the_teacher() -> None:
    pairs = prompt_pairs(
        "heart",
        "",
        templates=("{}", "a {}"),
        captions=("a red heart", "hearts"),
        styles=("ink", "oil"),
        most=4,
    )
    assert pairs == [
        PromptPair("heart", ""),
        PromptPair("heart, ink", "ink"),
        PromptPair("heart, oil", "oil"),
        PromptPair("a heart", "a"),
        PromptPair("a heart, ink", "a, ink"),
        PromptPair("a heart, oil", "a, oil"),
        PromptPair("a red heart, ink", "a red, ink"),
        PromptPair("a red heart, oil", "a red, oil"),
        PromptPair("hearts, oil", "oil"),
        PromptPair("hearts, ink", "ink"),
    ]
    assert prompt_pairs("cat", "dog", templates=("a {}",), captions=(), styles=(), most=4) == [
        PromptPair("a cat", "a dog")
    ]
    with pytest.raises(UserError, match="where the concept goes"):
        prompt_pairs("cat", "dog", templates=("a cat",), captions=(), styles=(), most=4)


@pytest.mark.parametrize(("most", "num_styles"), [(30, 3), (29, 2), (20, 2), (10, 1), (1, 1)])
def test_many_captions_are_asked_in_fewer_styles_each(most: int, num_styles: int) -> None:
    captions, styles = [f"heart {number}" for number in range(10)], ("ink", "oil", "clay")
    pairs = prompt_pairs("heart", "", templates=(), captions=captions, styles=styles, most=most)
    assert len(pairs) == 10 * num_styles
    asked = [tuple(pair.source.split(", ")) for pair in pairs]
    assert [style for text, style in asked if text == "heart 4"] == ["oil", "clay", "ink"][:num_styles]
