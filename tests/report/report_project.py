"""A small project with everything that a report reads: real tables, real pictures, a trained-looking run, scores."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from stablerep.evaluation.intervals import GroupBootstrap
from stablerep.evaluation.scores import Outcome, Record, Scores
from stablerep.models.encoder import Encoder, EncoderConfig, save_encoder
from stablerep.store import REAL, CaptionTable, ImageTable, caption_id

ORIGIN = "teacher-a1b2c3"
NASTY = '<script>alert("x")</script> & a <b>bold</b> "cat"'
CAPTIONS = (
    NASTY,
    "a red square",
    "a green disc",
    "a blue ring",
    "a picture with an unbreakable " + "long" * 40 + " and a long caption" + " on and on" * 12,
)
COLOURS = ("black", "red", "green", "blue", "orange")
UNBREAKABLE = "z_run_with_a_name_that_no_line_can_break"
REASON = "the picture is blank: <i>all</i> pixels are equal"
PER_CAPTION = 3
TESTS = ("test captions, training styles", "test captions, held-out style")
CLASSES = ("animal", "food", "tool")


def png(colour: str, size: int = 32, shift: int = 0, mode: str = "RGB") -> bytes:
    """A disc on white, moved right by ``shift`` pixels, as PNG."""
    picture = Image.new(mode, (size, size), "white")
    ImageDraw.Draw(picture).ellipse((4 + shift, 4, size - 8 + shift, size - 8), fill=colour)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def write_world(folder: Path, captions: Sequence[str] = CAPTIONS) -> None:
    """Captions with one variant each; real pictures of a training style and, in the test split, of the held-out one."""
    rows, images = [], []
    for number, text in enumerate(captions):
        shared = {
            "source": "icons",
            "group": f"g{number}",
            "concept": f"c{number}",
            "label": CLASSES[number % 3],
        }
        rows += [
            {"id": caption_id(text), "text": text, "template": "primary", "split": "train", **shared},
            {
                "id": caption_id(f"variant {text}"),
                "text": f"variant {text}",
                "template": "variant-1",
                "split": "train",
                **shared,
            },
        ]
        for index, (style, split) in enumerate((("noto", "train"), ("fluent", "test"))):
            image = png(COLOURS[number], shift=index)
            images.append(
                {"origin": REAL, "caption_id": caption_id(text), "image_index": index, "image": image, "status": "ok",
                 "width": 32, "height": 32, "style": style, "split": split, "group": f"g{number}",
                 "label": CLASSES[number % 3], "licence": "Apache-2.0" if style == "noto" else "MIT"}
            )  # fmt: skip
    CaptionTable.open_or_create(folder / "captions.lance").append(rows)
    ImageTable.open_or_create(folder / "images.lance").append(images)


def write_paintings(path: Path, captions: Sequence[str] = CAPTIONS, *, origin: str = ORIGIN) -> None:
    """``PER_CAPTION`` pictures per caption; the very first one failed, number 1 of each equals its test picture."""
    table = ImageTable.open_or_create(path)
    rows = []
    for number, text in enumerate(captions):
        for index in range(PER_CAPTION):
            failed = number == 0 and index == 0
            image = None if failed else png(COLOURS[CAPTIONS.index(text)], shift=index)
            rows.append(
                {"origin": origin, "caption_id": caption_id(text), "image_index": index, "seed": 7 * number + index,
                 "image": image, "width": 32, "height": 32,
                 "status": "failed" if failed else "ok", "reason": REASON if failed else None}
            )  # fmt: skip
    table.append(rows)
    table.register_origin(
        origin, {"guidance_scale": 2.0, "weights": "9f" * 32, "scheduler": {"name": "ddim"}}
    )


def write_run(
    folder: Path, kind: str = "stablerep", *, config: Mapping[str, Any] | None = None, finished: bool = True
) -> Path:
    """A run folder as the trainer leaves it: 40 records, and a small encoder where it has finished."""
    folder.mkdir(parents=True)
    settings = {
        "out": str(folder),
        "seed": 0,
        "num_steps": 40,
        "data": {"origin": "painted", "where": "split <> 'test'"},
    }
    described = {"kind": kind, "config": settings | dict(config or {})}
    (folder / "run.json").write_text(json.dumps(described), encoding="utf-8")
    facts = {
        "python": "3.11.7",
        "threads": 2,
        "git_revision": "0123456789" * 4,
        "versions": {"torch": "2.9.0"},
    }
    (folder / "provenance.json").write_text(json.dumps(facts), encoding="utf-8")
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for step in range(1, 41):
            record = {
                "step": step,
                "images_seen": 64 * step,
                "loss": 4 / step,
                "learning_rate": 1e-3,
                "time": 100.0 + step,
            }
            file.write(json.dumps(record) + "\n")
    if finished:
        torch.manual_seed(0)
        config = EncoderConfig(architecture="vit_tiny_patch16_224", image_size=32, patch_size=8, depth=1)
        save_encoder(Encoder(config), folder / "encoder")
    return folder


def write_scores(
    run: Path, rates: Mapping[str, float], *, skipped: Mapping[str, str] | None = None
) -> Scores:
    """scores.json and predictions of a run and its rivals; ``rates``: encoder -> share of right predictions."""
    labels = np.array(CLASSES)[np.arange(90) % 3]
    groups = np.array([f"g{number // 2}" for number in range(90)])
    records, outcomes = [], []
    for test in TESTS:
        bootstrap = GroupBootstrap(labels, groups, num=50, seed=len(test))
        for shift, protocol in enumerate(("knn", "linear")):
            own = None
            for encoder, rate in rates.items():
                correct = (np.arange(90) * 37 % 90) < 90 * rate + 4 * shift
                accuracy = bootstrap.accuracies(correct)
                own = own or accuracy
                kind = "run" if encoder == run.name else "baseline"
                wrong = np.array(CLASSES)[(np.arange(90) + 1) % 3]
                outcomes.append(
                    Outcome(benchmark="icons", test=test, encoder=encoder, protocol=protocol, groups=groups,
                            labels=labels, predicted=np.where(correct, labels, wrong))
                )  # fmt: skip
                records.append(
                    Record(benchmark="icons", test=test, encoder=encoder, kind=kind, fingerprint=f"print of {encoder}",
                           protocol=protocol, mean_per_class=accuracy.interval("mean_per_class"),
                           top1=accuracy.interval("top1"),
                           ahead=None if kind == "run" else own.ahead_of(accuracy, "mean_per_class"),
                           num_pictures=90, num_groups=45, num_classes=3, chance_mean_per_class=1 / 3, chance_top1=0.4,
                           chosen={"k": 5}, chosen_on="validation", validation_accuracy=0.5, note="")
                )  # fmt: skip
    scores = Scores(
        run=run.name, path=str(run), config={}, precision="float32", provenance={},
        benchmarks={"icons": {"num_train": 90, "num_validation": 30, "num_classes": 3, "num_left_out": 2}},
        skipped=dict(skipped or {}), records=tuple(records), outcomes=tuple(outcomes),
    )  # fmt: skip
    scores.write(run)
    return scores


def write_project(folder: Path) -> Path:
    """World, paintings, a finished and measured run, one that stopped, and one whose names are hard to lay out."""
    write_world(folder / "world")
    write_paintings(folder / "images.lance")
    run = write_run(folder / "runs" / "stablerep-a")
    rates = {run.name: 0.7, "raw pixels": 0.4, "untrained encoder": 0.5}
    write_scores(run, rates, skipped={"fashion": "benchmark fashion: no folder was given"})
    write_run(folder / "runs" / "simclr-b", "simclr", finished=False)
    write_run(folder / "runs" / UNBREAKABLE, config={"initial_weights": UNBREAKABLE * 4}, finished=False)
    return folder
