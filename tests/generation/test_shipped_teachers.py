"""The teachers in the package: ordinary diffusers folders that say what they are, small, usable without the package."""

import json
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from processes import start
from stablerep.generation.folders import check_folder, find_teacher, read_defaults, shipped_teachers

MEGABYTES = {"icons": 30, "fashion": 10}
SIDES = {"icons": 64, "fashion": 32}
CARD = ("Data", "Licence", "Training", "Scores", "Limits")


def paint_without_the_package(names: list[str], out: Path) -> None:
    """What stock diffusers paints with these teachers, where every import of the package is refused."""
    folders = [str(find_teacher(name)) for name in names]
    for module in [name for name in sys.modules if name.partition(".")[0] == "stablerep"]:
        sys.modules[module] = None  # type: ignore[assignment]
    found = []
    for folder in folders:
        pipe = DiffusionPipeline.from_pretrained(folder)
        pipe.set_progress_bar_config(disable=True)
        generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
        options = {"num_inference_steps": 2, "use_resolution_binning": False, "output_type": "np"}
        images = pipe(["a red heart"] * 2, generator=generators, **options).images
        shown = {"class": type(pipe).__name__, "shape": images.shape, "std": float(images.std())}
        found.append(shown | {"differ": bool((images[0] != images[1]).any())})
    out.write_text(json.dumps(found))


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
    assert (
        f"num_inference_steps={defaults.num_inference_steps}, guidance_scale={defaults.guidance_scale}"
        in card
    )
    assert f"guidance {defaults.guidance_scale:g}" in card


@pytest.mark.slow
def test_stock_diffusers_paints_with_them_where_this_package_is_not(tmp_path: Path) -> None:
    process = start(partial(paint_without_the_package, shipped_teachers(), tmp_path / "found.json"))
    process.join()
    assert process.exitcode == 0
    found = json.loads((tmp_path / "found.json").read_text())
    for name, painted in zip(shipped_teachers(), found, strict=True):
        side = SIDES[name]
        assert painted["class"] == "PixArtAlphaPipeline"
        assert painted["shape"] == [2, side, side, 3]
        assert painted["std"] > 0.02 and painted["differ"]
