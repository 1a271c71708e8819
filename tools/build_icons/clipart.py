"""Open Clip Art: one concept per drawing, names from its metadata."""

import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .clipart_text import JUNK_TITLE, clean_description, clean_tags, name_from, stem_text, unescape
from .labels import clipart_label
from .records import Drawing, Report

DROPPED_FOLDERS = (
    "computer", "shapes", "special", "signs_and_symbols/flags", "signs_and_symbols/led",
    "unsorted/duplicates",
    "logos", "buttons", "recreation/games/cards/bordered", "recreation/games/cards/simple",
    "recreation/games/cards/ornamental", "recreation/games/cards/cardbacks",
)  # fmt: skip
DUBLIN = "{http://purl.org/dc/elements/1.1/}"
SUITS = {"c": "clubs", "d": "diamonds", "h": "hearts", "s": "spades"}
RANKS = {
    "a": "ace", "2": "two", "3": "three", "4": "four", "5": "five", "6": "six", "7": "seven", "8": "eight",
    "9": "nine", "10": "ten", "j": "jack", "q": "queen", "k": "king",
}  # fmt: skip
FOLDER_NOUNS = (  # (folder, suffix that its short file names need)
    ("transportation/aiga-symbols", "sign"), ("signs_and_symbols/map_symbols/aiga", "sign"),
    ("transportation/roadsigns", "road sign"), ("recreation/games/chess/chesspieces", "chess piece"),
    ("signs_and_symbols/clocks/clock", "clock"),
)  # fmt: skip
PATTERNS = (  # file names that say more than their titles
    (r"unsorted/caterpillar$", "bulldozer"), (r"unsorted/ape_miele$", "honeycomb with bees"),
    (r"(^|/)home\d+$", "house"), (r"smilies/(smiley\d*|base)$", "smiley face"), (r"star_rat",
    "star rating"), (r"hat_-_clothing", "hat"), (r"extremadura", "map of Extremadura"), (r"bypasspruner",
    "pruner"), (r"bypasslopper", "lopper"), (r"north_arrow", "north arrow"), (r"people/head\d+$",
    "person's head"),
    (r"stickmen/sm_\d+$", "stick man"), (r"boating_rules", "boating rules illustration with sailing boats"),
    (r"elder_sign", "elder sign"), (r"bullet_hole", "bullet hole"), (r"/map_symbols/tree_-", "tree on a map"),
    (r"/map_symbols/hill_-", "hill on a map"), (r"/map_symbols/mountain_-", "mountain on a map"),
    (r"/clocks/clock\d*$", "clock"), (r"baloon\d", "balloon"), (r"pantyhose", "pantyhose"),
)  # fmt: skip
VARIANT_WORDS = {
    "bw", "b", "w", "color", "colour", "simple", "black", "white", "red", "green", "blue", "yellow", "orange",
    "purple", "pink", "brown", "grey", "gray", "r", "s", "t", "alt", "chocolate", "vanilla", "ganson",
}  # fmt: skip
SERIES = {
    "paint roller sign": r"paint_roller_(banner|border)|wet_paint_sign",
    "spruce": r"christmas/xmas$|evergreen/tree$",
    "silhouette": r"people/silhouette_(fe)?male",
}
SHARED_TITLE = 4  # a title of so many drawings names a collection
MAP_WORDS = {"map", "maps", "of", "shaded", "black", "outline", "contour", "simple", "coastline",
"silhouette", "a", "an", "shading", "with",
             "without", "boundaries", "states", "state", "regions", "region", "counties"}  # fmt: skip
