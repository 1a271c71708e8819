"""The audits on the page: counts, facts, histograms and the worst pictures, from the table and audit.json."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from html_page import ParsedPage
from report_project import CAPTIONS, NASTY, ORIGIN, png, write_paintings, write_run, write_world

from stablerep.audit.bias import BiasAuditConfig, audit_bias
from stablerep.audit.copies import CopyAuditConfig, audit_copies
from stablerep.audit.everything import AuditAllConfig, audit_all
from stablerep.audit.quality import QualityRules
from stablerep.errors import UserError
from stablerep.report import ReportConfig, write_report
from stablerep.report.audits import read_audits
from stablerep.report.figures import Panel, histogram_figure
from stablerep.report.neighbours import NeighbourConfig
from stablerep.report.reading import open_project
from stablerep.store import REAL, ImageTable, caption_id


@pytest.fixture(scope="module")
def audited_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Paintings whose pictures of one caption are alike, so that some repeat another."""
    folder = tmp_path_factory.mktemp("audited")
    write_world(folder / "world")
    write_paintings(folder / "images.lance")
    audit_all(
        AuditAllConfig(
            images=folder / "images.lance",
            captions=folder / "world" / "captions.lance",
            quality=QualityRules(min_difference=30.0),
        )
    )
    return folder


@pytest.fixture
def audited(audited_once: Path, tmp_path: Path) -> Path:
    """A copy of these paintings that a test may change."""
    return Path(shutil.copytree(audited_once, tmp_path / "audited"))


