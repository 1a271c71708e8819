"""Which layers read text, and whether the vectors found are those that reach them, for every family of pipelines."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stablerep.errors import UserError
from stablerep.generation.edit_targets import (
    PromptVectors,
    Stretch,
    TextSide,
    TokenChoice,
    aligned,
    moves,
    shifts,
)
from stablerep.generation.settings import PaintConfig
from stablerep.generation.teacher import load_teacher

FAMILIES = (
    "stable_diffusion", "stable_diffusion_xl", "pixart", "sana", "stable_diffusion_3",
    "stable_diffusion_3_without_t5", "flux",
)  # fmt: skip
POOLED = {"stable_diffusion_xl", "stable_diffusion_3", "stable_diffusion_3_without_t5", "flux"}
PROMPT = "a red cat"


@pytest.fixture
def side(pipeline_folder: Callable[[str], Path]) -> Callable[[str], TextSide]:
    def make(name: str) -> TextSide:
        exact = PaintConfig(
            device="cpu",
            dtype="float32",
            num_inference_steps=1,
            batch_size=1,
            guidance_scale=1.0,
            height=32,
            width=32,
        )
        return TextSide(load_teacher(str(pipeline_folder(name)), exact))

    return make


def inputs_while_painting(side: TextSide) -> dict[str, Tensor]:
    """What every edited layer is given while a picture is painted, by weight."""
    seen: dict[str, Tensor] = {}
    handles = []
    for name in (weight for stream in side.streams for weight in stream.weights):
        layer = side.model.get_submodule(name.removesuffix(".weight"))

        def note(module: Any, given: tuple[Any, ...], name: str = name) -> None:
            del module
            seen.setdefault(name, given[0].detach().float())

        handles.append(layer.register_forward_pre_hook(note))
    teacher = side._teacher
    teacher.paint(teacher.encode([PROMPT]), [0])
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_vectors_are_those_that_reach_the_layers(name: str, side: Callable[[str], TextSide]) -> None:
    text = side(name)
    assert [stream.name for stream in text.streams] == ["tokens", *(["pooled"] if name in POOLED else [])]
    (vectors,) = text.vectors([PROMPT])
    seen = inputs_while_painting(text)
    for stream in text.streams:
        mine = vectors.tokens if stream.name == "tokens" else vectors.pooled
        assert mine is not None
        for weight in stream.weights:
            reached = seen[weight].flatten(0, -2)[-len(mine) :, : mine.shape[-1]]
            torch.testing.assert_close(reached, mine, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "pixart" else pytest.mark.slow) for name in FAMILIES]
)
def test_the_tokens_are_where_the_pipeline_puts_them(name: str, side: Callable[[str], TextSide]) -> None:
    """Prompts that differ in their last word have equal vectors before it, as far as the encoder is causal."""
    text = side(name)
    one, other = text.vectors(["red cat", "red dog"])
    (first, *_), (second, *_) = one.stretches, other.stretches
    found = aligned(first, second, "last")
    assert len(found) == 1
    (place, there, _) = found[0]
    assert not torch.equal(one.tokens[place], other.tokens[there])
    differs = (one.tokens != other.tokens).any(dim=1).nonzero()[:, 0].tolist()
    assert place in differs and place < first.start + len(first.ids)
    if name in (
        "stable_diffusion",
        "stable_diffusion_xl",
        "sana",
    ):  # causal encoders: nothing differs before the word
        assert min(differs) > first.start
        assert all(
            position >= min(match[0] for match in aligned(first, second, "all") if match)
            for position in differs
        )


def test_a_pipeline_that_is_not_known_is_refused(side: Callable[[str], TextSide]) -> None:
    text = side("pixart")
    with pytest.raises(UserError, match="KandinskyPipeline cannot be edited; pipelines that can: Stable"):
        TextSide(_Stranger(text))  # type: ignore[arg-type]


class _Stranger:
    def __init__(self, text: TextSide) -> None:
        del text
        self.pipeline = type("KandinskyPipeline", (), {})()


def stretch(text: str, length: int = 12) -> Stretch:
    return Stretch(tuple(hash(word) for word in [*text.split(), "</s>"]), 2, 2 + length)


def test_the_last_token_of_the_phrase_goes_to_that_of_its_target() -> None:
    assert aligned(stretch("a red cat , ink"), stretch("a dog , ink"), "last") == [(4, 3, 1.0)]


def test_what_follows_goes_along() -> None:
    found = aligned(stretch("a red cat , ink"), stretch("a dog , ink"), "following")
    tokens = [(4, 3, 1.0), (5, 4, 1.0), (6, 5, 1.0), (7, 6, 1.0)]
    assert found[:4] == tokens
    padding = found[4:]
    assert padding[0] == (8, 7, 1 / 6)
    assert len(padding) == 6 and sum(weight for *_, weight in padding) == pytest.approx(1)


def test_all_tokens_of_a_prompt() -> None:
    found = aligned(stretch("a red cat , ink", 6), stretch("a dog , ink", 5), "all")
    assert sorted(found) == [(2, 2, 1.0), (3, 3, 1.0), (4, 3, 1.0), (5, 4, 1.0), (6, 5, 1.0), (7, 6, 1.0)]


def test_in_place_of_nothing_stands_what_follows() -> None:
    assert aligned(stretch("a cat , ink"), stretch("a , ink"), "last") == [(3, 3, 1.0)]
    assert aligned(stretch("a cat"), stretch("a"), "last") == [(3, 3, 1.0)]
    bare = Stretch((7, 8), 0, 2)  # a tokenizer that marks no end
    assert aligned(bare, Stretch((7,), 0, 1), "last") == [(1, 0, 1.0)]


def test_a_word_that_came_in_speaks_through_what_follows_it() -> None:
    assert aligned(stretch("a doctor , ink"), stretch("a woman doctor , ink"), "last") == [(3, 4, 1.0)]


def test_equal_prompts_have_nothing_to_move() -> None:
    for choice in ("last", "following", "all"):
        assert aligned(stretch("a cat"), stretch("a cat"), choice) == []  # type: ignore[arg-type]
    same = PromptVectors(torch.zeros(12, 2), (stretch("a cat"),), None)
    assert moves(same, same, "tokens", "all") is None
    assert moves(same, same, "pooled", "all") is None


def test_moments_are_sums_over_all_vectors_and_those_of_no_prompt(side: Callable[[str], TextSide]) -> None:
    text = side("pixart")
    one, two = text.vectors(["a red cat", "sun"])
    sums = text.moments(["a red cat", "sun"])
    every = [part.tokens[: part.stretches[0].end].double() for part in (one, two)]
    expected = sum(part.T @ part for part in every)
    rest = sums["tokens"] - expected
    assert inspect.signature(TextSide.moments).parameters.keys() == {"self", "prompts"}
    assert torch.linalg.eigvalsh(rest).min() > -1e-9 and rest.trace() > 0


@pytest.mark.parametrize("name", ["stable_diffusion", "stable_diffusion_3"])
def test_the_padding_of_a_prompt_and_of_no_prompt_counts_as_one_token(
    name: str, side: Callable[[str], TextSide]
) -> None:
    text = side(name)
    expected = torch.zeros((), dtype=torch.float64)
    for prompt in text.vectors(["a red cat", ""]):
        for part in prompt.stretches:
            end = part.start + len(part.ids)
            words, padding = prompt.tokens[part.start : end], prompt.tokens[end : part.end]
            assert len(padding) > 1
            expected = expected + words.double().T @ words.double()
            expected = expected + padding.double().T @ padding.double() / len(padding)
    torch.testing.assert_close(text.moments(["a red cat"])["tokens"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("choice", ["last", "following", "all"])
def test_attributes_of_several_lengths_shift_every_token_by_those_in_its_place(choice: TokenChoice) -> None:
    """A longer attribute leaves less padding, and behind it stands what a second encoder wrote."""

    def prompt(text: str) -> PromptVectors:
        words = [*text.split(), "</s>"]
        parts = stretch(text, 8), Stretch(stretch(text).ids, 10, 20)
        vectors = torch.zeros(20, 1)
        for part in parts:
            vectors[part.start : part.start + len(words), 0] = torch.tensor([len(word) for word in words])
        return PromptVectors(vectors, parts, None)

    source = prompt("a black cat , ink")
    found = shifts(
        source, [(1.0, prompt("a dog , ink")), (-1.0, prompt("a big old dog , ink"))], "tokens", choice
    )
    assert found is not None
    num = {"last": 2, "following": 8 + 1 + 3, "all": 12 + 1 + 3}
    assert len(found.sources) == num[choice]
    assert shifts(source, [(1.0, prompt("a dog , ink")), (1.0, source)], "tokens", choice) is None
    after = found.sources[:, 0] != len("black")  # for which the shorter one has no word of its own
    assert torch.equal(found.targets[after], found.sources[after])
