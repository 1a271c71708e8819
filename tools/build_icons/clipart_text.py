"""Readable English names from clip-art titles, file names, tags and descriptions."""

import html
import re

from .translations import translated
from .words import known, with_article

JUNK_TITLE = re.compile(
    r"^(clipart by |r16 |aiga[_ ]symbol|map symbols|svg road signs|road signs|etiquette icons|"
    r"various cliparts|homes clipart|australian maps|part of the|none$|card$|untitled|unnamed|image ?\d*$|"
    r"drawing ?\d*$|icons?$|clip ?art|advertising$|people$|chess pieces|flat icon|no title|new |"
    r"boating rules illus|architetto francesco rollandin|\d+$|sample|test$|default|.*@)",
    re.IGNORECASE,
)
NOISE = {
    "clipart", "clip", "art", "svg", "openclipart", "md", "v0", "v1", "rpg", "aiga", "1m", "bwh", "nicu",
    "buculei", "ganson", "architetto", "francesco", "rollandin", "obligatoire", "symbolic", "inkscape",
    "etiquette", "opencli", "ii",
    "iii", "iv", "version", "remix", "jarno", "frolland", "arch", "simbol", "abiclipart", "abiclipa",
    "rpswb", "r",
    "s", "t", "n", "e", "colour", "color", "mo", "fr", "the", "romus", "peterm", "mimooh", "yves",
    "guillou", "cli",
}  # fmt: skip
COLOURS = {
    "black", "white", "red", "green", "blue", "yellow", "orange", "purple", "pink", "brown", "gray",
    "grey", "gold",
    "golden", "silver", "colored", "coloured",
}  # fmt: skip
TRAILING = {
    "simple",
    "stylized",
    "lit",
    "empty",
    "full",
    "bitten",
    "open",
    "closed",
    "angled",
    "rectangular",
    "round",
    "random",
    "modern",
    "half",
    "symbolic",
}
GENERIC_NAMES = {
    "logo", "icon", "icons", "symbol", "sign", "object", "thing", "sketch", "drawing", "picture",
    "image", "cartoon",
    "illustration", "simple", "mr", "ms", "oh", "quit", "break", "shape", "vector", "cute", "new", "my",
    "sport",
    "none", "title", "air", "part", "test", "mascot", "old", "john", "design", "needs", "you", "have",
    "done", "what", "example", "collection", "menu", "christianity", "profile", "lam", "otto", "saku",
    "bach", "pos", "mars", "user style", "funny", "hash", "tool", "office", "people", "work",
    "roman", "hot", "buddy", "silvia", "female", "male", "blots", "action", "aktion", "question",
    "various", "element",
    "number", "mobile", "unsorted", "recreation", "relief", "manager", "wing symbol", "small", "big",
    "color", "black",
}  # fmt: skip
GENERIC_TAGS = {
    "unsorted", "signs and symbols", "musicstuff", "musicsym", "weathersym", "mapsym", "openclipart",
    "clip art",
    "clipart", "appicon", "usholiday", "religholiday", "cv clip", "hash", "en", "vector", "icon",
    "various", "vectors", "image", "public domain", "external", "svg", "inkscape", "tux", "cc", "sudden",
    "quick",
}  # fmt: skip
FIXES = {
    "mallot": "mallet", "celebirty": "celebrity", "silhouet": "silhouette", "sqaure": "square",
    "tatoo": "tattoo",
    "scrathing": "scratching", "baloon": "balloon", "baloons": "balloons", "trafic": "traffic", "bussiness":
    "business", "icecream": "ice cream", "tickey": "ticket", "sillouette": "silhouette", "guage": "gauge",
    "silhouete": "silhouette", "hikinh": "hiking", "hr": "", "roadsign": "road sign", "bodypart": "body part",
    "bw": "black and white", "padella": "", "fullmoon": "full moon", "chesspieces": "chess piece",
    "ballon": "ball", "simbol": "symbol", "cigarrete": "cigarette", "umbrela": "umbrella",
    "volley": "volleyball", "greyling": "grayling", "grafitti": "graffiti", "mens": "men's",
    "womens": "women's",
    "bday": "birthday", "smily": "smiley", "smilie": "smiley", "vgcats": "", "ninjastar": "ninja star",
    "paperface":
    "paper", "head1": "head", "stickman": "stick man", "gretting": "greeting", "carribean": "caribbean",
}  # fmt: skip
CAPITALS = {
    name.lower(): name
    for name in ["Africa", "Europe", "Asia", "Australia", "America", "Italy", "France", "Spain",
        "Germany", "Poland", "Finland", "Romania", "Ukraine", "Texas", "Christmas", "Easter",
        "Halloween", "Thanksgiving", "Valentine", "Valentines", "Santa", "Claus", "Eiffel", "Chinese",
        "Japanese", "Egyptian", "Mayan", "Aztec", "Celtic", "Greek", "Roman", "Christian", "Jewish",
        "Tux", "Hummer", "Chevrolet", "Toyota", "Labrador", "Canada", "Mexico", "Brazil", "Portugal",
        "Earth", "Mars", "Saturn", "Jupiter", "LCD", "LED", "CD", "DVD", "TV", "USB", "UFO", "US", "USA",
        "UK", "BMW", "Mexican", "American", "Linux", "Debian", "Galicia", "Tasmania", "Queensland",
        "Switzerland", "Austria", "Belgium", "Ireland", "Scotland", "England", "Wales", "Norway",
        "Sweden", "Denmark", "Russia", "China", "India", "Japan", "Indonesia", "Bulgaria", "Hungary",
        "Greece", "Turkey's", "Iceland", "Lithuania", "Latvia", "Estonia", "Slovakia", "Slovenia",
        "Croatia", "Serbia", "Venezuela", "Argentina", "Chile", "Peru", "Colombia", "Andalusia",
        "Catalonia", "Victoria", "NASA", "Jesus", "Buddha"]
}  # fmt: skip


