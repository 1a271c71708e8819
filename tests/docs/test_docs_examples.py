"""The examples of docs/extend.md do what the page says, on real tables."""

import importlib.util
import io
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from pages import ROOT
from PIL import Image

from learning.tiny_training import (
    ENCODER,
    NUM_CAPTIONS,
    SIZE,
    caption_rows,
    image_row,
    write_captions,
    write_images,
)
from stablerep.audit.everything import AUDITS, AuditAllConfig, audit_all
from stablerep.captions.sources import ImportConfig, import_captions
from stablerep.config import build
from stablerep.decoding import decode_image
from stablerep.errors import UserError
from stablerep.evaluation.benchmarks import BENCHMARKS, BenchmarkData, load_benchmark
from stablerep.features import TableImages
from stablerep.generation.execute import generate
from stablerep.generation.folders import find_teacher
from stablerep.generation.settings import GenerateConfig, PaintConfig
from stablerep.generation.teacher import TEACHERS, load_diffusers_teacher, load_teacher
from stablerep.learning.methods import METHODS, train
from stablerep.models.encoder import load_encoder
from stablerep.store import CaptionTable, ImageTable


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    """What the examples enter is taken out again."""
    registries = (METHODS, AUDITS, BENCHMARKS, TEACHERS)
    before = [dict(registry) for registry in registries]
    yield
    for registry, entries in zip(registries, before, strict=True):
        registry.clear()  # type: ignore[attr-defined]
        registry.update(entries)  # type: ignore[attr-defined]


def example(name: str) -> ModuleType:
    """Import one file of docs/examples."""
    spec = importlib.util.spec_from_file_location(
        f"example_{name}", ROOT / "docs" / "examples" / f"{name}.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_method_trains_and_exports_an_encoder(tmp_path: Path) -> None:
    example("method")
    images = write_images(
        tmp_path / "images.lance",
        [image_row(number, index) for number in range(NUM_CAPTIONS) for index in range(2)],
    )
    settings = {
        "out": tmp_path / "run",
        "num_steps": 8,
        "compile": False,
        "precision": "float32",
        "optim": {"lr": 3e-3},
        "data": {
            "images": [images],
            "captions_per_batch": NUM_CAPTIONS,
            "images_per_caption": 2,
            "view": {"image_size": SIZE, "augmentation": "none"},
        },
        "method": {"encoder": ENCODER, "head_hidden": 16, "head_out": 8},
    }
    config = METHODS["align-uniform"].config
    first = train(
        "align-uniform", build(config, settings, {"num_steps": 1, "out": tmp_path / "one"}, origin="test")
    )
    last = train("align-uniform", build(config, settings, origin="test"))
    assert first.loss is not None and last.loss is not None
    assert math.isfinite(last.loss) and last.loss < first.loss
    assert load_encoder(tmp_path / "run").dim == ENCODER["width"]


def test_the_teacher_paints_what_prompts_name(tmp_path: Path) -> None:
    example("teacher")
    (tmp_path / "captions.txt").write_text("a red disc\na green disc\na blue disc\n")
    captions = tmp_path / "captions.lance"
    import_captions(ImportConfig(files=(tmp_path / "captions.txt",), out=captions))
    out = tmp_path / "images.lance"
    generate(
        GenerateConfig(captions=captions, out=out, teacher="discs", num_images=3, format="png", device="cpu")
    )
    table = ImageTable.open(out)
    texts = {row["id"]: row["text"] for row in CaptionTable.open(captions).read(["id", "text"]).to_pylist()}
    rows = table.read(["caption_id", "origin", "status"]).to_pylist()
    pictures = TableImages(table, np.arange(len(rows)))
    assert len(rows) == 9 and {row["status"] for row in rows} == {"ok"}
    assert {row["origin"].split("-")[0] for row in rows} == {"discs"}
    for row, picture in zip(rows, pictures, strict=True):
        lightest = decode_image(picture).float().mean((1, 2)).argmax()
        assert ("red", "green", "blue")[int(lightest)] in texts[row["caption_id"]]


def test_the_teacher_is_asked_for_by_its_name_and_has_no_inside() -> None:
    discs = example("teacher").Discs
    teacher = load_teacher("discs", PaintConfig(height=48))
    assert isinstance(teacher, discs) and teacher.settings["side"] == 48
    for ask in (find_teacher, load_diffusers_teacher):
        with pytest.raises(
            UserError, match=r"unknown teacher 'discs'; .*give the path of a diffusers folder"
        ):
            ask("discs")


def grey_png() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (SIZE, SIZE), 120).convert("RGB").save(buffer, format="PNG")
    return buffer.getvalue()


def test_the_audit_rejects_grey_pictures_and_no_others(tmp_path: Path) -> None:
    audit = example("audit")
    rows = [image_row(0, 0), image_row(0, 1), image_row(1, 0, image=grey_png())]
    images = write_images(tmp_path / "images.lance", rows)
    captions = write_captions(tmp_path / "captions.lance", caption_rows())
    found = audit_all(AuditAllConfig(images=images, captions=captions, only=(audit.NAME,)))
    assert [result.num_rejected for result in found.results] == [1]
    kept = ImageTable.open(images).read(["caption_id", "keep", "colour_reason"]).to_pylist()
    assert [row["keep"] for row in kept] == [row["caption_id"] != rows[2]["caption_id"] for row in kept]
    assert '"colour"' in (tmp_path / "audit.json").read_text()


def test_the_benchmark_has_two_classes_and_no_picture_twice() -> None:
    example("benchmark")
    benchmark = load_benchmark("parity", BenchmarkData())
    assert benchmark.classes == ("even", "odd")
    parts = [benchmark.train, benchmark.validation, benchmark.tests["test"]]
    groups = [group for part in parts for group in part.groups]
    assert len(groups) == len(set(groups)) == 1797
    assert [round(len(part) / 1797, 1) for part in parts] == [0.6, 0.2, 0.2]
