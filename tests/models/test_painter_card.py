"""The card of a painter: every fact comes from the run's folder, the painter's, or the parent's."""

import json
from pathlib import Path
from typing import Any

import pytest

from stablerep.models.painter_card import Parent, write_painter_card
from stablerep.run import Run
from stablerep.store import ImageTable


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of seven steps on three pictures, and what it exported."""
    table = ImageTable.open_or_create(tmp_path / "images.lance")
    table.append(
        {
            "origin": origin, "caption_id": "a", "image_index": index, "image": b"", "status": "ok", "licence": "MIT",
        }
        for index, origin in enumerate(["real", "icons-1", "icons-1"])
    )  # fmt: skip
    config = {
        "data": {"images": [str(table.path)], "weight": "score", "view": {"image_size": 28}},
        "method": {"teacher": str(tmp_path / "runs" / "old" / "teacher"), "substeps": 3},
        "optim": {"lr": 0.1},
        "seed": 0,
        "device": "cpu",
        "out": "somewhere",
    }
    folder = tmp_path / "run"
    write_json(folder / "run.json", {"kind": "distillation", "config": config})
    write_json(folder / "resolved.json", {"data": {"images": 3, "captions": 1, "digest": "abc"}})
    for step, loss in ((1, 0.9), (7, 0.123456)):
        Run(folder).log({"step": step, "images_seen": 1000 * step, "loss": loss})
    painter = folder / "teacher"
    write_json(painter / "model_index.json", {"_class_name": "PixArtAlphaPipeline"})
    write_json(painter / "scheduler" / "scheduler_config.json", {"_class_name": "Sampler", "solver_order": 1})
    write_json(painter / "transformer" / "config.json", {})
    defaults = {"num_inference_steps": 4, "guidance_scale": 1.0, "max_sequence_length": 24}
    write_json(painter / "stablerep.json", defaults | {"margin": 2, "styles": ["ink", "brush"]})
    return folder


def parent(folder: Path, text: str | None, **files: str) -> Parent:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_text(content)
    if text is not None:
        (folder / "README.md").write_text(text)
    return Parent(name=str(folder), folder=folder)


def written(run: Path, begun: Parent | None) -> str:
    write_painter_card(run / "teacher", run, begun)
    return (run / "teacher" / "README.md").read_text()


def test_it_says_what_made_it_from_what_and_how_it_paints(run: Path, tmp_path: Path) -> None:
    terms = (
        "---\nlicense: openrail\n---\n# Old\n\n## License\n\nUse it well.\n\nAnd kindly.\n\n## More\n\nNo."
    )
    begun = parent(tmp_path / "runs" / "old" / "teacher", terms, LICENSE="the terms", NOTICE="whose it is")
    text = written(run, begun)
    assert text.startswith("---\nlibrary_name: diffusers\nlicense: openrail\npipeline_tag: text-to-image\n")
    for said in (
        "Paints pictures of 28 x 28 pixels",
        "stock `PixArtAlphaPipeline`",
        "what `old/teacher`, its teacher, takes in many with guidance",
        'pipe("a caption", num_inference_steps=4, guidance_scale=1.0, use_resolution_binning=False)'
        ".images[0].crop((2, 2, 30, 30))",
        "Sampler `Sampler` of order 1; steps 4, guidance scale 1.",
        "first 24 tokens",
        "ink, brush",
        "2 painted (`icons-1`); 1 real",
        "weight `score`",
        "3 pictures of 1 captions, digest `abc`",
        "7 steps, 7,000 pictures seen; loss at the last step 0.1235",
        '"teacher": "old/teacher"',
        "Licences of the pictures it learned from: MIT (3).",
        "> Use it well.\n>\n> And kindly.\n\nIts own words: `LICENSE`, `NOTICE`.",
        "in the steps named above, without guidance",
    ):
        assert said in text, said
    assert "> No." not in text
    assert str(tmp_path) not in text and "somewhere" not in text, "no places of this machine"
    assert (run / "teacher" / "LICENSE").read_text() == "the terms"
    assert (run / "teacher" / "NOTICE").read_text() == "whose it is"


def test_terms_are_carried_on_from_one_painter_to_the_next(run: Path, tmp_path: Path) -> None:
    first = written(run, parent(tmp_path / "a" / "old", "# Old\n\n## Licence\n\nApache-2.0, as ever."))
    again = written(run, parent(tmp_path / "b" / "newer", first))
    assert "`b/newer`, whose terms bind it too" in again
    assert "> > Apache-2.0, as ever." in again
    assert "license:" not in again


def test_what_is_not_known_is_said(run: Path, tmp_path: Path) -> None:
    assert "Its folder has no card that states them." in written(run, parent(tmp_path / "old", None))
    assert "whose terms" not in written(run, None)
    write_json(run / "teacher" / "stablerep.json", {})
    (run / "teacher" / "transformer").rename(run / "teacher" / "unet")
    assert 'pipe("a caption").images[0]\n' in (text := written(run, None))
    assert "`Sampler` of order 1; steps and guidance as asked." in text