PREFERRED = (
    "transportation/aiga",
    "transportation/roadsigns",
    "recreation/games/chess",
    "recreation/music",
    "science/",
)
TEXT_TAGS = {"text", "tspan", "textPath", "flowRoot", "flowPara"}
SHAPE_TAGS = {"path", "rect", "circle", "ellipse", "polygon", "polyline", "line", "image", "use"}


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What an SVG says about itself."""

    title: str
    author: str | None
    description: str | None
    tags: list[str]
    only_text: bool


def read_metadata(path: Path) -> Metadata:
    """Title, author, description and tags of the first RDF block."""
    root = ElementTree.fromstring(path.read_bytes())
    names = [str(element.tag).rpartition("}")[2] for element in root.iter()]
    subject = next(root.iter(f"{DUBLIN}subject"), None)
    tags = (
        [item.text for item in subject.iter() if item.text and item.tag.endswith("}li")]
        if subject is not None
        else []
    )
    creator = next(root.iter(f"{DUBLIN}creator"), None)
    author = None
    if creator is not None:
        author = next((unescape(e.text) for e in creator.iter(f"{DUBLIN}title") if unescape(e.text)), None)
    shapes = sum(name in SHAPE_TAGS for name in names)
    return Metadata(
        title=_first(root, "title"), author=author, description=_first(root, "description") or None,
        tags=tags,
        only_text=shapes == 0 and any(name in TEXT_TAGS for name in names),
    )  # fmt: skip


def _first(root: ElementTree.Element, name: str) -> str:
    return next((unescape(e.text) for e in root.iter(f"{DUBLIN}{name}") if unescape(e.text)), "")


def read_clipart(root: Path, names: dict[str, str], report: Report) -> Iterator[Drawing]:
    """All drawings that have something to say; `names` maps emoji names to sub-categories."""
    found = dict(_metadata(root, report))
    titles = Counter(metadata.title for metadata in found.values())
    for path, metadata in found.items():
        relative = path.relative_to(root).as_posix()
        drawing = _drawing(path, relative, metadata, names, shared=titles[metadata.title] >= SHARED_TITLE)
        if drawing is None:
            report.drop("clipart: nothing informative in title, file name and tags")
            continue
        yield drawing


def _metadata(root: Path, report: Report) -> Iterator[tuple[Path, Metadata]]:
    for path in sorted(root.rglob("*.svg")):
        relative = path.relative_to(root).as_posix()
        if any(relative.startswith(f"{folder}/") for folder in DROPPED_FOLDERS):
            report.drop("clipart: folder left out")
            continue
        try:
            metadata = read_metadata(path)
        except ElementTree.ParseError:
            report.drop("clipart: not well-formed")
            continue
        if metadata.only_text:
            report.drop("clipart: text only")
            continue
        yield path, metadata


def _drawing(
    path: Path, relative: str, metadata: Metadata, names: dict[str, str], *, shared: bool
) -> Drawing | None:
    key = relative.removesuffix(".svg")
    if key.startswith("signs_and_symbols/") and {"flag", "flags"} & set(metadata.tags) and "golf" not in key:
        return None
    folder = key.rpartition("/")[0]
    tags = clean_tags(metadata.tags, metadata.author)
    name = clipart_name(key, metadata, tags, shared=shared)
    if name is None or re.search(r"\b(nude|naked|porn|sexy)\b", name):
        return None
    identity = f"clipart/{key}"
    base = "clipart/playing card" if "playing card" in name else f"clipart/{series_of(key)}"
    return Drawing(
        picture_id=identity, style="clipart", concept=identity, name=name, keywords=tags,
        description=clean_description(metadata.description, metadata.author),
        label=clipart_label(folder, name, names), base=base, path=path, licence="LicenseRef-PublicDomain",
        title=metadata.title or path.stem, author=metadata.author,
    )  # fmt: skip


def clipart_name(key: str, metadata: Metadata, tags: tuple[str, ...], *, shared: bool) -> str | None:
    """The best name: a known file-name pattern, the title, the file name, or the tags."""
    card = re.search(r"cards/\w+/\w+_([cdhs])_(\w+)$", key)
    if card:
        return f"playing card showing the {RANKS[card[2]]} of {SUITS[card[1]]}"
    if re.search(r"cards/\w+/\w+_jk_", key):
        return "joker playing card"
    for pattern, name in PATTERNS:
        if name and re.search(pattern, key):
            return name
    stem = stem_text(key.rpartition("/")[2], metadata.author)
    candidates = [stem] if JUNK_TITLE.match(metadata.title) else [metadata.title, stem]
    for text in reversed(candidates) if shared else candidates:
        found = name_from(text, metadata.author)
        if found:
            return _map_name(key, tags, _with_folder_noun(key, found))
    from_tags = [tag for tag in tags if tag not in _vague()]
    return " ".join(reversed(from_tags[:1])) if len(from_tags) >= 2 else None


def _map_name(key: str, tags: tuple[str, ...], name: str) -> str:
    """Maps are called after the place alone: 'queensland shaded' -> 'shaded map of Queensland'."""
    single = key.startswith("geography/") and len(name.split()) == 1 and name[0].isupper()
    if "/" in key.removeprefix("geography/") or not ("map" in tags or single):
        return name
    if re.search(r"\b(under|globe|world|Earth)\b", name):
        return name
    style = next((word for word in ("shaded", "black", "outline") if word in f"{name} {key}"), "")
    place = [word for word in name.split() if word not in MAP_WORDS and not word.isdigit()]
    place = [word if word in {"and", "of", "the"} else word[:1].upper() + word[1:] for word in place]
    return f"{style} map of {' '.join(place)}".strip() if place else name


def _with_folder_noun(key: str, name: str) -> str:
    for folder, noun in FOLDER_NOUNS:
        if key.startswith(folder) and "sign" not in name.split() and noun.split()[-1] not in name:
            return f"{name} {noun}"
    return name


def series_of(key: str) -> str:
    """One drawing in variants (numbered, recoloured, black and white) is one series."""
    for series, pattern in SERIES.items():
        if re.search(pattern, key):
            return series
    folder, _, stem = key.rpartition("/")
    words = [word for word in re.split(r"[_\-\d]+", stem.lower()) if word and word not in VARIANT_WORDS]
    return f"{folder}/{''.join(words)}" if words else key


def copy_rank(drawing: Drawing) -> tuple[bool, int, str]:
    """Which of several equal drawings stays: the one in the most specific folder."""
    key = drawing.concept.removeprefix("clipart/")
    return not key.startswith(PREFERRED), -key.count("/"), key


def _vague() -> set[str]:
    return {
        "animal", "people", "food", "office", "symbol", "sign", "recreation", "festive", "tool", "plant",
        "mammal",
        "holiday", "transport", "transportation", "building", "menu", "work", "icon", "education",
        "shape", "geography",
        "sports", "entertainment", "music", "equipment", "logo", "smiley", "religion", "party", "simple",
        "white",
        "weather", "map", "decoration", "fun", "computer", "cartoon", "color", "black", "cute", "art",
        "bird", "fruit",
        "icons", "insect", "vehicle", "dessert", "beverage", "container", "clothing", "weapon",
        "caution", "warning",
    }  # fmt: skip
