"""Fine-tuning on colours that a few steps tell apart."""

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_icons import TINY

from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.evaluation.benchmarks import BenchmarkData, Split, load_benchmark
from stablerep.evaluation.contract import Classified, NotMeasurableError, Subject, Tools
from stablerep.evaluation.finetune import Classifier, FineTune, FineTuneConfig, layer_groups
from stablerep.features import RawPixels, untrained_encoder

QUICK = FineTuneConfig(
    num_epochs=6, batch_size=21, base_lr=2e-2, mixup=0, cutmix=0, erase=0, rand_augment="", average_decay=0.5
)


def tools(folder: Path) -> Tools:
    return Tools(
        cache=folder, batch_size=64, precision="float32", device="cpu", seed=0, num_bootstrap=20,
        console=Console(quiet=True),
    )  # fmt: skip


def tuned(world: Path, folder: Path, config: FineTuneConfig) -> Classified:
    subject = Subject("mine", "run", untrained_encoder(TINY, 3))
    before = subject.encoder.fingerprint
    found = FineTune(config).measure(
        subject, load_benchmark("icons", BenchmarkData(world=world)), tools(folder)
    )
    assert subject.encoder.fingerprint == before  # a copy was trained
    return found


@pytest.mark.slow
def test_colours_are_learned_and_the_choice_is_stated(world: Path, tmp_path: Path) -> None:
    state = (random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state().clone())
    found = tuned(world, tmp_path, QUICK)
    benchmark = load_benchmark("icons", BenchmarkData(world=world))
    for name, split in benchmark.tests.items():
        assert (found.predicted[name] == split.labels).mean() > 0.8
    assert found.chosen_on == "validation"
    assert set(found.chosen) == {"averaged_weights", "epoch"}
    assert random.getstate() == state[0]
    assert (np.random.get_state()[1] == state[1]).all()
    assert torch.equal(torch.get_rng_state(), state[2])


@pytest.mark.slow
def test_the_published_augmentation_runs_and_repeats_itself(world: Path, tmp_path: Path) -> None:
    config = FineTuneConfig(num_epochs=1, batch_size=20)
    first, second = tuned(world, tmp_path, config), tuned(world, tmp_path, config)
    for name, named in first.predicted.items():
        assert (named == second.predicted[name]).all()


def test_layers_near_the_picture_learn_slower() -> None:
    model = Classifier(untrained_encoder(dataclasses.replace(TINY, depth=3), 0), 5)
    groups = layer_groups(model, FineTuneConfig(layer_decay=0.5))
    scale_of = {id(weight): group["lr_scale"] for group in groups for weight in group["params"]}
    assert len(scale_of) == len(list(model.parameters()))
    backbone = model.encoder.backbone
    scales = [scale_of[id(block.attn.qkv.weight)] for block in backbone.blocks]
    assert scales == [0.125, 0.25, 0.5]
    assert scale_of[id(backbone.patch_embed.proj.weight)] == 0.0625
    assert scale_of[id(model.head.weight)] == scale_of[id(backbone.norm.weight)] == 1
    decay_of = {id(weight): group["weight_decay"] for group in groups for weight in group["params"]}
    assert decay_of[id(backbone.pos_embed)] == decay_of[id(backbone.norm.weight)] == 0
    assert decay_of[id(backbone.blocks[0].mlp.fc1.weight)] == 0.05


def test_what_has_no_weights_is_not_measured(world: Path, tmp_path: Path) -> None:
    benchmark = load_benchmark("icons", BenchmarkData(world=world))
    with pytest.raises(NotMeasurableError, match="no weights"):
        FineTune(QUICK).measure(Subject("raw pixels", "baseline", RawPixels()), benchmark, tools(tmp_path))
    with pytest.raises(ValueError, match="layer_decay"):
        FineTuneConfig(layer_decay=0)


def test_an_augmentation_that_timm_does_not_know_is_refused(world: Path, tmp_path: Path) -> None:
    for unknown in ("nonsense", "rand-m9-x3"):
        with pytest.raises(UserError, match=f"timm knows no augmentation '{unknown}'"):
            tuned(world, tmp_path, dataclasses.replace(QUICK, rand_augment=unknown))


def test_a_batch_of_one_has_nothing_to_blend() -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 2 where mixup or cutmix"):
        FineTuneConfig(batch_size=1, cutmix=0)
    assert FineTuneConfig(batch_size=1, mixup=0, cutmix=0).batch_size == 1


def test_a_damaged_picture_is_named(world: Path, tmp_path: Path) -> None:
    benchmark = load_benchmark("icons", BenchmarkData(world=world))
    subject = Subject("mine", "run", untrained_encoder(TINY, 3))
    quick = dataclasses.replace(QUICK, num_epochs=1)

    def torn(split: Split, row: int) -> Split:
        return dataclasses.replace(split, images=[*split.images[:row], b"torn", *split.images[row + 1 :]])

    for changes, which in (
        ({"train": torn(benchmark.train, 30)}, "training picture 30"),
        ({"validation": torn(benchmark.validation, 7)}, "picture 7"),
    ):
        with pytest.raises(UserError, match=f"^{which} cannot be decoded"):
            FineTune(quick).measure(subject, dataclasses.replace(benchmark, **changes), tools(tmp_path))
