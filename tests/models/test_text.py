"""Token ids of both vocabularies, and the tower against the transformer of CLIP written out."""

import dataclasses
import socket

import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stablerep.learning.optim import OptimConfig, build_optimizer
from stablerep.models.text import (
    END,
    PAD,
    ClipVocabulary,
    LearnedVocabulary,
    TextConfig,
    TextTower,
    train_tokenizer,
)

TEXTS = [
    f"a drawing of {thing} in {colour}"
    for thing in ("a cat", "two dogs", "rain")
    for colour in ("red", "blue")
]
SMALL = TextConfig(width=24, depth=2, num_heads=3, num_tokens=8, vocabulary=64, joint_width=8)


def learned(size: int = 64) -> LearnedVocabulary:
    return LearnedVocabulary(train_tokenizer(TEXTS, size))


@pytest.fixture
def tower() -> TextTower:
    torch.manual_seed(0)
    return TextTower(SMALL, learned())


# -- vocabularies -----------------------------------------------------------------------------------


def test_clip_tokens_are_those_of_clip() -> None:
    """The known ids of CLIP's own README example, the end token where a text is cut, zeros behind it."""
    vocabulary = ClipVocabulary()
    tokens = vocabulary.tokenize(["a diagram", "", "cat " * 100], 77)
    assert tokens.shape == (3, 77)
    assert tokens[0].tolist() == [49406, 320, 22697, 49407] + [0] * 73
    assert tokens[1, :2].tolist() == [49406, 49407]
    assert tokens[2].tolist() == [49406] + [2368] * 75 + [49407]
    assert (vocabulary.num_entries, vocabulary.end_id) == (49408, 49407)
    assert torch.equal(tokens, open_clip.tokenize(["a diagram", "", "cat " * 100]))


def test_clips_vocabulary_comes_with_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert ClipVocabulary().num_entries == 49408


def test_learned_tokens_are_padded_cut_and_end_with_the_mark() -> None:
    vocabulary = learned()
    tokens = vocabulary.tokenize(["", "cat", "cat " * 50], 8)
    pad = vocabulary.tokenizer.token_to_id(PAD)
    assert vocabulary.end_id == vocabulary.tokenizer.token_to_id(END)
    assert tokens.shape == (3, 8)
    assert tokens[0].tolist() == [vocabulary.end_id] + [pad] * 7
    assert int((tokens[2] == vocabulary.end_id).sum()) == 1
    assert tokens[2, -1] == vocabulary.end_id
    assert torch.equal(
        vocabulary.tokenize(["A Drawing of RAIN"], 8), vocabulary.tokenize(["a drawing of rain"], 8)
    )
    assert int(tokens.max()) < vocabulary.num_entries <= 64


# -- tower ------------------------------------------------------------------------------------------


def plain_tower(state: dict[str, Tensor], tokens: Tensor, num_heads: int, end_id: int) -> Tensor:
    """CLIP's text transformer written out: pre-norm blocks, causal attention, QuickGELU, state at the end token."""
    length = tokens.shape[1]
    x = state["token_embedding.weight"][tokens] + state["positional_embedding"][:length]
    width = x.shape[-1]
    hidden = torch.ones(length, length).triu(1).bool()

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (width,), state[f"{name}.weight"], state[f"{name}.bias"])

    for block in range(sum(name.endswith("in_proj_weight") for name in state)):
        name = f"transformer.resblocks.{block}"
        qkv = (
            norm(x, f"{name}.ln_1") @ state[f"{name}.attn.in_proj_weight"].T
            + state[f"{name}.attn.in_proj_bias"]
        )
        q, k, v = (part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(hidden, -torch.inf)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + mixed @ state[f"{name}.attn.out_proj.weight"].T + state[f"{name}.attn.out_proj.bias"]
        inner = norm(x, f"{name}.ln_2") @ state[f"{name}.mlp.c_fc.weight"].T + state[f"{name}.mlp.c_fc.bias"]
        inner = inner * torch.sigmoid(1.702 * inner)
        x = x + inner @ state[f"{name}.mlp.c_proj.weight"].T + state[f"{name}.mlp.c_proj.bias"]
    return norm(x, "ln_final")[torch.arange(len(x)), (tokens == end_id).int().argmax(1)]


def test_the_tower_is_clips_transformer(tower: TextTower) -> None:
    tokens = tower.tokenize(["rain", "a drawing of two dogs in blue and much else", ""])
    expected = plain_tower(tower.transformer.state_dict(), tokens, 3, tower.vocabulary.end_id)
    features = tower(tokens)
    assert features.shape == (3, 24)
    torch.testing.assert_close(features, expected)
    with torch.inference_mode():
        torch.testing.assert_close(tower.eval()(tokens), expected)


def test_what_stands_behind_the_end_says_nothing(tower: TextTower) -> None:
    tokens = tower.tokenize(["rain"])
    other = tokens.clone()
    end = int((tokens[0] == tower.vocabulary.end_id).int().argmax())
    other[0, end + 1 :] = 5
    assert not torch.equal(tokens, other)
    torch.testing.assert_close(tower(tokens), tower(other))
    other[0, 0] = 5
    assert not torch.allclose(tower(tokens), tower(other))


def test_features_are_float32_under_mixed_precision(tower: TextTower) -> None:
    tokens = tower.tokenize(TEXTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = tower(tokens)
    assert features.dtype is torch.float32
    torch.testing.assert_close(features, tower(tokens), rtol=0.05, atol=0.1)


def test_the_defaults_are_the_published_tower() -> None:
    config = TextConfig()
    assert (config.depth, config.width, config.num_heads, config.num_tokens) == (12, 512, 8, 77)
    assert (config.vocabulary, config.joint_width, config.projection) == (None, 512, "linear")
    vocabulary = ClipVocabulary()
    with torch.device("meta"):
        tower = TextTower(config, vocabulary)
    shapes = {name: tuple(value.shape) for name, value in tower.transformer.state_dict().items()}
    assert shapes["token_embedding.weight"] == (49408, 512)
    assert shapes["positional_embedding"] == (77, 512)
    assert shapes["transformer.resblocks.11.attn.in_proj_weight"] == (1536, 512)
    assert shapes["transformer.resblocks.11.mlp.c_fc.weight"] == (2048, 512)
    assert len([name for name in shapes if name.endswith("in_proj_weight")]) == 12
    assert {type(module).__name__ for module in tower.modules() if "GELU" in type(module).__name__} == {
        "QuickGELU"
    }


def test_weights_decay_as_published(tower: TextTower) -> None:
    """Without decay: whatever has fewer than two dimensions, or bias, ln or bn in its name."""

    def published(name: str, parameter: nn.Parameter) -> bool:
        return parameter.ndim >= 2 and not any(part in name for part in ("bias", "ln", "bn"))

    optimizer = build_optimizer(OptimConfig(), tower, 1e-3)
    names = {parameter: name for name, parameter in tower.named_parameters()}
    decayed = {names[parameter] for parameter in optimizer.param_groups[0]["params"]}
    assert decayed == {name for name, parameter in tower.named_parameters() if published(name, parameter)}
    assert {"transformer.token_embedding.weight", "transformer.positional_embedding"} <= decayed


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"num_heads": 5}, "num_heads 5 must divide width 24"),
        ({"depth": 0}, "depth must be positive, got 0"),
        ({"num_tokens": 2}, "num_tokens must be at least 3"),
        ({"vocabulary": 3}, "vocabulary must be at least 4"),
    ],
)
def test_values_out_of_range_are_refused(change: dict[str, int], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        dataclasses.replace(SMALL, **change)
