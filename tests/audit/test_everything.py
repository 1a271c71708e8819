"""`audit all`, and what follows from its mask: training reads it, painting fills it up."""

import dataclasses
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from painted_table import columns, image_row, write_captions, write_images
from PIL import Image
from tiny_world import TEXTS, picture

from generation import tiny_pipelines
from learning.tiny_training import data_config
from stablerep.audit import everything
from stablerep.audit.everything import AUDITS, AuditAllConfig, audit_all
from stablerep.audit.match import MatchRules
from stablerep.cli import run
from stablerep.config import build
from stablerep.console import Console
from stablerep.cost import beside, read_costs
from stablerep.errors import UserError
from stablerep.generation.execute import GenerateConfig, generate
from stablerep.learning.data import ViewSource, identity_of
from stablerep.learning.methods import METHODS, train
from stablerep.store import ImageTable, caption_id

PRIVATE = "a red disc by jane@example.org"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Four paintings of each caption of the world: one is blank, one caption holds an address."""
    write_captions(tmp_path / "captions.lance", [*TEXTS, PRIVATE])
    rows = [
        image_row(text, index, picture(number, index))
        for number, text in enumerate(TEXTS)
        for index in range(4)
    ]
    rows += [image_row(PRIVATE, index, picture(0, 50 + index)) for index in range(4)]
    rows[5] = image_row(TEXTS[1], 1, Image.new("RGB", (16, 16), "white"))
    write_images(tmp_path / "images.lance", rows)
    return tmp_path


def config(project: Path, **more: object) -> AuditAllConfig:
    paths = {"images": project / "images.lance", "captions": project / "captions.lance"}
    return AuditAllConfig(**{**paths, "precision": "float32", "device": "cpu", **more})  # type: ignore[arg-type]


@pytest.mark.slow
def test_all_audits_leave_one_mask_and_one_file(
    project: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = audit_all(config(project, encoder=str(clip), match=MatchRules(min_level=0.3)))
    ran = [name for name in AUDITS if name not in ("copies", "bias")]
    assert [result.audit for result in summary.results] == ran
    stored = json.loads((project / "audit.json").read_text())
    assert list(stored["audits"]) == ran
    rows = columns(project / "images.lance", "caption_id", "image_index", "keep", "keep_reason")
    why = {(caption, index): reason for caption, index, keep, reason in rows if not keep}
    assert "quality: blank" in why[caption_id(TEXTS[1]), 1]
    assert all("captions: e-mail address" in why[caption_id(PRIVATE), index] for index in range(4))
    assert summary.kept.num_rejected == len(why) == stored["keep"]["num_rejected"]
    assert summary.kept.num_kept + len(why) == len(rows)
    Console().show(summary)
    out = capsys.readouterr().out
    assert "all together" in out and "blank" in out
    assert max(map(len, out.splitlines())) <= 80
    json.dumps(summary.to_json())


def test_audits_without_what_they_need_are_left_out_and_named(project: Path) -> None:
    summary = audit_all(config(project))
    assert summary.skipped == {
        "match": "no encoder was given (--encoder)",
        "copies": "no real pictures were given (--reference)",
        "bias": "no attributes were given (--attributes)",
    }
    assert [result.audit for result in summary.results] == ["captions", "quality"]
    with pytest.raises(UserError, match="no audit ran: match: no encoder"):
        audit_all(config(project, only=("match",)))
    with pytest.raises(
        ValueError, match="only names no audit 'matsch'; there are: captions, quality, match, copies"
    ):
        config(project, only=("matsch",))
    with pytest.raises(ValueError, match="batch_size must be positive, got 0"):
        config(project, batch_size=0)


@pytest.mark.slow
def test_an_audit_that_fails_is_named_after_what_the_others_found(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(project / "real.lance", [image_row(TEXTS[0], 0, b"no picture") | {"origin": "real"}])
    places = {"captions": project / "captions.lance", "reference": project / "real.lance"}
    line = ["audit", "all", str(project / "images.lance"), "--quiet"]
    line += [word for name, path in places.items() for word in (f"--{name}", str(path))]
    assert run(line) == 2
    said = capsys.readouterr()
    assert "quality" in said.out and "all together" in said.out
    assert "audit copies failed: " in said.err and "none of the 1 real pictures can be decoded" in said.err
    assert said.err.splitlines()[-1].startswith(
        "stablerep audit all: audit copies failed; the others are done: "
    )
    assert run([*line, "--json"]) == 2
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert "none of the 1 real pictures" in found["failed"]["copies"] and "quality" in found["audits"]
    assert "audit copies failed" in said.err
    assert list(json.loads((project / "audit.json").read_text())["audits"]) == ["captions", "quality"]
    with pytest.raises(UserError, match=r"no audit ran: copies: .* none of the 1 real pictures"):
        audit_all(config(project, only=("copies",), reference=project / "real.lance"))


def test_captions_that_are_not_there_hide_nothing_of_what_was_found(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong path is refused before anything runs; a table that lacks captions fails those that read them."""
    with pytest.raises(UserError, match="no caption table could be opened"):
        audit_all(config(project, captions=project / "nowhere.lance"))
    assert not (project / "audit.json").exists()
    summary = audit_all(config(project, captions=write_captions(project / "few.lance", TEXTS[2:])))
    assert list(summary.failed) == ["captions"] and [one.audit for one in summary.results] == ["quality"]
    summary.show(Console(quiet=True))
    said = capsys.readouterr()
    assert f"“{caption_id(TEXTS[1])}”, image 1: blank" in said.out and "audit captions failed" in said.err


