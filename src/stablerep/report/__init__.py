"""The report: one self-contained HTML page about a project, written from files on disk."""

from stablerep.report.write import ReportConfig, write_report

__all__ = ["ReportConfig", "write_report"]
