"""`audit captions`: flagged in the table and in a file, dropped nowhere."""

import json
from pathlib import Path

import pytest
from painted_table import columns, image_row, write_captions, write_images

from stablerep.audit.captions import CaptionAuditConfig, audit_captions, judge_images
from stablerep.audit.verdicts import write_verdicts
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.store import CaptionTable, caption_id

TEXTS = ("a red apple", "photo by @jane, jane@example.org", "a Mickey Mouse shirt", "two dogs")


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    names = "# ours\nMickey Mouse\n\n  Ada Lovelace\n"
    (tmp_path / "names.txt").write_text(names, encoding="utf-8-sig")  # as some editors save it
    return write_captions(tmp_path / "captions.lance", TEXTS)


def verdicts(path: Path) -> dict[str, tuple[bool, str | None]]:
    rows = CaptionTable.open(path).read(["text", "captions_ok", "captions_reason"]).to_pylist()
    return {row["text"]: (row["captions_ok"], row["captions_reason"]) for row in rows}


def test_flagged_captions_stay_with_their_reasons(captions: Path) -> None:
    findings = audit_captions(CaptionAuditConfig(captions=captions, protected=captions.parent / "names.txt"))
    assert verdicts(captions) == {
        TEXTS[0]: (True, None),
        TEXTS[1]: (False, "e-mail address, handle"),
        TEXTS[2]: (False, "protected name"),
        TEXTS[3]: (True, None),
    }
    assert (findings.num_captions, findings.num_flagged, findings.num_protected_names) == (4, 2, 2)
    assert findings.by_kind == {"e-mail address": 1, "handle": 1, "protected name": 1}
    fine = CaptionTable.open(captions).read(["text"], "captions_ok")["text"].to_pylist()
    assert sorted(fine) == sorted([TEXTS[0], TEXTS[3]]), "the filter that paints only what is fine"
    content = json.loads(findings.path.read_text(encoding="utf-8"))
    assert {one["id"]: [place["text"] for place in one["found"]] for one in content["flagged"]} == {
        caption_id(TEXTS[1]): ["jane@example.org", "@jane"],
        caption_id(TEXTS[2]): ["Mickey Mouse"],
    }


def test_a_second_time_with_another_list_replaces_the_verdicts(captions: Path) -> None:
    audit_captions(CaptionAuditConfig(captions=captions, protected=captions.parent / "names.txt"))
    audit_captions(CaptionAuditConfig(captions=captions))
    assert verdicts(captions)[TEXTS[2]] == (True, None)
    assert len(CaptionTable.open(captions)) == 4


def test_pictures_take_over_the_verdict_of_their_caption(captions: Path, tmp_path: Path) -> None:
    images = tmp_path / "images.lance"
    table = write_images(images, [image_row(text, index, b"x") for text in TEXTS for index in range(2)])
    write_verdicts(table, table.positions("image_index = 1"), "quality", ["blurred"] * 4, {})
    audit_captions(CaptionAuditConfig(captions=captions, images=images))
    flagged = caption_id(TEXTS[1])
    for caption, index, keep, why in columns(images, "caption_id", "image_index", "keep", "keep_reason"):
        against = [] if index == 0 else ["quality: blurred"]
        against += ["captions: e-mail address, handle"] if caption == flagged else []
        assert keep == (not against) and (why or "") == "; ".join(against)
    stored = json.loads((tmp_path / "audit.json").read_text())["audits"]["captions"]
    assert stored["num_rejected"] == 2 and stored["worst"][0]["text"] == TEXTS[1]


def test_what_cannot_be_audited_is_a_sentence(captions: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no caption table"):
        audit_captions(CaptionAuditConfig(captions=tmp_path / "absent.lance"))
    for name, content, message in (
        ("empty.txt", b"# only a comment\n", "holds no names"),
        ("latin.txt", "é".encode("latin-1"), "cannot be read"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}.*{message}"):
            audit_captions(CaptionAuditConfig(captions=captions, protected=tmp_path / name))
    with pytest.raises(UserError, match=r"absent.txt.*cannot be read"):
        audit_captions(CaptionAuditConfig(captions=captions, protected=tmp_path / "absent.txt"))
    assert "captions_ok" not in CaptionTable.open(captions).dataset.schema.names
    write_images(tmp_path / "images.lance", [image_row(TEXTS[0], 0, b"x")])
    with pytest.raises(UserError, match="has no column 'captions_ok'"):
        judge_images(tmp_path / "images.lance", captions, None, console=Console(quiet=True))


@pytest.mark.usefixtures("server")
def test_findings_on_pictures_in_an_object_store_lie_beside_those_on_captions(
    captions: Path, tmp_path: Path
) -> None:
    images = Path("s3://bucket/images.lance")
    write_images(images, [image_row(text, 0, b"x") for text in TEXTS])
    with pytest.raises(UserError, match=r"audit.json is a file of this machine: say where with --out"):
        audit_captions(CaptionAuditConfig(captions=captions, images=images))
    assert "captions_ok" not in CaptionTable.open(captions).dataset.schema.names
    out = tmp_path / "found" / "captions.json"
    audit_captions(CaptionAuditConfig(captions=captions, images=images, out=out))
    stored = json.loads(out.with_name("audit.json").read_text())["audits"]["captions"]
    assert stored["num_rejected"] == 1 and out.exists()
