"""Can a painter put together what it never saw together? Class-tone pairs held out of training, and two objects.

    stablerep world fashion --out fashion
    stablerep train supervised --recipe fashion --data.images fashion/images.lance --out judge
    python experiments/composition.py --world fashion --judge judge --out composition

Of every class one tone is held out (no light bag, no dark shirt, ...), though each word occurs with others. A painter
that learned without these pairs, and one that learned from everything for as many steps, paint captions of the held-out
pairs and of the others with the same noise. A linear probe on a judge that learned from real pictures names the class;
the tone is measured on the picture, with the cuts by which the captions were written. Then both paint two-object
prompts, which no training caption is. Writes OUT/composition.json and a sheet; what is there already is not done again.
"""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from mistakes import in_one_sentence
from stablerep.captions.fashion import Scales, measure
from stablerep.captions.fashion_files import read_fashion_files
from stablerep.captions.fashion_words import KINDS, TONES
from stablerep.console import Console
from stablerep.decoding import decode_image
from stablerep.evaluation.benchmarks import BenchmarkData, load_benchmark
from stablerep.evaluation.contact_sheet import Block, save_sheet
from stablerep.evaluation.intervals import mean_interval
from stablerep.features import TableImages, extract
from stablerep.generation.execute import GenerateConfig, generate
from stablerep.generation.folders import find_teacher
from stablerep.learning.methods import METHODS, train
from stablerep.models.encoder import load_encoder
from stablerep.probes import Labelled, Probe, ProbeConfig, fit_linear
from stablerep.run import provenance, write_text
from stablerep.store import OK, CaptionTable, ImageTable, caption_id
from stablerep.workflows.recipe import Recipe

HELD_OUT = {kind.label: TONES[number % len(TONES)] for number, kind in enumerate(KINDS)}
"""Class -> the tone that the first painter never sees it in."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes of the experiment."""

    world: Path
    """The folder of `stablerep world fashion`."""
    judge: str
    """Encoder that learned from real training pictures."""
    out: Path
    painter: str = "teacher-fashion"
    """Recipe of the painters."""
    autoencoder: str = "fashion"
    """Teacher whose autoencoder both painters use; it knows pictures, not words."""
    num_steps: int = 2000
    num_captions: int = 150
    """Captions that are painted of the held-out pairs, and as many of the others."""
    num_images: int = 4
    seed: int = 0


@dataclass(frozen=True)
class Painted:
    """M pictures with what was asked for: the captions, and a name of each."""

    images: Sequence[bytes]
    captions: np.ndarray
    texts: Mapping[str, str]


def main(config: Config) -> None:
    """Train both painters, paint, judge, and write what was found."""
    lab = _Lab(config)
    found: dict[str, Any] = {}
    for painter, where in (("without the pairs", f"NOT {_held_out()}"), ("with everything", "true")):
        teacher = lab.train(painter, where)
        pairs = {name: lab.pairs(painter, teacher, name) for name in ("held-out pairs", "other pairs")}
        found[painter] = {**pairs, "two objects": lab.two_objects(painter, teacher)}
    content = {
        "config": json.loads(json.dumps(dataclasses.asdict(config), default=str)),
        "provenance": provenance(),
        "held_out": HELD_OUT,
        "real": lab.real(),
        "found": found,
    }
    write_text(config.out / "composition.json", json.dumps(content, indent=1) + "\n")
    for painter, tests in found.items():
        for test, parts in tests.items():
            said = ", ".join(f"{part} {100 * one['value']:.1f}" for part, one in parts.items())
            lab.console.say(f"{painter}, {test}: {said}")


def _held_out() -> str:
    """The filter that chooses the held-out pairs: groups are named class/tone/..."""
    return "(" + " OR ".join(f"group LIKE '{label}/{tone}/%'" for label, tone in HELD_OUT.items()) + ")"


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


