"""The claims of StableRep, measured: one part per claim, each a few comparisons under equal conditions.

    stablerep world fashion --out fashion
    python experiments/claims.py --world fashion --settings fashion --out claims --parts matrix sizes

Every part is made of comparisons (``stablerep compare``), goes on where it was stopped, and leaves one small file
OUT/PART.json with every score and interval. ``--num-steps``, ``--seeds`` and ``--num-captions`` set how long it takes.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
import tyro

from stablerep import config as config_module
from stablerep.audit.match import MatchAuditConfig, audit_match
from stablerep.console import Console
from stablerep.evaluation.scores import Scores, summarise
from stablerep.generation.execute import GenerateConfig, generate
from stablerep.learning.methods import METHODS, train
from stablerep.run import provenance, write_text
from stablerep.store import ImageTable
from stablerep.workflows.compare import CompareConfig, Comparison, compare, seen_as

RIVALS = ("simclr:real", "clip:real")
PAINTED = ("simclr:painted", "clip:painted", "stablerep:painted", "stablerep-plus:painted")
LEARNERS = ("stablerep", "stablerep-plus", "simclr", "clip", "supervised")
VIEWS = 4
"""Views of a caption in a batch, over whatever pictures there are of it."""


@dataclass(frozen=True, kw_only=True)
class Claims:
    """What is measured, and how long."""

    world: Path
    """Folder that `stablerep world` wrote."""
    settings: str
    """Recipe of the world: icons or fashion."""
    out: Path
    parts: tuple[str, ...] = ("matrix",)
    """Of matrix, reference, sizes, images, guidance, mix, kept, headline."""
    num_captions: int = 2000
    """Captions of all parts but `sizes` and `headline`."""
    sizes: tuple[int, ...] = (250, 500, 1000, 2000, 4000)
    headline: tuple[int, ...] = (1000, 2000)
    """Painted pictures that StableRep+ learns from."""
    times: tuple[float, ...] = (1.0, 2.5, 5.0)
    """So many times as many real pictures CLIP gets in `headline`."""
    num_images: int = 4
    """Pictures per caption of all parts but `images` and `headline`."""
    images: tuple[int, ...] = (1, 2, 4, 8, 16)
    guidance: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
    real_shares: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    kept: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
    num_steps: int = 1000
    num_train: int = 10_000
    """Labelled real pictures that the probes are fitted on."""
    seeds: tuple[int, ...] = (0, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One comparison: where it lies on the axis of its part, and what differs from the recipe."""

    value: float | str
    arms: tuple[str, ...]
    num_captions: tuple[int, ...]
    num_images: int
    painted: str
    """Name of the table of painted pictures, shared by the cells that paint alike."""
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def main(config: Claims) -> None:
    """Measure every part that is asked for."""
    console = Console()
    unknown = sorted(set(config.parts) - set(PARTS))
    if unknown:
        raise SystemExit(f"unknown part {unknown[0]!r}; there are: {', '.join(PARTS)}")
    for part in config.parts:
        points = []
        for cell in PARTS[part](config):
            console.say(f"{part}: {cell.value}")
            found = _measure(config, part, cell, console)
            plain = found.to_json()
            points.append({"value": cell.value, "rows": plain["rows"], "measurements": plain["measurements"]})
        content: dict[str, Any] = {
            "part": part,
            "config": json.loads(json.dumps(dataclasses.asdict(config), default=str)),
            "provenance": provenance(),
            "points": points,
        }
        if part in DIFFERENCES:
            content["against"] = DIFFERENCES[part](config)
        write_text(config.out / f"{part}.json", json.dumps(content, indent=1) + "\n")
        console.say(f"{config.out / part}.json")


def _measure(config: Claims, part: str, cell: Cell, console: Console) -> Comparison:
    folder = config.out / part / str(cell.value)
    recipe = folder / "recipe.toml"
    measuring = {"evaluate": {"num_train": config.num_train, "protocols": ["knn", "linear", "geometry"]}}
    write_text(recipe, tomli_w.dumps({"extends": config.settings, **cell.changes, **measuring}))
    return compare(
        CompareConfig(
            out=folder,
            world=str(config.world),
            settings=str(recipe),
            arms=cell.arms,
            num_captions=cell.num_captions,
            num_images=cell.num_images,
            num_steps=config.num_steps,
            seeds=config.seeds,
            painted=config.out / "painted" / f"{cell.painted}.lance",
        ),
        console=console,
    )


# -- the parts ---------------------------------------------------------------------------------------


