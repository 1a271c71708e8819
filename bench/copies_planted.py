"""Copies of seven kinds planted among real pictures: how many are found, and how often what is no copy is flagged.

    python bench/copies_planted.py icons/images.lance [--genuine 5000] [--planted 500] [--sheet alarms.png]

The reference is the training split without a share of its groups; genuine are all other pictures, none of whose
groups is in the reference. Pictures of different groups can be twins all the same (the left and the right hand):
with --captions, those whose captions differ only in words of direction and skin count as one group, and pictures that
repeat a reference picture dot by dot, as it is or mirrored, are no genuine ones (correlation above 0.97; what comes
next has 0.95 and is another drawing). The sheet shows them, then the false alarms, so that anyone can see what they
are. Thresholds come from the reference alone.

The kinds: identical; JPEG of quality 30; half size; cropped, keeping 80 % of the area at a random place, brought
back to full size; mirrored; colour-shifted, the hue turned by 5 to 15 % of its circle, each channel times 0.7 to 1,
plus up to 40 of 255; pasted, 60 to 85 % of the side, at a random place on a background of random colours, 1.5 times
the size of the picture. Of each kind 95 % should be flagged, and of what is genuine less than one in a thousand.
"""

import argparse
import io
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from stablerep import runtime
from stablerep.audit.copy_finder import Bank, Matches, find_matches
from stablerep.audit.copy_thresholds import thresholds
from stablerep.audit.copy_views import EXPLANATIONS, SIDE
from stablerep.audit.pair_sheet import save_pairs
from stablerep.copies import to_side
from stablerep.decoding import decode_image
from stablerep.store import OK, CaptionTable, ImageTable

Kind = Callable[[Image.Image, np.random.Generator], Image.Image]
REPETITION = 0.97
LEAST_FOUND, ALARMS_BELOW = 0.95, 0.001
_TWIN = re.compile(
    r"\b(left|right)(wards?)?\b|\bfacing\b|\bwith [\w-]+ skin tone\b|\b(medium|light|dark)(-\w+)? skin tone\b"
)


def jpeg(picture: Image.Image, _: np.random.Generator) -> Image.Image:
    """Quality 30."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=30)
    return Image.open(buffer).convert("RGB")


def half(picture: Image.Image, _: np.random.Generator) -> Image.Image:
    """Half the side."""
    return picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BILINEAR)


def crop(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """80 % of the area."""
    width, height = np.sqrt(0.8) * np.array(picture.size)
    left, top = rng.uniform(0, picture.width - width), rng.uniform(0, picture.height - height)
    return picture.resize(picture.size, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))


def colour(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Hue, gains and offset."""
    hsv = np.array(picture.convert("HSV"))
    hsv[..., 0] += np.uint8(int(rng.choice([-1, 1]) * rng.uniform(12, 38)) % 256)
    turned = np.array(Image.fromarray(hsv, "HSV").convert("RGB"))
    shifted = turned * rng.uniform(0.7, 1, 3) + rng.uniform(0, 40)
    return Image.fromarray(shifted.clip(0, 255).astype(np.uint8))


