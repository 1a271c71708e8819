"""Adapters: what trains, by which objective, and that stock diffusers paints with what is exported."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, PixArtSigmaPipeline
from tiny_training import NUM_CAPTIONS, SIZE, World, decode_png, text, train_config
from torch import nn

from generation import tiny_pipelines
from stablerep.errors import UserError
from stablerep.learning.lora import Lora, LoraConfig
from stablerep.learning.method import Batch
from stablerep.learning.methods import METHODS

N, V = 3, 2
TEXTS = [text(number) for number in range(NUM_CAPTIONS)]


@pytest.fixture(scope="module")
def folders(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stable Diffusion, a PixArt with diffusion noise, and a painter of ours with flow matching."""
    pytest.importorskip("peft", reason="adapters need peft: pip install '.[lora]'")
    root = tmp_path_factory.mktemp("teachers")
    made: dict[str, Path] = {}
    makers: dict[str, Callable[[Path], None]] = {
        "stable-diffusion": tiny_pipelines.stable_diffusion,
        "pixart": tiny_pipelines.pixart,
    }
    for name, make in makers.items():
        made[name] = root / name
        make(made[name])
    return made | {"painter": world.painter}


KINDS = ["stable-diffusion", "pixart", "painter"]


def learner(folder: Path, **changes: Any) -> Lora:
    torch.manual_seed(0)
    return Lora(LoraConfig(teacher=str(folder), **({"rank": 2, "caption_dropout": 0.0} | changes))).train()


def batch(method: Lora) -> Batch:
    pictures = [decode_png(100 * number + view) for number in range(N) for view in range(V)]
    return {
        "image": torch.stack(pictures).unflatten(0, (N, V)),
        "valid": torch.ones(N, V, dtype=torch.bool),
        "seed": torch.tensor([31, 32, 33]),
        "tokens": method.tokenize(TEXTS[:N]),
    }


