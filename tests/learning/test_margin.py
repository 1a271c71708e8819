"""A margin lets a pipeline of fixed steps of size paint pictures of other sizes, none of their pixels resampled."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from tiny_training import (
    NUM_CAPTIONS,
    SIZE,
    World,
    autoencoder_config,
    decode_png,
    painter_of,
    text,
    train_config,
)

from stablerep.errors import UserError
from stablerep.generation.settings import PaintConfig
from stablerep.generation.teacher import load_teacher
from stablerep.learning.autoencoder import Autoencoder, AutoencoderConfig
from stablerep.learning.distillation import Distillation, DistillationConfig
from stablerep.learning.lora import Lora
from stablerep.learning.method import Batch, with_margin
from stablerep.learning.methods import METHODS
from stablerep.learning.text_to_image import TextToImage, TextToImageConfig

MARGIN = 2
INNER = SIZE - 2 * MARGIN
TEXTS = [text(number) for number in range(NUM_CAPTIONS)]


def batch() -> Batch:
    pictures = [decode_png(number)[:, :INNER, :INNER] for number in range(4)]
    return {
        "image": torch.stack(pictures)[:, None],
        "valid": torch.ones(4, 1, dtype=torch.bool),
        "seed": torch.arange(4),
    }


def painter(world: World, **changes: Any) -> TextToImage:
    changes = {"margin": MARGIN, "styles": (), **changes}
    method = train_config("text-to-image", world, Path("unused"), method=changes).method  # type: ignore[attr-defined]
    torch.manual_seed(0)
    return TextToImage(method, TEXTS)


def test_the_margin_is_black_and_the_picture_is_untouched() -> None:
    inner = torch.rand(2, 3, 5, 7)
    padded = with_margin(inner, 3)
    assert padded.shape == (2, 3, 11, 13) and torch.equal(padded[..., 3:-3, 3:-3], inner)
    assert padded.sum() == pytest.approx(float(inner.sum()), rel=1e-5)
    assert torch.equal(with_margin(inner, 0), inner)


def test_the_autoencoder_learns_pictures_within_their_margin() -> None:
    config = autoencoder_config()
    learner = Autoencoder(AutoencoderConfig(**{**vars(config), "image_size": INNER, "margin": MARGIN}))
    features = learner.encode(batch())
    assert learner.vae.config["sample_size"] == SIZE
    assert features["decoded"].shape == features["images"].shape == (4, 3, SIZE, SIZE)
    assert torch.equal(features["images"], with_margin(batch()["image"][:, 0], MARGIN) * 2 - 1)
    with pytest.raises(ValueError, match=r"image_size 13 with a margin of 2 must be a multiple of 2"):
        AutoencoderConfig(image_size=13, margin=2, channels=(8, 16))
    with pytest.raises(ValueError, match="margin must not be negative"):
        AutoencoderConfig(margin=-1)


@pytest.mark.slow
def test_what_is_painted_has_no_margin(world: World, tmp_path: Path) -> None:
    learner = painter(world)
    pictures = learner.pictures(batch())
    assert torch.equal(pictures, with_margin(batch()["image"][:, 0], MARGIN))
    folder = learner.export(tmp_path)
    stock = DiffusionPipeline.from_pretrained(folder)
    stock.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(7)
    asked = {
        "num_inference_steps": 3,
        "guidance_scale": 4.0,
        "use_resolution_binning": False,
        "clean_caption": False,
    }
    whole = stock(TEXTS[0], **asked, generator=noise, output_type="pt").images[0]
    how = PaintConfig(
        num_inference_steps=3, guidance_scale=4.0, dtype="float32", attention="fused", batch_size=1
    )
    teacher = load_teacher(str(folder), how)
    (picture,) = teacher.paint(teacher.encode(TEXTS[:1]), [7]).pictures
    assert picture.shape == (3, INNER, INNER)
    expected = (whole.clamp(0, 1) * 255).round().to(torch.uint8)[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    assert (picture.int() - expected.int()).abs().max() <= 1
    assert teacher.settings["margin"] == MARGIN


@pytest.mark.slow
def test_an_asked_margin_goes_before_the_teachers(world: World) -> None:
    settings = {"num_inference_steps": 2, "guidance_scale": 1.0, "dtype": "float32", "batch_size": 1}
    plain = load_teacher(str(world.painter), PaintConfig(**settings))
    assert "margin" not in plain.settings, "tables painted before know no margin"
    cut = load_teacher(str(world.painter), PaintConfig(**settings, margin=1))
    assert cut.paint(cut.encode(["a"]), [0]).pictures.shape[-1] == SIZE - 2
    nothing = load_teacher(str(world.painter), PaintConfig(**settings, margin=SIZE // 2))
    with pytest.raises(UserError, match=rf"margin of {SIZE // 2} pixels leaves nothing of a picture"):
        nothing.paint(nothing.encode(["a"]), [0])
    with pytest.raises(ValueError, match="margin must not be negative"):
        PaintConfig(margin=-1)


def test_views_are_as_large_as_the_picture_within_its_margin(world: World, tmp_path: Path) -> None:
    def config(size: int) -> Any:
        method = {"autoencoder": world.autoencoder, "margin": MARGIN}
        return train_config(
            "text-to-image", world, tmp_path / "run", method=method, data={"view": {"image_size": size}}
        )

    assert isinstance(METHODS["text-to-image"].build(config(INNER)), TextToImage)
    with pytest.raises(
        UserError, match=rf"image_size is {SIZE}, but the size of .* without its margin is {INNER}"
    ):
        METHODS["text-to-image"].build(config(SIZE))


def test_a_faster_student_keeps_its_teachers_margin(world: World, tmp_path: Path) -> None:
    folder = painter(world).export(tmp_path)
    student = Distillation(DistillationConfig(teacher=str(folder)))
    assert student.config.margin == MARGIN
    assert '"margin": 2' in (student.export(tmp_path / "fast") / "stablerep.json").read_text()
    assert painter_of(world.autoencoder).config.margin == 0
    with pytest.raises(ValueError, match="margin must not be negative"):
        TextToImageConfig(autoencoder=world.autoencoder, margin=-1)


def test_adapters_learn_pictures_within_their_pipelines_margin(world: World, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="adapters need peft: pip install '.[lora]'")
    folder = painter(world).export(tmp_path)

    def built(size: int) -> Any:
        settings = {"method": {"teacher": str(folder)}, "data": {"view": {"image_size": size}}}
        return METHODS["lora"].build(train_config("lora", world, tmp_path / "run", **settings))

    with pytest.raises(
        UserError, match=rf"image_size is {SIZE}, but the size of .* without its margin is {INNER}"
    ):
        built(SIZE)
    method = built(INNER)
    assert isinstance(method, Lora) and method.margin == MARGIN
    data = batch() | {"tokens": method.tokenize(TEXTS[:4])}
    seen: list[torch.Tensor] = []
    encode = method.vae.encode
    method.vae.encode = lambda images: seen.append(images) or encode(images)
    predicted = method.encode(data)["predicted"]
    assert torch.equal(seen[0], with_margin(data["image"][:, 0], MARGIN) * 2 - 1)
    assert predicted.shape[-1] == SIZE // 2
