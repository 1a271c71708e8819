"""Composition: does a picture fit its caption better than the same words put together wrongly?

After ARO (Yuksekgonul et al. 2023), whose files are read where they are; for the worlds, pairs are made from captions.
"""

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stablerep import runtime
from stablerep.evaluation.benchmarks import BenchmarkData, MissingDataError
from stablerep.evaluation.captioned import CAPTIONED, Captioned
from stablerep.evaluation.contract import NOTHING, Subject, Tools, described
from stablerep.evaluation.intervals import Interval
from stablerep.evaluation.pictures import cropped_files, some_of
from stablerep.evaluation.scores import Measurement
from stablerep.match import image_vectors, text_vectors

EXCHANGEABLE: tuple[tuple[str, ...], ...] = (
    ("dark", "light", "grey"),
    ("light skin tone", "medium-light skin tone", "medium skin tone", "medium-dark skin tone", "dark skin tone"),
    ("red", "orange", "yellow", "green", "blue", "purple", "brown", "black", "white", "pink"),
    ("woman", "man"),
    ("women", "men"),
    ("girl", "boy"),
    ("left", "right"),
    ("up", "down"),
    ("open", "closed"),
    ("big", "small"),
    ("long", "short"),
    ("wide", "slim"),
    ("vertically lined", "horizontally lined", "boldly patterned", "plain"),
)  # fmt: skip
"""Attributes of one kind: one of them is put in the place of another."""
RELATIONS = ("with", "in", "on", "over", "under", "behind", "holding", "riding", "at", "near")
_NO_THING = re.compile(r"\b(?:skin|shade|tone)\b")  # "with dark skin tone" relates nothing to anything
_DRAWN = re.compile(r"^(?:an?|the) (?:\w+ )*?(?:picture|drawing|illustration|photo) (?:of|showing) ")


@dataclass(frozen=True)
class Pairs:
    """M pictures, each with its caption and a false one of the same words or kinds of words."""

    name: str
    test: str
    images: Sequence[bytes]
    true: tuple[str, ...]
    false: tuple[str, ...]
    kinds: np.ndarray
    """What was exchanged (M,): accuracy is a mean over these, as in ARO."""
    groups: np.ndarray


@dataclass(frozen=True)
class Composition:
    """The share of pictures nearer to their caption than to the false one; half is chance, equals count half."""

    benchmarks: Mapping[str, Callable[[BenchmarkData], list[Pairs]]]
    trains_baselines = False

    @property
    def settings(self) -> Mapping[str, Any]:
        """What may be exchanged."""
        return {"exchangeable": [list(kind) for kind in EXCHANGEABLE], "relations": list(RELATIONS)}

    def measure(self, subject: Subject, data: list[Pairs], tools: Tools) -> list[Measurement]:
        """Accuracy, and the control: the same texts beside another picture, which shows what the texts give away."""
        model = tools.joint(subject)
        found = []
        for pairs in data:
            images = image_vectors(model, pairs.images, tools.matching, console=tools.console)
            true, false = (text_vectors(model, texts, tools.matching) for texts in (pairs.true, pairs.false))
            margin = true - false
            wrong = images[_another(pairs.groups)]
            seed = runtime.seed_for(tools.seed, "composition", pairs.name, pairs.test)
            metrics = {
                name: _macro(preferred((vectors * margin).sum(1)), pairs, num=tools.num_bootstrap, seed=seed)
                for name, vectors in (("accuracy", images), ("accuracy with a wrong picture", wrong))
            }
            found.append(
                Measurement(
                    **described(subject, pairs.name, pairs.test, "composition"),
                    metrics=metrics,
                    chance=dict.fromkeys(metrics, 0.5),
                    settings=self.settings,
                    chosen={},
                    chosen_on=NOTHING,
                    sizes={"num_pictures": len(images), "num_kinds": len(np.unique(pairs.kinds))},
                    note="mean over what was exchanged",
                )
            )
        return found


def preferred(margin: np.ndarray) -> np.ndarray:
    """1 where the true text is nearer (M,), 0 where the false one is, one half for equals."""
    result: np.ndarray = (np.sign(margin) + 1) / 2
    return result


def _another(groups: np.ndarray) -> np.ndarray:
    """For each picture the next one of another group."""
    num = len(groups)
    other = (np.arange(num) + 1) % num
    for _ in range(num):
        same = groups[other] == groups
        if not same.any():
            break
        other = np.where(same, (other + 1) % num, other)
    return other


def _macro(right: np.ndarray, pairs: Pairs, *, num: int, seed: int) -> Interval:
    """Mean over kinds of the mean within a kind, with its bootstrap interval over groups."""
    names, group = np.unique(pairs.groups, return_inverse=True)
    kinds, kind = np.unique(pairs.kinds, return_inverse=True)
    cell, shape = group * len(kinds) + kind, (len(names), len(kinds))
    hits = np.bincount(cell, weights=right, minlength=shape[0] * shape[1]).reshape(shape)
    totals = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)
    rng = runtime.numpy_generator("bootstrap of composition", seed)
    values = []
    for replicate in range(num + 1):
        drawn = np.arange(len(names)) if replicate == 0 else rng.integers(len(names), size=len(names))
        above, below = hits[drawn].sum(0), totals[drawn].sum(0)
        values.append(float((above[below > 0] / below[below > 0]).mean()))
    return Interval.of_share(values[0], np.array(values[1:]), len(names))


