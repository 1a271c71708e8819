"""bias_icons.py and edit_settings.py on worlds of a few captions."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bias_icons
import edit_settings
from generation import tiny_pipelines
from learning.tiny_training import write_captions, write_images
from stablerep.features import untrained_encoder
from stablerep.models.encoder import EncoderConfig, save_encoder
from stablerep.store import OK, ImageTable, caption_id

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
TINY = EncoderConfig(
    architecture="vit_tiny_patch16_224", image_size=16, patch_size=8, width=32, depth=1, num_heads=2
)
COLOURS = {"red": (200, 60, 60), "blue": (60, 60, 200)}
ATTRIBUTES = """
[attributes.paint]
[attributes.paint.values]
red = '\\bred\\b'
blue = '\\bblue\\b'
[attributes.paint.groups]
houses = 'house'
"""


def caption(text: str) -> dict[str, str]:
    place = {"id": caption_id(text), "group": text, "split": "train"}
    return place | {"text": text, "source": "test"}


# -- bias_icons --------------------------------------------------------------------------------------


def picture(text: str, colour: str, seed: int, origin: str) -> dict[str, object]:
    """A noisy surface in a colour."""
    noise = np.random.default_rng(seed).normal(0, 40, (16, 16, 3))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(COLOURS[colour] + noise, 0, 255).astype(np.uint8)).save(buffer, format="PNG")
    row = {"origin": origin, "caption_id": caption_id(text), "image_index": 0, "status": OK}
    return row | {"image": buffer.getvalue()}


def test_every_encoder_has_its_lines_in_one_table(tmp_path: Path) -> None:
    walls = [f"a {colour} wall, number {number}" for colour in COLOURS for number in range(30)]
    houses = [f"a {'red' if number % 2 else 'blue'} house, number {number}" for number in range(40)]
    write_captions(tmp_path / "captions.lance", map(caption, [*walls, *houses]))
    real = [picture(text, text.split()[1], number, "real") for number, text in enumerate(walls)]
    painted = [picture(text, "red", 100 + number, "teacher") for number, text in enumerate(houses)]
    write_images(tmp_path / "images.lance", real)
    write_images(tmp_path / "painted.lance", painted)
    (tmp_path / "attributes.toml").write_text(ATTRIBUTES)
    for seed, name in enumerate(("one", "two")):
        save_encoder(untrained_encoder(TINY, seed), tmp_path / name / "encoder")
    config = bias_icons.Config(
        world=tmp_path,
        images=tmp_path / "painted.lance",
        encoders=(str(tmp_path / "one"), str(tmp_path / "two")),
        attributes=tmp_path / "attributes.toml",
        out=tmp_path / "bias",
    )
    bias_icons.main(config)
    header, ruled, *lines = (config.out / "table.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert {len(row) for row in rows} == {len(bias_icons.COLUMNS)} == {ruled.count("---")}
    assert [row[:5] for row in rows if row[2].startswith("houses")] == [
        [name, "paint", "houses, 40", colour, "50"] for name in ("one", "two") for colour in COLOURS
    ]
    assert header.startswith("| encoder | attribute |")
    read = ImageTable.open(tmp_path / "painted.lance").read(["bias_paint"])["bias_paint"].to_pylist()
    assert set(read) <= {"red", "blue", None} and "red" in read


def test_an_attribute_that_is_not_read_has_one_line() -> None:
    found = {"groups": {}, "reader": {"test pictures": 12}}
    (line,) = bias_icons.lines("one", "paint", found)
    assert line == "| one | paint | not read | | | | | | | of 12 tests |"
    assert line.count("|") == bias_icons.HEADER.splitlines()[0].count("|")


# -- edit_settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("styles", [(), ("ink", "oil")])
def test_less_that_is_preserved_leaves_less_error(styles: tuple[str, ...], tmp_path: Path) -> None:
    things, kinds = ("dog", "cat", "leaf", "house", "boat"), ("red", "blue", "round", "small", "the")
    texts = [f"a {kind} {thing}" for thing in things for kind in kinds]
    write_captions(tmp_path / "captions.lance", map(caption, texts))
    tiny_pipelines.pixart(tmp_path / "teacher")
    if styles:
        (tmp_path / "teacher" / "stablerep.json").write_text(json.dumps({"styles": styles}))
    config = edit_settings.Config(
        world=tmp_path,
        out=tmp_path / "settings.json",
        teacher=str(tmp_path / "teacher"),
        concepts=("boat",),
        num_preserved=10,
        num_held_out=10,
        ridges=(0.1,),
        preserved_weights=(1.0, 0.01),
        strengths=(1.0, 1.5),
    )
    edit_settings.main(config)
    every = json.loads(config.out.read_text())
    rows, further = every[::2], every[1::2]
    for one, more in zip(rows, further, strict=True):
        assert 0 < one["to_go"] < 1 and 1 - more["to_go"] == pytest.approx(1.5 * (1 - one["to_go"]))
        assert more["others_moved"] == pytest.approx(1.5 * one["others_moved"])
    assert [(row["styles"], row["preserved_weight"]) for row in rows] == [
        ("one", 1.0),
        ("one", 0.01),
        ("all", 1.0),
        ("all", 0.01),
    ]
    for strong, weak in (rows[:2], rows[2:]):
        assert 0 < weak["error_known"] < strong["error_known"] < 1
        assert weak["others_moved"] > strong["others_moved"] > 0
