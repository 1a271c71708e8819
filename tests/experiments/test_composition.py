"""composition.py holds out what it says, paints what it asks for, and judges parts and whole."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import composition
from captions.test_fashion import write_files
from evaluation.tiny_icons import QUICK_PROBE
from stablerep.captions.fashion_files import read_fashion_files
from stablerep.captions.fashion_words import KINDS, TONES
from stablerep.captions.worlds import WorldConfig, write_world
from stablerep.features import RawPixels
from stablerep.generation.execute import GenerateConfig
from stablerep.store import CaptionTable, ImageTable

pytestmark = pytest.mark.slow


class Painter:
    """Shows a real picture of every caption that has one, and some other where none has: it errs in classes only."""

    def __init__(self, world: Path) -> None:
        real = ImageTable.open(world / "images.lance").read(["caption_id", "image"])
        self.pictures = dict(zip(*(real[name].to_pylist() for name in ("caption_id", "image")), strict=True))
        self.asked: list[GenerateConfig] = []
        self.trained: list[Any] = []

    def generate(self, config: GenerateConfig, **_: Any) -> None:
        self.asked.append(config)
        captions = CaptionTable.open(config.captions).read(["id"], config.where)["id"].to_pylist()
        some = next(iter(self.pictures.values()))
        rows = [
            {
                "origin": "painter", "caption_id": caption, "image_index": index,
                "image": self.pictures.get(caption, some), "status": "ok",
            }
            for caption in captions[: config.limit]
            for index in range(config.num_images)
        ]  # fmt: skip
        ImageTable.open_or_create(config.out).append(rows)

    def train(self, method: str, config: Any, **_: Any) -> SimpleNamespace:
        self.trained.append((method, config))
        return SimpleNamespace(run=config.out)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("composition")
    source = write_files(folder / "files", num_train=300, num_test=60)
    write_world(WorldConfig(name="fashion", out=folder / "world", source=source))
    return folder / "world"


@pytest.fixture
def painter(world: Path, monkeypatch: pytest.MonkeyPatch) -> Painter:
    fake = Painter(world)
    monkeypatch.setattr(composition, "generate", fake.generate)
    monkeypatch.setattr(composition, "train", fake.train)
    monkeypatch.setattr(composition, "load_encoder", lambda _: RawPixels())
    monkeypatch.setattr(composition, "ProbeConfig", lambda: QUICK_PROBE)
    monkeypatch.setattr(composition, "read_fashion_files", lambda: read_fashion_files(world.parent / "files"))
    return fake


def concepts_of(config: GenerateConfig) -> set[tuple[str, str]]:
    """Class and tone of the captions that a filter lets through."""
    found = CaptionTable.open(config.captions).read(["concept"], config.where)["concept"].to_pylist()
    return {(concept.split("/")[0], concept.split("/")[1]) for concept in found}


def test_the_guide_names_pairs_that_are_held_out() -> None:
    guide = Path(__file__).parents[2] / "docs" / "guides" / "painter.md"
    named = re.findall(rf"no ({'|'.join(TONES)}) (\w+)", guide.read_text(encoding="utf-8"))
    assert len(named) == 2 and {(label, tone) for tone, label in named} <= composition.HELD_OUT.items()


def test_pairs_are_held_out_and_their_parts_are_not(world: Path, painter: Painter, tmp_path: Path) -> None:
    composition.main(
        composition.Config(world=world, judge="judge", out=tmp_path, num_captions=4, num_images=2)
    )
    held_out = set(composition.HELD_OUT.items())
    assert {label for label, _ in held_out} == {kind.label for kind in KINDS}
    (_, first), (_, second) = painter.trained
    captions = {"captions": world / "captions.lance"}
    seen, everything = (
        concepts_of(SimpleNamespace(**captions, where=one.data.where)) for one in (first, second)
    )
    assert not seen & held_out and everything - seen <= held_out
    assert {label for label, _ in seen} == {label for label, _ in held_out}
    assert {tone for _, tone in seen} == set(TONES)
    assert (first.num_steps, first.seed) == (second.num_steps, second.seed)

    pairs, others, objects = painter.asked[:3]
    assert concepts_of(pairs) <= held_out and not concepts_of(others) & held_out
    assert {(one.seed, one.limit, one.num_images) for one in painter.asked} == {(0, 4, 2)}
    assert [one.where for one in painter.asked[3:]] == [pairs.where, others.where, objects.where]

    found = json.loads((tmp_path / "composition.json").read_text())["found"]
    for tests in found.values():
        for pair in ("held-out pairs", "other pairs"):
            parts = {name: one["value"] for name, one in tests[pair].items()}
            assert parts["tone"] == 1, "a real picture has the tone of its caption"
            assert parts["both"] == parts["class"]
        assert set(tests["two objects"]) == {"one", "the other", "both"}
    assert len(list(tmp_path.glob("*.png"))) == 6
