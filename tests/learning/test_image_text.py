"""CLIP and StableRep+ as methods: against open_clip, against a slow oracle, and over two processes."""

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from open_clip import ClipLoss
from torch import Tensor

from processes import as_torchrun_would
from stablerep import runtime
from stablerep.learning.image_text import Clip, ClipConfig, StableRepPlus, StableRepPlusConfig
from stablerep.learning.method import Batch
from stablerep.learning.optim import OptimConfig, build_optimizer
from stablerep.models.encoder import EncoderConfig
from stablerep.models.joint import load_image_text
from stablerep.models.text import LearnedVocabulary, TextConfig, train_tokenizer

N, V = 8, 3
TEXTS = [
    f"a drawing of {thing}"
    for thing in ["a cat", "two dogs", "rain", "the sea", "old shoes", "ice", "a tall tree", "fire"]
]
ENCODER = EncoderConfig(
    architecture="vit_tiny_patch16_224", image_size=16, patch_size=8, width=24, depth=1, num_heads=3
)
TEXT = TextConfig(
    width=16, depth=1, num_heads=2, num_tokens=12, vocabulary=64, joint_width=8, projection_hidden=16
)
IDS = [
    10,
    11,
    12,
    13,
    14,
    15,
    11,
    17,
]  # captions 1 and 6 are the same, on different ranks when two share the batch
# Captions 2 and 5 are of one thing, and the same text was drawn for both.
THINGS = [10, 11, 12, 13, 14, 12, 11, 17]


@functools.cache
def vocabulary() -> LearnedVocabulary:
    return LearnedVocabulary(train_tokenizer(TEXTS, 64))


def clip(**text: Any) -> Clip:
    torch.manual_seed(0)
    config = ClipConfig(encoder=ENCODER, text=dataclasses.replace(TEXT, **text))
    return Clip(config, vocabulary()).train()


def plus(text: TextConfig = TEXT, **changes: Any) -> StableRepPlus:
    torch.manual_seed(0)
    config = StableRepPlusConfig(encoder=ENCODER, text=text, head_hidden=16, head_out=8, **changes)
    return StableRepPlus(config, vocabulary()).train()


def mlp_plus() -> StableRepPlus:
    return plus(dataclasses.replace(TEXT, projection="mlp"))


def batch(*, num_views: int = V, things: list[int] = THINGS, ragged: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(5)
    valid = torch.ones(N, num_views, dtype=torch.bool)
    if ragged:
        valid[0, 1:] = False
        valid[4:, 1] = False
    return {
        "image": torch.rand(N, num_views, 3, 16, 16, generator=generator),
        "caption_id": torch.tensor(IDS),
        "image_id": torch.arange(N * num_views).view(N, num_views),
        "valid": valid,
        "tokens": vocabulary().tokenize([TEXTS[i] for i in (0, 1, 2, 3, 4, 2, 1, 7)], 12),
        "thing_id": torch.tensor(things),
    }


def part(whole: Batch) -> Batch:
    """This rank's captions."""
    return {name: tensor.chunk(runtime.world_size())[runtime.rank()] for name, tensor in whole.items()}


def step(learner: Clip, data: Batch) -> dict[str, Any]:
    loss = learner.loss(learner.encode(data), data).loss
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in learner.named_parameters()}
    return {"loss": loss.detach(), "gradients": gradients}


# -- CLIP -------------------------------------------------------------------------------------------


def test_features_are_per_sample_and_one_text_serves_all_views() -> None:
    learner, data = clip().eval(), batch()
    features = learner.encode(data)
    assert {name: value.shape for name, value in features.items()} == {"image": (N, V, 24), "text": (N, 16)}
    torch.testing.assert_close(features["image"][3, 1], learner.encoder()(data["image"][3, 1:2])[0])
    torch.testing.assert_close(features["text"][3], learner.model.text(data["tokens"][3:4])[0])