def unescape(text: str | None) -> str:
    """Resolve (doubly) escaped entities and odd white space."""
    return re.sub(r"\s+", " ", html.unescape(html.unescape(text or ""))).strip()


def clean_words(text: str, author: str | None) -> list[str]:
    """Lower-case words of a title or file name without junk, numbers and author names."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", text)
    text = re.sub(r"\bb[ _]?(?:and|&|_|/)[ _]?w\b", " bw ", text, flags=re.IGNORECASE)
    authors = set(re.findall(r"[a-z]{3,}", (author or "").lower()))
    words: list[str] = []
    for word in re.findall(r"[^\W_\d]+(?:'[a-z]+)?", text.lower()):
        if word in NOISE or (word in authors and not known(word, 4.0)):
            continue
        words += FIXES.get(word, word).split()
    while len(words) > 1 and words[0] in {"another", "yet", "my", "a", "an", "and", "of"}:
        words.pop(0)
    while len(words) > 1 and words[-1] in {
        "of",
        "in",
        "on",
        "with",
        "a",
        "and",
        "from",
        "over",
        "at",
        "no",
        "x",
    }:
        words.pop()
    return words


def tidy(words: list[str]) -> str:
    """'cap black and white' -> 'black and white cap'; repeated words once; names capitalised."""
    text = " ".join(dict.fromkeys(words) if len(set(words)) < len(words) and "and" not in words else words)
    if "black and white" in text and not text.startswith("black and white"):
        text = "black and white " + re.sub(r"\s+", " ", text.replace("black and white", " ")).strip()
    parts = text.split()
    if len(parts) > 1 and parts[-1] in TRAILING and parts[-2] not in {"and", "in", "on", "with", "of", "the"}:
        parts = [parts[-1], *parts[:-1]]
    if (len(parts) > 1 and parts[0] in {"contour", "contours"}) or (
        len(parts) > 1 and parts[-1] in {"contour", "silhouette"}
    ):
        rest = [part for part in parts if part not in {"contour", "contours", "silhouette"}]
        parts = ["silhouette", "of", with_article(" ".join(rest))] if rest else parts
    if len(parts) > 1 and parts[-1] == "outline":
        parts = ["outline", "of", with_article(" ".join(parts[:-1]))]
    if len(parts) > 1 and parts[-1] in COLOURS and parts[-2] not in {"and", "in", "on", "with", "of"}:
        parts = [parts[-1], *parts[:-1]]
    return " ".join(CAPITALS.get(part, part) for part in parts)


def name_from(text: str, author: str | None) -> str | None:
    """An informative English name, or nothing."""
    text = re.sub(r" - (body part|clothing|rpg map elements).*", "", text, flags=re.IGNORECASE)
    text = re.sub(r"\bin (italian|french|english)\b.*", "", text, flags=re.IGNORECASE)
    brackets = re.findall(r"\(([^)]*)\)", text)
    bare = re.sub(r"\([^)]*\)", " ", text).strip()
    words = clean_words(bare or text, author)
    black_white = "black and white"
    plain = " ".join(words).replace(black_white, "").strip()
    english = translated(" ".join(words)) or translated(plain)
    if english:
        words = (
            [*black_white.split()] if black_white in " ".join(words) and black_white not in english else []
        )
        words += english.split()
        return tidy_translated(words)
    for extra in brackets if bare else []:
        extra_words = clean_words(extra, author)
        if len(extra_words) <= 3 and all(known(word) for word in extra_words):
            words = [*words, *extra_words]
    words = [word for word in words if known(word, 1.5) and len(word) > 1]
    english = translated(" ".join(words))
    if english:
        return english
    return tidy(words) if informative(words) else None


def tidy_translated(words: list[str]) -> str:
    """A name from the table keeps its own capitals."""
    return " ".join(words)


def informative(words: list[str]) -> bool:
    """Whether somebody could imagine a picture from these words."""
    useful = [word for word in words if len(word) >= 3 and word not in GENERIC_NAMES and known(word, 2.3)]
    useful = [
        word
        for word in useful
        if word not in COLOURS | {"and", "with", "the", "one", "two", "for", "you", "not"}
    ]
    return bool(useful) and len(words) <= 12


def stem_text(stem: str, author: str | None) -> str:
    """A file name without the author's (often cut) name and the number at its end."""
    tokens = [token for token in re.split(r"[_\-\s]+", stem) if token]
    authors = re.findall(r"[a-z0-9]+", (author or "").lower())
    while len(tokens) > 1:
        last = tokens[-1].lower()
        cut = len(last) <= 1 or last.isdigit() or re.fullmatch(r"\d*[a-z]?\d*", last)
        if (
            cut
            or last in NOISE
            or any(a.startswith(last) or (last.startswith(a) and len(a) > 3) for a in authors)
        ):
            tokens.pop()
        else:
            break
    return " ".join(tokens)


