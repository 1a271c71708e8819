"""Captions: one primary and up to three more wordings of the same concept, by hash."""

from collections.abc import Iterator

from .records import Drawing, normalised, stable_hash
from .words import head_of, known, with_article

DRAWINGS = ("a drawing of", "a picture of", "an illustration of", "a small picture of", "a simple drawing of")
MAX_WORDS = 16
HYPERNYMS = {
    "food-fruit": "a fruit", "food-vegetable": "a vegetable", "food-sweet": "something sweet",
    "drink": "a drink",
    "food-prepared": "something to eat", "food-asian": "Asian food", "animal-mammal": "a mammal",
    "animal-bird": "a bird", "animal-bug": "a small creature", "animal-marine": "a sea animal",
    "animal-reptile": "a reptile", "plant-flower": "a flower", "musical-instrument": "a musical instrument",
    "transport-ground": "a vehicle", "cat-face": "a cat", "time": "for telling the time",
}  # fmt: skip
CLIPART_HYPERNYMS = {
    "food-fruit", "food-vegetable", "food-sweet", "drink", "animal-mammal", "animal-bird", "animal-bug",
    "animal-reptile", "plant-flower",
}  # fmt: skip
WEAK_KEYWORDS = {
    "animal", "food", "people", "nature", "face", "human", "symbol", "sign", "icon", "man", "woman",
    "male", "female",
    "men", "women", "person", "body", "hand", "activity", "tool", "plant", "recreation", "menu", "transport",
    "transportation", "building", "office", "equipment", "entertainment", "shape", "education", "work",
    "mammal",
    "festive", "clothing", "color", "colour", "cartoon", "clip art", "places", "simple", "object",
    "type", "girls",
    "boys", "guy", "boy", "girl", "fed", "blank", "new", "doing", "children", "child", "kids", "like",
    "wear", "things",
    "thing", "lol", "group", "creature", "vehicle", "road sign", "flags", "map", "desserts", "card",
    "white", "black", "tools", "plants", "sudden", "various", "blue", "body part", "en", "space", "wow",
    "photo", "lady", "he", "she", "him", "her", "his", "gender", "container", "bodypart", "map symbol",
    "logo",
}  # fmt: skip


def captions_of(drawing: Drawing) -> tuple[str, list[str]]:
    """The primary caption and two or three variants, all different."""
    noun = with_article(drawing.name)
    options = list(dict.fromkeys(_shorten(text) for text in _options(drawing, noun)))
    unique = {normalised(text): text for text in reversed(options)}
    options = [text for text in options if unique[normalised(text)] == text and len(text.split()) >= 2]
    plain = options[0]
    primary_index = _primary_index(drawing, len(options))
    primary = options[primary_index]
    rest = [text for text in options if text != primary]
    rest.sort(key=lambda text: (text != plain, stable_hash("variant", drawing.concept, text)))
    return primary, rest[:3]


def _primary_index(drawing: Drawing, count: int) -> int:
    weak = drawing.style == "clipart" and len(drawing.name.split()) == 1 and count > 1
    choices = range(1, count) if weak else range(count)
    # The plain noun phrase weighs as much as all other wordings together.
    draw = stable_hash("primary", drawing.concept)
    if not weak and draw % 5 < 2:
        return 0
    return choices[(draw // 5) % len(choices)]


def _options(drawing: Drawing, noun: str) -> Iterator[str]:
    concept, name = drawing.concept, drawing.name
    yield noun if len(noun.split()) > 1 else f"a picture of {noun}"
    opening = DRAWINGS[stable_hash("opening", concept) % len(DRAWINGS)]
    keywords = caption_keywords(drawing)
    hypernym = HYPERNYMS.get(drawing.label)
    if drawing.style == "clipart" and drawing.label not in CLIPART_HYPERNYMS:
        hypernym = None
    if (
        hypernym
        and not set(hypernym.split()[1:]) & set(name.lower().split())
        and hypernym.split()[-1] not in name
    ):
        yield f"{noun}, {hypernym}"
    if keywords:
        yield f"{noun}, {keywords[0]}"
    if len(keywords) > 1:
        yield f"{noun}, {keywords[0]} and {keywords[1]}"
    if drawing.description:
        yield drawing.description
    yield f"{opening} {noun}"
    if not keywords or not hypernym:
        for step in (1, 2)[: 2 - bool(keywords or hypernym)]:
            yield f"{DRAWINGS[(stable_hash('opening', concept) + step) % len(DRAWINGS)]} {noun}"


def caption_keywords(drawing: Drawing) -> list[str]:
    """Keywords that add something to the name, in an order fixed by the concept."""
    words = set(drawing.name.lower().replace("-", " ").split())
    stems = {word[:4] for word in words if len(word) >= 4}
    useful = [
        word for word in drawing.keywords
        if word not in WEAK_KEYWORDS and not set(word.split()) & words and word[:4] not in stems
        and all(known(part, 2.8) for part in word.split()) and word != head_of(drawing.name)
    ]  # fmt: skip
    if drawing.style == "clipart":
        return useful
    return sorted(useful[:4], key=lambda word: stable_hash("keyword", drawing.concept, word))


def _shorten(text: str) -> str:
    words = text.split()
    return text if len(words) <= MAX_WORDS else " ".join(words[:MAX_WORDS]).rstrip(",")
