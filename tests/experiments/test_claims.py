"""Every part of claims.py compares under equal conditions what it says, and asks only for what exists."""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import tyro

import claims
import claims_differences
import tables
from claims_parts import PARTS, Claims
from crossing import crossing, crossing_of_runs
from learning.tiny_training import SIZE, image_row, write_images
from stablerep import config as config_module
from stablerep.errors import UserError
from stablerep.evaluation.intervals import Interval
from stablerep.evaluation.scores import Outcome, Record, Scores
from stablerep.learning.data import DataConfig, ViewSource
from stablerep.learning.methods import METHODS
from stablerep.store import REAL

MANY = Counter({f"{number:04}": 8 for number in range(3000)})
"""As many captions as there are in fashion, about, each with eight real pictures."""


def asked(**changes: Any) -> Claims:
    places = {"world": Path("world"), "settings": "fashion", "out": Path("out")}
    return Claims(**(places | changes))


# -- equal conditions --------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", ["icons", "fashion"])
@pytest.mark.parametrize("part", PARTS)
def test_every_learner_of_a_part_sees_as_many_views(part: str, settings: str, tmp_path: Path) -> None:
    config = asked(settings=settings, kept=(1.0, 0.75, 0.375, 0.25), images=(1, 2, 3, 4, 8))
    base = config_module.read_recipe(settings)
    seen = set()
    for cell in PARTS[part](config):
        path = tmp_path / f"{cell.value}.toml"
        recipe = claims.recipe_of(config, base, claims.with_sizes(cell, MANY), MANY)
        path.write_text(tomli_w.dumps(recipe))
        for arm in cell.arms:
            command = ("train", arm.partition(":")[0])
            table = config_module.recipe_table(config_module.read_recipe(str(path)), command, "test")
            images = ["a", "b"] if arm.endswith("both") else ["a"]
            settings_of_run = {"out": "run", "data": {"images": images}}
            run = config_module.build(METHODS[command[1]].config, table, settings_of_run, origin="test")
            seen.add(run.images_per_step)
            assert run.images_per_step == claims.views_per_step(base, recipe, arm)
    assert seen == {{"icons": 256, "fashion": 128}[settings]}


def test_unequal_views_are_refused() -> None:
    config = asked()
    base = config_module.read_recipe("fashion")
    cells = []
    for cell, num in zip(PARTS["kept"](config), (1, 2, 1), strict=False):
        recipe = claims.recipe_of(config, base, claims.with_sizes(cell, MANY), MANY)
        recipe["train"]["stablerep"]["data"]["crops_per_image"] = num
        cells.append((cell, recipe))
    with pytest.raises(UserError, match="kept: learners would see different numbers of views"):
        claims.check_equal_views("kept", base, cells)


def test_the_weights_are_all_that_differs() -> None:
    uniform, weighted = (cell.learner("stablerep") for cell in PARTS["weights"](asked()))
    assert weighted == {**uniform, "weight": "match_level"}


# -- what is asked where nothing is said ------------------------------------------------------------


def test_the_table_has_five_seeds_and_curves_have_three() -> None:
    seeds = {part: asked().seeds_of(part) for part in PARTS}
    assert {part for part, chosen in seeds.items() if chosen == (0, 1, 2, 3, 4)} == {"matrix", "reference"}
    assert {chosen for part, chosen in seeds.items() if part not in ("matrix", "reference")} == {(0, 1, 2)}
    assert asked(seeds=(7,)).seeds_of("matrix") == (7,)


def test_the_words_of_the_command_line() -> None:
    places = ["--world", "w", "--settings", "fashion", "--out", "o"]
    read = tyro.cli(
        Claims, args=[*places, "--seeds", "0", "1", "--sizes", "250", "all", "--teachers", "a/teacher"]
    )
    assert (read.seeds, read.sizes, read.teachers) == ((0, 1), (250, "all"), ("a/teacher",))
    assert tyro.cli(Claims, args=places) == asked(world=Path("w"), out=Path("o"))


def test_the_headline_fits_into_the_world_fashion() -> None:
    of_two = Counter(
        {f"{number:04}": 2 if number < 3240 else 1 for number in range(3494)}
    )  # as in that world
    for part, most in (("headline", 2500), ("sizes", 3494), ("reference", 3494)):
        sizes = [size for cell in PARTS[part](asked()) for size in claims.with_sizes(cell, of_two).sizes]
        assert max(sizes) == most
    with pytest.raises(UserError, match=r"4000 captions with at least 1 real .* the world has 3494"):
        claims.with_sizes(next(PARTS["sizes"](asked(sizes=(4000,)))), of_two)


