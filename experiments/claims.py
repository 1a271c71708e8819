"""The claims of StableRep, measured: one part per claim, each a few comparisons under equal conditions.

    stablerep world fashion --out fashion
    python experiments/claims.py --world fashion --settings fashion --out claims --parts matrix sizes

Every part is made of comparisons (``stablerep compare``), goes on where it was stopped, is shared by processes that are
given the same command, and leaves one small file OUT/PART.json with every score and interval. ``--num-steps``,
``--seeds`` and ``--num-captions`` set how long it takes. More captions than there are (fashion has 3,494 for training,
icons 2,573) are refused before anything is painted.
The part ``teachers`` says what one learner makes of pictures that the recipe's teacher painted in several numbers of
steps, and further ones (``--teachers runs/fast/teacher`` of `stablerep train distillation`), beside their time.

Captions that never name the class need another world, with 384 of them for training, and a teacher that has read such
captions, which the shipped one has not. With a recipe classless.toml of the lines ``extends = "fashion"``,
``[generate]`` and ``teacher = "runs/painter/teacher"`` the matrix runs on it:

    stablerep world fashion --hide-class --out fashion-classless
    stablerep train autoencoder --recipe teacher-fashion --data.images fashion-classless/images.lance \\
        --out runs/autoencoder
    stablerep train text-to-image --recipe teacher-fashion --data.images fashion-classless/images.lance \\
        --data.captions fashion-classless/captions.lance --out runs/painter
    python experiments/claims.py --world fashion-classless --settings classless.toml --num-captions 384 --out classless
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
import tyro

from claims_differences import DIFFERENCES
from claims_parts import LEARNERS, PARTS, TRAIN, Cell, Claims
from durations import seconds_by_step, seconds_of_painting
from mistakes import in_one_sentence
from stablerep import config as config_module
from stablerep.audit.match import MatchAuditConfig, audit_match
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.evaluation.measuring import Known
from stablerep.generation.execute import GenerateConfig, generate
from stablerep.learning.data import DataConfig, ViewSource, identity_of
from stablerep.learning.methods import METHODS, train
from stablerep.locks import alone
from stablerep.run import Run, provenance, write_text
from stablerep.store import REAL, ImageTable
from stablerep.workflows.compare import compare
from stablerep.workflows.compare_results import prefix_of
from stablerep.workflows.matrix import CompareConfig
from usable import usable_real

Recipe = Mapping[str, Any]
NUM_DRAWN = 30
"""Batches over which the share of real pictures is counted."""


def main(config: Claims) -> None:
    """Measure every part that is asked for."""
    console = Console()
    planned = plan(config)
    known: Known = {}
    for part, cells in planned.items():
        points = []
        for cell, recipe in cells:
            console.say(f"{part}: {cell.value}")
            points.append(_measure(config, part, cell, recipe, known))
        content = {
            "part": part,
            "config": json.loads(json.dumps(dataclasses.asdict(config), default=str)),
            "provenance": provenance(),
            "seconds": _seconds(config, part, [cell for cell, _ in cells]),
            "points": points,
        }
        content |= DIFFERENCES[part](config) if part in DIFFERENCES else {}
        write_text(config.out / f"{part}.json", json.dumps(content, indent=1) + "\n")
        console.say(f"{config.out / part}.json")


# -- what is planned, before anything is painted or trained ------------------------------------------


def plan(config: Claims) -> dict[str, list[tuple[Cell, Recipe]]]:
    """The cells of every part with their recipes; ``UserError`` where one is not possible or unlike the others."""
    unknown = sorted(set(config.parts) - set(PARTS))
    if unknown:
        raise UserError(f"unknown part {unknown[0]!r}; there are: {', '.join(PARTS)} (--parts)")
    base = config_module.read_recipe(config.settings)
    real = usable_real(config.world, base)
    planned: dict[str, list[tuple[Cell, Recipe]]] = {}
    for part in config.parts:
        cells = [with_sizes(cell, real) for cell in PARTS[part](config)]
        planned[part] = [(cell, recipe_of(config, base, cell, real)) for cell in cells]
        check_equal_views(part, base, planned[part])
    return planned


def with_sizes(cell: Cell, real: Mapping[str, int]) -> Cell:
    """The cell with its numbers of captions; ``UserError`` where there are not so many."""
    num = sum(number >= cell.least_real for number in real.values())
    sizes = tuple(dict.fromkeys(num if size == "all" else size for size in cell.num_captions))
    if max(sizes) > num:
        raise UserError(
            f"{cell.value}: {max(sizes)} captions with at least {cell.least_real} real pictures are asked for, and the "
            f"world has {num}; ask for fewer (--num-captions, --sizes, --fixed, or --headline and --times)"
        )
    return dataclasses.replace(cell, num_captions=sizes)


def recipe_of(config: Claims, base: Recipe, cell: Cell, real: Mapping[str, int]) -> dict[str, Any]:
    """The recipe of a cell: what it extends, and how it differs from that."""
    left_out = _with_too_few(cell, real)
    painting = dict(cell.painting)
    if left_out:
        where = config_module.recipe_table(base, ("generate",), config.settings).get("where", TRAIN)
        painting["where"] = f"({where}) AND id NOT IN ({left_out})"
    without = f" AND caption_id NOT IN ({left_out})" if left_out else ""
    is_path = config.settings.endswith(
        ".toml"
    )  # relative to where it is given, not to the recipe of the cell
    return {
        "extends": str(Path(config.settings).resolve()) if is_path else config.settings,
        "generate": painting,
        "train": {method: {"data": cell.learner(method, without)} for method in LEARNERS},
        "evaluate": {"num_train": config.num_train, "protocols": ["knn", "linear", "geometry"]},
    }


def _with_too_few(cell: Cell, real: Mapping[str, int]) -> str:
    """The captions before the last one of a cell that have too few real pictures for it, as a list in a filter."""
    enough = sorted(caption for caption, number in real.items() if number >= cell.least_real)
    last = enough[max(cell.sizes) - 1]
    few = sorted(caption for caption, number in real.items() if number < cell.least_real and caption < last)
    return ", ".join(f"'{caption}'" for caption in few)


def check_equal_views(part: str, base: Recipe, cells: Iterable[tuple[Cell, Recipe]]) -> None:
    """``UserError`` where the learners of a part would not all see equally many views in a step."""
    seen = {
        (cell.value, arm): views_per_step(base, recipe, arm) for cell, recipe in cells for arm in cell.arms
    }
    if len(set(seen.values())) > 1:
        listed = ", ".join(f"{value}: {arm} {num}" for (value, arm), num in seen.items())
        raise UserError(
            f"{part}: learners would see different numbers of views in a step ({listed}); give the recipe (--settings) "
            "equal products of captions_per_batch, images_per_caption and crops_per_image"
        )


def views_per_step(base: Recipe, recipe: Recipe, arm: str) -> int:
    """Views in a step of an arm under the recipe of a cell, laid over its base."""
    method, _, source = arm.partition(":")
    tables = [
        config_module.recipe_table(one, ("train", method, "data"), "of a cell") for one in (base, recipe)
    ]
    images = {"images": ["painted", "real"] if source == "both" else [source]}
    data = config_module.build(DataConfig, *tables, images, origin=arm)
    return data.captions_per_batch * data.images_per_caption * data.crops_per_image


# -- what is measured --------------------------------------------------------------------------------


def _measure(config: Claims, part: str, cell: Cell, recipe: Recipe, known: Known) -> dict[str, Any]:
    """The point of a cell: what its learners learned from, and what they score; baselines are measured once for all."""
    seeds = config.seeds_of(part)
    if cell.audited:
        with alone(config.out / ".audit.lock"):  # of several processes the first does it for all
            _audit(config, cell, seeds[0])
    folder = config.out / part / str(cell.value)
    write_text(folder / "recipe.toml", tomli_w.dumps(recipe))
    asked = CompareConfig(
        out=folder,
        # A path, for a name alone would be that of the embedded world, which every cell would write anew.
        world=str(config.world.resolve()),
        settings=str(folder / "recipe.toml"),
        arms=cell.arms,
        num_captions=cell.sizes,
        num_images=cell.num_images,
        num_steps=config.num_steps,
        seeds=seeds,
        painted=_painted(config, cell),
    )
    found = compare(asked, console=Console(), known=known).to_json()
    trained = {(row["arm"], row["num_captions"]) for row in found["rows"] if row["arm"] in cell.arms}
    names = [f"{prefix_of(arm, num)}{seeds[0]}" for arm, num in sorted(trained)]
    return {
        "value": cell.value,
        "place": seconds_of_painting(_painted(config, cell)) if cell.is_timed else cell.place,
        "line": cell.line,
        "learned_from": {name: learned_from(folder / "runs" / name) for name in names},
        "rows": found["rows"],
        "measurements": found["measurements"],
    }


def learned_from(run: Path) -> dict[str, float]:
    """Captions and pictures that a run learned from, and the share of real ones among the views it was shown."""
    settings = Run.open(run).description["config"]
    return drawn_from(config_module.build(DataConfig, settings["data"], origin=str(run)), settings["seed"])


def drawn_from(data: DataConfig, seed: int) -> dict[str, float]:
    """The same of any data: batches are drawn as training draws them, and their real pictures counted."""
    source = ViewSource(data, seed=seed)
    real = set[int]()
    for path in data.images:
        rows = ImageTable.open(path).read(["caption_id", "image_index"], f"origin = '{REAL}'").to_pylist()
        real |= {identity_of(REAL, row["caption_id"], row["image_index"]) for row in rows}
    shown = [int(image) for step in range(NUM_DRAWN) for image in source.batch(step)["image_id"].flatten()]
    return {
        "captions": len(source.caption_ids),
        "pictures": source.num_images,
        "real_share": sum(image in real for image in shown) / len(shown),
    }


def _seconds(config: Claims, part: str, cells: Sequence[Cell]) -> dict[str, float]:
    """What the steps of a part took; paintings and the matcher, which parts share, count in each of them."""
    folders = [config.out / part, *([config.out / "matcher"] if any(cell.audited for cell in cells) else [])]
    return seconds_by_step(folders, {_painted(config, cell) for cell in cells})


def _painted(config: Claims, cell: Cell) -> Path:
    return config.out / "painted" / f"{cell.painted}.lance"


def _audit(config: Claims, cell: Cell, seed: int) -> None:
    """Paint, and match every picture with its caption by a CLIP that learned from the real ones."""
    table, captions = _painted(config, cell), config.world / "captions.lance"
    recipe = config_module.read_recipe(config.settings)
    console = Console()

    def configured(kind: type[Any], command: tuple[str, ...], settings: dict[str, Any]) -> Any:
        table_of = config_module.recipe_table(recipe, command, config.settings)
        return config_module.build(kind, table_of, settings, origin="claims")

    painting = {
        "captions": captions,
        "out": table,
        "limit": config.num_captions,
        "num_images": config.kept_of,
        "seed": seed,  # that of the comparison, which paints into the same table
    }
    generate(configured(GenerateConfig, ("generate",), painting), console=console)
    data = {"images": [config.world / "images.lance"], "captions": captions}
    settings = {"out": config.out / "matcher", "num_steps": config.num_steps, "data": data}
    run = train("clip", configured(METHODS["clip"].config, ("train", "clip"), settings), console=console).run
    audit_match(MatchAuditConfig(images=table, captions=captions, encoder=str(run)), console=console)


if __name__ == "__main__":
    with in_one_sentence():
        main(tyro.cli(Claims, description=__doc__))
