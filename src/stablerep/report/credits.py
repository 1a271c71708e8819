"""Whose pictures the page shows: licences by style, and the notice of the world that ships with the package."""

from collections import Counter
from importlib import resources

from stablerep.report.reading import IS_REAL, Project
from stablerep.report.settings import grouped

_ICONS = "icons"
_LICENCE_TEXTS = {"CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/"}


def find_credits(project: Project) -> list[str]:
    """One sentence per style and licence of the real pictures; painters learned from them or are measured on them."""
    rows = project.image_rows(["style", "licence"], IS_REAL)
    counts = Counter((row["style"] or "no style", row["licence"] or "no licence on record") for row in rows)
    notices = _notices() if counts and _shows_icons(project) else {}
    sentences = [
        f"{notices.get(style, style)}: {grouped(count)} real pictures, {licence}"
        + (f" ({_LICENCE_TEXTS[licence]})" if licence in _LICENCE_TEXTS else "")
        + "."
        for (style, licence), count in sorted(counts.items())
    ]
    return [*sentences, "The pictures of icons were resized and re-encoded."] if notices else sentences


def _shows_icons(project: Project) -> bool:
    return any(table.dataset.count_rows(filter=f"source = '{_ICONS}'") for table in project.captions)


def _notices() -> dict[str, str]:
    """Style -> work and copyright, from the table in the notice of the icons data."""
    text = (resources.files("stablerep") / "data" / "NOTICE-icons.md").read_text(encoding="utf-8")
    cells = [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    return {style: f"{work}, {owner}" for style, work, owner, _ in cells[2:]}
