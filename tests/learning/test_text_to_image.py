"""The painter: what it is told and how, what it learns from, and a folder that stock diffusers paints from."""

import copy
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, PixArtAlphaPipeline
from tiny_training import NUM_CAPTIONS, SIZE, World, decode_png, text, train_config
from torch import Tensor

from processes import start
from stablerep.errors import UserError
from stablerep.learning.method import Batch
from stablerep.learning.text_to_image import TextToImage
from stablerep.models.text import train_tokenizer
from stablerep.run import write_text

N, V = 4, 2
TEXTS = [text(number, variant) for number in range(NUM_CAPTIONS) for variant in range(2)]


def painter(world: World, **changes: Any) -> TextToImage:
    config = train_config("text-to-image", world, Path("unused"), method=changes).method  # type: ignore[attr-defined]
    torch.manual_seed(0)
    return TextToImage(config, TEXTS).train()


@pytest.fixture
def learner(world: World) -> TextToImage:
    """A painter that never drops a caption, so that prompts are what they seem."""
    return painter(world, caption_dropout=0.0)


def batch(learner: TextToImage, texts: list[str] | None = None) -> Batch:
    pictures = [decode_png(100 * number + view) for number in range(N) for view in range(V)]
    return {
        "image": torch.stack(pictures).unflatten(0, (N, V)),
        "valid": torch.ones(N, V, dtype=torch.bool),
        "seed": torch.tensor([21, 22, 23, 24]),
        "tokens": learner.tokenize(texts or TEXTS[:N]),
    }


