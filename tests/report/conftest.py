"""The project is built once per session; tests that change one build their own."""

from pathlib import Path

import pytest
from html_page import ParsedPage
from report_project import write_project
from report_trends import write_circle, write_compared

from stablerep.report import ReportConfig, write_report
from stablerep.report.neighbours import NeighbourConfig


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("report") / "small-project")


@pytest.fixture(scope="session")
def written(project: Path) -> Path:
    """The report on the project."""
    return write_report(ReportConfig(folders=(project,), out=project.parent / "out" / "index.html"))


@pytest.fixture(scope="session")
def page(written: Path) -> ParsedPage:
    return ParsedPage(written.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def compared_and_turned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report on a comparison and a circle."""
    folder = tmp_path_factory.mktemp("compared")
    folders = (write_compared(folder / "compare"), write_circle(folder / "circle"))
    search = NeighbourConfig(num_queries=0)
    return write_report(ReportConfig(folders=folders, out=folder / "index.html", neighbours=search))
