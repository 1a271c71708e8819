"""The teachers in the package: ordinary diffusers folders that say what they are, small, usable without the package."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stablerep.generation.folders import check_folder, find_teacher, read_defaults, shipped_teachers

MEGABYTES = {"icons": 30, "fashion": 10}
SIDES = {"icons": 64, "fashion": 32}
CARD = ("Data", "Licence", "Training", "Scores", "Limits")

# An import of the package is refused, as on a machine that does not have it.
PAINT = """
import json, sys
sys.modules["stablerep"] = None
import torch
from diffusers import DiffusionPipeline

for folder in sys.argv[1:]:
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    options = {"num_inference_steps": 4, "use_resolution_binning": False, "output_type": "np"}
    images = pipe(["a red heart"] * 2, generator=generators, **options).images
    found = {"class": type(pipe).__name__, "shape": images.shape, "std": float(images.std())}
    print(json.dumps(found | {"differ": bool((images[0] != images[1]).any())}))
"""


@pytest.mark.parametrize("name", shipped_teachers())
def test_it_is_small_and_holds_nothing_that_could_run_code(name: str) -> None:
    folder = find_teacher(name)
    check_folder(folder)
    weights = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    assert 0 < weights <= MEGABYTES[name] * 1e6


@pytest.mark.parametrize("name", shipped_teachers())
def test_its_card_says_where_it_comes_from_and_how_good_it_is(name: str) -> None:
    card = (find_teacher(name) / "README.md").read_text(encoding="utf-8")
    headings = [line.removeprefix("## ") for line in card.splitlines() if line.startswith("## ")]
    assert headings == list(CARD)
    defaults = read_defaults(find_teacher(name))
    assert f"{defaults.num_inference_steps} steps" in card
    assert f"guidance {defaults.guidance_scale:g}" in card


@pytest.mark.slow
def test_stock_diffusers_paints_with_them_where_this_package_is_not(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", PAINT, *(str(find_teacher(name)) for name in shipped_teachers())],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
    for name, line in zip(shipped_teachers(), lines, strict=True):
        painted, side = json.loads(line), SIDES[name]
        assert painted["class"] == "PixArtAlphaPipeline"
        assert painted["shape"] == [2, side, side, 3]
        assert painted["std"] > 0.02 and painted["differ"]
