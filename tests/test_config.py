"""Configuration: recipes in, every mistake named at once, resolved configuration out and back."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from stablerep import config
from stablerep.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Optimiser:
    rate: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)


@dataclass(frozen=True, kw_only=True)
class Crop:
    scale: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Settings:
    out: Path = Path("out")
    steps: int = 10
    flip: bool = True
    mode: Literal["slow", "fast"] = "slow"
    level: Literal[1, 2] = 1
    name: str | None = None
    files: Annotated[tuple[Path, ...], "as tyro marks positional fields"] = ()
    weights: dict[str, float] = field(default_factory=dict)
    optimiser: Optimiser = Optimiser()
    crop: Crop | None = None

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps must not be negative, got {self.steps}")


@dataclass(frozen=True, kw_only=True)
class Needy:
    captions: Path
    images: Path


def mistakes(*overlays: dict[str, Any], cls: type[Any] = Settings) -> str:
    with pytest.raises(UserError) as caught:
        config.build(cls, *overlays, origin="small.toml")
    return str(caught.value)


def test_defaults_overlays_and_conversions() -> None:
    recipe = {"steps": 5, "optimiser": {"rate": 1}, "files": ["a.txt", "b.txt"]}
    command_line = {"optimiser": {"betas": [0, 1]}, "steps": 7}
    built = config.build(Settings, recipe, command_line, origin="x")
    assert built == Settings(
        steps=7, files=(Path("a.txt"), Path("b.txt")), optimiser=Optimiser(rate=1.0, betas=(0.0, 1.0))
    )
    assert isinstance(built.optimiser.rate, float)


def test_an_optional_table_can_be_set_and_is_checked() -> None:
    assert config.build(Settings, {"crop": {"scale": 2}}, origin="x").crop == Crop(scale=2.0)
    assert "unknown key 'crop.scail'" in mistakes({"crop": {"scail": 2}})


def test_the_places_of_a_field_are_found_at_any_depth() -> None:
    @dataclass(frozen=True)
    class Command:
        scale: int
        settings: Settings

    assert list(config.places(Command, "scale")) == ["scale", "settings.crop.scale"]
    assert list(config.places(Command, "nothing")) == []


def test_every_wrong_key_and_type_is_reported_at_once() -> None:
    message = mistakes(
        {
            "stepz": 3,
            "colour": "red",
            "steps": "many",
            "mode": "medium",
            "optimiser": {"rates": 1, "rate": True, "betas": [0.9]},
            "crop": {"scale": "big"},
        }
    )
    assert message.startswith("small.toml: ")
    for part in (
        "unknown keys 'stepz', 'colour'",
        "'steps' must be int, got 'many'",
        "'mode' must be one of 'slow', 'fast', got 'medium'",
        "unknown key 'optimiser.rates' (known: optimiser.rate, optimiser.betas)",
        "'optimiser.rate' must be float, got True",
        "'optimiser.betas' must be",
        "'crop.scale' must be float, got 'big'",
    ):
        assert part in message
    assert "known: out, steps, flip" in message, "the message must offer the right names"


@pytest.mark.parametrize(
    ("overlay", "place"),
    [
        ({"steps": True}, "steps"),
        ({"steps": 1.5}, "steps"),
        ({"flip": 1}, "flip"),
        ({"level": True}, "level"),
        ({"level": 3}, "level"),
        ({"out": 3}, "out"),
        ({"name": 3}, "name"),
        ({"files": "a.txt"}, "files"),
        ({"files": [1]}, "files"),
        ({"weights": 3}, "weights"),
        ({"optimiser": 3}, "optimiser"),
        ({"optimiser": None}, "optimiser"),
    ],
)
def test_a_wrong_type_is_refused_with_its_place(overlay: dict[str, Any], place: str) -> None:
    assert f"'{place}' must be" in mistakes(overlay)


def test_missing_fields_are_reported_together() -> None:
    message = mistakes({"imagez": "x"}, cls=Needy)
    assert "missing 'captions'" in message
    assert "missing 'images'" in message
    assert "unknown key 'imagez'" in message


def test_a_value_that_the_owner_refuses_is_a_user_error() -> None:
    assert mistakes({"steps": -1}) == "small.toml: Settings: steps must not be negative, got -1"


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FLOATS = st.floats(allow_nan=False)
PATHS = st.from_regex(r"[a-z]{1,8}(/[a-z.]{1,8}x)?", fullmatch=True).map(Path)


@pytest.mark.slow
@hypothesis_settings(max_examples=30, deadline=None)
@given(
    settings=st.builds(
        Settings,
        out=PATHS,
        steps=st.integers(0, 2**62),
        flip=st.booleans(),
        mode=st.sampled_from(["slow", "fast"]),
        level=st.sampled_from([1, 2]),
        name=st.none() | TEXT,
        files=st.lists(PATHS, max_size=3).map(tuple),
        weights=st.dictionaries(TEXT.filter(bool), FLOATS, max_size=3),
        optimiser=st.builds(Optimiser, rate=FLOATS, betas=st.tuples(FLOATS, FLOATS)),
        crop=st.none() | st.builds(Crop, scale=FLOATS),
    )
)
def test_a_configuration_survives_the_way_through_toml(settings: Settings) -> None:
    recipe = tomllib.loads(config.to_toml(settings))
    assert config.build(Settings, recipe, origin="x") == settings
    assert config.differing_fields(config.to_dict(settings), recipe) == []


def test_none_that_toml_would_turn_into_a_default_is_refused() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Treacherous:
        limit: int | None = 5

    with pytest.raises(TypeError, match=r"Treacherous\.limit"):
        config.to_toml(Treacherous(limit=None))


def test_recipe_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[train.stablerep]\nsteps = 3\n[generate]\nsteps = 9\n", encoding="utf-8")
    recipe = config.read_recipe(str(path))
    assert config.recipe_table(recipe, ("train", "stablerep"), "mine") == {"steps": 3}
    assert config.recipe_table(recipe, ("generate",), "mine") == {"steps": 9}
    assert config.recipe_table(recipe, ("evaluate",), "mine") == {}
    with pytest.raises(UserError, match="must be a table"):
        config.recipe_table({"train": 3}, ("train", "simclr"), "mine")


def test_a_recipe_that_extends_another_says_only_how_it_differs(tmp_path: Path) -> None:
    """A base is a shipped name, or a path that begins where the recipe lies."""
    (tmp_path / "deep").mkdir()
    long, longer = tmp_path / "long.toml", tmp_path / "deep" / "longer.toml"
    long.write_text('extends = "icons"\n[train.simclr]\nnum_steps = 7\noptim.lr = 3.0\n', encoding="utf-8")
    longer.write_text('extends = "../long.toml"\n[train.simclr]\nnum_steps = 8\n', encoding="utf-8")
    shipped, recipe = config.read_recipe("icons"), config.read_recipe(str(longer))
    assert config.differing_fields(shipped, recipe) == [
        f"train.simclr.num_steps: {shipped['train']['simclr']['num_steps']} there, 8 asked",
        f"train.simclr.optim.lr: {shipped['train']['simclr']['optim']['lr']} there, 3.0 asked",
    ]


def test_a_base_that_cannot_be_is_a_user_error(tmp_path: Path) -> None:
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    first.write_text('extends = "./second.toml"\n', encoding="utf-8")
    second.write_text('extends = "../nowhere/../' + tmp_path.name + '/first.toml"\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"first\.toml extends itself \(.*second\.toml.*\)"):
        config.read_recipe(str(first))
    second.write_text("extends = 3\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"second\.toml: extends must be the name or path of a recipe, got 3"):
        config.read_recipe(str(first))
    second.write_text('extends = "nope"\n', encoding="utf-8")
    with pytest.raises(UserError, match="unknown recipe 'nope'"):
        config.read_recipe(str(first))


def test_unreadable_recipes_are_user_errors(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("steps = = 3\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"broken\.toml.*line 1"):
        config.read_recipe(str(broken))
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'name = "caf\xe9"\n')
    with pytest.raises(UserError, match="not UTF-8"):
        config.read_recipe(str(latin))
    with pytest.raises(UserError, match=r"absent\.toml: No such file"):
        config.read_recipe(str(tmp_path / "absent.toml"))
    with pytest.raises(UserError, match="unknown recipe 'no-such-recipe'"):
        config.read_recipe("no-such-recipe")


def test_shipped_recipes_are_valid_toml() -> None:
    assert all(config.read_recipe(name) for name in config.recipe_names())


def test_differing_fields_name_each_dotted_key_once() -> None:
    there = {"steps": 20, "optimiser": {"rate": 0.1, "betas": [0.9, 0.95]}, "gone": 1}
    asked = {"steps": 50, "optimiser": {"rate": 0.1, "betas": [0.9, 0.99]}, "fresh": {"deep": 2}}
    assert config.differing_fields(there, asked) == [
        "fresh.deep: None there, 2 asked",
        "gone: 1 there, None asked",
        "optimiser.betas: [0.9, 0.95] there, [0.9, 0.99] asked",
        "steps: 20 there, 50 asked",
    ]