def page_of(folder: Path) -> ParsedPage:
    config = ReportConfig(
        folders=(folder,), out=folder / "page.html", neighbours=NeighbourConfig(num_queries=0), num_captions=1
    )
    return ParsedPage(write_report(config).read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_page_says_what_the_audits_found(audited: Path) -> None:
    stored = json.loads((audited / "audit.json").read_text())
    rejected = stored["audits"]["quality"]["num_rejected"]
    assert 0 < rejected < 14
    page = page_of(audited)
    sections = [attributes["id"] for tag, attributes in page.elements if tag == "section"]
    assert sections[:3] == ["asked", "painted", "audits"]
    assert f"Of 14 audited pictures in images.lance the mask keeps {14 - rejected}" in page.visible
    assert f"{rejected} of 14 pictures" in page.visible and "0 of 14 pictures" in page.visible
    assert "repeats image" in page.visible
    descriptions = [attributes.get("aria-label", "") for tag, attributes in page.elements if tag == "svg"]
    assert any("Histograms of quality spread" in text for text in descriptions)
    assert "quality blur" in page.visible
    worst = stored["audits"]["quality"]["worst"]
    assert len(worst) == rejected
    assert sum(text.startswith("painted picture") for text in shown(page)) >= rejected


@pytest.mark.slow
def test_copies_are_shown_beside_what_they_repeat(audited: Path) -> None:
    """One painting repeats a real picture to the pixel; what it repeats is named as a reader would name it."""
    table = ImageTable.open(audited / "images.lance")
    (copied,) = table.take_images(table.positions("status = 'ok'")[:1])
    of = CAPTIONS[2]
    real = {"origin": REAL, "caption_id": caption_id(of), "image_index": 7, "image": copied, "status": "ok"}
    ImageTable.open_or_create(audited / "real.lance").append(
        [real | {"width": 32, "height": 32, "group": "g"}]
    )
    audit_copies(CopyAuditConfig(images=audited / "images.lance", reference=audited / "real.lance"))
    page = page_of(audited)
    assert f"exact copy, beside “{of}” (real, image 7)" in page.visible
    assert f"real/{caption_id(of)}/7" not in page.visible
    assert "on the right the real one" in page.visible
    assert f"real picture 7 of “{of}”" in shown(page)
    (audited / "real.lance").rename(audited / "moved.lance")
    page = page_of(audited)
    assert "The real pictures beside them cannot be shown: " in page.visible and "real.lance" in page.visible
    assert f"exact copy, beside “{of}” (real, image 7)" in page.visible
    assert f"real picture 7 of “{of}”" not in shown(page)


def shown(page: ParsedPage) -> list[str]:
    """Descriptions of the pictures."""
    return [attributes["alt"] for tag, attributes in page.elements if tag == "img"]


ATTRIBUTES = """
[attributes.paint]
accuracy = 0.6
[attributes.paint.values]
red = '\\bred\\b'
green = '\\bgreen\\b'
[attributes.paint.target]
red = 0.25
green = 0.75
[attributes.paint.groups]
squares = 'square|disc'
all = ''
[attributes.size.values]
tiny = 'tiny'
huge = 'huge'
"""


@pytest.mark.slow
def test_shares_stand_beside_their_target(audited: Path) -> None:
    """Of two attributes one is read, from labels of real discs; the other is not, and the page says so."""
    run = write_run(audited / "runs" / "judge")
    rows = [
        {"origin": REAL, "caption_id": colour, "image_index": index, "image": png(colour, shift=index % 6 - 3),
         "status": "ok", "width": 32, "height": 32, "label": colour}
        for colour in ("red", "green")
        for index in range(30)
    ]  # fmt: skip
    ImageTable.open_or_create(audited / "labelled.lance").append(rows)
    (audited / "attributes.toml").write_text(ATTRIBUTES)
    audit_bias(
        BiasAuditConfig(
            images=audited / "images.lance",
            captions=audited / "world" / "captions.lance",
            attributes=audited / "attributes.toml",
            reference=audited / "labelled.lance",
            reference_by="label",
            encoder=str(run),
            num_bootstrap=50,
        )
    )
    found = json.loads((audited / "bias.json").read_text())["paint"]["groups"]["squares"]
    page = page_of(audited)
    figures = [attributes.get("aria-label", "") for tag, attributes in page.elements if tag == "svg"]
    assert sum("Shares of red, green in the pictures of squares, all" in text for text in figures) == 2
    squares, _, summary = (table for table in page.tables if table[0][0] in ("value", "group"))
    assert squares[0] == ["value", "pictures", "target", "captions"]
    red = found["shares"]["red"]
    assert squares[1][1:] == [
        " ".join([f"{100 * red['value']:.1f}", f"{100 * red['low']:.1f} \u2013 {100 * red['high']:.1f}"]),
        "25.0",
        "50.0",
    ]
    grown = found["amplification"]["pictures to answers"]
    assert summary[1][0] == "squares"
    assert summary[0][:3] == ["group", "from the target", "by chance up to"]
    assert summary[1][2] == f"{100 * found['total variation by chance']:.1f}"
    assert summary[1][4].startswith(f"{round(100 * grown['value'], 1) + 0.0:+.1f}".replace("-", "\u2212"))
    assert "\u22120.0" not in page.visible
    assert "Not read: real pictures of 0 groups state 'tiny'" in page.visible
    assert "paint of squares" not in page.visible, "the table says it"
    (audited / "bias.json").write_text('{"paint": {}}')
    with pytest.raises(UserError, match=r"bias.json does not hold what audit bias found"):
        page_of(audited)
    (audited / "bias.json").unlink()
    assert "paint of squares" in page_of(audited).visible


@pytest.mark.slow
def test_captions_from_outside_stay_text(audited: Path) -> None:
    content = json.loads((audited / "audit.json").read_text())
    content["audits"]["captions"]["worst"] = [
        {
            "origin": ORIGIN,
            "caption_id": "gone",
            "image_index": 0,
            "text": NASTY,
            "score": None,
            "reason": "<b>x</b>",
        }
    ]
    (audited / "audit.json").write_text(json.dumps(content))
    page = page_of(audited)
    assert NASTY in page.visible and "<b>x</b>" in page.visible
    assert page.tags().isdisjoint({"script", "b"})


def test_without_audits_there_is_no_section(tmp_path: Path) -> None:
    write_paintings(tmp_path / "images.lance", CAPTIONS[:2])
    page = page_of(tmp_path)
    assert "audits" not in [attributes.get("id") for _, attributes in page.elements]
    assert read_audits(open_project((tmp_path,), None, None, None)) == []


def test_damaged_findings_are_named(audited: Path) -> None:
    (audited / "audit.json").write_text('{"images": "images.lance"}')
    with pytest.raises(UserError, match=r"audit.json does not hold audits"):
        read_audits(open_project((audited,), None, None, None))


@pytest.mark.slow
def test_a_histogram_takes_any_values() -> None:
    panels = [
        Panel(name="equal", fine=np.ones(5), rejected=np.array([])),
        Panel(name="wide", fine=np.array([0.0, 1e6]), rejected=np.array([-3.0])),
        Panel(name="one", fine=np.array([]), rejected=np.array([2.0])),
        Panel(name="more", fine=np.random.default_rng(0).normal(size=500), rejected=np.zeros(3)),
    ]
    figure = histogram_figure(panels, "audit-test")
    for name in ("equal", "wide", "one", "more"):
        assert name in figure.wide and name in figure.narrow