def clean_tags(tags: list[str], author: str | None) -> tuple[str, ...]:
    """Keywords as plain lower-case English."""
    authors = set(re.findall(r"[a-z]{3,}", (author or "").lower()))
    kept: list[str] = []
    for tag in tags:
        text = re.sub(r"[_\s\-]+", " ", unescape(tag).lower()).strip()
        text = FIXES.get(text, text)
        if not re.fullmatch(r"[a-z]{3,}( [a-z]+)?", text) or text in GENERIC_TAGS or text.startswith("hash"):
            continue
        if set(text.split()) & (authors | {"architetto", "rollandin"}) and not known(text, 4.0):
            continue
        if all(known(word, 2.5) for word in text.split()):
            kept.append(text)
    return tuple(dict.fromkeys(kept))


def clean_description(text: str | None, author: str | None) -> str | None:
    """The description as a caption, if it is a short plain English phrase."""
    text = unescape(text).rstrip(".!")
    if not re.fullmatch(r"[A-Za-z][A-Za-z ,'\-]+", text) or not 4 <= len(text.split()) <= 14:
        return None
    words = re.findall(r"[a-z]+", text.lower())
    banned = {"i", "my", "me", "you", "enjoy", "created", "inkscape", "clipart", "svg", "drawn", "made",
    "openclipart",
              "clip", "art", "license", "domain", "based", "file", "image", "version", "hash",
              "converted", "it", "for",
              "vector", "your", "this", "traced", "author", "used", "can", "if"}  # fmt: skip
    if set(words) & banned or set(words) & set(re.findall(r"[a-z]{3,}", (author or "").lower())):
        return None
    if not all(known(word, 2.6) for word in words):
        return None
    return text[0].lower() + text[1:] if text.split()[0].lower() in {"a", "an", "the"} else None
