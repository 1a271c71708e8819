"""The emoji: three styles of one list of concepts."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .emoji_names import NAMES, hair_name, polished
from .records import Drawing, Report, stable_hash

TONES = {
    "1f3fb": "light",
    "1f3fc": "medium-light",
    "1f3fd": "medium",
    "1f3fe": "medium-dark",
    "1f3ff": "dark",
}
TONES_KEPT = 2
DROPPED_CATEGORIES = {"Flags", "Component"}
DROPPED_SUBCATEGORIES = {
    "alphanum", "keycap", "arrow", "av-symbol", "geometric", "currency", "gender", "math", "punctuation",
    "zodiac",
}  # fmt: skip
DROPPED_CODES = {
    "00a9-fe0f", "00ae-fe0f", "2122-fe0f", "27b0", "27bf", "303d-fe0f", "2733-fe0f", "2734-fe0f",
    "2747-fe0f", "274e", "2b55", "1f3e7", "1f6be", "1f4af",
}  # typography, or a bare mark on a square  # fmt: skip
LICENCES = {"noto": "Apache-2.0", "twemoji": "CC-BY-4.0", "fluent": "MIT"}
AUTHORS = {
    "noto": "Google",
    "twemoji": "Twitter, Inc and other contributors",
    "fluent": "Microsoft Corporation",
}
SAME_GROUP = (
    ("child", {"1f466", "1f467", "1f9d2"}),
    ("adult", {"1f468", "1f469", "1f9d1"}),
    ("older adult", {"1f474", "1f475", "1f9d3"}),
    ("royalty", {"1f478", "1f934", "1fac5"}),
    ("christmas person", {"1f385", "1f936", "1f9d1-1f384"}),
    ("pregnant", {"1f930", "1fac3", "1fac4"}),
    ("dancer", {"1f483", "1f57a"}),
    ("holding hands", {"1f46b", "1f46c", "1f46d", "1f9d1-1f91d-1f9d1"}),
    ("book", {"1f4d5", "1f4d7", "1f4d8", "1f4d9"}),
    ("mailbox", {"1f4ea", "1f4eb", "1f4ec", "1f4ed"}),
    ("globe", {"1f30d", "1f30e", "1f30f"}),
)
MOON = {f"{code:x}" for code in range(0x1F311, 0x1F319)}
PEOPLE = {"1f466", "1f467", "1f468", "1f469", "1f9d1", "1f9d2"}


@dataclass(frozen=True, kw_only=True)
class EmojiSources:
    """Folders and keyword table of the npm packages."""

    npm: Path
    keywords: dict[str, list[str]]

    def picture(self, style: str, code: str) -> Path | None:
        """The picture file of a code point sequence, if the style has one."""
        if style != "fluent":
            package = {"noto": "google", "twemoji": "twitter"}[style]
            path = self.npm / f"emoji-datasource-{package}" / "img" / package / "64" / f"{code}.png"
            return path if path.exists() else None
        folder = self.npm / "@lobehub" / "fluent-emoji-3d" / "assets"
        for candidate in (code, code.replace("-fe0f", ""), f"{code}-fe0f"):
            if (folder / f"{candidate}.webp").exists():
                return folder / f"{candidate}.webp"
        return None


def load_sources(npm: Path) -> EmojiSources:
    """Open the keyword table; keys lose their variation selectors."""
    table = json.loads((npm / "emojilib" / "dist" / "emoji-en-US.json").read_text("utf-8"))
    return EmojiSources(npm=npm, keywords={key.replace("\ufe0f", ""): words for key, words in table.items()})


def load_entries(npm: Path) -> list[dict[str, Any]]:
    """All emoji of the metadata that may enter."""
    entries = json.loads((npm / "emoji-datasource-google" / "emoji.json").read_text("utf-8"))
    return [
        entry for entry in entries
        if entry["category"] not in DROPPED_CATEGORIES and entry["subcategory"] not in DROPPED_SUBCATEGORIES
        and entry["unified"].lower() not in DROPPED_CODES
    ]  # fmt: skip


def categories(npm: Path) -> dict[str, str]:
    """Sub-category -> category."""
    return {entry["subcategory"]: entry["category"] for entry in load_entries(npm)}


def read_emoji(npm: Path, report: Report) -> Iterator[Drawing]:
    """All emoji pictures, tones thinned to two per base."""
    sources = load_sources(npm)
    for entry in load_entries(npm):
        for code, tone in _codes(entry, report):
            yield from _drawings(sources, entry, code, tone, report)


def _codes(entry: dict[str, Any], report: Report) -> Iterator[tuple[str, str | None]]:
    code = entry["unified"].lower()
    yield code, None
    variants: dict[str, str] = {}
    for key, variation in entry.get("skin_variations", {}).items():
        parts = set(key.lower().split("-"))
        if len(parts) == 1:
            variants[parts.pop()] = variation["unified"].lower()
    ranked = sorted(variants, key=lambda tone: stable_hash("tone", base_of(code), tone))
    for tone in ranked[:TONES_KEPT]:
        yield variants[tone], TONES[tone]
    thinned = len(entry.get("skin_variations", {})) - len(ranked[:TONES_KEPT])
    report.dropped["emoji: further skin tones (concepts)"] += max(0, thinned)


def _drawings(
    sources: EmojiSources, entry: dict[str, Any], code: str, tone: str | None, report: Report
) -> Iterator[Drawing]:
    name = emoji_name(sources, entry["unified"].lower())
    if tone:
        name += f" and {tone} skin" if " with " in name else f" with {tone} skin tone"
    paths = {style: sources.picture(style, code) for style in LICENCES}
    if not paths["noto"] and not paths["twemoji"]:
        report.drop("emoji: no noto or twemoji picture")
        return
    for style, path in paths.items():
        if path is None:
            report.drop(f"emoji: no {style} picture of the concept")
            continue
        yield Drawing(
            picture_id=f"{style}/{code}", style=style, concept=f"emoji/{code}", name=name,
            keywords=_keywords(sources, entry["unified"]), description=None, label=entry["subcategory"],
            base=f"emoji/{base_of(code)}", path=path, licence=LICENCES[style], title=entry["name"],
            author=AUTHORS[style], skin_tone=tone, gender=_gender(name),
        )  # fmt: skip


def _characters(code: str) -> str:
    return "".join(chr(int(part, 16)) for part in code.split("-")).replace("\ufe0f", "")


def emoji_name(sources: EmojiSources, code: str) -> str:
    """The name of an emoji: an override, or the first keyword of emojilib."""
    key = code.replace("-fe0f", "")
    if key in NAMES:
        return NAMES[key]
    hair = hair_name(key)
    if hair:
        return hair
    words = sources.keywords[_characters(code)][0]
    return polished(re.sub(r"\s+", " ", words.replace("_", " ")).strip().lower())


def _keywords(sources: EmojiSources, code: str) -> tuple[str, ...]:
    words = (
        word.replace("_", " ").strip().lower() for word in sources.keywords[_characters(code.lower())][1:]
    )
    return tuple(dict.fromkeys(w for w in words if re.fullmatch(r"[a-z]{3,}( [a-z]{2,})?", w)))


def _gender(name: str) -> str | None:
    words = set(re.findall(r"[a-z]+", name.lower()))
    female = bool(words & {"woman", "women", "girl", "princess", "mrs"})
    male = bool(words & {"man", "men", "boy", "prince"})
    if female == male:
        return None
    return "woman" if female else "man"


def base_of(code: str) -> str:
    """Code points without tone, gender, direction and variation selector; families and couples by kind."""
    parts = [part for part in code.split("-") if part not in TONES and part not in {"fe0f"}]
    text = "-".join(parts).replace("-200d-27a1", "").replace("-200d-2642", "").replace("-200d-2640", "")
    parts = [part for part in text.split("-") if part != "200d"]
    if parts == ["1f48f"] or "1f48b" in parts[1:]:
        return "kiss"
    if parts == ["1f491"] or (len(parts) > 1 and "2764" in parts and parts[0] in PEOPLE):
        return "couple with heart"
    if parts == ["1f46a"] or (len(parts) > 1 and set(parts) <= PEOPLE):
        return "family"
    if len(parts) > 1:
        parts = ["1f9d1" if part in {"1f468", "1f469"} else part for part in parts]
    if len(parts) == 1 and parts[0] in MOON:
        return "moon phase"
    base = "-".join(parts)
    for group, members in SAME_GROUP:
        if base in members:
            return group
    return _numbered_base(base)


def _numbered_base(base: str) -> str:
    first = int(base.split("-")[0], 16)
    if 0x1F550 <= first <= 0x1F567:
        return "clock face"
    if base in {
        "2764",
        "1f9e1",
        "1f49b",
        "1f49a",
        "1f499",
        "1f49c",
        "1f90e",
        "1f5a4",
        "1f90d",
        "1fa77",
        "1fa75",
        "1fa76",
    }:
        return "heart"
    return base
