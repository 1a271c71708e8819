"""The captions to paint: a sequence over columns."""

from collections.abc import Callable

import pytest
from some_captions import TEXTS

from stablerep.errors import UserError
from stablerep.generation.settings import GenerateConfig
from stablerep.generation.wanted import read_captions
from stablerep.store import caption_id

Make = Callable[..., GenerateConfig]
EXPECTED = sorted((caption_id(text), text) for text in TEXTS)


def test_captions_come_in_the_order_of_their_ids(config: Make) -> None:
    captions = read_captions(config())
    assert list(captions) == EXPECTED == [captions[index] for index in range(len(captions))]
    assert captions[-1] == EXPECTED[-1] and EXPECTED[2] in captions
    assert list(captions[2:5]) == EXPECTED[2:5] and list(captions[5:2]) == []
    assert [list(read_captions(config(limit=limit))) for limit in (1, 100)] == [EXPECTED[:1], EXPECTED]
    with pytest.raises(IndexError):
        captions[7]
    with pytest.raises(ValueError, match="contiguous"):
        captions[::2]


def test_facts_are_found_by_caption(config: Make) -> None:
    facts = read_captions(config()).facts
    for identity, text in EXPECTED:
        split = "test" if text == TEXTS[-1] else "train"
        assert facts[identity] == {"split": split, "group": f"group of {text}", "label": text.split()[-1]}
    for stranger in ("", "zzz", caption_id("unknown")):
        with pytest.raises(KeyError):
            facts[stranger]


def test_no_caption_is_a_mistake(config: Make) -> None:
    with pytest.raises(UserError, match=r"no caption matches .*nothing to paint"):
        read_captions(config(where="split = 'none'"))
    with pytest.raises(UserError, match=r"captions\.lance: the filter 'no such column = 1' is not valid \("):
        read_captions(config(where="no such column = 1"))
