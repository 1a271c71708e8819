"""Whose pictures the page shows: the licences of the real pictures by style, and credits for the icons world."""

from collections import Counter

from stablerep.report.reading import IS_REAL, Project
from stablerep.report.settings import grouped

_ICONS = "icons"
_CREDITS = {  # in short what data/NOTICE-icons.md says in full
    "noto": "Noto Emoji, Copyright Google LLC",
    "twemoji": "Twemoji, Copyright Twitter, Inc and other contributors",
    "fluent": "Fluent Emoji, Copyright Microsoft Corporation",
    "clipart": "Open Clip Art Library, dedicated to the public domain by its authors",
}
_LICENCES = {
    "CC-BY-4.0": "CC-BY-4.0, https://creativecommons.org/licenses/by/4.0/",
    "LicenseRef-PublicDomain": "public domain",
}


def find_credits(project: Project) -> list[str]:
    """One sentence per style and licence of the real pictures in the tables."""
    rows = project.image_rows(["style", "licence"], IS_REAL)
    counts = Counter((row["style"] or "no style on record", row["licence"]) for row in rows)
    is_icons = any(table.dataset.count_rows(filter=f"source = '{_ICONS}'") for table in project.captions)
    credits = _CREDITS if is_icons else {}
    sentences = [
        f"{credits.get(style, style)} ({_LICENCES.get(licence, licence or 'no licence on record')}): "
        f"{grouped(count)} real pictures."
        for (style, licence), count in sorted(counts.items(), key=str)
    ]
    return [*sentences, "All were resized and re-encoded."] if is_icons and sentences else sentences