def swapped_attribute(caption: str) -> tuple[str, str] | None:
    """The caption with an attribute exchanged, and of which kind it is; None where it names none.

    Two of one kind in a caption change places, as in ARO; a single one gives way to another of its kind. Where several
    kinds are named, the caption draws one. What a caption says of the picture itself ("a small picture of") stays.
    """
    frame, said = _framed(caption)
    changed = [found for kind in EXCHANGEABLE if (found := _exchange_one(said, kind)) is not None]
    if not changed:
        return None
    text, kind = changed[runtime.seed_for("attribute", caption) % len(changed)]
    return frame + text, kind


def _exchange_one(said: str, kind: tuple[str, ...]) -> tuple[str, str] | None:
    """One kind of attribute exchanged in a text, if it can be."""
    if kind[0] == "dark" and "skin" in said:
        return None
    words = sorted(kind, key=len, reverse=True)
    pattern = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, words))})(?![\w-])")
    named = list(dict.fromkeys(match[0] for match in pattern.finditer(said)))
    if not named or f"{named[0]} and {named[-1]}" in said:  # black and white is white and black
        return None
    if len(named) >= 2:
        exchange = {named[0]: named[1], named[1]: named[0]}
    else:
        others = [word for word in kind if word != named[0]]
        exchange = {named[0]: others[runtime.seed_for("other", said) % len(others)]}
    return pattern.sub(functools.partial(_exchanged, exchange), said), kind[0]


def _framed(caption: str) -> tuple[str, str]:
    """What a caption says of the picture itself, and what it says of what is shown."""
    frame = _DRAWN.match(caption)
    return (frame[0], caption[frame.end() :]) if frame else ("", caption)


def _exchanged(exchange: Mapping[str, str], match: re.Match[str]) -> str:
    return exchange.get(match[0], match[0])


def swapped_relation(caption: str) -> tuple[str, str] | None:
    """The caption with the two sides of its first relation exchanged, and the relation; None where it has none."""
    before, said = _framed(caption)
    said, comma, rest = said.partition(",")
    for relation in RELATIONS:
        left, found, right = said.partition(f" {relation} ")
        if found and left.strip() and right.strip() and left != right and not _NO_THING.search(right):
            return f"{before}{right} {relation} {left}{comma}{rest}", relation
    return None


def _from_captions(data: Captioned) -> list[Pairs]:
    """Attribute and relation pairs of the pictures whose caption has something to exchange."""
    made = []
    for test, swap in (("attribute", swapped_attribute), ("relation", swapped_relation)):
        rows = [(place, swap(caption)) for place, caption in enumerate(data.captions)]
        kept = [(place, found) for place, found in rows if found and found[0] != data.captions[place]]
        if len(kept) < 2:
            continue
        places = [place for place, _ in kept]
        made.append(
            Pairs(
                name=data.name,
                test=test,
                images=some_of(data.images, places),
                true=tuple(data.captions[place] for place in places),
                false=tuple(found[0] for _, found in kept),
                kinds=np.array([found[1] for _, found in kept]),
                groups=data.groups[places],
            )
        )
    if not made:
        raise MissingDataError(
            f"benchmark {data.name}: no caption has an attribute or a relation to exchange"
        )
    return made


_ARO = {
    "relation": ("visual_genome_relation.json", "relation_name"),
    "attribute": ("visual_genome_attribution.json", "attributes"),
}


def read_aro(data: BenchmarkData) -> list[Pairs]:
    """Visual Genome Relation and Attribution, as ARO's download leaves them in ``aro/`` of the data sets."""
    if data.datasets is None:
        raise MissingDataError(
            "benchmark aro: no folder was given; name the one that holds aro/ with --datasets"
        )
    folder = data.datasets / "aro"
    made = [_aro_pairs(folder, test) for test, (file, _) in _ARO.items() if (folder / file).is_file()]
    if not made:
        files = ", ".join(file for file, _ in _ARO.values())
        raise MissingDataError(
            f"benchmark aro: {folder} holds neither of {files}; fetch them and images/ as the ARO repository says"
        )
    return made


def _aro_pairs(folder: Path, test: str) -> Pairs:
    file, kind = _ARO[test]
    rows = json.loads((folder / file).read_text(encoding="utf-8"))
    return Pairs(
        name="aro",
        test=test,
        images=cropped_files(list(_boxes(folder / "images", rows))),
        true=tuple(row["true_caption"] for row in rows),
        false=tuple(row["false_caption"] for row in rows),
        kinds=np.array([_kind(row[kind]) for row in rows]),
        groups=np.array([row["image_path"] for row in rows]),
    )


def _kind(value: Any) -> str:
    return value if isinstance(value, str) else "_".join(value)


def _boxes(
    images: Path, rows: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[Path, tuple[int, int, int, int]]]:
    for row in rows:
        left, top = row["bbox_x"], row["bbox_y"]
        yield images / row["image_path"], (left, top, left + row["bbox_w"], top + row["bbox_h"])


PAIRS: Mapping[str, Callable[[BenchmarkData], list[Pairs]]] = {
    "icons": lambda data: _from_captions(CAPTIONED["icons"](data)),
    "fashion": lambda data: _from_captions(CAPTIONED["fashion"](data)),
    "table": lambda data: _from_captions(CAPTIONED["table"](data)),
    "aro": read_aro,
}
"""Benchmarks of pictures with a true and a false caption."""