def test_teachers_paint_in_tables_of_their_own() -> None:
    config = asked(teacher_steps=(4, 12), teachers=("runs/fast/teacher", "other"))
    cells = {cell.value: cell for cell in PARTS["teachers"](config)}
    assert {name: dict(cell.painting) for name, cell in cells.items()} == {
        "4 steps": {"num_inference_steps": 4},
        "12 steps": {"num_inference_steps": 12},
        "fast": {"teacher": "runs/fast/teacher"},
        "other": {"teacher": "other"},
    }
    assert len({cell.painted for cell in cells.values()}) == 4
    assert {cell.arms for cell in cells.values()} == {("stablerep:painted",)}
    with pytest.raises(UserError, match="two teachers would have one name among fast, fast"):
        list(PARTS["teachers"](asked(teacher_steps=(), teachers=("a/fast", "b/fast/teacher"))))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"images": (0, 1)}, r"images must be at least 1, got \(0, 1\)"),
        ({"sizes": (0, "all")}, "sizes must be at least 1"),
        ({"num_train": 0}, "num_train must be at least 1, got 0"),
        ({"seeds": (1, 1)}, r"seeds must hold different values, got \(1, 1\)"),
        ({"times": ()}, "times must hold different values"),
        ({"kept": (0.0, 0.5)}, r"kept must be in \(0, 1\]"),
        ({"real_shares": (0.5, 1.5)}, r"real_shares must be in \[0, 1\]"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        asked(**changes)


def test_a_size_that_is_all_there_is_counts_once() -> None:
    cell = next(PARTS["sizes"](asked(sizes=(250, 3000, "all"))))
    assert claims.with_sizes(cell, MANY).sizes == (250, 3000)


# -- what is learned from ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Claims]:
    """Twelve captions with four paintings and five real pictures, three with two; the first is by a held-out hand."""
    folder = tmp_path_factory.mktemp("claims")
    real = [
        image_row(number, index, origin=REAL, style="fluent" if index == 0 else "noto")
        for number in range(12)
        for index in range(6 if number < 9 else 3)
    ]
    painted = [image_row(number, index) for number in range(12) for index in range(4)]
    write_images(folder / "world" / "images.lance", real)
    write_images(folder / "out" / "painted" / "images-4.lance", painted)
    data = {"exclude_styles": ["fluent"], "view": {"image_size": SIZE}}
    batches = {"stablerep": 2, "stablerep-plus": 2, "simclr": 4, "clip": 8, "supervised": 4}
    learners = {name: {"data": data | {"captions_per_batch": captions}} for name, captions in batches.items()}
    small = {"extends": "fashion", "train": learners}
    (folder / "small.toml").write_text(tomli_w.dumps(small))
    places = {"world": folder / "world", "settings": str(folder / "small.toml"), "out": folder / "out"}
    return lambda **changes: asked(**(places | changes))


def data_of(config: Claims, part: str, place: int, arm: str, folder: Path) -> DataConfig:
    """The data of an arm of a cell, through the recipe that is written, with the tables that `compare` gives it."""
    cell, recipe = claims.plan(config)[part][place]
    (folder / "cell.toml").write_text(tomli_w.dumps(recipe))
    method, _, source = arm.partition(":")
    read = config_module.read_recipe(str(folder / "cell.toml"))
    real, painted = config.world / "images.lance", claims._painted(config, cell)
    images = {"real": [real], "painted": [painted], "both": [painted, real]}[source]
    settings = {"images": images, "num_captions": cell.sizes[0]}
    if source != "real":
        settings["num_painted"] = cell.num_images
    return config_module.build(DataConfig, read["train"][method]["data"], settings, origin="test")


@pytest.mark.usefixtures("blank")
@pytest.mark.parametrize(("place", "share"), enumerate((0.0, 0.25, 0.5, 0.75, 1.0)))
def test_the_share_of_real_pictures_is_the_one_asked_for(
    place: int, share: float, tiny: Callable[..., Claims], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "NUM_DRAWN", 100)
    config = tiny(parts=("mix",), num_captions=9)
    source = {0.0: "painted", 1.0: "real"}.get(share, "both")
    found = claims.drawn_from(data_of(config, "mix", place, f"stablerep-plus:{source}", tmp_path), seed=0)
    assert found["real_share"] == pytest.approx(share, abs=0.03)
    assert found["captions"] == 9
    assert found["pictures"] == (36 if share in (0, 1) else 72)


def test_a_held_out_style_takes_no_caption_away(tiny: Callable[..., Claims], tmp_path: Path) -> None:
    config = tiny(num_captions=12)
    real = ViewSource(data_of(config, "matrix", 0, "simclr:real", tmp_path), seed=0)
    painted = ViewSource(data_of(config, "matrix", 0, "stablerep:painted", tmp_path), seed=0)
    assert real.caption_ids == painted.caption_ids
    assert (len(real.caption_ids), real.num_images, painted.num_images) == (12, 12, 48)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"parts": ("sizes",), "sizes": (4, 13)}, "13 captions with at least 1 real .* the world has 12"),
        ({"parts": ("mix",), "num_captions": 10}, "10 captions with at least 4 real .* the world has 9"),
        ({"parts": ("images",), "fixed": 24, "num_captions": 9}, "1 fixed: 24 captions"),
        ({"parts": ("images",), "fixed": 10, "num_captions": 9}, "images 4 does not divide fixed 10"),
        ({"parts": ("headline",), "headline": (10,), "times": (1.0, 1.5)}, "15 is not even"),
        ({"parts": ("matrix", "claims")}, "unknown part 'claims'; there are: matrix, "),
    ],
)
def test_what_does_not_exist_is_refused_before_anything_is_painted(
    changes: dict[str, Any], what: str, tiny: Callable[..., Claims]
) -> None:
    with pytest.raises(UserError, match=what):
        claims.main(tiny(**{"num_captions": 12, "images": (1, 2, 4)} | changes))


