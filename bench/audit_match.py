"""How many swapped pictures `audit match` finds: paintings of which a tenth shows what another class asked for.

Pictures that the judge does not name as their caption asks are left out first, so that what is left is right and every
wrong picture is a known one. Then a share of the pictures is exchanged for pictures of other classes, the audit runs on
the table, and its scores are held against what was exchanged. The encoder should have seen no painting; one trained on
real training pictures (`stablerep train clip --recipe icons`) is what the claim is about.

    python bench/audit_match.py --world icons --encoder runs/clip-real --judge runs/judge \\
        --training painted/train.lance --validation painted/validation.lance --out audit-match.json

Printed and saved for the training captions and, as a harder case, for captions of the validation split: the share of
swapped pictures below the score that 5 % of the right ones do not reach, and the AUROC, as means over draws. Of the
training captions the level of match should find 90 %, by the plain rule of what is right.

A judge accepts some wrong pictures by chance, and these look like swapped ones to any encoder. How many of the accepted
pictures they may be stands beside the result, with what an encoder without fault would reach then; with
--min-confidence, fixed before anything is measured, pictures that the judge accepts with that probability are measured
beside those by the plain rule. Pictures are exchanged across labels, so the level against captions of other labels only
(--rules.across-labels of the audit) is measured as well.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from stablerep import runtime
from stablerep.audit.match import MatchAuditConfig, MatchRules, audit_match
from stablerep.evaluation.asked import Wanted, read_asked, read_paintings
from stablerep.evaluation.benchmarks import BenchmarkData, load_benchmark
from stablerep.features import extract
from stablerep.models.encoder import load_encoder
from stablerep.probes import Labelled, Probe, ProbeConfig, fit_linear
from stablerep.run import write_text
from stablerep.store import OK, ImageTable

SCORES = ("match_level", "match", "match_level across labels")
RULE = "named as asked"
FALSE_ALARMS, LEAST_FOUND = 0.05, 0.9


@dataclass(frozen=True)
class Named:
    """What the judge calls M pictures (M,), and with what probability (M,)."""

    classes: np.ndarray
    confidence: np.ndarray

    def accepted(self, labels: np.ndarray, min_confidence: float) -> np.ndarray:
        """Whether each is called by its label (M,), at this probability or more."""
        right: np.ndarray = (self.classes == labels) & (self.confidence >= min_confidence)
        return right

    def by_chance(self, labels: np.ndarray, min_confidence: float) -> float:
        """The share that would be accepted if labels were shuffled: the mean over all shuffles."""
        sure = self.classes[self.confidence >= min_confidence]
        names, counts = np.unique(sure, return_counts=True)
        same = (labels[None] == names[:, None]).mean(axis=1)
        return float(counts @ same / len(labels)) if len(sure) else 0.0


@dataclass(frozen=True)
class Judge:
    """A linear probe on frozen features, trained on real training pictures."""

    encoder: Any
    probe: Probe
    classes: np.ndarray

    def names(self, images: Any) -> Named:
        """What it calls each picture."""
        found = self.probe.probabilities(extract(self.encoder, images))
        return Named(self.classes[found.argmax(1)], found.max(1))


def train_judge(world: Path, name: str, benchmark: str, num_train: int | None = None) -> Judge:
    """Fit the probe as `evaluate painter` does, on all real training pictures or the first of them."""
    real = load_benchmark(benchmark, BenchmarkData(world=world, fashion=world, num_train=num_train))
    encoder = load_encoder(name, runtime.pick_device())
    train, validation = (
        Labelled(extract(encoder, part.images), part.labels) for part in (real.train, real.validation)
    )
    return Judge(
        encoder, fit_linear(train, validation, len(real.classes), ProbeConfig()), np.array(real.classes)
    )


def swapped(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """For every picture the one that stands in its place: itself, or for a share one of another class."""
    rng = runtime.numpy_generator("audit match bench", seed)
    source = np.arange(len(labels))
    for row in rng.permutation(len(labels))[: round(share * len(labels))]:
        source[row] = rng.choice(np.flatnonzero(labels != labels[row]))
    return source


def write_swapped(path: Path, captions: np.ndarray, images: list[bytes], source: np.ndarray) -> None:
    """The table that the audit sees: one row per picture, in the order given."""
    index: dict[str, int] = {}
    rows = []
    for row, caption in enumerate(captions):
        number = index[caption] = index.get(caption, -1) + 1
        rows.append(
            {
                "origin": "swapped",
                "caption_id": caption,
                "image_index": number,
                "image": images[source[row]],
                "status": OK,
            }
        )
    ImageTable.open_or_create(path).append(rows)


def measure(options: argparse.Namespace, judge: Judge, images: Path) -> dict[str, Any]:
    """The numbers for the paintings of one table, by each rule of what is right."""
    asked = read_asked(options.world, "all", seen_words=False)
    paintings = read_paintings(images, Wanted(options.origin), asked, list(judge.classes))
    order = runtime.numpy_generator("audit match bench, paintings").permutation(len(paintings.labels))
    some = np.sort(order[: options.limit])
    encoded = [paintings.images[int(row)] for row in some]
    named, labels = judge.names(encoded), paintings.labels[some]
    rules = {RULE: 0.0}
    if options.min_confidence is not None:
        rules[f"{RULE} with at least {options.min_confidence:g}"] = options.min_confidence
    measured = {}
    for rule, confidence in rules.items():
        good = np.flatnonzero(named.accepted(labels, confidence))
        by_chance = named.by_chance(labels, confidence) * len(some) / max(len(good), 1)
        pictures = paintings.captions[some[good]], [encoded[row] for row in good]
        draws = [
            audited(options, pictures, swapped(labels[good], options.share, seed))
            for seed in range(options.draws)
        ]
        measured[rule] = {
            "num_accepted": len(good),
            "num_captions": len(np.unique(pictures[0])),
            "num_swapped": round(options.share * len(good)),
            "accepted_by_chance": by_chance,
            "most_to_be_found": min(1.0, FALSE_ALARMS / by_chance) if by_chance else 1.0,
            "most_auroc": 1 - by_chance / 2,
            "scores": {
                score: {
                    name: float(np.mean([draw[score][name] for draw in draws])) for name in ("found", "auroc")
                }
                for score in SCORES
            },
        }
    return {"images": str(images), "num_paintings": len(some), "rules": measured}


def audited(
    options: argparse.Namespace, pictures: tuple[np.ndarray, list[bytes]], source: np.ndarray
) -> dict[str, dict[str, float]]:
    """Run the audit on one draw; by score what share was found, and the AUROC."""
    wrong = source != np.arange(len(source))
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "images.lance"
        write_swapped(table, *pictures, source)
        values: dict[str, np.ndarray] = {}
        for ending, across in ((" across labels", True), ("", False)):
            audit_match(
                MatchAuditConfig(
                    images=table,
                    captions=options.world / "captions.lance",
                    encoder=options.encoder,
                    precision="float32",
                    rules=MatchRules(across_labels=across),
                )
            )
            columns = ImageTable.open(table).read(["match_level", "match"])
            values |= {name + ending: columns[name].to_numpy() for name in columns.column_names}
    found = {}
    for score in SCORES:
        threshold = np.quantile(values[score][~wrong], FALSE_ALARMS)
        found[score] = {
            "found": float((values[score][wrong] < threshold).mean()),
            "auroc": float(roc_auc_score(~wrong, values[score])),
        }
    return found


def in_words(name: str, measured: dict[str, Any]) -> list[str]:
    """Each rule, what it leaves to be found, and one line per score."""
    lines = []
    for rule, one in measured["rules"].items():
        lines += [
            f"{name}: {one['num_accepted']:,} of {measured['num_paintings']:,} paintings are right ({rule}), "
            f"{one['num_swapped']:,} of them exchanged",
            f"  at most {one['accepted_by_chance']:.1%} of the right ones are so by chance; were it as many, at most "
            f"{one['most_to_be_found']:.1%} could be found, AUROC {one['most_auroc']:.4f}",
            *(
                f"  {score:25} finds {100 * values['found']:5.1f} % of them at 5 % false alarms, "
                f"AUROC {values['auroc']:.4f}"
                for score, values in one["scores"].items()
            ),
        ]
    return lines


def report(found: float) -> bool:
    """Print whether the bar is kept: the share of the swapped pictures that the level finds."""
    passed = found >= LEAST_FOUND
    print(
        f"{'PASSED' if passed else 'FAILED'}: {SCORES[0]} finds {found:.1%} of the swapped pictures of training "
        f"captions at {FALSE_ALARMS:.0%} false alarms (bar {LEAST_FOUND:.0%})"
    )
    return passed


def main() -> int:
    """Measure, print, save; 1 where the bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--world", type=Path, required=True, help="folder with captions.lance and real images.lance"
    )
    parser.add_argument("--benchmark", choices=("icons", "fashion"), default="icons")
    parser.add_argument("--encoder", required=True, help="image-text run, or a model of open_clip")
    parser.add_argument("--judge", required=True, help="run or folder of the judge's encoder")
    parser.add_argument("--training", type=Path, required=True, help="paintings of training captions")
    parser.add_argument("--validation", type=Path, help="paintings of validation captions")
    parser.add_argument("--origin", help="painter, where a table holds several")
    parser.add_argument("--limit", type=int, help="paintings of each table; all where not given")
    parser.add_argument("--num-train", type=int, help="pictures that train the judge; all where not given")
    parser.add_argument("--share", type=float, default=0.1, help="of pictures to exchange")
    parser.add_argument(
        "--min-confidence", type=float, help="also measure what the judge accepts with this probability"
    )
    parser.add_argument("--draws", type=int, default=3, help="how often to exchange anew")
    parser.add_argument("--out", type=Path, default=Path("audit-match.json"))
    options = parser.parse_args()
    judge = train_judge(options.world, options.judge, options.benchmark, options.num_train)
    measured = {}
    for name in ("training", "validation"):
        if (images := getattr(options, name)) is not None:
            measured[name] = measure(options, judge, images)
            print("\n".join(in_words(f"{name} captions", measured[name])))
    asked = {name: str(value) for name, value in vars(options).items() if value is not None}
    write_text(options.out, json.dumps({"asked": asked, **measured}, indent=2) + "\n")
    print(f"saved: {options.out}")
    return 0 if report(measured["training"]["rules"][RULE]["scores"][SCORES[0]]["found"]) else 1


if __name__ == "__main__":
    sys.exit(main())
