"""Readers that learn from labels, files of attributes by name, and what a reader adds to a bias."""

import json
from pathlib import Path

import numpy as np
import pytest
from painted_table import image_row, write_captions, write_images
from test_audit_bias import TINY, asked, wall

from stablerep.audit.attributes import Attribute, attributes_text, read_attributes
from stablerep.audit.bias import audit_bias
from stablerep.audit.readers import Reader, make_reader
from stablerep.audit.shares import Checked, ShareBootstrap, Shown
from stablerep.errors import UserError
from stablerep.features import untrained_encoder
from stablerep.models.encoder import save_encoder

ATTRIBUTES = """
[attributes.paint]
within = 'wall'
[attributes.paint.values]
red = '\\bred\\b'
blue = '\\b(blue|navy)\\b'
"""
LABELS = {"red": "Red", "blue": "navy_blue"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four of five painted walls are red; of the real ones, all of one caption that no table knows, a third is."""
    folder = tmp_path_factory.mktemp("labels")
    houses = [f"a wall of house {number}" for number in range(60)]
    write_captions(folder / "captions.lance", houses)
    colours = [colour for number in range(30) for colour in ("red", "blue", "blue")]
    write_images(
        folder / "real.lance",
        [
            image_row("paint", number, wall(colour, 500 + number), origin="real", label=LABELS[colour])
            for number, colour in enumerate(colours)
        ],
    )
    write_images(folder / "unlabelled.lance", [image_row("paint", 0, wall("red", 0), origin="real")])
    write_images(
        folder / "images.lance",
        [image_row(text, 0, wall("red" if n % 5 else "blue", n)) for n, text in enumerate(houses)],
    )
    (folder / "attributes.toml").write_text(ATTRIBUTES)
    save_encoder(untrained_encoder(TINY, 0), folder / "run" / "encoder")
    return folder


@pytest.mark.slow
def test_a_reader_learns_from_labels_of_pictures_without_captions(folder: Path) -> None:
    audit_bias(asked(folder, reference_by="label"))
    found = json.loads((folder / "bias.json").read_text())["paint"]
    assert found["unread"] is None and 20 < found["reader"]["test pictures"] < 70
    walls = found["groups"]["all"]
    assert walls["target"] == {"red": pytest.approx(1 / 3), "blue": pytest.approx(2 / 3)}
    assert walls["shares"]["red"]["low"] <= 0.8 <= walls["shares"]["red"]["high"]
    with pytest.raises(UserError, match="has no caption"):
        audit_bias(asked(folder, reference_by="caption"))


def test_a_table_without_labels_is_named(folder: Path) -> None:
    with pytest.raises(UserError, match=r"unlabelled.lance: no label of its pictures has to do with"):
        audit_bias(asked(folder, reference_by="label", reference=folder / "unlabelled.lance"))
    with pytest.raises(ValueError, match="reference_captions are not read"):
        asked(folder, reference_by="label", reference_captions=folder / "captions.lance")


def test_a_label_is_the_name_of_a_value_or_states_it_as_a_caption_does() -> None:
    values = {"East Asian": "korea|japan", "Black": "black", "other": "asian"}
    people = Attribute(values=values, within="a face of")
    said = {label: people.of_label(label) for label in ("east_asian", "BLACK", "from_Korea", "White", "")}
    assert said == {"east_asian": 0, "BLACK": 1, "from_Korea": 0, "White": -1, "": -1}
    assert people.of_caption("from Korea") == -1 and people.of_caption("a face of Korea") == 0


def test_a_shipped_file_is_named_by_its_name_whatever_else_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "icons").mkdir()  # the world
    monkeypatch.chdir(tmp_path)
    assert list(read_attributes(Path("icons"))) == ["skin", "gender", "ink", "hue"]
    assert attributes_text(Path("icons")).startswith(
        "# Attributes that the captions of the icons world state"
    )
    with pytest.raises(UserError, match=r"attributes file icon: .*; shipped: icons; or give the path"):
        read_attributes(Path("icon"))
    Path("latin.toml").write_bytes(b"# caf\xe9")
    with pytest.raises(UserError, match=r"latin.toml: not UTF-8 text \(byte 5\)"):
        read_attributes(Path("latin.toml"))


def test_a_reader_is_as_accurate_as_its_test_says() -> None:
    """It is right in 85 % of its answers, however sure it is: a level that does better was lucky."""
    lucky, tested = [], []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        truth, sure = rng.integers(0, 2, 400), rng.uniform(0.5, 1, 400)
        said = np.where(rng.random(400) < 0.85, truth, 1 - truth)
        probabilities = np.where(np.arange(2) == said[:, None], sure[:, None], 1 - sure[:, None])
        attribute = Attribute(values={"red": "red", "blue": "blue"}, accuracy=0.85)
        known = (probabilities, truth, [str(number) for number in range(400)])
        reader = make_reader(attribute, known, lambda vectors: vectors, seed)
        assert isinstance(reader, Reader)
        own = reader.answers(probabilities[reader.tested.groups.astype(int)])
        lucky.append((own == reader.tested.truth)[own >= 0])
        tested.append((reader.tested.said == reader.tested.truth)[reader.tested.said >= 0])
    assert np.concatenate(lucky).mean() > 0.88
    assert np.concatenate(tested).mean() == pytest.approx(0.85, abs=0.02)


def test_what_a_reader_takes_from_the_majority_is_said_with_its_interval() -> None:
    """It errs in a fifth of all pictures, of which four in five show value 0."""
    truth, errs = np.arange(1000) // 5 % 5 == 4, np.arange(1000) % 5 == 0
    answers = (truth ^ errs).astype(int)
    test = np.arange(2000) % 2
    checked = Checked(test, np.where(np.arange(2000) // 2 % 5 == 0, 1 - test, test), np.arange(2000))
    shown = Shown(answers, np.arange(1000), np.full(1000, -1))
    grown = ShareBootstrap(shown, checked, 2, num=200, seed=0).amplification_by_reader()
    assert grown is not None and grown.value == pytest.approx(0.68 - 0.8, abs=0.01)
    assert grown.low < grown.value < grown.high < 0
    silent = Shown(np.full(9, -1), np.arange(9), np.full(9, -1))
    assert ShareBootstrap(silent, checked, 2, num=20, seed=0).amplification_by_reader() is None
