"""What MkDocs needs beside its settings: formulas without scripts, and links that leave docs/.

A formula is written as GitHub shows it, in a fence ```math or inline as $`x`$, and becomes MathML, which browsers draw
themselves. A link to a page beside docs/ (CONTRIBUTING.md, a card) takes that page into the site; a link to any other
file of the repository becomes plain text, as the site has no place for it. The page of commands is made from the
commands themselves.
"""

import dataclasses
import posixpath
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

from stablerep.commands import COMMANDS

_ROOT = Path(__file__).parents[1]
_COMMANDS = "reference/commands.md"
_announced: set[str] = set()  # pages of the navigation that are not written yet
_BLOCK = re.compile(r"^```math\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"\$`([^`\n]+)`\$")
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!\w+:|#)([^)\s#]+)(#[^)\s]*)?\)")


def on_config(config: Any, **_: Any) -> Any:
    """Leave out of the navigation what is announced there and not written yet; links to it become plain text."""
    config["nav"] = _present(config["nav"], Path(config["docs_dir"]))
    return config


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the page of commands, and take in the pages of the repository that pages of docs/ link to."""
    files.append(File.generated(config, _COMMANDS, content=_commands_page()))
    ahead = [(file.src_uri, file.content_string) for file in files.documentation_pages()]
    while ahead:
        uri, text = ahead.pop()
        for _, target, _ in _LINK.findall(text):
            place = _outside(uri, target)
            if place is None or place.suffix != ".md" or files.get_file_from_path(_taken_in(place)):
                continue
            content = (_ROOT / place).read_text(encoding="utf-8")
            files.append(File.generated(config, _taken_in(place), content=content))
            ahead.append((_taken_in(place), content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Formulas and links of a page."""
    uri = page.file.src_uri
    markdown = _LINK.sub(lambda link: _rewritten(uri, link), markdown)
    markdown = _BLOCK.sub(lambda found: _formula(found[1], "block"), markdown)
    return _INLINE.sub(lambda found: _formula(found[1], "inline"), markdown)


def _present(nav: list[Any], docs: Path) -> list[Any]:
    kept = []
    for entry in nav:
        [(title, target)] = entry.items()
        if isinstance(target, list):
            kept.append({title: _present(target, docs)})
        elif target == _COMMANDS or (docs / target).exists():
            kept.append(entry)
        else:
            _announced.add(target)
    return kept


def _formula(latex: str, display: str) -> str:
    drawn = convert(" ".join(latex.split()), display=display)
    return f'\n<div class="formula" tabindex="0">{drawn}</div>\n' if display == "block" else drawn


def _rewritten(uri: str, link: re.Match[str]) -> str:
    text, target, anchor = link[1], link[2], link[3] or ""
    if posixpath.normpath(posixpath.join(posixpath.dirname(uri), target)) in _announced:
        return text
    place = _outside(uri, target)
    if place is None:
        return link[0]
    if place.suffix != ".md":
        return text
    relative = posixpath.relpath(_taken_in(place), posixpath.dirname(uri) or ".")
    return f"[{text}]({relative}{anchor})"


def _outside(uri: str, target: str) -> Path | None:
    """What a link means where that is a file of the repository outside docs/: its path from the root."""
    here = uri.removeprefix("repository/") if uri.startswith("repository/") else f"docs/{uri}"
    place = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
    return None if place.startswith(("docs/", "..")) and not uri.startswith("repository/") else Path(place)


def _taken_in(place: Path) -> str:
    """Where a page of the repository stands in the site."""
    if place.parts[0] == "docs":
        return Path(*place.parts[1:]).as_posix()
    return f"repository/{place.as_posix()}"


def _commands_page() -> str:
    """Every command with its options, then the settings that several commands share."""
    parts = [_COMMANDS_HEAD]
    shared: dict[type[Any], None] = {}
    for words, command in COMMANDS.items():
        config, _ = command.load()
        name = " ".join(words)
        sentence = f"{command.help[0].upper()}{command.help[1:]}."
        parts.append(
            f"## {name}\n\n{sentence}\n\n```\nstablerep {name} {command.example}\n```\n\n{_documented(config)}"
        )
        shared |= dict.fromkeys(_nested(config))
    parts.append("## Shared settings\n\nWhat the configurations above hold as fields.")
    return "\n\n".join([*parts, *map(_documented, shared)]) + "\n"


_COMMANDS_HEAD = """# Commands

Every command also takes `--recipe NAME|FILE`, `--json` and `--quiet`. A field `view.image_size` of `data` is the option
`--data.view.image-size`, the key `image_size` of `[train.METHOD.data.view]` in a recipe, and
`data={"view": {"image_size": 64}}` in Python. `stablerep COMMAND --help` says the same as this page."""


def _documented(config: type[Any]) -> str:
    return (
        f"::: {config.__module__}.{config.__name__}\n    options:\n      inherited_members: true\n"
        "      members_order: source\n      show_signature: false"
    )


def _nested(config: type[Any]) -> Iterator[type[Any]]:
    """The configurations that a configuration holds, at any depth."""
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        for option in typing.get_args(hint) or (hint,):
            if isinstance(option, type) and dataclasses.is_dataclass(option):
                yield option
                yield from _nested(option)