def _matrix(config: Claims) -> Iterator[Cell]:
    """Every learner on the same captions: one real picture each, or K painted ones, or both."""
    arms = (*RIVALS, *PAINTED, "stablerep-plus:both", "supervised:real")
    yield _cell(config, "same captions", arms)


def _reference(config: Claims) -> Iterator[Cell]:
    """The rivals on all real pictures that the teacher learned from, which no learner of the matrix sees."""
    captions = ImageTable.open(config.world / "images.lance").read(["caption_id"], "split = 'train'")
    changes = {"train": {method: {"data": {"where": "split = 'train'"}} for method in LEARNERS}}
    cell = _cell(config, "all real", (*RIVALS, "supervised:real"))
    num = len(set(captions["caption_id"].to_pylist()))
    yield dataclasses.replace(cell, num_captions=(num,), changes=changes)


def _sizes(config: Claims) -> Iterator[Cell]:
    arms = (*RIVALS, "stablerep:painted", "stablerep-plus:painted")
    yield dataclasses.replace(_cell(config, "sizes", arms), num_captions=config.sizes)


def _images(config: Claims) -> Iterator[Cell]:
    """K pictures per caption: with as many pictures seen, and (fixed) with as many pictures painted in all."""
    arms = ("simclr:painted", "stablerep:painted")
    most = max(config.images)
    for num in config.images:
        shown = min(num, VIEWS)
        batch = {"images_per_caption": shown, "crops_per_image": VIEWS // shown}
        changes = _filtered(num)
        changes["train"]["stablerep"]["data"] |= batch
        for name, captions in (
            (f"{num}", config.num_captions),
            (f"{num} fixed", config.num_captions * min(config.images) * 4 // num),
        ):
            yield Cell(
                value=name,
                arms=arms,
                num_captions=(max(256, captions),),
                num_images=most,
                painted=f"images-{most}",
                changes=changes,
            )


def _guidance(config: Claims) -> Iterator[Cell]:
    for scale in config.guidance:
        changes = _filtered(config.num_images) | {"generate": {"guidance_scale": scale}}
        cell = _cell(config, scale, ("simclr:painted", "clip:painted", "stablerep:painted"))
        yield dataclasses.replace(cell, painted=f"guidance-{scale:g}", changes=changes)


def _mix(config: Claims) -> Iterator[Cell]:
    for share in config.real_shares:
        arm = {0.0: "stablerep-plus:painted", 1.0: "stablerep-plus:real"}.get(share, "stablerep-plus:both")
        changes = _filtered(config.num_images)
        data = changes["train"]["stablerep-plus"]["data"]
        if arm.endswith("both"):
            data["mix"] = [1 - share, share]  # the painted table comes first
        if arm.endswith("real"):  # one picture a caption: its views are crops
            data |= {"images_per_caption": 1, "crops_per_image": VIEWS}
        yield dataclasses.replace(_cell(config, share, (arm,)), changes=changes)


def _kept(config: Claims) -> Iterator[Cell]:
    """The best of the pictures of each caption by match, beside as many at random."""
    table = _audited(config)
    for share in config.kept:
        num = max(1, round(share * config.num_images))
        shown = min(num, VIEWS)
        for name, column in (("best", "match_rank"), ("random", "image_index")):
            changes = _filtered(num, column)
            changes["train"]["stablerep"]["data"] |= {
                "images_per_caption": shown,
                "crops_per_image": VIEWS // shown,
            }
            cell = _cell(config, f"{name} {num} of {config.num_images}", ("stablerep:painted",))
            yield dataclasses.replace(cell, painted=table, changes=changes)


def _headline(config: Claims) -> Iterator[Cell]:
    """n counts pictures, as in the paper: StableRep+ gets n / 2 captions with two pictures each."""
    for num in config.headline:
        changes = _filtered(2)
        changes["train"]["stablerep-plus"]["data"] |= {"images_per_caption": 2, "crops_per_image": VIEWS // 2}
        plus = _cell(config, f"{num} painted", ("stablerep-plus:painted",))
        yield dataclasses.replace(
            plus, num_captions=(num // 2,), num_images=2, painted="two", changes=changes
        )
        for times in config.times:
            real = int(times * num)
            yield dataclasses.replace(_cell(config, f"{real} real", ("clip:real",)), num_captions=(real,))


PARTS: dict[str, Callable[[Claims], Iterator[Cell]]] = {
    "matrix": _matrix,
    "reference": _reference,
    "sizes": _sizes,
    "images": _images,
    "guidance": _guidance,
    "mix": _mix,
    "kept": _kept,
    "headline": _headline,
}


# -- what they share ---------------------------------------------------------------------------------


def _cell(config: Claims, value: float | str, arms: tuple[str, ...]) -> Cell:
    return Cell(
        value=value,
        arms=arms,
        num_captions=(config.num_captions,),
        num_images=config.num_images,
        painted=f"images-{config.num_images}",
        changes=_filtered(config.num_images),
    )


def _filtered(num_images: int, column: str = "image_index") -> dict[str, Any]:
    """Learners get one real picture of a caption, and its first painted ones by a column."""
    where = (
        "split = 'train' AND (origin != 'real' OR image_index = 0) "
        f"AND (origin = 'real' OR {column} < {num_images})"
    )
    return {"train": {method: {"data": {"where": where}} for method in LEARNERS}}


def _audited(config: Claims) -> str:
    """A table of painted pictures, each matched with its caption by a CLIP that learned from the real ones."""
    name = f"audited-{config.num_images}"
    table, captions = config.out / "painted" / f"{name}.lance", config.world / "captions.lance"
    recipe = config_module.read_recipe(config.settings)
    console = Console()

    def configured(kind: type[Any], command: tuple[str, ...], settings: dict[str, Any]) -> Any:
        table_of = config_module.recipe_table(recipe, command, config.settings)
        return config_module.build(kind, table_of, settings, origin="claims")

    painting = {
        "captions": captions,
        "out": table,
        "limit": config.num_captions,
        "num_images": config.num_images,
    }
    generate(configured(GenerateConfig, ("generate",), painting), console=console)
    data = {"images": [config.world / "images.lance"], "captions": captions}
    settings = {"out": config.out / "matcher", "num_steps": config.num_steps, "data": data}
    run = train("clip", configured(METHODS["clip"].config, ("train", "clip"), settings), console=console).run
    audit_match(MatchAuditConfig(images=table, captions=captions, encoder=str(run)), console=console)
    return name


def _matrix_differences(config: Claims) -> list[dict[str, Any]]:
    """The claims: learning from painted pictures against learning from the real ones of the same captions."""
    folder = config.out / "matrix" / "same captions" / "scores"
    scores = [Scores.read(folder / f"{config.num_captions}-captions-seed-{seed}") for seed in config.seeds]
    there = {record.encoder.rsplit(f"-{config.num_captions}-", 1)[0] for record in scores[0].records}
    return [
        {"ours": ours, "theirs": theirs, **summary}
        for ours, theirs in PAIRS
        if {_name(ours), _name(theirs)} <= there
        for summary in _ahead(
            *(
                [seen_as(one, f"{_name(arm)}-{config.num_captions}-") for one in scores]
                for arm in (ours, theirs)
            )
        )
    ]


def _headline_differences(config: Claims) -> list[dict[str, Any]]:
    """StableRep+ on n painted pictures against CLIP on more real ones: paired over test pictures and seeds."""
    found = []
    for num in config.headline:
        ours = _scores(config, f"{num} painted", num // 2)
        for times in config.times:
            theirs = _scores(config, f"{int(times * num)} real", int(times * num))
            found += [
                {"painted": num, "real": int(times * num), **summary} for summary in _ahead(ours, theirs)
            ]
    return found


def _scores(config: Claims, value: str, num_captions: int) -> list[Scores]:
    folder = config.out / "headline" / value / "scores"
    return [Scores.read(folder / f"{num_captions}-captions-seed-{seed}") for seed in config.seeds]


def _name(arm: str) -> str:
    """How the names of an arm's runs begin."""
    return arm.replace(":", "-")


def _ahead(ours: list[Scores], theirs: list[Scores]) -> list[dict[str, Any]]:
    """For every test: ours, and how far it is ahead."""
    return [
        json.loads(json.dumps(dataclasses.asdict(summary))) for summary in summarise(ours, against=theirs)
    ]


PAIRS = (
    ("stablerep:painted", "simclr:real"),
    ("stablerep:painted", "clip:real"),
    ("stablerep:painted", "simclr:painted"),
    ("stablerep:painted", "clip:painted"),
    ("stablerep:painted", "supervised:real"),
    ("stablerep-plus:painted", "clip:real"),
    ("stablerep-plus:painted", "stablerep:painted"),
    ("stablerep-plus:both", "stablerep-plus:painted"),
    ("clip:painted", "clip:real"),
    ("simclr:painted", "simclr:real"),
)
"""Arms of the matrix whose differences are claims."""

DIFFERENCES = {"matrix": _matrix_differences, "headline": _headline_differences}


if __name__ == "__main__":
    main(tyro.cli(Claims, description=__doc__))