def paste(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """On a background."""
    side = picture.width * 3 // 2
    ground = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    ground = ground.resize((side, side), Image.Resampling.BICUBIC)
    small = int(side * rng.uniform(0.6, 0.85))
    place = tuple(int(value) for value in rng.integers(0, side - small + 1, 2))
    ground.paste(picture.resize((small, small), Image.Resampling.BICUBIC), (place[0], place[1]))
    return ground


KINDS: dict[str, Kind] = {
    "identical": lambda picture, _: picture,
    "JPEG of quality 30": jpeg,
    "half size": half,
    "cropped": crop,
    "mirrored": lambda picture, _: ImageOps.mirror(picture),
    "colour-shifted": colour,
    "pasted": paste,
}


def planted(image: bytes, kind: str, number: int) -> bytes:
    """An encoded picture after what the kind does to it."""
    picture = Image.fromarray(decode_image(image).permute(1, 2, 0).numpy())
    buffer = io.BytesIO()
    KINDS[kind](picture, runtime.numpy_generator("planted", kind, number)).save(buffer, "PNG")
    return buffer.getvalue()


def subjects(path: Path | None, captions: list[str], groups: list[str]) -> np.ndarray:
    """What may not be found: the group, joined with the groups of twins by their captions."""
    if path is None:
        return np.unique(groups, return_inverse=True)[1]
    columns = CaptionTable.open(path).read(["id", "text"])
    texts = dict(zip(columns["id"].to_pylist(), columns["text"].to_pylist(), strict=True))
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    for caption, group in zip(captions, groups, strict=True):
        words = " ".join(_TWIN.sub(" ", texts[caption]).split())
        parent[root(f"text {words}")] = root(f"group {group}")
    return np.unique([root(f"group {group}") for group in groups], return_inverse=True)[1]


def repeated(pictures: torch.Tensor, reference: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The largest correlation (Q,) of uint8 pictures (Q, 3, S, S), as they are or mirrored, and with which (Q,)."""

    def thumbnails(part: torch.Tensor) -> torch.Tensor:
        flat = F.avg_pool2d(part.float(), 2).flatten(1)
        return F.normalize(flat - flat.mean(1, keepdim=True), dim=1)

    known = thumbnails(reference).T
    found = [
        torch.maximum(thumbnails(part) @ known, thumbnails(part.flip(-1)) @ known).max(1)
        for part in torch.split(pictures, 256)
    ]
    return torch.cat([one.values for one in found]).numpy(), torch.cat([one.indices for one in found]).numpy()


@dataclass(frozen=True)
class Pictures:
    """All pictures of the world, and which of them (rows) are reference and genuine."""

    encoded: list[bytes]
    small: torch.Tensor
    subject: np.ndarray
    reference: np.ndarray
    genuine: np.ndarray
    cleared: list[tuple[bytes, bytes, str]]
    """Pictures that would be genuine, but repeat a reference picture."""

    @classmethod
    def read(cls, options: argparse.Namespace) -> "Pictures":
        """Whole subjects of the training split are given away until enough pictures are genuine."""
        table = ImageTable.open(options.images)
        rows = np.flatnonzero(np.array(table.read(["status"])["status"].to_pylist()) == OK)
        columns = table.read(["split", "group", "caption_id"]).take(rows)
        subject = subjects(options.captions, columns["caption_id"].to_pylist(), columns["group"].to_pylist())
        images = table.take_images(rows)
        small = torch.cat(
            [to_side(images[start : start + 512], SIDE) for start in range(0, len(images), 512)]
        )
        is_train = np.array(columns["split"].to_pylist()) == "train"
        is_reference = is_train & ~np.isin(subject, subject[~is_train])
        for one in runtime.numpy_generator("genuine subjects").permutation(subject.max() + 1):
            if (~is_reference).sum() >= options.genuine:
                break
            is_reference &= subject != one
        reference = np.flatnonzero(is_reference)
        others = runtime.numpy_generator("genuine").permutation(np.flatnonzero(~is_reference))
        genuine = others[: options.genuine]
        likeness, twin = repeated(small[genuine], small[reference])
        cleared = [
            (images[genuine[row]], images[reference[twin[row]]], f"{likeness[row]:.3f} cleared")
            for row in np.flatnonzero(likeness > REPETITION)
        ]
        return cls(images, small, subject, reference, genuine[likeness <= REPETITION], cleared)


def main() -> int:
    """Build the reference, set the thresholds, count alarms and finds; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path)
    parser.add_argument("--captions", type=Path)
    parser.add_argument("--genuine", type=int, default=5000)
    parser.add_argument("--planted", type=int, default=500)
    parser.add_argument("--calibration", type=int, default=1500)
    parser.add_argument("--rate", type=float, default=0.001)
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    every = Pictures.read(options)
    reference, genuine = every.reference, every.genuine
    begin, begin_cpu = time.perf_counter(), time.process_time()
    bank = Bank.build(torch.split(every.small[reference], 512), every.subject[reference])
    some = runtime.numpy_generator("calibration").permutation(len(reference))[: options.calibration]
    known = find_matches(every.small[reference[some]], bank, excluded=bank.groups[some])
    limits = thresholds(known.score, EXPLANATIONS, options.rate)
    said = ", ".join(f"{one.name} {limit:.2f}" for one, limit in zip(EXPLANATIONS, limits, strict=True))
    print(
        f"{len(reference):,} reference pictures, {len(genuine):,} genuine ({len(every.cleared)} repetitions cleared)"
    )
    print(f"thresholds: {said}")
    found = find_matches(every.small[genuine], bank)
    alarms = (found.score > limits).any(1)
    by_kind = ", ".join(map(str, (found.score > limits).sum(0)))
    print(
        f"false alarms: {alarms.sum()} of {len(genuine):,} ({alarms.mean():.3%}), by kind of alarm {by_kind}"
    )
    if options.sheet:
        originals = ([every.encoded[row] for row in rows] for rows in (genuine, reference))
        save_pairs(options.sheet, every.cleared + _alarm_pairs(found, limits, *originals))
    flagged = find_planted(every, bank, limits, options.planted)
    print(f"{time.perf_counter() - begin:.0f} s, {time.process_time() - begin_cpu:.0f} s of CPU")
    return 0 if report(flagged, float(alarms.mean())) else 1


def report(flagged: Mapping[str, float], alarms: float) -> bool:
    """Print whether the bars are kept: the share of each kind that is flagged, and that of what is no copy."""
    worst = min(flagged, key=flagged.__getitem__)
    passed = flagged[worst] >= LEAST_FOUND and alarms < ALARMS_BELOW
    print(
        f"{'PASSED' if passed else 'FAILED'}: of every kind at least {flagged[worst]:.1%} flagged ({worst}; bar "
        f"{LEAST_FOUND:.0%}), {alarms:.3%} false alarms (bar: below {ALARMS_BELOW:.1%})"
    )
    return passed


def find_planted(every: Pictures, bank: Bank, limits: np.ndarray, num: int) -> dict[str, float]:
    """Copies of each kind of some reference pictures: the share of each that is flagged."""
    flagged = {}
    chosen = runtime.numpy_generator("planted").permutation(len(every.reference))[:num]
    for kind in KINDS:
        copies = [planted(every.encoded[every.reference[row]], kind, int(row)) for row in chosen]
        matches = find_matches(to_side(copies, SIDE), bank)
        above = matches.score - limits
        index = matches.index[np.arange(len(chosen)), above.argmax(1)]
        hit, right = above.max(1) > 0, bank.groups[index] == bank.groups[chosen]
        print(f"{kind:20} flagged {hit.mean():.1%}, with the right original {(hit & right).mean():.1%}")
        flagged[kind] = float(hit.mean())
    return flagged


def _alarm_pairs(
    found: Matches, limits: np.ndarray, genuine: list[bytes], reference: list[bytes]
) -> list[tuple[bytes, bytes, str]]:
    above = found.score - limits
    best = above.argmax(1)
    top = np.argsort(-above.max(1), kind="stable")[:40]
    return [
        (genuine[row], reference[found.index[row, best[row]]],
         f"{above[row].max():+.2f} {EXPLANATIONS[best[row]].name}")
        for row in top
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
