"""Models of open_clip: the same vectors as open_clip gives, from local files, and nothing is fetched."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from stablerep.errors import UserError
from stablerep.models import foreign
from stablerep.models.foreign import OpenClip, load_matcher

TINY = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
TEXTS = ["a red apple", "two dogs"]
CPU = torch.device("cpu")


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[Path, Any]:
    """A model of open_clip by the name "tiny-test", and the file of its weights."""
    (tmp_path / "tiny-test.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(tmp_path)
    foreign._names.cache_clear()
    torch.manual_seed(0)
    model, _, preprocess = open_clip.create_model_and_transforms("tiny-test")
    torch.save(model.state_dict(), tmp_path / "tiny.pt")
    return tmp_path / "tiny.pt", (model.eval(), preprocess)


def picture(size: tuple[int, int]) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("size", [(32, 32), (80, 60), (24, 24)])
def test_vectors_equal_those_of_open_clip(tiny: tuple[Path, Any], size: tuple[int, int]) -> None:
    weights, (model, preprocess) = tiny
    mine = load_matcher("tiny-test", weights, CPU)
    image = picture(size)
    with torch.no_grad():
        expected = model.encode_image(preprocess(image)[None], normalize=True)
        found = mine.encode_images(as_tensor(image))
        texts = model.encode_text(open_clip.get_tokenizer("tiny-test")(TEXTS), normalize=True)
        # PIL rounds to bytes after resizing, tensors do not.
        torch.testing.assert_close(found, expected, atol=5e-3, rtol=0)
        torch.testing.assert_close(mine.encode_texts(TEXTS), texts, atol=1e-5, rtol=0)
    assert mine.logit_scale.device == CPU


def test_the_fingerprint_is_that_of_the_weights(tiny: tuple[Path, Any], tmp_path: Path) -> None:
    weights, (model, _) = tiny
    first = load_matcher("tiny-test", weights, CPU)
    assert isinstance(first, OpenClip)
    assert first.fingerprint == load_matcher("tiny-test", weights, CPU).fingerprint
    with torch.no_grad():
        model.positional_embedding += 1
    torch.save(model.state_dict(), tmp_path / "other.pt")
    assert load_matcher("tiny-test", tmp_path / "other.pt", CPU).fingerprint != first.fingerprint


def test_a_folder_describes_itself(tiny: tuple[Path, Any], tmp_path: Path) -> None:
    _, (model, _) = tiny
    folder = tmp_path / "folder"
    folder.mkdir()
    stated = {
        "size": 32,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "resize_mode": "squash",
        "interpolation": "bilinear",
    }
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": stated}))
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    mine = load_matcher(str(folder), None, CPU)
    with torch.no_grad():
        squashed = mine.encode_images(as_tensor(picture((80, 60))))
        small = as_tensor(picture((80, 60)).resize((32, 32), Image.Resampling.BILINEAR))
        direct = model.encode_image((small - 0.5) / 0.5, normalize=True)
    torch.testing.assert_close(squashed, direct, atol=5e-3, rtol=0)
    (folder / "open_clip_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"open_clip_config.json does not describe a model of open_clip"):
        load_matcher(str(folder), None, CPU)


def test_what_would_be_fetched_or_does_not_fit_is_refused(tiny: tuple[Path, Any], tmp_path: Path) -> None:
    weights, _ = tiny
    with pytest.raises(UserError, match=r"give the file with the weights of ViT-B-32 \(--weights FILE\)"):
        load_matcher("ViT-B-32", None, CPU)
    with pytest.raises(UserError, match="no model 'ViT-B-33'; did you mean ViT-B-32"):
        load_matcher("ViT-B-33", weights, CPU)
    with pytest.raises(UserError, match="there are no weights"):
        load_matcher("tiny-test", tmp_path / "absent.pt", CPU)
    with pytest.raises(UserError, match="needs a tokenizer or text tower from the hub"):
        load_matcher("ViT-B-16-SigLIP", weights, CPU)
    (tmp_path / "garbage.pt").write_bytes(b"garbage")
    with pytest.raises(UserError, match=r"the weights of tiny-test cannot be loaded"):
        load_matcher("tiny-test", tmp_path / "garbage.pt", CPU)
    with pytest.raises(UserError, match="holds no image-text model"):
        load_matcher(str(tmp_path), None, CPU)
