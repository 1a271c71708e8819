"""Wordings for the fashion world: traits of a picture in, one of several natural captions out.

Every wording states every trait (the middle of a scale by silence): different traits never share a text.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

TONES = ("dark", "grey", "light")
TEXTURES = ("plain", "vertical", "horizontal", "bold")
_TEXTURE_PHRASES = {
    "plain": "without a pattern",
    "vertical": "with vertical lines",
    "horizontal": "with horizontal lines",
    "bold": "with a bold pattern",
}
_TEXTURE_ADJECTIVES = {
    "plain": "plain",
    "vertical": "vertically lined",
    "horizontal": "horizontally lined",
    "bold": "boldly patterned",
}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a class is called and how its proportions are spoken of; scales run from low to high measurement.

    ``build`` names the measurement behind ``builds``: mean width, or how much of its bounding box it fills.
    """

    label: str
    noun: str
    build: str
    builds: tuple[str, str, str]
    shapes: tuple[str, str, str]
    shape_noun: str


def _garment(label: str, noun: str = "", shape_noun: str = "cut") -> Kind:
    return Kind(
        label=label,
        noun=noun or label,
        build="mean_width",
        builds=("slim", "", "wide"),
        shapes=("long", "", "short"),
        shape_noun=shape_noun,
    )


def _shoe(label: str) -> Kind:
    return Kind(
        label=label,
        noun=label,
        build="fill",
        builds=("slender", "", "chunky"),
        shapes=("high", "", "flat"),
        shape_noun="shape",
    )


BAG = Kind(
    label="bag",
    noun="bag",
    build="fill",
    builds=("slouchy", "", "boxy"),
    shapes=("tall", "", "broad"),
    shape_noun="shape",
)
UNNAMED = Kind(
    label="",
    noun="piece",
    build="mean_width",
    builds=("narrow", "", "wide"),
    shapes=("tall", "", "low"),
    shape_noun="shape",
)
KINDS = (
    _garment("t-shirt"),
    _garment("trousers", noun="pair of trousers", shape_noun="legs"),
    _garment("pullover"),
    _garment("dress"),
    _garment("coat"),
    _shoe("sandal"),
    _garment("shirt"),
    _shoe("sneaker"),
    BAG,
    _shoe("ankle boot"),
)


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What is said of a picture: words from the scales above; an empty word is the middle of its scale."""

    kind: Kind
    tone: str
    texture: str
    build: str
    shape: str

    @property
    def concept(self) -> str:
        """The traits as one name, the class first where it is named."""
        words = (self.kind.label, self.tone, self.texture, self.build or "regular", self.shape or "regular")
        return "/".join(word for word in words if word)

    @property
    def shape_phrase(self) -> str:
        return f"{self.shape} {self.kind.shape_noun}" if self.shape else ""


Wording = Callable[[Traits], str]


def _a(*words: str) -> str:
    phrase = " ".join(word for word in words if word)
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _list(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _plainly(traits: Traits) -> str:
    thing = _a(traits.tone, traits.build, traits.kind.noun)
    return _list(f"{thing} {_TEXTURE_PHRASES[traits.texture]}", traits.shape_phrase)


def _as_photo(traits: Traits) -> str:
    thing = _a(traits.build, traits.kind.noun)
    return _list(f"photo of {thing} {_TEXTURE_PHRASES[traits.texture]}", traits.tone, traits.shape_phrase)


def _texture_first(traits: Traits) -> str:
    thing = _a(_TEXTURE_ADJECTIVES[traits.texture], traits.tone, traits.kind.noun)
    return _list(thing, traits.build, traits.shape_phrase)


def _as_entry(traits: Traits) -> str:
    texture = _TEXTURE_ADJECTIVES[traits.texture]
    return f"{traits.kind.noun}: {_list(traits.tone, texture, traits.build, traits.shape_phrase)}"


def _as_showing(traits: Traits) -> str:
    thing = _a(traits.tone, _TEXTURE_ADJECTIVES[traits.texture], traits.kind.noun)
    return _list(f"a picture showing {thing}", traits.build, traits.shape_phrase)


def _as_shade(traits: Traits) -> str:
    thing = _a(traits.build, traits.kind.noun)
    shade = f"{thing} in {_a(traits.tone, 'shade')}"
    return _list(shade, _TEXTURE_ADJECTIVES[traits.texture], traits.shape_phrase)


TRAIN_WORDINGS: Mapping[str, Wording] = {
    "plainly": _plainly,
    "as photo": _as_photo,
    "texture first": _texture_first,
    "as entry": _as_entry,
}
TEST_WORDINGS: Mapping[str, Wording] = {"as showing": _as_showing, "as shade": _as_shade}