# -- the headline ------------------------------------------------------------------------------------


def test_the_headline_counts_pictures_two_of_each_caption() -> None:
    config = asked(headline=(500, 1000), times=(1.0, 2.5))
    cells = {cell.value: (cell.arms[0], cell.num_captions) for cell in PARTS["headline"](config)}
    assert cells == {
        "500 painted": ("stablerep-plus:painted", (250,)),
        "1000 painted": ("stablerep-plus:painted", (500,)),
        "500 real": ("clip:real", (250,)),
        "1000 real": ("clip:real", (500,)),
        "1250 real": ("clip:real", (625,)),
        "2500 real": ("clip:real", (1250,)),
    }


def test_a_curve_crosses_a_score_on_the_logarithm_of_pictures() -> None:
    curve = {4000: 0.8, 1000: 0.6, 2000: 0.7}
    assert crossing(0.7, curve).pictures == pytest.approx(2000)
    assert crossing(0.65, curve).pictures == pytest.approx(1000 * 2**0.5)
    assert crossing(0.81, curve).pictures is None
    assert crossing(0.81, curve).said == "not reached with the most that were tried, 4,000"
    assert crossing(0.6, curve).pictures is None
    assert crossing(0.6, curve).said == "reached with the fewest that were tried, 1,000"


def scores(run: str, num_groups: int, **right: float) -> Scores:
    """Of a run that names so large a share of the groups rightly, by protocol."""
    groups = np.arange(num_groups).astype(str)
    outcomes = [
        Outcome(
            benchmark="b", test="t", encoder=run, protocol=protocol, groups=groups,
            labels=np.full(num_groups, "x"), predicted=np.where(np.arange(num_groups) < share * num_groups, "x", "y"),
        )
        for protocol, share in right.items()
    ]  # fmt: skip
    return Scores(
        run=run, path="", config={}, precision="float32", benchmarks={}, skipped={}, provenance={}, records=(),
        outcomes=tuple(outcomes),
    )  # fmt: skip


def test_how_many_real_pictures_are_needed_is_said_for_every_test_with_its_interval() -> None:
    ours = [scores("ours", 400, knn=0.7, linear=0.9, alone=0.5)]
    theirs = {
        2000: [scores("more", 400, knn=0.8, linear=0.8)],
        500: [scores("fewer", 400, knn=0.6, linear=0.6)],
    }
    found = claims_differences.real_needed(500, ours, theirs)
    assert [(one["painted"], one["protocol"], one["pictures"]) for one in found] == [
        (500, "knn", pytest.approx(1000)),
        (500, "linear", None),
    ]
    assert found[1]["said"] == "not reached with the most that were tried, 2,000 (95 %: more than 2,000)"
    ends = re.fullmatch(r"reached with 1,000, interpolated \(95 %: ([\d,]+) to ([\d,]+)\)", found[0]["said"])
    assert ends is not None
    low, high = (int(end.replace(",", "")) for end in ends.groups())
    assert 800 < low < 960 < 1040 < high < 1250


def test_few_seeds_that_lie_apart_widen_the_crossing() -> None:
    theirs = {500: [scores("fewer", 400, knn=0.6)], 2000: [scores("more", 400, knn=0.8)]}
    alike, apart = (
        crossing_of_runs(
            ("b", "t", "knn"),
            [scores(f"seed {number}", 400, knn=share) for number, share in enumerate(shares)],
            theirs,
        )
        for shares in ((0.7, 0.7), (0.68, 0.72))
    )
    assert alike.pictures == apart.pictures == pytest.approx(1000)
    assert "fewer than" not in alike.said
    assert apart.said == "reached with 1,000, interpolated (95 %: fewer than 500 to more than 2,000)"