@pytest.mark.slow
def test_copies_of_real_pictures_are_rejected_by_the_same_mask(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reference holds what was painted for one caption."""
    write_images(project / "real.lance", [image_row(TEXTS[0], 0, picture(0, 0)) | {"origin": "real"}])
    summary = audit_all(config(project, only=("copies",), reference=project / "real.lance"))
    assert [result.audit for result in summary.results] == ["copies"]
    rows = columns(project / "images.lance", "caption_id", "image_index", "copy_verdict", "keep")
    assert (caption_id(TEXTS[0]), 0, "exact", False) in rows
    summary.show(Console())
    said = " ".join(capsys.readouterr().out.split())
    assert f"“{TEXTS[0]}”, image 0: exact copy, beside “{TEXTS[0]}”" in said


def test_settings_of_copies_and_bias_reach_these_audits(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def left_out(name: str) -> Callable[..., str]:
        def audit(config: Any, **_: Any) -> str:
            asked[name] = config
            return "only its settings matter"

        return audit

    for name in ("copies", "bias"):
        monkeypatch.setattr(everything, f"audit_{name}", left_out(name))
    line = [
        "audit",
        "all",
        f"{project / 'images.lance'}",
        "--captions",
        f"{project / 'captions.lance'}",
        "--quiet",
    ]
    settings = (
        "--encoder run --reference real.lance --attributes icons --where \"status = 'ok'\" --download "
        "--copies.false-alarms 0.01 --copies.no-pasted --copies.no-twins --copies.sscd sscd.pt "
        "--bias.zero-shot --bias.reference-by label --bias.num-bootstrap 7 --only quality copies bias"
    )
    assert run([*line, *shlex.split(settings)]) == 0
    copies, bias = asked["copies"], asked["bias"]
    assert (copies.false_alarms, copies.pasted, copies.twins, copies.sscd) == (
        0.01,
        False,
        False,
        Path("sscd.pt"),
    )
    assert (bias.zero_shot, bias.reference_by, bias.num_bootstrap) == (True, "label", 7)
    assert {(one.where, one.download) for one in asked.values()} == {("status = 'ok'", True)}


def test_a_filter_holds_for_every_audit(project: Path) -> None:
    summary = audit_all(config(project, only=("captions", "quality"), where="image_index = 0"))
    assert {result.num_pictures for result in summary.results} == {len(TEXTS) + 1}
    found = columns(project / "images.lance", "image_index", "captions_ok", "quality_ok")
    assert all((None not in verdicts) == (index == 0) for index, *verdicts in found)


def test_everything_is_written_where_it_is_asked_for(project: Path, tmp_path: Path) -> None:
    """Tables may lie in an object store, beside which no file of this machine can be."""
    found = audit_all(config(project, only=("captions", "quality"), out=tmp_path / "found" / "audit.json"))
    assert found.path == tmp_path / "found" / "audit.json"
    assert {"audit.json", "captions-audit.json"} <= {path.name for path in found.path.parent.iterdir()}
    assert not (project / "captions-audit.json").exists()


@pytest.mark.slow
def test_running_one_audit_again_keeps_the_verdicts_of_the_others(project: Path, clip: Path) -> None:
    audit_all(config(project, encoder=str(clip)))
    before = columns(project / "images.lance", "captions_ok", "quality_ok", "keep")
    audit_all(config(project, only=("quality",)))
    costs = read_costs(beside(project / "images.lance"))
    assert [line.step for line in costs] == ["audit quality", "audit match", "audit quality"]
    assert columns(project / "images.lance", "captions_ok", "quality_ok", "keep") == before
    assert list(json.loads((project / "audit.json").read_text())["audits"]) == [
        "captions",
        "quality",
        "match",
    ]


def test_training_draws_only_what_the_mask_keeps(project: Path) -> None:
    audit_all(config(project))
    ImageTable.open(project / "images.lance").append([image_row("a new caption", 0, picture(0, 1))])
    views = ViewSource(data_config(project / "images.lance", keep="keep", captions_per_batch=30), seed=0)
    kept = {
        identity_of("teacher-a", caption, index)
        for caption, index, keep in columns(project / "images.lance", "caption_id", "image_index", "keep")
        if keep
    }
    assert views.num_images == len(kept) == 4 * len(TEXTS) - 1
    drawn = {image for step in range(8) for image in views.batch(step)["image_id"].flatten().tolist()}
    assert drawn <= kept and len(drawn) > 100
    assert caption_id(PRIVATE) not in views.caption_ids


def test_a_run_trains_on_the_mask_from_end_to_end(project: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    audit_all(config(project))
    settings = {
        "out": tmp_path / "run",
        "data": {
            "images": [project / "images.lance"],
            "keep": "keep",
            "captions_per_batch": 8,
            "images_per_caption": 2,
            "view": {"image_size": 16},
        },
        "num_steps": 2,
        "precision": "float32",
        "compile": False,
        "device": "cpu",
        "method": {
            "encoder": {
                "architecture": "vit_tiny_patch16_224",
                "image_size": 16,
                "patch_size": 8,
                "width": 24,
                "depth": 1,
                "num_heads": 3,
            },
            "head_hidden": 16,
            "head_out": 8,
        },
    }
    train("stablerep", build(METHODS["stablerep"].config, settings, origin="test"))
    resolved = json.loads((tmp_path / "run" / "resolved.json").read_text())
    assert resolved["data"]["captions"] == len(TEXTS)
    assert resolved["data"]["images"] == 4 * len(TEXTS) - 1
    assert np.isfinite(json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["loss"])


@pytest.mark.slow
def test_audit_and_repaint_in_turn_until_enough_are_kept(tmp_path: Path) -> None:
    """A painter of noise, a verdict against every image 0: the first turn fills up, the second finds nothing to do."""
    teacher = tmp_path / "teacher"
    tiny_pipelines.pixart(teacher)
    write_captions(tmp_path / "captions.lance", TEXTS[:3])
    paint = GenerateConfig(
        captions=tmp_path / "captions.lance",
        out=tmp_path / "images.lance",
        teacher=str(teacher),
        num_images=2,
        num_inference_steps=1,
        batch_size=3,
        format="png",
        device="cpu",
        dtype="float32",
    )
    generate(paint)
    table = ImageTable.open(paint.out)
    first = table.positions("image_index = 0")
    against = {"mine_ok": pa.array([False] * 3), "mine_reason": pa.array(["first"] * 3)}
    table.write_columns(first, against)
    for expected in (3, 0):
        audit_all(config(tmp_path, only=("quality",)))
        assert generate(dataclasses.replace(paint, repaint=True)).painted == expected
    rows = columns(paint.out, "image_index", "keep")
    assert sorted(rows) == [(0, False)] * 3 + [(1, True)] * 3 + [(2, True)] * 3
