"""What is found in captions, and what only looks like it."""

import time

import pytest

from stablerep.audit.private import PROTECTED, ProtectedNames, private


def kinds(text: str) -> list[str]:
    return [found.kind for found in private(text)]


@pytest.mark.parametrize(
    ("text", "kind", "place"),
    [
        ("write to jane.doe+x@mail.example.org now", "e-mail address", "jane.doe+x@mail.example.org"),
        ("jane [at] example.org", "e-mail address", "jane [at] example.org"),
        ("see https://example.org/a?b=1, please", "URL", "https://example.org/a?b=1"),
        ("at www.example.de/shop", "URL", "www.example.de/shop"),
        ("from flickr.com", "URL", "flickr.com"),
        ("photo by @jane_doe", "handle", "@jane_doe"),
        ("call +49 30 1234567", "phone number", "+49 30 1234567"),
        ("call +1 (555) 123-4567 today", "phone number", "+1 (555) 123-4567"),
        ("call (555) 123-4567", "phone number", "(555) 123-4567"),
        ("call 555-123-4567!", "phone number", "555-123-4567"),
        ("Tel. 030 12345678", "phone number", "030 12345678"),
        ("0044 20 7946 0958", "phone number", "0044 20 7946 0958"),
    ],
)
def test_what_should_not_be_there_is_found(text: str, kind: str, place: str) -> None:
    assert [(found.kind, found.text) for found in private(text)] == [(kind, place)]


@pytest.mark.parametrize(
    "text",
    [
        "a red apple",
        "a photo from 2019-05-12",
        "a photo from 12.05.2019",
        "1920 x 1080 wallpaper",
        "1,000,000 dollars",
        "the years 1914-1918",
        "apples @ 2 dollars",
        "a sign that says 24/7",
        "model 123-456",
        "ISBN 978-3-16-148410-0",
        "St. Peter's, e.g. at night",
        "a u.s. flag and an a.m. clock",
        "file.jpg",
        "version 1.2.3",
        "00 agents with 3 cars",
    ],
)
def test_what_only_looks_like_it_is_not(text: str) -> None:
    assert private(text) == []


def test_each_place_counts_once_and_for_one_kind() -> None:
    assert kinds("a@example.org and a@example.org, https://example.org/@jane") == ["e-mail address", "URL"]


def found(names: list[str], text: str) -> list[str]:
    places = ProtectedNames(names).found_in(text)
    assert all(place.kind == PROTECTED for place in places)
    return [place.text for place in places]


def test_protected_names_are_whole_words_in_any_case_and_punctuation() -> None:
    names = ["Mickey Mouse", "Disney", "Spider-Man", "Beyoncé"]
    assert found(names, "a mickey  mouse at disney's park") == ["mickey  mouse", "disney"]
    assert found(names, "SPIDER MAN and spiderman and Spider-Man") == ["SPIDER MAN", "Spider-Man"]
    assert found(names, "a mouse named mickey in disneyland") == []
    assert found(names, "beyonce\u0301 sings") == ["beyonc\u00e9"]
    assert found([], "anything") == [] and found(["!!"], "!!") == []


def test_an_underscore_is_a_sign_between_words() -> None:
    assert found(["Mickey Mouse"], "mickey_mouse.jpg of a mickey_mouses") == ["mickey_mouse"]


def test_accents_that_are_written_apart_move_no_place() -> None:
    """Both ways of writing an accent are one name, and what follows it is found where it stands."""
    apart = "caf\u0065\u0301 cr\u0065\u0300me bru\u0302l\u0065\u0301e at disney's park"
    assert found(["Disney Park"], apart) == ["disney's park"]
    assert len(ProtectedNames(["Beyonc\u00e9", "beyonce\u0301", "!"])) == 1
    assert found(["beyonce\u0301"], "Beyonc\u00e9's song") == ["Beyonc\u00e9"]


def test_the_longest_name_wins_and_each_counts_once() -> None:
    names = ["New York", "New York Times", "York"]
    assert found(names, "new york times in New York, New York") == ["new york times", "New York"]


def test_a_long_list_is_as_quick_as_a_short_one() -> None:
    many = ProtectedNames(f"name number{index}" for index in range(50_000))
    begin = time.process_time()
    for _ in range(2_000):
        many.found_in("a picture of name number49999 beside a tree in the evening sun")
    assert time.process_time() - begin < 2
