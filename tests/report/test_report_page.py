"""The page as a whole: complete, self-contained, escaped, and equal to the files it was made from."""

import base64
import io
import json
import re
from pathlib import Path

import pytest
from html_page import ParsedPage
from PIL import Image
from report_project import (
    CAPTIONS,
    NASTY,
    PER_CAPTION,
    REASON,
    TESTS,
    UNBREAKABLE,
    write_paintings,
    write_project,
    write_run,
    write_world,
)

from stablerep.errors import UserError
from stablerep.report import ReportConfig, drawing, write_report
from stablerep.report.neighbours import NeighbourConfig
from stablerep.store import ImageTable

SECTIONS = [
    "asked",
    "painted",
    "training",
    "scores",
    "neighbours",
    "shortcomings",
    "cost",
    "provenance",
    "licences",
]
NO_SEARCH = NeighbourConfig(num_queries=0)


def report_on(folder: Path, out: Path, **settings: object) -> ParsedPage:
    """The parsed report on one folder, without the search for neighbours, and with empty figures."""
    config = ReportConfig(folders=(folder,), out=out, **{"neighbours": NO_SEARCH, **settings})  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "_inline", lambda *_: "<svg></svg>")
        return ParsedPage(write_report(config).read_text(encoding="utf-8"))


def sections_of(page: ParsedPage) -> list[str]:
    return [attributes["id"] for tag, attributes in page.elements if tag == "section"]


def test_all_sections_are_there_in_order(page: ParsedPage) -> None:
    assert sections_of(page) == SECTIONS


def test_nothing_is_loaded_from_elsewhere(page: ParsedPage) -> None:
    assert page.references
    for reference in page.references:
        assert reference.startswith("data:") or (reference[0] == "#" and reference[1:] in page.ids), reference
    assert page.tags().isdisjoint({"script", "iframe", "object", "embed", "base", "form"})
    for style in page.styles:
        assert "@import" not in style
        assert all(target in page.ids for target in re.findall(r"url\(\W*([^)\"']+)", style)), style
    for tag, attributes in page.elements:
        assert tag != "link" or attributes["rel"] == "icon"
        assert not [name for name in attributes if name.startswith(("on", "xmlns"))]


def test_ids_are_unique(page: ParsedPage) -> None:
    assert len(page.ids) == len(set(page.ids))


def test_text_from_outside_is_text(page: ParsedPage) -> None:
    assert page.visible.count(NASTY) >= 2  # in the grid, and as an example of a failure
    assert REASON in page.visible
    descriptions = [attributes["alt"] for tag, attributes in page.elements if tag == "img"]
    assert f"painted picture 1 of “{NASTY}”" in descriptions
    assert page.tags().isdisjoint({"script", "b", "i"})


def test_every_caption_has_its_pictures(page: ParsedPage) -> None:
    descriptions = [attributes["alt"] for tag, attributes in page.elements if tag == "img"]
    for caption in CAPTIONS:
        painted = [
            text
            for text in descriptions
            if text.endswith(f"of “{caption}”") and text.startswith("painted picture ")
        ]
        numbered = {text for text in painted if text.split()[2].isdigit()}
        assert len(numbered) == PER_CAPTION - (caption == NASTY)
        assert f"real picture of “{caption}”" in descriptions
    failed = [attributes for _, attributes in page.elements if attributes.get("class") == "missing"]
    assert [attributes["title"] for attributes in failed] == [REASON]


def test_pictures_are_whole(page: ParsedPage) -> None:
    sources = [attributes["src"] for tag, attributes in page.elements if tag == "img"]
    for source in sources:
        mime_type, _, content = source.partition(";base64,")
        with Image.open(io.BytesIO(base64.b64decode(content, validate=True))) as picture:
            picture.load()
            assert f"data:image/{picture.format}".lower() == mime_type


def test_numbers_equal_those_in_the_files(project: Path, page: ParsedPage) -> None:
    records = json.loads((project / "runs/stablerep-a/scores.json").read_text())["records"]
    tables = {tuple(table[0]): table for table in page.tables if table[0][0] == "encoder"}
    assert list(tables) == [("encoder", "linear probe", "k-NN")]
    shown = {}
    for test, table in zip(TESTS, [table for table in page.tables if table[0][0] == "encoder"], strict=True):
        for row in table[1:]:
            shown |= {
                (test, row[0], protocol): cell
                for protocol, cell in zip(("linear", "knn"), row[1:], strict=True)
            }
    expected = {
        (record["test"], record["encoder"], record["protocol"]): "{:.1f} {:.1f} \u2013 {:.1f}".format(
            *(100 * record["mean_per_class"][name] for name in ("value", "low", "high"))
        )
        for record in records
    }
    assert len({cell.split()[0] for cell in expected.values()}) > 3
    assert shown == expected


def test_the_headline_states_the_numbers(project: Path, page: ParsedPage) -> None:
    records = json.loads((project / "runs/stablerep-a/scores.json").read_text())["records"]
    own, pixels, untrained = (
        f"{100 * record['mean_per_class']['value']:.1f}\u00a0%"
        for record in records
        if record["test"] == TESTS[1] and record["protocol"] == "linear"
    )
    expected = f"the encoder names {own} correctly; raw pixels {pixels}, an untrained network {untrained}."
    assert expected.replace("\u00a0", " ") in page.visible