@torch.no_grad()
def moved(method: Lora) -> Lora:
    """Adapters that change something, as training would leave them."""
    for parameter in method.parameters():
        if parameter.requires_grad:
            parameter.add_(0.05 * torch.randn_like(parameter))
    return method


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_only_adapters_train_and_a_checkpoint_holds_nothing_else(folders: dict[str, Path], kind: str) -> None:
    method = learner(folders[kind])
    data = batch(method)
    losses = []
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(8):
        loss = method.loss(method.encode(data), data).loss
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    state = method.state_dict()
    assert state
    assert all(".lora_" in name for name in state)
    assert {name for name, p in method.named_parameters() if p.requires_grad} == state.keys()
    again = learner(folders[kind])
    again.load_state_dict(state)
    torch.testing.assert_close(again.encode(data)["predicted"], method.encode(data)["predicted"])
    with pytest.raises(UserError, match="other adapters"):
        again.load_state_dict(dict(list(state.items())[1:]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stable-diffusion", "pixart"])
def test_noise_and_target_are_those_of_the_stock_scheduler(folders: dict[str, Path], kind: str) -> None:
    method = learner(folders[kind])
    stock = DDPMScheduler.from_config(method.scheduler.config)
    latents, noise = torch.randn(4, 4, 8, 8), torch.randn(4, 4, 8, 8)
    noisy, timestep, target = method._noised(latents, noise, torch.tensor([0.0001, 0.3, 0.7, 0.9999]))
    assert timestep.tolist() == [0, 300, 700, 999]
    torch.testing.assert_close(noisy, stock.add_noise(latents, noise, timestep))
    expected = noise if kind == "stable-diffusion" else stock.get_velocity(latents, noise, timestep)
    torch.testing.assert_close(target, expected, atol=1e-5, rtol=1e-5)


def test_a_flow_painter_is_taught_as_it_was(folders: dict[str, Path]) -> None:
    method = learner(folders["painter"])
    latents, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    noisy, timestep, target = method._noised(latents, noise, torch.tensor([0.5, 0.9]))
    assert float(timestep[0]) == pytest.approx(500)
    level = (timestep / 1000)[:, None, None, None]
    torch.testing.assert_close(noisy, latents + level * target)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_exported_paints_as_the_adapted_model_does(
    folders: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    method = moved(learner(folders[kind])).eval()
    merged = DiffusionPipeline.from_pretrained(method.export(tmp_path), torch_dtype=torch.float32)
    assert type(merged) is type(DiffusionPipeline.from_pretrained(folders[kind]))
    data = batch(method)
    with torch.no_grad():
        ours = method.encode(data)["predicted"]
        method.model = getattr(merged, method.part)
        stock = method.encode(data)["predicted"]
    torch.testing.assert_close(stock, ours, atol=2e-2, rtol=2e-2)  # stored in half precision
    before = learner(folders[kind]).eval().encode(data)["predicted"]
    assert (ours - before).abs().mean().item() > 5 * (ours - stock).abs().mean().item()
    assert not list(tmp_path.rglob("*.bin"))


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "painter" else pytest.mark.slow) for kind in KINDS]
)
def test_what_is_exported_loads_in_one_precision_and_names_no_place(
    folders: dict[str, Path], kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where nothing is asked; half of a pipeline in half precision cannot paint."""
    exported = learner(folders[kind]).export(tmp_path)
    assert capfd.readouterr() == ("", ""), "the libraries' bars and notes"
    parts = DiffusionPipeline.from_pretrained(exported).components.values()
    assert {part.dtype for part in parts if isinstance(part, nn.Module)} == {torch.float32}
    for path in exported.rglob("*.json"):
        assert str(folders[kind].parent) not in path.read_text(encoding="utf-8"), path


@pytest.mark.slow
def test_the_adapters_alone_load_into_the_stock_pipeline(folders: dict[str, Path], tmp_path: Path) -> None:
    method = moved(learner(folders["stable-diffusion"])).eval()
    method.export(tmp_path)
    pipeline = DiffusionPipeline.from_pretrained(folders["stable-diffusion"])
    pipeline.load_lora_weights(tmp_path / "lora", adapter_name="ours")
    data = batch(method)
    with torch.no_grad():
        ours = method.encode(data)["predicted"]
        method.model = pipeline.unet
        torch.testing.assert_close(method.encode(data)["predicted"], ours, atol=1e-4, rtol=1e-4)


def test_dropped_captions_are_the_empty_one(folders: dict[str, Path]) -> None:
    always, never = (learner(folders["stable-diffusion"], caption_dropout=share) for share in (1.0, 0.0))
    data = batch(always)
    empty = data | {"tokens": never.tokenize([""] * N)}
    torch.testing.assert_close(always.encode(data)["predicted"], never.encode(empty)["predicted"])


def test_captions_are_read_as_the_pipeline_reads_them(folders: dict[str, Path]) -> None:
    method = learner(folders["pixart"])
    pipeline = DiffusionPipeline.from_pretrained(folders["pixart"])
    _, mask, _, _ = pipeline.encode_prompt(
        " A Red CAT", do_classifier_free_guidance=False, clean_caption=False
    )
    tokens = method.tokenize([" A Red CAT", "a red cat"])
    assert torch.equal(tokens[0], tokens[1])
    assert int((tokens[0] != method.tokenizer.pad_token_id).sum()) == int(mask.sum())
    painter = learner(folders["painter"])
    assert painter.tokenize(TEXTS[:1]).shape == (1, 8), "as many as it reads when it paints"


def test_a_pixart_sigma_reads_as_many_tokens_as_when_it_paints(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    parts = DiffusionPipeline.from_pretrained(folders["pixart"]).components
    parts["tokenizer"].model_max_length = 512
    PixArtSigmaPipeline(**parts).save_pretrained(tmp_path)
    assert learner(tmp_path).tokenize(TEXTS[:1]).shape == (1, 300)


@pytest.mark.slow
def test_stable_diffusion_learns_at_any_multiple_and_at_nothing_else(
    world: World, folders: dict[str, Path], tmp_path: Path
) -> None:
    def built(size: int) -> Any:
        settings = {
            "method": {"teacher": str(folders["stable-diffusion"])},
            "data": {"view": {"image_size": size}},
        }
        return METHODS["lora"].build(train_config("lora", world, tmp_path, **settings))

    assert isinstance(built(3 * SIZE), Lora)
    with pytest.raises(UserError, match=rf"image_size is {SIZE + 1}, but .* paints multiples of 2; give one"):
        built(SIZE + 1)


def test_what_cannot_be_adapted_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    tiny_pipelines.flux(tmp_path / "flux")
    with pytest.raises(
        UserError, match=r"is a FluxPipeline; adapters are trained for StableDiffusionPipeline"
    ):
        Lora(LoraConfig(teacher=str(tmp_path / "flux")))
    shutil.copytree(folders["stable-diffusion"], tmp_path / "pickled")
    (tmp_path / "pickled" / "unet" / "weights.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="pickle"):
        Lora(LoraConfig(teacher=str(tmp_path / "pickled")))
    shutil.copytree(folders["painter"], tmp_path / "torn")
    weights = tmp_path / "torn" / "text_encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match="torn cannot be loaded"):
        Lora(LoraConfig(teacher=str(tmp_path / "torn")))
    with pytest.raises(ValueError, match="rank and alpha must be positive"):
        LoraConfig(teacher="icons", rank=0)