# -- what is compared between the cells of a part ---------------------------------------------------


def recorded(found: Scores) -> Scores:
    """With the records by which an arm of a table is found."""
    nothing = Interval(value=0, low=0, high=0)
    records = [
        Record(
            benchmark=one.benchmark, test=one.test, encoder=one.encoder, kind="run", fingerprint="", chosen_on="",
            protocol=one.protocol, mean_per_class=nothing, top1=nothing, ahead=None, num_pictures=0, num_groups=0,
            num_classes=0, chance_mean_per_class=0, chance_top1=0, chosen={}, validation_accuracy=None, note="",
        )
        for one in found.outcomes
    ]  # fmt: skip
    return dataclasses.replace(found, records=tuple(records))


def test_the_best_pictures_are_held_against_as_many_at_random(tmp_path: Path) -> None:
    config = asked(out=tmp_path, num_captions=8, kept=(1.0, 0.5), kept_of=4, seeds=(0, 1))
    for value, share in (("all 4", 0.9), ("best 2 of 4", 0.8), ("random 2 of 4", 0.7)):
        for seed in (0, 1):
            run = recorded(scores(f"stablerep-painted-8-seed-{seed}", 400, knn=share))
            run.write(tmp_path / "kept" / value / "scores" / f"8-captions-seed-{seed}")
    (one,) = claims.DIFFERENCES["kept"](config)["against"]
    assert one["ours"] == "stablerep:painted, best 2 of 4"
    assert one["theirs"] == "stablerep:painted, random 2 of 4"
    assert one["ahead"]["value"] == pytest.approx(0.1)
    assert 0 < one["ahead"]["low"] < 0.1 < one["ahead"]["high"]
    lines = tables.tables({"part": "kept", "points": [], "against": [one]}, "kept")
    assert any(
        "| stablerep:painted, best 2 of 4 over stablerep:painted, random 2 of 4 |" in line for line in lines
    )


def test_every_share_of_real_pictures_is_held_against_painted_ones_alone(tmp_path: Path) -> None:
    config = asked(out=tmp_path, num_captions=8, real_shares=(0.0, 0.5, 1.0), seeds=(0, 1))
    for value, source, share in ((0.0, "painted", 0.7), (0.5, "both", 0.8), (1.0, "real", 0.6)):
        for seed in (0, 1):
            run = recorded(scores(f"stablerep-plus-{source}-8-seed-{seed}", 400, knn=share))
            run.write(tmp_path / "mix" / str(value) / "scores" / f"8-captions-seed-{seed}")
    both, real = claims.DIFFERENCES["mix"](config)["against"]
    assert (both["ours"], both["theirs"]) == (
        "stablerep-plus:both, 0.5 real",
        "stablerep-plus:painted, 0.0 real",
    )
    assert both["ahead"]["value"] == pytest.approx(0.1) and real["ahead"]["value"] == pytest.approx(-0.1)
    without = dataclasses.replace(config, real_shares=(0.5, 1.0))
    assert claims.DIFFERENCES["mix"](without)["against"] == []


def test_painted_pictures_are_held_against_all_real_ones_where_the_matrix_is_there(tmp_path: Path) -> None:
    config = asked(out=tmp_path, num_captions=8, seeds=(0, 1))

    def write(part: str, value: str, num: int, **share: float) -> None:
        for seed in (0, 1):
            runs = [
                scores(f"{arm}-{num}-seed-{seed}".replace("_", "-"), 400, knn=right)
                for arm, right in share.items()
            ]
            outcomes = tuple(outcome for run in runs for outcome in run.outcomes)
            found = recorded(dataclasses.replace(runs[0], outcomes=outcomes))
            found.write(tmp_path / part / value / "scores" / f"{num}-captions-seed-{seed}")

    write("reference", "all real", 12, simclr_real=0.6, clip_real=0.7, supervised_real=0.9)
    assert claims.DIFFERENCES["reference"](config) == {}
    write("matrix", "same captions", 8, stablerep_painted=0.8, stablerep_plus_painted=0.7)
    against = claims.DIFFERENCES["reference"](config)["against"]
    assert {(one["ours"], one["theirs"]): round(one["ahead"]["value"], 6) for one in against} == {
        ("stablerep:painted", "simclr:real, all real"): 0.2,
        ("stablerep:painted", "clip:real, all real"): 0.1,
        ("stablerep:painted", "supervised:real, all real"): -0.1,
        ("stablerep-plus:painted", "simclr:real, all real"): 0.1,
        ("stablerep-plus:painted", "clip:real, all real"): 0.0,
        ("stablerep-plus:painted", "supervised:real, all real"): -0.2,
    }
