"""``import stablerep``: light until it is used, keywords like the options of the command line, wrong ones named."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import stablerep
from learning import tiny_training
from stablerep import api
from stablerep.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tiny_training.World:
    return tiny_training.write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The configurations that the commands behind the interface are called with, instead of calling them."""
    received: list[Any] = []
    for name in ("_generate", "_evaluate"):
        monkeypatch.setattr(api, name, received.append)
    monkeypatch.setattr(api, "_train", lambda method, config: received.append((method, config)))
    return received


def test_importing_the_package_loads_nothing() -> None:
    script = "import sys, stablerep; print(stablerep.__version__); print(*sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    version, modules = done.stdout.splitlines()
    assert version == stablerep.__version__
    loaded = {name.split(".")[0] for name in modules.split()}
    assert not loaded & {"torch", "numpy", "lance", "tyro", "rich", "diffusers", "timm", "sklearn"}


def test_the_package_offers_the_interface() -> None:
    assert set(stablerep.__all__) == {*api.__all__, "__version__"}
    for name in api.__all__:
        assert getattr(stablerep, name) is getattr(api, name)
    with pytest.raises(
        AttributeError, match="no attribute 'trane'; it offers Embedder, __version__, convert"
    ):
        stablerep.trane  # noqa: B018


def test_keywords_are_the_fields_of_the_configuration(configs: list[Any]) -> None:
    data = {"images": ["images.lance"], "crops_per_image": 2, "images_per_caption": 1}
    stablerep.generate("captions.lance", teacher="icons", num_images=3)
    stablerep.evaluate("runs/a", world="icons", protocols=["knn"])
    stablerep.train("simclr", out="runs/a", num_steps=2, data=data)
    generating, evaluating, (method, training) = configs
    assert (generating.captions, generating.num_images) == (Path("captions.lance"), 3)
    assert (evaluating.run, evaluating.world, evaluating.protocols) == (
        Path("runs/a"),
        Path("icons"),
        ("knn",),
    )
    assert (method, training.out, training.data.images) == ("simclr", Path("runs/a"), (Path("images.lance"),))
    assert training.method.positives == "image"


def test_keywords_go_over_the_recipe(configs: list[Any]) -> None:
    stablerep.generate("captions.lance", recipe="icons", num_images=3)
    stablerep.train("stablerep", recipe="icons", out="r", data={"images": ["i"], "captions_per_batch": 8})
    generating, (_, training) = configs
    assert (generating.num_images, generating.where) == (3, "split = 'train' AND template = 'primary'")
    assert training.data.captions_per_batch == 8
    assert training.data.exclude_styles == ("fluent",)


def test_all_wrong_keywords_are_reported_together(configs: list[Any]) -> None:
    with pytest.raises(UserError) as caught:
        stablerep.generate("captions.lance", num_imagez=3, stepz=2, num_images="x")
    message = str(caught.value)
    assert message.startswith("stablerep.generate: unknown keys 'num_imagez', 'stepz' (known: ")
    assert "'num_images' must be int, got 'x'" in message
    with pytest.raises(UserError) as caught:
        stablerep.train("stablerep", recipe="icons", data={"imagez": ["i"], "view": {"sise": 3}}, sed=1)
    for part in (
        "recipe icons",
        "unknown key 'sed'",
        "'data.imagez'",
        "'data.view.sise'",
        "missing 'data.images'",
    ):
        assert part in str(caught.value)
    assert "missing 'out'" in str(caught.value)
    assert configs == []


def test_what_is_not_there_is_named(tmp_path: Path, configs: list[Any]) -> None:
    with pytest.raises(
        UserError, match="unknown method 'simklr'; there are: stablerep, stablerep-plus, simclr"
    ):
        stablerep.train("simklr", anything=1)
    with pytest.raises(UserError, match="unknown recipe 'nope'"):
        stablerep.evaluate("runs/a", recipe="nope")
    misspelt = tmp_path / "mine.toml"
    misspelt.write_text("[generat]\nnum_images = 3\n")
    with pytest.raises(UserError, match="no command reads 'generat'"):
        stablerep.generate("captions.lance", recipe=str(misspelt))
    assert configs == []


@pytest.mark.slow
def test_train_then_measure_then_use(
    tmp_path: Path, world: tiny_training.World, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {
        "images": [world.images],
        "captions_per_batch": 4,
        "images_per_caption": 2,
        "view": {"image_size": 16},
    }
    method = {"encoder": tiny_training.ENCODER, **tiny_training.HEAD}
    settings = {"num_steps": 2, "compile": False, "precision": "float32"}
    summary = stablerep.train("stablerep", out=tmp_path / "run", data=data, method=method, **settings)
    assert summary.num_steps == 2
    scores = stablerep.evaluate(
        summary.run,
        benchmarks=["digits"],
        protocols=["knn"],
        baselines=False,
        num_bootstrap=20,
        num_train=100,
    )
    assert [record.encoder for record in scores.records] == ["run"]
    encoder = stablerep.load_encoder(summary.run)
    assert encoder(torch.rand(3, 3, 20, 20)).shape == (3, encoder.dim)
    assert capsys.readouterr() == ("", ""), "functions print nothing"


@pytest.mark.slow
def test_from_a_list_of_captions_to_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stablerep.write_captions(["a red apple", "a  red apple", "two dogs"], "captions.lance", split="train")
    stablerep.generate("captions.lance", teacher="icons", num_images=2, num_inference_steps=2, batch_size=4)
    data = {"images": ["images.lance"], "captions_per_batch": 2, "images_per_caption": 2}
    stablerep.train("stablerep", recipe="icons", data=data, out="runs/mine", num_steps=1, compile=False)
    features = stablerep.Embedder("runs/mine").transform([np.zeros((20, 30, 3), np.uint8)])
    assert features.shape == (1, 192)
    assert stablerep.embed("images.lance", "runs/mine", out="f.npy").num_images == 4
    assert stablerep.export("runs/mine", "timm", out="exported").files == (
        "README.md",
        "config.json",
        "model.safetensors",
    )
    stablerep.convert("images.lance", "shared", to="webdataset")
    assert stablerep.convert("shared", "back").num_captions == 2


def test_texts_that_are_no_captions_are_named(tmp_path: Path) -> None:
    for texts, message in ((["a", " "], "text 1 cannot be a caption: blank"), ([3], "not text but int")):
        with pytest.raises(UserError, match=message):
            stablerep.write_captions(texts, tmp_path / "c.lance")  # type: ignore[arg-type]
    for file in ("texts.txt", Path("texts.txt")):  # of a string every letter would become a caption
        with pytest.raises(UserError, match=r"not 'texts\.txt'; `stablerep captions import` reads files"):
            stablerep.write_captions(file, tmp_path / "c.lance")  # type: ignore[arg-type]
    assert not (tmp_path / "c.lance").exists()


def test_a_recipe_without_a_word_for_the_function_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="recipe cc12m says nothing of embed"):
        stablerep.embed(tmp_path, "icons", recipe="cc12m")