class _Lab:
    """Makes what is missing, and judges it."""

    def __init__(self, config: Config) -> None:
        self.config, self.console = config, Console()
        self.captions = config.world / "captions.lance"
        self.recipe, self.painters = (
            Recipe.read(name, "composition") for name in ("fashion", config.painter)
        )
        data = read_fashion_files()
        self.scales = Scales(measure(data.train_images), data.train_labels, KINDS)
        self.benchmark = load_benchmark("fashion", BenchmarkData(world=config.world, fashion=config.world))
        self.encoder = load_encoder(config.judge)
        self.probe = self._fit()

    def train(self, name: str, where: str) -> Path:
        """The exported painter that learned from the real pictures that a filter leaves."""
        autoencoder = find_teacher(self.config.autoencoder, download=False) / "vae"
        settings = {
            "out": self.config.out / name.replace(" ", "-"),
            "num_steps": self.config.num_steps,
            "seed": self.config.seed,
            "data": {
                "images": [self.config.world / "images.lance"],
                "captions": self.captions,
                "where": f"split = 'train' AND {where}",
            },
            "method": {"autoencoder": autoencoder},
        }
        made = self.painters.configure(METHODS["text-to-image"].config, ("train", "text-to-image"), settings)
        return train("text-to-image", made, console=self.console).run / "teacher"

    def pairs(self, painter: str, teacher: Path, test: str) -> dict[str, Any]:
        """Class, tone and both, of training captions with new seeds."""
        where = f"NOT {_held_out()}" if test == "other pairs" else _held_out()
        painted = self._paint(painter, teacher, test, self.captions, f"split = 'train' AND {where}")
        concepts = dict(zip(*self._read("id", "concept"), strict=True))
        asked = [concepts[caption].split("/") for caption in painted.captions]
        right = {
            "class": self._likely(painted.images)[:, -1] == np.array([label for label, *_ in asked]),
            "tone": self._tones(painted.images, [label for label, *_ in asked])
            == np.array([tone for _, tone, *_ in asked]),
        }
        return self._shares(right, painted.captions)

    def two_objects(self, painter: str, teacher: Path) -> dict[str, Any]:
        """Whether the two classes that the judge finds likeliest are those of the prompt."""
        prompts = {
            f"{_with_article(first.noun)} and {_with_article(second.noun)}": (first.label, second.label)
            for first, second in itertools.combinations(KINDS, 2)
        }
        table = CaptionTable.open_or_create(self.config.out / "two-objects.lance")
        table.append(
            [
                {"id": caption_id(text), "text": text, "source": "composition", "group": text}
                for text in prompts
            ]
        )
        painted = self._paint(painter, teacher, "two objects", self.config.out / "two-objects.lance", "true")
        asked = {caption_id(text): labels for text, labels in prompts.items()}
        first, second = (
            np.array([asked[caption][place] for caption in painted.captions])[:, None] for place in (0, 1)
        )
        likeliest = self._likely(painted.images)[:, -2:]
        right = {"one": (likeliest == first).any(1), "the other": (likeliest == second).any(1)}
        return self._shares(right, painted.captions)

    def real(self) -> dict[str, Any]:
        """What the judge says of real test pictures; their tone is right by definition."""
        test = next(iter(self.benchmark.tests.values()))
        labels = np.array(self.benchmark.classes)[test.labels]
        right = {"class": self._likely(test.images)[:, -1] == labels}
        return self._shares(right, np.array(test.groups))

    # -- its parts -------------------------------------------------------------------------------------

    def _paint(self, painter: str, teacher: Path, test: str, captions: Path, where: str) -> Painted:
        out = self.config.out / f"{painter}, {test}".replace(", ", "-").replace(" ", "-")
        settings = {
            "captions": captions,
            "teacher": str(teacher),
            "out": out.with_suffix(".lance"),
            "where": where,
            "limit": self.config.num_captions,
            "num_images": self.config.num_images,
            "seed": self.config.seed,
        }
        generate(self.recipe.configure(GenerateConfig, ("generate",), settings), console=self.console)
        table = ImageTable.open(out.with_suffix(".lance"))
        rows = table.read(["caption_id", "image_index", "status"])
        good = np.flatnonzero(np.array(rows["status"].to_pylist()) == OK)
        names = np.array(rows["caption_id"].to_pylist())[good]
        order = np.lexsort((rows["image_index"].to_numpy()[good], names))
        texts = CaptionTable.open(captions).read(["id", "text"])
        painted = Painted(
            TableImages(table, good[order]),
            names[order],
            dict(zip(texts["id"].to_pylist(), texts["text"].to_pylist(), strict=True)),
        )
        self._sheet(painted, out.with_suffix(".png"))
        return painted

    def _sheet(self, painted: Painted, path: Path) -> None:
        """The first twelve captions with their pictures."""
        blocks = []
        for caption in list(dict.fromkeys(painted.captions))[:12]:
            rows = np.flatnonzero(painted.captions == caption)
            blocks.append(Block(tuple(painted.images[int(row)] for row in rows), painted.texts[caption]))
        save_sheet(path, blocks, columns=3)

    def _fit(self) -> Probe:
        parts = (self.benchmark.train, self.benchmark.validation)
        train_part, validation = (Labelled(self._features(part.images), part.labels) for part in parts)
        return fit_linear(train_part, validation, len(self.benchmark.classes), ProbeConfig())

    def _likely(self, images: Sequence[bytes]) -> np.ndarray:
        """Class names (M, C) from the least to the most likely."""
        order = self.probe.probabilities(self._features(images)).argsort(1)
        names: np.ndarray = np.array(self.benchmark.classes)[order]
        return names

    def _tones(self, images: Sequence[bytes], labels: Sequence[str]) -> np.ndarray:
        """Tones (M,) as the words of a class go, measured on the pictures."""
        grey = [decode_image(images[row]).float().mean(0) for row in range(len(labels))]
        pictures = np.stack(grey).round().astype(np.uint8)
        numbers = {kind.label: number for number, kind in enumerate(KINDS)}
        classes = np.array([numbers[label] for label in labels], np.uint8)
        return np.array([traits.tone for traits in self.scales.traits(measure(pictures), classes)])

    def _shares(self, right: Mapping[str, np.ndarray], groups: np.ndarray) -> dict[str, Any]:
        """Each part and, of two, the whole, with intervals over captions."""
        whole = {"both": np.logical_and.reduce(list(right.values()))} if len(right) > 1 else {}
        return {
            name: dataclasses.asdict(
                mean_interval(hits.astype(float), groups, num=1000, seed=self.config.seed)
            )
            for name, hits in {**right, **whole}.items()
        }

    def _features(self, images: Sequence[bytes]) -> np.ndarray:
        return extract(self.encoder, images, cache=self.config.out / "features", console=self.console)

    def _read(self, *columns: str) -> list[list[str]]:
        table = CaptionTable.open(self.captions).read(list(columns))
        return [table[column].to_pylist() for column in columns]


if __name__ == "__main__":
    with in_one_sentence():
        main(tyro.cli(Config, description=__doc__))