def test_settings_and_provenance_are_shown(page: ParsedPage) -> None:
    assert "split <> 'test'" in page.visible
    assert "guidance scale 2" in page.visible
    assert "weights 9f9f9f9f9f9f…" in page.visible
    assert "git revision 012345678901…" in page.visible
    assert "torch 2.9.0" in page.visible
    assert page.tables[0][:2] == [
        ["run", "simclr-b", "stablerep-a", UNBREAKABLE],
        ["method", "simclr", "stablerep", "stablerep"],
    ]
    assert f"initial weights not set / {UNBREAKABLE}" in page.visible


def test_what_was_not_good_is_said(page: ParsedPage) -> None:
    text = page.visible[page.visible.index("What was not good") :]
    assert f"1 picture of teacher-a1b2c3 failed: {REASON}" in text
    assert "simclr-b (simclr) did not finish, nothing was exported; its last record is of step 40." in text
    assert "stablerep-a (stablerep) did not finish" not in text
    assert "Skipped: benchmark fashion: no folder was given." in text
    assert "2 pictures of icons were left out" in text
    assert "Where stablerep-a is weakest on icons: test captions, held-out style: " in text


def test_pictures_that_were_painted_again_are_no_incomplete_painting(tmp_path: Path) -> None:
    write_paintings(tmp_path / "images.lance")
    table = ImageTable.open(tmp_path / "images.lance")
    row = table.read(table.schema.names, "image_index = 1").to_pylist()[0]
    table.append([{**row, "image_index": PER_CAPTION}])
    said = (
        "teacher-a1b2c3 has between 3 and 4 pictures per caption: painting is not complete, or some were painted again "
        "after an audit."
    )
    assert said in report_on(tmp_path, tmp_path / "page.html").visible


def test_more_runs_than_colours_are_drawn_alike(tmp_path: Path) -> None:
    for number in range(7):
        write_run(tmp_path / "runs" / f"a-{number}", finished=False)
    page = report_on(tmp_path, tmp_path / "page.html")
    assert "7 runs, drawn alike; they ended at losses from 0.1 to 0.1 after 2560 pictures." in page.visible
    assert "a-3 ended at a loss" not in page.visible


@pytest.mark.slow
def test_licences_of_icons_name_their_owners(page: ParsedPage) -> None:
    assert "Noto Emoji, Copyright Google LLC (Apache-2.0): 5 real pictures." in page.visible
    assert "Fluent Emoji, Copyright Microsoft Corporation (MIT): 5 real pictures." in page.visible


@pytest.mark.slow
def test_the_same_files_give_the_same_page(project: Path, written: Path, tmp_path: Path) -> None:
    again = write_report(ReportConfig(folders=(project,), out=tmp_path / "again.html"))
    assert again.read_bytes() == written.read_bytes()


def test_a_bare_table_still_makes_a_whole_page(tmp_path: Path) -> None:
    write_paintings(tmp_path / "images.lance")
    page = report_on(tmp_path, tmp_path / "page.html", neighbours=NeighbourConfig())
    assert sections_of(page) == SECTIONS
    assert "14 pictures were painted for 5 captions; no encoder has been measured yet." in page.visible
    for sentence in (
        "No training run was given.",
        "No scores were found",
        "none of the runs has exported an encoder",
    ):
        assert sentence in page.visible


@pytest.mark.slow
def test_a_run_alone_is_enough(tmp_path: Path) -> None:
    run = write_run(tmp_path / "alone")
    page = report_on(run, tmp_path / "page.html", neighbours=NeighbourConfig())
    assert sections_of(page) == SECTIONS
    assert "No encoder has been measured yet." in page.visible
    assert "alone ended at a loss of 0.1 after 2560 pictures." in page.visible
    assert "the tables hold no real test pictures" in page.visible


@pytest.mark.slow
def test_a_run_leads_to_the_tables_it_read(tmp_path: Path) -> None:
    write_world(tmp_path / "world")
    write_paintings(tmp_path / "painted.lance")
    data = {"images": [str(tmp_path / "painted.lance")], "captions": str(tmp_path / "world/captions.lance")}
    run = write_run(tmp_path / "runs" / "a", config={"data": data})
    assert "14 pictures for 5 captions, 3 each; 1 failed." in report_on(run, tmp_path / "page.html").visible


def test_a_picture_in_two_tables_counts_once(tmp_path: Path) -> None:
    write_paintings(tmp_path / "a" / "images.lance")
    write_paintings(tmp_path / "b" / "images.lance", CAPTIONS[:3])
    folders = (tmp_path / "a", tmp_path / "b")
    out = write_report(ReportConfig(folders=folders, out=tmp_path / "page.html", neighbours=NO_SEARCH))
    page = ParsedPage(out.read_text(encoding="utf-8"))
    assert "14 pictures for 5 captions, 3 each; 1 failed." in page.visible


def test_wrong_folders_and_damaged_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "absent"):
        with pytest.raises(UserError, match=rf"{folder.name} is neither a run .* nor a project"):
            report_on(folder, tmp_path / "page.html")
    project = write_project(tmp_path / "project")
    for content, complaint in (
        ("[]", "holds a list"),
        ("{", "cannot be read"),
        ("{}", "does not hold scores"),
    ):
        (project / "runs/stablerep-a/scores.json").write_text(content)
        with pytest.raises(UserError, match=rf"scores.json {complaint}"):
            report_on(project, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
