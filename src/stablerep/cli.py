"""The command line: parse, build, call. Every option is a field of a configuration dataclass; none is listed twice."""

import argparse
import contextlib
import dataclasses
import difflib
import errno
import functools
import io
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo

import stablerep
from stablerep import config as config_module
from stablerep.commands import COMMANDS
from stablerep.console import Console
from stablerep.errors import UserError

# How tyro draws a mistake: coloured where stdout is a terminal, options indented by four spaces.
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_NAMED = re.compile(r" {4}\S")
_HINT = re.compile(r"Perhaps you meant|Arguments similar|Unrecognized options")

_FETCH = "--download"
_EXPLAINED = "stablerep --help lists the commands"
_GOING_ON = frozenset({"generate", "train", "compare", "circle", "edit", "quickstart", "world"})
# What a place to write to that is full, read-only or no folder raises, wherever it is met.
_MENDABLE = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG}
    | {errno.ENOTDIR, errno.EISDIR, errno.EEXIST}
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``stablerep``: exit code 0 on success, 2 on a mistake of the user, a traceback on a bug.

    It is 2 as well where the summary of a command has a ``complaint``: a part was done and is shown, another was not.
    """
    try:
        code = run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe went away (`stablerep ... | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Parse and execute one command line; returns the exit code."""
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    words = _command_words(arguments)
    if words is None:
        return _overview(arguments)
    # The processes that torchrun starts do one piece of work, and the first one reports it.
    is_first = os.environ.get("RANK", "0") == "0"
    console = Console(quiet=not is_first)
    try:
        shared, rest = _shared_options(arguments[len(words) :])
        console = Console(quiet=shared.quiet or not is_first)
        config_class, function = COMMANDS[words].load()
        summary = function(_parse(words, config_class, shared.recipe, rest), console=console)
    except (UserError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _MENDABLE:
            raise
        console.complain(f"stablerep {' '.join(words)}: {_mistake(error, words)}")
        return 2
    except SystemExit as stop:  # after --help
        return int(stop.code or 0)
    except KeyboardInterrupt:
        goes_on = words[0] in _GOING_ON or words == ("captions", "synthesize")
        console.complain(f"stopped; the same command {'goes on from here' if goes_on else 'begins anew'}")
        return 130
    if is_first:
        (console.json if shared.json else console.show)(summary)
    complaint: str | None = getattr(summary, "complaint", None)
    if complaint is not None:
        console.complain(f"stablerep {' '.join(words)}: {complaint}")
        return 2
    return 0


def recipe_settings(words: tuple[str, ...], recipe: str) -> dict[str, Any]:
    """What a recipe, given by name or path, says of one command.

    Raises ``UserError`` for a table or key that belongs to no command, so that a misspelt one is not passed over, and
    where a recipe knows other methods but not this one, which would be trained with other settings than theirs.
    """
    tables = config_module.read_recipe(recipe)
    strangers = list(_strangers(tables, ()))
    if strangers:
        known = ", ".join(f"[{'.'.join(command)}]" for command in COMMANDS)
        raise UserError(f"recipe {recipe}: no command reads {', '.join(strangers)} (tables: {known})")
    settings = config_module.recipe_table(tables, words, recipe)
    methods = list(tables.get("train", {}))
    if words[0] == "train" and methods and words[1] not in methods:
        raise UserError(
            f"recipe {recipe} has no table [{'.'.join(words)}], only those of {', '.join(methods)}; its settings are "
            "for them: give another recipe, or leave it out"
        )
    return {key: value for key, value in settings.items() if (*words, key) not in COMMANDS}


def asked_by(recipe: str, words: tuple[str, ...]) -> dict[str, Any]:
    """``recipe_settings`` of a recipe that somebody gave to this command.

    Raises ``UserError`` as well where it says nothing of the command, which would run as if it had not been given.
    """
    settings = recipe_settings(words, recipe)
    if settings:
        return settings
    name, takes = " ".join(words), COMMANDS[words].takes_recipe
    known = _shipped_for(words)
    if takes is not None:
        remedy = f"it is for the steps of {name}: give it as `stablerep {takes.format(recipe)}`"
    elif known:
        remedy = f"leave it out, or give one that does ({', '.join(known)})"
    else:
        remedy = "leave it out"
    raise UserError(f"recipe {recipe} says nothing of {name} (no table [{'.'.join(words)}]); {remedy}")


def _shipped_for(words: tuple[str, ...]) -> list[str]:
    """The recipes of the package that say something of a command."""
    tables = {name: config_module.read_recipe(name) for name in config_module.recipe_names()}
    return [name for name, recipe in tables.items() if config_module.recipe_table(recipe, words, name)]


def _strangers(table: Mapping[str, Any], place: tuple[str, ...]) -> Iterator[str]:
    for key, value in table.items():
        here = (*place, key)
        if here in COMMANDS:
            continue  # its keys are held against the configuration of the command
        if isinstance(value, Mapping) and any(words[: len(here)] == here for words in COMMANDS):
            yield from _strangers(value, here)
        else:
            yield repr(".".join(here))


def _mistake(error: UserError | OSError, words: tuple[str, ...]) -> str:
    if isinstance(error, OSError):
        # A finished file is renamed: of two names the second is the place that was asked for.
        place = error.filename2 or error.filename or "the output"
        return f"{place} cannot be used ({error.strerror}); give another place"
    said = str(error)
    # Rooms say --download; where a part of the command loads what is named, its option is that part's.
    own = list(config_module.places(COMMANDS[words].load()[0], "download")) if _FETCH in said else []
    return said.replace(_FETCH, f"--{own[0]}") if len(own) == 1 else said


def _command_words(arguments: list[str]) -> tuple[str, ...] | None:
    for length in (2, 1):
        words = tuple(arguments[:length])
        if words in COMMANDS:
            return words
    return None


def _overview(arguments: list[str]) -> int:
    """What is said where no command is named: the version, the commands, or what was wrong."""
    if arguments == ["--version"]:
        print(f"stablerep {stablerep.__version__}")
        return 0
    group = [words for words in COMMANDS if words[:1] == tuple(arguments[:1])]
    if not arguments or {"--help", "-h"} & set(arguments[: 2 if group else 1]):
        lines = [f"  {' '.join(words):22} {COMMANDS[words].help}" for words in group or COMMANDS]
        print("usage: stablerep COMMAND [OPTIONS]\n", *lines, sep="\n")
        print("\nstablerep COMMAND --help explains its options.")
        return 0
    Console().complain(f"stablerep: {_unknown(arguments, group)}")
    return 2


def _unknown(arguments: list[str], group: list[tuple[str, ...]]) -> str:
    first = arguments[0]
    if first.startswith("-"):
        return f"options such as {first!r} come after the command; {_EXPLAINED}"
    if group:
        problem = (
            f"unknown command {' '.join(arguments[:2])!r}" if arguments[1:] else f"{first} is half a command"
        )
        return f"{problem}; there are: {', '.join(map(' '.join, group))}"
    near = difflib.get_close_matches(" ".join(arguments[:2]), map(" ".join, COMMANDS))
    near = near or difflib.get_close_matches(first, map(" ".join, COMMANDS))
    return f"unknown command {first!r}; {f'did you mean {near[0]}? ' if near else ''}{_EXPLAINED}"


def _shared_options(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--recipe", action="append")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quiet", action="store_true")
    try:
        shared, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from error
    recipes = shared.recipe or [None]
    if len(recipes) > 1:
        raise UserError(
            f"--recipe takes one recipe, got {', '.join(recipes)}; give one, or a file of your own that extends one"
        )
    shared.recipe = recipes[0]
    return shared, rest


def _parse(words: tuple[str, ...], config_class: type[Any], recipe: str | None, arguments: list[str]) -> Any:
    """The configuration: the class's defaults, the recipe over them, the command line over both."""
    default: Any = None
    if recipe is not None:
        default = config_module.build_partial(
            config_class, asked_by(recipe, words), missing=tyro.MISSING, origin=f"recipe {recipe}"
        )
    drawn = io.StringIO()
    try:
        with contextlib.redirect_stderr(drawn), _help_in_paragraphs():
            return tyro.cli(
                config_class,
                prog=f"stablerep {' '.join(words)}",
                description=_description(words),
                args=arguments,
                default=default,
                config=(tyro.conf.AvoidSubcommands,),
            )
    except SystemExit as error:
        if not error.code:  # --help
            raise
        raise UserError(_in_one_sentence(drawn.getvalue(), words)) from error


def _help_in_paragraphs() -> ConstructorRegistry:
    """tyro's own reading of a dataclass, but that the lines of a field's docstring are one paragraph of the help."""
    registry, is_asking = ConstructorRegistry(), False

    @registry.struct_rule
    def rule(asked: StructTypeInfo) -> StructConstructorSpec | None:
        nonlocal is_asking
        if is_asking or not dataclasses.is_dataclass(asked.type):
            return None
        is_asking = True  # for tyro's own rules, and not for this one again
        try:
            spec = ConstructorRegistry.get_struct_spec(asked)
        finally:
            is_asking = False
        if not isinstance(spec, StructConstructorSpec):
            return None
        fields = [
            dataclasses.replace(field, helptext=functools.partial(_paragraph, field.helptext))
            for field in spec.fields
        ]
        return dataclasses.replace(spec, fields=tuple(fields))

    return registry


def _paragraph(text: str | Callable[[], str | None] | None) -> str | None:
    said = text() if callable(text) else text
    return said and " ".join(said.replace("``", "`").split())


def _in_one_sentence(drawn: str, words: tuple[str, ...]) -> str:
    """What tyro draws as a box, one paragraph for each concern: what is wrong, and the options that it names."""
    _, *content = _COLOUR.sub("", drawn).splitlines() or [""]  # the first line is a title
    lines = [line[2:].rstrip(" │") for line in content]
    paragraphs = itertools.groupby(lines, key=lambda line: bool(line.strip("─-╯")))
    said: list[str] = []
    for paragraph in (list(group) for is_text, group in paragraphs if is_text):
        sentence = " ".join(line for line in paragraph if not line.startswith(" "))
        named = ", ".join(line.split()[0].rstrip(",") for line in paragraph if _NAMED.match(line))
        if not said or _HINT.match(sentence):
            said.append(f"{sentence[:1].lower()}{sentence[1:].rstrip('.')} {named}".strip())
    reason = re.sub(r"^error parsing \w+: |(?<=^missing) from [^:]*", "", "; ".join(said))
    return f"{reason or drawn.strip()} (stablerep {' '.join(words)} --help explains the options)"


def _description(words: tuple[str, ...]) -> str:
    command = COMMANDS[words]
    takes = command.takes_recipe
    shipped = ", ".join(_shipped_for(words if takes is None else ("generate",)))
    given = f" Shipped recipes for it: {shipped}." if shipped else ""
    if takes is not None:
        given = f" Recipes for its steps are given as `stablerep {takes.format('NAME|FILE')}`; shipped: {shipped}."
    return (
        f"{command.help[0].upper()}{command.help[1:]}.\n\n"
        f"Example: stablerep {' '.join(words)} {command.example}\n\n"
        f"Every command also takes --recipe NAME|FILE, --json and --quiet.{given}"
    )