def test_on_distinct_captions_it_is_open_clips_loss() -> None:
    ours, theirs = clip(), clip()
    data = batch(num_views=1, things=list(range(N))) | {"tokens": vocabulary().tokenize(TEXTS, 12)}
    model = theirs.model
    expected = ClipLoss()(
        model.encode_images(data["image"][:, 0]),
        F.normalize(model.text_projection(model.text(data["tokens"])), dim=-1),
        model.logit_scale.exp(),
    )
    expected.backward()
    result = step(ours, data)
    torch.testing.assert_close(result["loss"], expected.detach())
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(result["gradients"][name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)
    assert theirs.model.logit_scale.grad.abs() > 1e-3


@pytest.mark.parametrize(("one", "other"), [(1, 6), (2, 5)])
def test_equal_texts_attract(one: int, other: int) -> None:
    """A step along the gradient brings a text nearer to the image of an equal caption, or of another caption for the
    same thing, than if they were of different things."""
    generator = torch.Generator().manual_seed(2)
    image = torch.randn(N, 1, 24, generator=generator)
    text = torch.randn(N, 16, generator=generator, requires_grad=True)
    learner = clip()
    moved = []
    for things in (THINGS, list(range(N))):
        learner.loss({"image": image, "text": text}, batch(num_views=1, things=things)).loss.backward()
        stepped = learner.model.project_texts(text - 3 * text.grad)[one]
        moved.append(float((stepped @ learner.model.project_images(image)[other, 0]).detach()))
        text.grad = None
    assert moved[0] > moved[1] + 0.1


def test_the_scale_starts_as_published_and_stays_in_its_bounds() -> None:
    learner = clip()
    assert float(learner.model.logit_scale.detach()) == pytest.approx(math.log(1 / 0.07))
    for value, kept in ((5.0, math.log(100)), (-1.0, 0.0), (3.0, 3.0)):
        torch.nn.init.constant_(learner.model.logit_scale, value)
        learner.after_step()
        assert float(learner.model.logit_scale.detach()) == pytest.approx(kept)


def test_scale_and_vectors_do_not_decay_projections_do() -> None:
    learner = plus()
    names = {parameter: name for name, parameter in learner.named_parameters()}
    decayed, plain = (
        {names[parameter] for parameter in group["params"]}
        for group in build_optimizer(OptimConfig(), learner, 1e-3).param_groups
    )
    assert "model.logit_scale" in plain
    assert {"model.image_projection.weight", "model.text_projection.weight"} <= decayed
    assert all(parameter.ndim < 2 for parameter, name in names.items() if name in plain)


def test_what_is_logged_says_what_happened() -> None:
    learner, data = plus(), batch()
    features = learner.encode(data)
    logs = learner.loss(features, data).logs
    assert float(logs["logit_scale"]) == pytest.approx(1 / 0.07)
    vectors = learner.model.project_images(features["image"])
    texts = learner.model.project_texts(features["text"])
    torch.testing.assert_close(logs["prompt_match"], (vectors * texts[:, None]).sum(-1).mean().detach())
    assert not any(value.requires_grad for value in logs.values())
    assert -1 <= float(logs["positive_similarity"]) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("build", [clip, plus, mlp_plus])
def test_a_few_steps_bring_images_to_their_texts(build: Any) -> None:
    learner, data = build(), batch()
    colours = torch.rand(len(set(IDS)), 3, 1, 1, generator=torch.Generator().manual_seed(3))
    data["image"] = data["image"] / 5 + colours[[sorted(set(IDS)).index(caption) for caption in IDS], None]
    optimizer = torch.optim.AdamW(learner.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        result = learner.loss(learner.encode(data), data)
        losses.append(float(result.loss.detach()))
        result.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        learner.after_step()
    assert losses[-1] < 0.8 * losses[0]
    features = learner.encode(data)
    similarity = (
        learner.model.project_images(features["image"]) @ learner.model.project_texts(features["text"]).T
    )
    found = data["thing_id"][similarity.argmax(-1)]
    assert (found == data["thing_id"][:, None]).float().mean() > 0.7


@pytest.mark.parametrize("build", [clip, plus])
def test_every_weight_learns(build: Any) -> None:
    learner, data = build(), batch()
    gradients = step(learner, data)["gradients"]
    still = {name for name, value in gradients.items() if value is None or not value.any()}
    assert still == set()


def test_export_gives_the_model_that_was_trained(tmp_path: Path) -> None:
    learner = plus()
    assert learner.export(tmp_path) == tmp_path / "encoder"
    loaded = load_image_text(tmp_path)
    learner.eval()
    images = batch()["image"][:, 0]
    assert torch.equal(loaded.encode_images(images), learner.model.encode_images(images))
    assert torch.equal(loaded.encode_texts(TEXTS), learner.model.encode_texts(TEXTS))
    assert torch.equal(loaded.logit_scale, learner.model.logit_scale)


@pytest.mark.parametrize(
    "change",
    [
        {"initial_temperature": 0.0},
        {"initial_temperature": 2.0},
        {"min_temperature": 0.1},
        {"min_temperature": 0.0},
    ],
)
def test_temperatures_out_of_order_are_refused(change: dict[str, float]) -> None:
    for config in (ClipConfig, StableRepPlusConfig):
        with pytest.raises(ValueError, match="temperature must be positive, in order"):
            config(**change)  # type: ignore[arg-type]


def test_stablerep_plus_checks_its_own_and_stablereps_settings() -> None:
    with pytest.raises(ValueError, match="text_weight must be positive"):
        StableRepPlusConfig(text_weight=0.0)
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        StableRepPlusConfig(temperature=0.0)


# -- StableRep+ against an oracle -------------------------------------------------------------------


def entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy of rows against targets that are normalised here; rows without target do not count."""
    rows = target.sum(1) > 0
    target = target[rows] / target[rows].sum(1, keepdim=True)
    return -(target * logits[rows].log_softmax(1)).nan_to_num(0.0).sum(1).mean()


def oracle(learner: StableRepPlus, features: dict[str, Tensor], data: Batch) -> Tensor:
    """The loss of StableRep+ with every matrix written out."""
    valid, num_views = data["valid"].flatten(), data["valid"].shape[1]
    labels, things = (data[name].repeat_interleave(num_views)[valid] for name in ("caption_id", "thing_id"))
    config, model = learner.config, learner.model

    views = F.normalize(learner.head(features["image"], data["valid"]).flatten(0, 1)[valid], dim=1)
    own = torch.eye(len(views), dtype=torch.bool)
    logits = (views @ views.T / config.temperature).masked_fill(own, -torch.inf)
    image = entropy(logits, ((labels[:, None] == labels) & ~own).to(views))

    images = F.normalize(model.image_projection(features["image"]).flatten(0, 1)[valid], dim=1)
    texts = F.normalize(model.text_projection(features["text"]), dim=1)
    logits = model.logit_scale.exp() * images @ texts.T
    same = (things[:, None] == data["thing_id"]).to(images)
    text = (entropy(logits, same) + entropy(logits.T, same.T)) / 2
    return config.image_weight * image + config.text_weight * text


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("weights", [{}, {"image_weight": 0.3, "text_weight": 2.0}])
def test_stablerep_plus_is_its_formula(weights: dict[str, float], ragged: bool) -> None:
    data = batch(ragged=ragged)
    generator = torch.Generator().manual_seed(7)
    values = {
        "image": torch.randn(N, V, 24, dtype=torch.float64, generator=generator),
        "text": torch.randn(N, 16, dtype=torch.float64, generator=generator),
    }
    results = []
    for compute in (lambda learner, *arguments: learner.loss(*arguments).loss, oracle):
        learner = plus(**weights).double()
        features = {name: value.clone().requires_grad_() for name, value in values.items()}
        loss = compute(learner, features, data)
        loss.backward()
        gradients = {name: value.grad for name, value in features.items()}
        gradients |= {
            name: value.grad for name, value in learner.named_parameters() if value.grad is not None
        }
        results.append((loss.detach(), gradients))
    (loss, gradients), (expected, slow) = results
    assert loss.dtype is torch.float64
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    assert gradients.keys() == slow.keys()
    assert {"image", "text", "model.logit_scale"} < gradients.keys()
    for name, gradient in slow.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-7, atol=1e-12, msg=name)


@pytest.mark.parametrize("build", [clip, plus, mlp_plus])
def test_invalid_views_count_nowhere(build: Any) -> None:
    learner, data = build(), batch(ragged=True)
    reference = step(learner, data)
    other = dict(data, image=torch.where(data["valid"][..., None, None, None], data["image"], 0.5))
    changed = step(build(), other)
    torch.testing.assert_close(changed["loss"], reference["loss"])
    for name, gradient in reference["gradients"].items():
        torch.testing.assert_close(changed["gradients"][name], gradient, msg=name)
    whole = step(build(), batch())
    assert not torch.isclose(whole["loss"], reference["loss"], rtol=1e-3)


# -- two processes with different captions ----------------------------------------------------------


def use_the_group() -> dict[str, Any]:
    """One step of every case on this rank's half of the batch."""
    with runtime.process_group():
        return {
            "clip": step(clip(), part(batch())),
            "plus": step(plus(), part(batch())),
            "ragged": step(mlp_plus(), part(batch(ragged=True))),
        }


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return as_torchrun_would(use_the_group, tmp_path_factory.mktemp("ranks"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "build", "ragged"), [("clip", clip, False), ("plus", plus, False), ("ragged", mlp_plus, True)]
)
def test_two_ranks_equal_one_process(
    ranks: list[dict[str, Any]], case: str, build: Any, ragged: bool
) -> None:
    alone = step(build(), batch(ragged=ragged))
    first, second = (rank[case] for rank in ranks)
    assert first["loss"] != second["loss"]
    torch.testing.assert_close(first["loss"] + second["loss"], alone["loss"], rtol=1e-5, atol=1e-6)
    largest = max(gradient.norm() for gradient in alone["gradients"].values())
    for name, gradient in alone["gradients"].items():
        total = first["gradients"][name] + second["gradients"][name]
        # what a batch norm subtracts again has no gradient but rounding, hence the second term
        assert (total - gradient).norm() <= 1e-4 * gradient.norm() + 1e-6 * largest, name