@contextmanager
def transformer_inputs(learner: TextToImage) -> Iterator[list[dict[str, Any]]]:
    """What the transformer is called with in the block."""
    calls: list[dict[str, Any]] = []

    def note(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append({"noisy": args[0], **kwargs})

    handle = learner.student["transformer"].register_forward_pre_hook(note, with_kwargs=True)
    yield calls
    handle.remove()


# -- text --------------------------------------------------------------------------------------------


def test_tokens_are_padded_cut_and_end_with_the_mark(learner: TextToImage) -> None:
    tokens = learner.tokenize(["", "thing", "thing " * 50])
    assert tokens.shape == (3, 8)
    assert tokens[0].tolist() == [1] + [0] * 7
    assert tokens[1, 0] > 2
    assert tokens[1, 1:].tolist() == [1] + [0] * 6
    assert tokens[2, -1] == 1
    assert (tokens[2, :-1] > 2).all()
    assert torch.equal(learner.tokenize(["A Drawing of THING 3"]), learner.tokenize([text(3)]))


def save_tokenizer(path: Path) -> None:
    write_text(path, train_tokenizer(TEXTS, 64).to_str())


@pytest.mark.slow
def test_the_vocabulary_is_the_same_in_every_process(tmp_path: Path) -> None:
    """Resume builds it anew; hash tables of the tokenizer library are seeded per process."""
    paths = [tmp_path / f"{number}.json" for number in range(2)]
    processes = [start(partial(save_tokenizer, path)) for path in paths]
    for process in processes:
        process.join(60)
    here = train_tokenizer(list(reversed(TEXTS)), 64).to_str()
    assert [path.read_text(encoding="utf-8") for path in paths] == [here, here]


def test_the_empty_caption_is_the_dropped_one(world: World) -> None:
    never, always = painter(world, caption_dropout=0.0), painter(world, caption_dropout=1.0)
    empty = never.encode(batch(never, [""] * N))["predicted"]
    dropped = always.encode(batch(always))["predicted"]
    assert torch.equal(empty, dropped)
    assert not torch.equal(empty, never.encode(batch(never))["predicted"])


def test_the_share_of_dropped_captions_is_the_one_asked_for(world: World) -> None:
    seeds = torch.arange(1000)
    for share in (0.0, 0.1, 0.7, 1.0):
        learner = painter(world, caption_dropout=share)
        _, _, dropped = learner._draw(seeds, torch.zeros(1000, 1))
        assert float(dropped.float().mean()) == pytest.approx(share, abs=0.04 if 0 < share < 1 else 0)
        assert torch.equal(learner._draw(seeds[500:], torch.zeros(500, 1))[2], dropped[500:])


def test_text_enters_by_cross_attention_only(learner: TextToImage) -> None:
    """With the output of the cross-attentions at zero, no prompt can change a single bit of the prediction."""
    prompts = (TEXTS[:N], TEXTS[N : 2 * N], [""] * N)
    free = [learner.encode(batch(learner, texts))["predicted"] for texts in prompts]
    assert not torch.equal(free[0], free[1])
    assert not torch.equal(free[0], free[2])
    crossings = [module for name, module in learner.student.named_modules() if name.endswith("attn2")]
    assert len(crossings) == learner.config.depth
    for module in crossings:
        module.register_forward_hook(lambda _module, _inputs, output: torch.zeros_like(output))
    closed = [learner.encode(batch(learner, texts))["predicted"] for texts in prompts]
    assert torch.equal(closed[0], closed[1])
    assert torch.equal(closed[0], closed[2])
    assert not torch.equal(closed[0], free[0])


def test_padding_says_nothing(world: World, learner: TextToImage) -> None:
    longer = painter(world, caption_dropout=0.0, num_tokens=16)
    short = learner.encode(batch(learner))["predicted"]
    torch.testing.assert_close(longer.encode(batch(longer))["predicted"], short)


def test_views_of_one_caption_share_its_text_and_nothing_else(learner: TextToImage) -> None:
    with transformer_inputs(learner) as calls:
        learner.encode(batch(learner))
    text_of: Tensor = calls[0]["encoder_hidden_states"].unflatten(0, (N, V))
    assert torch.equal(text_of[:, 0], text_of[:, 1])
    assert len({tuple(row.flatten().tolist()) for row in text_of[:, 0]}) == N


# -- noise and target --------------------------------------------------------------------------------


def test_noise_and_level_depend_on_the_seeds_of_the_batch_alone(learner: TextToImage) -> None:
    data = batch(learner)
    with transformer_inputs(learner) as calls:
        torch.manual_seed(1)
        first = learner.encode(data)
        torch.manual_seed(2)
        order = torch.tensor([3, 1, 0, 2])
        second = learner.encode({name: tensor[order] for name, tensor in data.items()})
        learner.encode(data | {"seed": data["seed"] + 10})
    levels = [call["timestep"].unflatten(0, (N, V)) for call in calls]
    assert torch.equal(levels[1], levels[0][order])
    assert torch.equal(second["velocity"].unflatten(0, (N, V)), first["velocity"].unflatten(0, (N, V))[order])
    assert not (levels[2] == levels[0]).any()
    assert len(levels[0].unique()) == N * V, "every view has a level of its own"


def test_the_student_sees_the_line_from_latent_to_noise(learner: TextToImage) -> None:
    """noisy = latent + level * velocity: latents scaled as the autoencoder says, levels counted as diffusers does."""
    data = batch(learner)
    with transformer_inputs(learner) as calls:
        features = learner.encode(data)
    images = data["image"].flatten(0, 1) * 2 - 1
    with torch.no_grad():
        latents = learner.vae.encode(images).latent_dist.mode() * learner.vae.config.scaling_factor
    level = (calls[0]["timestep"] / 1000)[:, None, None, None]
    torch.testing.assert_close(calls[0]["noisy"], latents + level * features["velocity"])
    noise = features["velocity"] + latents
    assert abs(float(noise.mean())) < 0.2
    assert float(noise.std()) == pytest.approx(1, abs=0.2)


def test_levels_are_logit_normal(world: World) -> None:
    learner = painter(world, time_mean=0.5, time_std=2.0)
    _, level, _ = learner._draw(torch.arange(2000), torch.zeros(2000, 1))
    logits = torch.logit(level.double())
    assert 0 < level.min() < level.max() < 1
    assert float(logits.mean()) == pytest.approx(0.5, abs=0.15)
    assert float(logits.std()) == pytest.approx(2.0, abs=0.1)


def test_the_loss_is_the_mean_over_the_views_that_count(learner: TextToImage) -> None:
    data = batch(learner)
    features = learner.encode(data)
    squared = (features["predicted"] - features["velocity"]).square()
    torch.testing.assert_close(learner.loss(features, data).loss, squared.mean())
    data["valid"][1:, 1] = False
    kept = squared.unflatten(0, (N, V))[data["valid"]]
    torch.testing.assert_close(learner.loss(features, data).loss, kept.mean())
    assert not torch.equal(kept.mean(), squared.mean())


# -- learning ----------------------------------------------------------------------------------------


def test_only_the_student_learns(learner: TextToImage) -> None:
    data = batch(learner)
    learner.loss(learner.encode(data), data).loss.backward()
    assert not learner.vae.training
    assert not learner.average.training
    assert learner.student.training
    for name, parameter in learner.named_parameters():
        assert parameter.requires_grad == name.startswith("student."), name
        assert (parameter.grad is not None) == name.startswith("student."), name


def test_the_average_moves_as_published(world: World) -> None:
    """average <- decay * average + (1 - decay) * student, the decay rising to its limit as (1 + t) / (10 + t)."""
    learner = painter(world, ema_decay=0.25)
    expected = [parameter.detach().double() for parameter in learner.average.parameters()]
    for updates, decay in enumerate((2 / 11, 3 / 12, 0.25, 0.25), 1):
        with torch.no_grad():
            for parameter in learner.student.parameters():
                parameter.add_(torch.randn_like(parameter))
        learner.after_step()
        pairs = zip(expected, learner.student.parameters(), strict=True)
        expected = [decay * mean + (1 - decay) * value.detach().double() for mean, value in pairs]
        assert int(learner.num_updates) == updates
        for mean, parameter in zip(expected, learner.average.parameters(), strict=True):
            torch.testing.assert_close(parameter, mean.float())


@pytest.mark.slow
def test_a_few_steps_on_a_few_pictures_lower_the_loss(world: World) -> None:
    learner = painter(world, caption_dropout=0.0, width=32)
    data = batch(learner)
    optimizer = torch.optim.AdamW(learner.student.parameters(), lr=3e-3)
    losses = []
    for step in range(60):
        drawn = data | {"seed": data["seed"] + 100 * step}
        loss = learner.loss(learner.encode(drawn), drawn).loss
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    first, last = sum(losses[:10]) / 10, sum(losses[-10:]) / 10
    assert last < 0.75 * first, (first, last)


# -- the exported folder -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[TextToImage, Path]:
    """A painter whose student and average differ, and its folder."""
    learner = painter(world, num_inference_steps=3, guidance_scale=4.0)
    with torch.no_grad():
        for parameter in learner.student.parameters():
            parameter.add_(0.1)
    folder = learner.export(tmp_path_factory.mktemp("run"))
    return learner, folder


def load(folder: Path) -> PixArtAlphaPipeline:
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    assert isinstance(pipeline, PixArtAlphaPipeline)
    return pipeline


def test_stock_diffusers_loads_it_in_float32_and_paints(exported: tuple[TextToImage, Path]) -> None:
    pipeline = load(exported[1])
    parts = (pipeline.text_encoder, pipeline.transformer, pipeline.vae)
    assert {part.dtype for part in parts} == {torch.float32}
    prompts = [text(0), text(1)]
    painted = [
        pipeline(
            prompts,
            num_inference_steps=3,
            guidance_scale=4.0,
            use_resolution_binning=False,
            generator=[torch.Generator().manual_seed(seed) for seed in (1, 2)],
            output_type="np",
        ).images
        for _ in range(2)
    ]
    assert painted[0].shape == (2, SIZE, SIZE, 3)
    assert (painted[0] == painted[1]).all()
    assert (painted[0][0] != painted[0][1]).any()


def test_what_is_exported_is_the_average_in_half_precision(exported: tuple[TextToImage, Path]) -> None:
    learner, folder = exported
    pipeline = load(folder)
    for name in ("transformer", "text_encoder"):
        loaded = getattr(pipeline, name).state_dict()
        average, student = learner.average[name].state_dict(), learner.student[name].state_dict()
        for key, tensor in loaded.items():
            assert torch.equal(tensor, average[key].half().float()), key
        assert any(not torch.equal(tensor, student[key].half().float()) for key, tensor in loaded.items())
    for key, tensor in pipeline.vae.state_dict().items():
        assert torch.equal(tensor, learner.vae.state_dict()[key].half().float())
    assert pipeline.vae.config.scaling_factor == learner.vae.config.scaling_factor


def test_the_libraries_say_nothing_of_what_they_read_and_write(
    exported: tuple[TextToImage, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    learner, folder = exported
    TextToImage(replace(learner.config, start_from=folder), []).export(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_an_exported_painter_is_trained_further_from_its_average(exported: tuple[TextToImage, Path]) -> None:
    learner, folder = exported
    further = TextToImage(replace(learner.config, start_from=folder), ["other words"])
    assert further.tokenizer.get_vocab() == learner.tokenizer.get_vocab()
    for model in (further.student, further.average):
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, learner.average.state_dict()[name].half().float()), name


def test_what_cannot_be_trained_further_is_refused(
    exported: tuple[TextToImage, Path], tmp_path: Path
) -> None:
    learner, folder = exported
    deeper = replace(learner.config, start_from=folder, depth=2)
    with pytest.raises(
        UserError, match=r"transformer cannot be trained further with these settings: .* here"
    ):
        TextToImage(deeper, [])
    with pytest.raises(UserError, match="holds no painter to start from"):
        TextToImage(replace(learner.config, start_from=tmp_path), [])
    shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "text_encoder")
    with pytest.raises(UserError, match="holds no text encoder to start from"):
        TextToImage(replace(learner.config, start_from=tmp_path / "copy"), [])
    shutil.copytree(folder / "text_encoder", tmp_path / "copy" / "text_encoder")
    weights = tmp_path / "copy" / "text_encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match="holds no T5EncoderModel that can be read"):
        TextToImage(replace(learner.config, start_from=tmp_path / "copy"), [])
    (tmp_path / "copy").rename(tmp_path / "teacher")
    with pytest.raises(UserError, match=r"holds no painter to start from .*; give .*teacher$"):
        TextToImage(replace(learner.config, start_from=tmp_path), [])


def test_the_pipeline_reads_prompts_as_training_did(exported: tuple[TextToImage, Path]) -> None:
    """Same ids, and for them the same embeddings, although the pipeline pads to another length."""
    learner, folder = exported
    pipeline = load(folder)
    texts = [text(3), "", "thing"]
    tokens = learner.tokenize(texts)
    with torch.no_grad():
        embeddings, mask, _, _ = pipeline.encode_prompt(texts, do_classifier_free_guidance=False)
        average = copy.deepcopy(learner.average["text_encoder"]).half().float()
        expected = average(input_ids=tokens, attention_mask=(tokens != 0).long())[0]
    ids = pipeline.tokenizer(texts, padding="max_length", max_length=8, truncation=True).input_ids
    assert ids == tokens.tolist()
    assert torch.equal(mask.sum(1), (tokens != 0).sum(1))
    for row, count in enumerate(mask.sum(1)):
        torch.testing.assert_close(embeddings[row, :count], expected[row, :count], atol=1e-5, rtol=1e-5)


def test_the_schedule_counts_levels_as_training_did(exported: tuple[TextToImage, Path]) -> None:
    """Timesteps are 1000 * level, and a perfect student is led from noise to its latent."""
    scheduler = load(exported[1]).scheduler
    scheduler.set_timesteps(12)
    torch.testing.assert_close(
        scheduler.timesteps.float(), (scheduler.sigmas[:-1] * 1000).float(), atol=1.0, rtol=0
    )
    assert scheduler.sigmas[0] > 0.99
    assert scheduler.sigmas[-1] == 0
    latent, noise = torch.full((1, 4, 8, 8), 2.0), torch.randn(1, 4, 8, 8)
    sample = noise * scheduler.init_noise_sigma
    for step in scheduler.timesteps:
        sample = scheduler.step(noise - latent, step, sample).prev_sample
    torch.testing.assert_close(sample, latent, atol=0.01, rtol=0)


def test_export_changes_nothing_and_repeats_itself(
    exported: tuple[TextToImage, Path], tmp_path: Path
) -> None:
    learner, folder = exported
    tokens = learner.tokenize(TEXTS[:3])
    again = learner.export(tmp_path)
    assert torch.equal(learner.tokenize(TEXTS[:3]), tokens)
    assert next(learner.average.parameters()).dtype is torch.float32
    paths = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert len(paths) == 11
    assert {Path(path).suffix for path in paths} == {".json", ".safetensors"}, "a pickle can run code"
    for path in paths:
        assert (folder / path).read_bytes() == (again / path).read_bytes(), path


def test_the_folder_says_nothing_of_the_machine(exported: tuple[TextToImage, Path], world: World) -> None:
    for path in exported[1].rglob("*.json"):
        assert str(world.autoencoder.parent) not in path.read_text(encoding="utf-8"), path
