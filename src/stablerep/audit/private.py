"""What should not stand in a caption that many people will see: addresses, numbers and names, found by pattern.

Patterns find what is written in a usual way. They are a screening that shows where to look, not a proof of absence.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

PROTECTED = "protected name"

_EMAIL = re.compile(r"[\w.+%-]+(?:@|\s?\[at\]\s?|\s?\(at\)\s?)[\w-]+(?:\.[\w-]+)+", re.IGNORECASE)
_URL = re.compile(
    r"(?:https?|ftp)://\S+|\bwww\.[\w-]+\.\S+"
    r"|(?<![\w@.])(?:[a-z0-9-]+\.)+(?:com|org|net|edu|gov|info|io|de|uk|fr|eu|ru|jp|cn|co)(?:/\S*|(?![\w.@]))",
    re.IGNORECASE,
)
_HANDLE = re.compile(r"(?<![\w@/.])@[a-z_][\w.]{1,29}", re.IGNORECASE)
_PHONE = re.compile(
    r"(?<![\w+])(?:"
    r"(?:\+|00)[1-9]\d{0,2}[\s./-]?(?:\(0?\)[\s-]?)?(?:\(?\d{1,4}\)?[\s./-]?){2,5}\d"  # +49 30 1234567
    r"|\(\d{3}\)\s?\d{3}[\s.-]?\d{4}"  # (555) 123-4567
    r"|\d{3}[.-]\d{3}[.-]\d{4}"  # 555-123-4567
    r"|0\d{2,4}[\s/-]\d{3,4}[\s-]?\d{3,5}"  # 030 1234567
    r")(?!\w)"
)
_WORD = re.compile(r"[^\W_]+")  # an underscore is a sign between words: mickey_mouse.jpg
_FEWEST_DIGITS, _MOST_DIGITS = 8, 15  # E.164 allows 15


@dataclass(frozen=True, order=True)
class Found:
    """One thing that was found in a text."""

    kind: str
    """ "e-mail address", "URL", "handle", "phone number" or "protected name"."""
    text: str
    """The place, as it is written."""


def private(text: str) -> list[Found]:
    """Addresses, handles and numbers in a text, each once, in the order of the kinds."""
    found = [Found("e-mail address", match[0]) for match in _EMAIL.finditer(text)]
    rest = _EMAIL.sub(" ", text)
    found += [Found("URL", match[0].rstrip(".,;:!?)\"'")) for match in _URL.finditer(rest)]
    rest = _URL.sub(" ", rest)
    found += [Found("handle", match[0].rstrip(".")) for match in _HANDLE.finditer(rest)]
    found += [
        Found("phone number", match[0])
        for match in _PHONE.finditer(rest)
        if _FEWEST_DIGITS <= sum(letter.isdigit() for letter in match[0]) <= _MOST_DIGITS
    ]
    return list(dict.fromkeys(found))


class ProtectedNames:
    """A list of names that must not occur; found as whole words, whatever their case and the signs between them."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {
            tuple(word for word, *_ in _words(unicodedata.normalize("NFC", name))) for name in names
        } - {()}
        self._lengths = sorted({len(words) for words in self._names}, reverse=True)

    def __len__(self) -> int:
        return len(self._names)

    def found_in(self, text: str) -> list[Found]:
        """The names in a text, the longest at each place; the time does not depend on the length of the list."""
        text = unicodedata.normalize("NFC", text)
        words = list(_words(text))
        found: list[Found] = []
        place = 0
        while place < len(words):
            length = next(filter(lambda n: self._is_name(words[place : place + n], n), self._lengths), 0)
            if length:
                begin, end = words[place][1], words[place + length - 1][2]
                found.append(Found(PROTECTED, text[begin:end]))
            place += max(length, 1)
        return list(dict.fromkeys(found))

    def _is_name(self, words: Sequence[tuple[str, int, int]], length: int) -> bool:
        return len(words) == length and tuple(word for word, *_ in words) in self._names


def _words(text: str) -> Iterator[tuple[str, int, int]]:
    """The words of a text in NFC, case folded and without a possessive s, and where they begin and end."""
    for match in _WORD.finditer(text):
        if match[0] == "s" and text[: match.start()].endswith(("'", "\u2019")):
            continue  # Disney's
        yield match[0].casefold(), match.start(), match.end()
