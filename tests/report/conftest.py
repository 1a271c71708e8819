"""The project is built once per session; tests that change one build their own."""

from pathlib import Path

import pytest
from html_page import ParsedPage
from report_project import write_project

from stablerep.report import ReportConfig, write_report


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
