"""Whose pictures the page shows: the licences of the real pictures by style, and credits for the icons world."""

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
    None: "no licence on record",
}


def find_credits(project: Project) -> list[str]:
    """One sentence per style and licence of the real pictures in the tables."""
    rows = project.image_columns(["style", "licence"], IS_REAL)
    counts = rows.group_by(["style", "licence"]).aggregate([([], "count_all")]).to_pylist()
    is_icons = any(table.dataset.count_rows(filter=f"source = '{_ICONS}'") for table in project.captions)
    sentences = [
        f"{_credit(row['style'], is_icons)} ({_LICENCES.get(row['licence'], row['licence'])}): "
        f"{grouped(row['count_all'])} real pictures."
        for row in sorted(counts, key=lambda row: (str(row["style"]), str(row["licence"])))
    ]
    return [*sentences, "All were resized and re-encoded."] if is_icons and sentences else sentences


def _credit(style: str | None, is_icons: bool) -> str:
    if style is None:
        return "no style on record"
    return _CREDITS.get(style, style) if is_icons else style
