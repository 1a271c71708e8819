"""The attributes file of ``audit bias``: which values an attribute has, and how captions and pictures say them.

    [attributes.gender]
    within = '\\b(man|woman)\\b'            # captions that are looked at; all where not given
    template = "a picture of a {}"        # for zero-shot reading by an image-text model
    accuracy = 0.9                        # of the answers that are given; a picture that is less sure is left open
    [attributes.gender.values]            # value = pattern in captions; its zero-shot name is the value itself
    man = '\\bman\\b'
    woman = '\\bwoman\\b'
    [attributes.gender.target]            # wanted shares; where not given, those of the real pictures
    man = 0.5
    woman = 0.5
    [attributes.gender.groups]            # groups of captions whose shares are compared; all together where not given
    doctors = 'health worker'

Patterns are regular expressions, found anywhere in a caption, whatever the case. A file that ships with the package is
named by its name alone.
"""

import functools
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, TypeVar

from stablerep import config as config_module
from stablerep.errors import UserError

_NAME = re.compile(r"[a-z][a-z0-9_]*")
T = TypeVar("T")
StatedBy = Literal["caption", "label"]
"""What says which value a picture shows."""


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """One attribute, as its table in the file says it."""

    values: dict[str, str]
    """Value -> pattern of the captions that state it."""
    within: str = ""
    """Pattern of the captions that are looked at."""
    groups: dict[str, str] = field(default_factory=dict)
    """Name -> pattern of the captions of a group."""
    target: dict[str, float] = field(default_factory=dict)
    """Value -> wanted share."""
    template: str = "a picture of {}"
    """Sentence for zero-shot reading."""
    accuracy: float = 0.9
    """Wanted accuracy of the answers that are given."""

    def __post_init__(self) -> None:
        if len(self.values) < 2:
            raise ValueError("values must name at least two values")
        shares = self.target.values()
        is_whole = all(share >= 0 for share in shares) and abs(sum(shares) - 1) <= 1e-6
        if self.target and (set(self.target) != set(self.values) or not is_whole):
            raise ValueError("target must give a share from 0 to each of the values, one together")
        if "{}" not in self.template:
            raise ValueError("template must hold {} where the value goes")
        if not 0 < self.accuracy < 1:
            raise ValueError(f"accuracy must be in (0, 1), got {self.accuracy}")
        for pattern in (self.within, *self.values.values(), *self.groups.values()):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression ({error})") from error

    @property
    def names(self) -> list[str]:
        """The values in the order of the file."""
        return list(self.values)

    def concerns(self, text: str) -> bool:
        """Whether a caption is looked at."""
        return _holds(self.within, text)

    def stated(self, text: str) -> int:
        """Which value a caption states, -1 where none or several."""
        found = [number for number, pattern in enumerate(self.values.values()) if _holds(pattern, text)]
        return found[0] if len(found) == 1 else -1

    def of_caption(self, text: str) -> int:
        """Which value the picture of a caption shows, -1 where that is not looked at or states none or several."""
        return self.stated(text) if self.concerns(text) else -1

    def of_label(self, label: str) -> int:
        """Which value a picture with this label shows: the one of that name, else what a caption of these words states.

        Case does not count, and underscores are spaces. A label says nothing but the value, so ``within`` is not asked;
        -1 where it names no value, or several.
        """
        words = _plain(label)
        named = [number for number, value in enumerate(self.values) if _plain(value) == words]
        return named[0] if named else self.stated(words) if words else -1

    def shown(self, by: StatedBy, text: str) -> int:
        """Which value a picture shows by its caption or by its label, -1 where that does not say."""
        return self.of_caption(text) if by == "caption" else self.of_label(text)

    def members(self, texts: list[str]) -> dict[str, list[bool]]:
        """Which captions belong to each group."""
        groups = self.groups or {"all": ""}
        return {name: of_each(functools.partial(_holds, pattern), texts) for name, pattern in groups.items()}


def _holds(pattern: str, text: str) -> bool:
    return re.search(pattern, text, re.IGNORECASE) is not None


def _plain(name: str) -> str:
    return name.replace("_", " ").strip().casefold()


def of_each(said: Callable[[str], T], texts: Sequence[str]) -> list[T]:
    """What is said of each text; several pictures have the same one, which is read once."""
    known = {text: said(text) for text in dict.fromkeys(texts)}
    return [known[text] for text in texts]


def shipped_attributes() -> list[str]:
    """Names of the attributes files that ship with the package."""
    return sorted(entry.name.removesuffix(".toml") for entry in _shipped_root().iterdir())


def attributes_text(path: Path) -> str:
    """What stands in an attributes file, a shipped one by its name; ``UserError`` where it cannot be read."""
    shipped = shipped_attributes()
    if str(path) in shipped:
        return (_shipped_root() / f"{path}.toml").read_text(encoding="utf-8")
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"attributes file {path}: {error.strerror}; shipped: {', '.join(shipped)}; or give the path of a TOML file"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"attributes file {path}: not UTF-8 text (byte {error.start})") from error


def _shipped_root() -> Traversable:
    return resources.files("stablerep") / "assets" / "attributes"


def read_attributes(path: Path) -> Mapping[str, Attribute]:
    """The attributes of a file by name; ``UserError`` that says what is wrong with it and where."""
    try:
        content: dict[str, Any] = tomllib.loads(attributes_text(path))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"attributes file {path}: {error}") from error
    tables = content.get("attributes")
    if not isinstance(tables, dict) or not tables or set(content) != {"attributes"}:
        raise UserError(f"attributes file {path}: needs tables [attributes.NAME] and nothing else")
    attributes = {}
    for name, table in tables.items():
        if not _NAME.fullmatch(name) or not isinstance(table, dict):
            raise UserError(
                f"attributes file {path}: {name!r} must be a table with a name of small letters and digits"
            )
        attributes[name] = config_module.build(Attribute, table, origin=f"{path}, [attributes.{name}]")
    return attributes
