"""The doctor finds each kind of damage that is done to real tables and runs, and mends what it says it mends."""

import io
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest
import torch
from PIL import Image

from stablerep.console import Console
from stablerep.doctor import DoctorConfig, DoctorSummary, doctor
from stablerep.errors import UserError
from stablerep.generation.teacher import origin_name
from stablerep.store import IMAGE_SCHEMA, OK, REAL, CaptionTable, ImageTable, caption_id

SETTINGS = {"steps": 2}
ORIGIN = origin_name("painter", SETTINGS)


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    return buffer.getvalue()


def row(text: str, index: int = 0, **more: Any) -> dict[str, Any]:
    usual = {
        "origin": ORIGIN,
        "caption_id": caption_id(text),
        "image_index": index,
        "image": picture(),
        "status": OK,
    }
    return {**usual, **more}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two captions with two pictures each, nothing wrong."""
    captions = CaptionTable.open_or_create(tmp_path / "captions.lance")
    captions.append(
        {"id": caption_id(text), "text": text, "source": "test", "group": text} for text in ("a cat", "a dog")
    )
    images = ImageTable.open_or_create(tmp_path / "images.lance")
    images.register_origin(ORIGIN, SETTINGS)
    images.append([row(text, index) for text in ("a cat", "a dog") for index in (0, 1)])
    return tmp_path


def found(summary: DoctorSummary) -> list[tuple[str, str]]:
    return [(finding.severity, finding.what) for finding in summary.findings]


def test_a_sound_project_has_no_findings(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = doctor(DoctorConfig(paths=(project,), decode=True))
    assert summary.examined == (str(project / "captions.lance"), str(project / "images.lance"))
    assert summary.findings == () == summary.done
    Console().show(summary)
    assert "nothing wrong" in capsys.readouterr().out


def test_rows_that_cannot_be_trusted_are_named(project: Path) -> None:
    ImageTable.open(project / "images.lance").append(
        [
            row("a cat", 3),
            row("a cat", 4, image=None, status="failed", reason="blank"),
            row("a cat", 0, origin="stranger-0123456789ab"),
            row("a bird", 0, origin=REAL),
        ]
    )
    summary = doctor(DoctorConfig(paths=(project,)))
    assert found(summary) == [
        ("broken", "1 rows of stranger-0123456789ab, of whose settings the table knows nothing"),
        ("note", "1 rows hold a failure instead of a picture (1 x blank)"),
        ("note", f"4 of 10 pictures of {ORIGIN} are not there (2 captions, 5 images of each)"),
        ("note", f"pictures of 1 captions that {project / 'captions.lance'} does not hold"),
    ]
    assert summary.num_broken == 1
    assert summary.findings[2].remedy.endswith("none is missing where --repaint added some")
    ImageTable.open(project / "images.lance").register_origin(ORIGIN, {"steps": 3})
    assert any(
        "are not those that its name was made from" in what
        for _, what in found(doctor(DoctorConfig(paths=(project,))))
    )


@pytest.mark.parametrize("origin", ["official-ddim_2.0", "theirs"])
def test_a_set_of_the_official_code_is_not_broken_for_want_of_settings(tmp_path: Path, origin: str) -> None:
    """Its folders are all that is known of how it was painted, so that no name can be made from it."""
    table = ImageTable.open_or_create(tmp_path / "images.lance")
    table.register_origin(origin, {"folders": ["ddim_2.0_seed_0"]})
    table.append([row("a cat", origin=origin)])
    assert found(doctor(DoctorConfig(paths=(tmp_path,)))) == []


def test_an_empty_caption_table_holds_no_caption(project: Path) -> None:
    CaptionTable.open(project / "captions.lance").dataset.delete("true")
    assert found(doctor(DoctorConfig(paths=(project,)))) == [
        ("note", f"pictures of 2 captions that {project / 'captions.lance'} does not hold")
    ]


def test_unreadable_and_repeated_rows_are_removed_on_request(project: Path) -> None:
    path = project / "images.lance"
    buffer = io.BytesIO()
    Image.effect_noise((32, 32), 100).save(buffer, "PNG")
    truncated = buffer.getvalue()[:400]
    ImageTable.open(path).append(
        [
            row("a cat", 2, image=b"no picture"),
            row("a dog", 2, image=truncated),
            row("x", origin=REAL, image=b""),
        ]
    )
    again = pa.Table.from_pylist([row("a cat", 0, reason="again"), row("a cat", 1)], schema=IMAGE_SCHEMA)
    lance.write_dataset(again, str(path), mode="append")  # past the key, as a foreign writer might

    by_header = doctor(DoctorConfig(paths=(path,)))
    assert [what for severity, what in found(by_header) if severity == "broken"] == [
        "2 rows repeat the key (origin, caption_id, image_index) of another row",
        f"1 painted pictures cannot be read, the first of caption {caption_id('a cat')}, image 2",
        f"1 real pictures cannot be read, the first of caption {caption_id('x')}, image 0",
    ]
    assert len(ImageTable.open(path)) == 9, "nothing is changed without --repair"
    mended = doctor(DoctorConfig(paths=(path,), decode=True, repair=True))
    assert mended.done == (f"{path}: 2 rows removed", f"{path}: 2 rows removed")
    rows = ImageTable.open(path).read(["origin", "image_index", "reason"]).to_pylist()
    assert sorted((r["origin"] == REAL, r["image_index"]) for r in rows) == [(False, 0)] * 2 + [
        (False, 1)
    ] * 2 + [(True, 0)]
    assert all(r["reason"] is None for r in rows), "the first of equal keys stays"
    assert [
        what for severity, what in found(doctor(DoctorConfig(paths=(path,)))) if severity == "broken"
    ] == [f"1 real pictures cannot be read, the first of caption {caption_id('x')}, image 0"]


def test_files_of_killed_writers_are_removed_once_they_are_old(project: Path) -> None:
    path = project / "images.lance"
    used = sorted((path / "data").iterdir())
    orphan = path / "data" / "0123456789.lance"
    shutil.copy(used[0], orphan)
    summary = doctor(DoctorConfig(paths=(path,), repair=True))
    assert (
        found(summary) == [("note", "1 files of the last 24 h belong to no version yet")] and orphan.exists()
    )
    long_ago = time.time() - 2 * 24 * 3600
    for file in (*used, orphan):
        os.utime(file, (long_ago, long_ago))
    summary = doctor(DoctorConfig(paths=(path,), repair=True))
    assert [severity for severity, _ in found(summary)] == ["wasteful"]
    assert summary.done == (f"{path}: 1 files removed",)
    assert sorted((path / "data").iterdir()) == used and len(ImageTable.open(path)) == 4


def test_files_of_older_versions_are_no_orphans(project: Path) -> None:
    path = project / "images.lance"
    table = ImageTable.open(path)
    table.append([row("a bird"), row("a bird", 1)])
    lance.dataset(str(path)).optimize.compact_files()
    for file in (path / "data").iterdir():
        os.utime(file, (0, 0))
    assert found(doctor(DoctorConfig(paths=(path,)))) == []


@pytest.mark.slow
def test_compaction_keeps_rows_columns_and_origins(project: Path) -> None:
    path = project / "images.lance"
    table = ImageTable.open(path)
    for index in range(60):
        table.append([row(f"caption {index}")])
    table = table.reload().write_columns([0], {"score": pa.array([0.5])})
    names = ["origin", "caption_id", "image_index", "image", "score"]
    keys = [("caption_id", "ascending"), ("image_index", "ascending")]
    before = table.read(names).sort_by(keys)
    assert ("wasteful", "61 of 61 fragments have fewer than 10,000 rows") in found(
        doctor(DoctorConfig(paths=(path,)))
    )
    summary = doctor(DoctorConfig(paths=(path,), compact=True, hours=0))
    assert "61 fragments joined to 1" in summary.done[0]
    table = ImageTable.open(path)
    assert table.read(names).sort_by(keys).equals(before) and table.origins() == {ORIGIN: SETTINGS}
    assert table.append([row("a cat"), row("after it")]) == 1
    assert all("fragments" not in what for _, what in found(doctor(DoctorConfig(paths=(path,)))))


def test_a_table_with_a_damaged_file_is_named_and_the_others_examined(project: Path) -> None:
    for path in (project / "images.lance" / "data").iterdir():
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"images\.lance could not be read .*stablerep doctor"):
        ImageTable.open(project / "images.lance").positions(f"status = '{OK}'")
    manifests = sorted((project / "captions.lance" / "_versions").glob("*.manifest"))
    manifests[0].write_bytes(b"\xff\xff\xff\x7f" * 8 + manifests[0].read_bytes()[-16:])
    summary = doctor(DoctorConfig(paths=(project,)))
    assert [finding.severity for finding in summary.findings] == ["broken", "broken"]
    assert [Path(finding.path).name for finding in summary.findings] == ["captions.lance", "images.lance"]


def test_captions_whose_identity_is_wrong_are_named(project: Path) -> None:
    table = CaptionTable.open(project / "captions.lance")
    table.append([{"id": "1", "text": "a bird", "source": "test", "group": "g"}])
    summary = doctor(DoctorConfig(paths=(project / "captions.lance",)))
    assert found(summary) == [("broken", "1 captions have an id that is not the hash of their text")]


def write_run(path: Path, step: int | None, num_steps: int = 10, *, product: bool = False) -> Path:
    path.mkdir(parents=True)
    config = {"num_steps": num_steps, "data": {"images": []}}
    (path / "run.json").write_text(json.dumps({"kind": "simclr", "config": config}))
    (path / "metrics.jsonl").write_text(json.dumps({"step": 7, "loss": 1.0}) + "\n")
    if step is not None:
        torch.save({"step": step}, path / "checkpoint.pt")
    if product:
        (path / "encoder").mkdir()
    return path


def test_runs_without_their_end_are_named(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "a-sound", 10, product=True)
    write_run(tmp_path / "runs" / "b-begun", None)
    write_run(tmp_path / "runs" / "c-stopped", 4)
    write_run(tmp_path / "runs" / "d-not-exported", 10)
    broken = write_run(tmp_path / "runs" / "e-torn", 10, product=True)
    (broken / "checkpoint.pt").write_bytes((broken / "checkpoint.pt").read_bytes()[:200])
    (write_run(tmp_path / "runs" / "f-no-json", 10, product=True) / "run.json").write_text("{")
    (write_run(tmp_path / "runs" / "f-no-object", 10, product=True) / "run.json").write_text("[]")
    torn = write_run(tmp_path / "runs" / "g-left", 10, product=True) / ".checkpoint.pt.0123456789abcdef"
    torn.write_bytes(b"half")
    os.utime(torn, (0, 0))
    summary = doctor(DoctorConfig(paths=(tmp_path,), repair=True))
    by_run: dict[str, str] = {Path(finding.path).name: finding.what for finding in summary.findings}
    assert by_run.keys() == {
        "b-begun", "c-stopped", "d-not-exported", "e-torn", "f-no-json", "f-no-object", "g-left",
    }  # fmt: skip
    assert by_run["b-begun"] == "it has no checkpoint (step 7 was logged)"
    assert by_run["c-stopped"] == "it stopped at step 4 of 10"
    assert by_run["d-not-exported"].startswith("it exported nothing")
    assert by_run["e-torn"].startswith("its checkpoint cannot be read")
    assert by_run["f-no-json"].startswith("its description cannot be read")
    assert "where an object was expected" in by_run["f-no-object"]
    assert not torn.exists() and len(summary.done) == 1


def test_pictures_that_cannot_be_asked_for_are_a_note(tmp_path: Path) -> None:
    """Of a place that is refused, as of a store that does not answer, a sentence says so, and the next is looked at."""
    run = write_run(tmp_path / "run", 10, product=True)
    images = ["s3://me:secret@bucket/images.lance", str(tmp_path / "gone.lance")]
    config = {"num_steps": 10, "data": {"images": images}}
    (run / "run.json").write_text(json.dumps({"kind": "simclr", "config": config}))
    first, second = found(doctor(DoctorConfig(paths=(run,))))
    assert first[0] == second[0] == "note"
    assert first[1].startswith("nobody can tell whether its pictures are still there (")
    assert "secret" not in first[1]
    assert "are not at" in second[1] and "gone.lance" in second[1]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", b'{"kind": "simclr", "config": []}'),
        ("run.json", b'{"kind": "simclr", "config": {"data": {"images": null}}}'),
        ("metrics.jsonl", b'{"step": 1}\n5\n'),
        ("checkpoint.pt", None),
    ],
)
def test_files_of_a_run_that_hold_something_else_are_damage(
    name: str, content: bytes | None, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", 10, product=True)
    if content is None:
        torch.save([1], run / name)
    else:
        (run / name).write_bytes(content)
    ((severity, what),) = found(doctor(DoctorConfig(paths=(run,))))
    assert severity == "broken" and "cannot be read" in what


def test_what_is_no_table_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no paths given"):
        doctor(DoctorConfig(paths=()))
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(UserError, match="neither a table nor a run"):
            doctor(DoctorConfig(paths=(path,)))
