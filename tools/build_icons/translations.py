"""English names for clip art titled in another language, or by words that say too little."""

import csv
from functools import cache
from pathlib import Path


@cache
def _phrases() -> dict[str, str]:
    with (Path(__file__).parent / "translations.tsv").open(encoding="utf-8", newline="") as file:
        return {row["original"]: row["english"] for row in csv.DictReader(file, delimiter="\t")}


def translated(name: str) -> str | None:
    """The English name of a cleaned lower-case title, if the table has one."""
    return _phrases().get(name)
