"""``stablerep completion``: a script that teaches bash or zsh the commands, their options and the values of these.

The script holds everything itself, so that a press of the tab key starts no Python; and it is kept, so that a shell
that reads it whenever it starts is not held up.
"""

import argparse
import contextlib
import hashlib
import shlex
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import tyro
from tyro.conf import Positional

from stablerep.commands import COMMANDS
from stablerep.config import recipe_names
from stablerep.console import Console
from stablerep.errors import UserError

CACHE = Path("~/.cache/stablerep/completion.bash")
"""Where the script is kept."""
_SHARED = ("--help", "--recipe", "--json", "--quiet")
_ZSH = "autoload -Uz +X compinit bashcompinit && compinit -u && bashcompinit"
# Where nothing is offered, `-o default` lets the shell offer files.
# `options`, `values` and `many` (options that take several values) are set by the case of the command.
_SCRIPT = """\
_stablerep() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" place=$((COMP_CWORD - 1)) options='' values='' many='' first=''
  COMPREPLY=()
  while ((place > 0)) && [[ "${{COMP_WORDS[place]}}" != --* ]]; do place=$((place - 1)); done
  local before="${{COMP_WORDS[place]}}"
  if ((COMP_CWORD == 1)); then
    COMPREPLY=($(compgen -W {first} -- "$word"))
    return
  fi
  if ((COMP_CWORD == 2)); then
    case "${{COMP_WORDS[1]}}" in
{groups}
    esac
  fi
  case "${{COMP_WORDS[1]}} ${{COMP_WORDS[2]}}" in
{commands}
  esac
  if ((place < COMP_CWORD - 1)) && [[ " $many " != *" $before "* ]]; then values=''; fi
  if [[ "$word" == -* ]]; then
    COMPREPLY=($(compgen -W "$options" -- "$word"))
  else
    COMPREPLY=($(compgen -W "$first $values" -- "$word"))
  fi
}}
complete -o default -F _stablerep stablerep
"""


@dataclass(frozen=True, kw_only=True)
class CompletionConfig:
    """Print the script that completes commands and options by the tab key."""

    shell: Positional[Literal["bash", "zsh"]]
    """The shell that will read it."""


@dataclass(frozen=True)
class CompletionScript:
    """The script as text."""

    script: str

    def show(self, console: Console) -> None:
        """Line by line on stdout, to be redirected into a file or read by `source`."""
        console.lines(self.script)


def completion(config: CompletionConfig, *, console: Console = Console(quiet=True)) -> CompletionScript:  # noqa: ARG001, B008
    """The script for a shell. To make one, every command is loaded, which takes seconds; so it is kept."""
    script = _kept()
    return CompletionScript(script if config.shell == "bash" else f"{_ZSH}\n{script}")


def _kept() -> str:
    """The script for bash: from the user's cache as long as nothing has changed that it was made of, else a new one."""
    cache, first_line = CACHE.expanduser(), f"# {_made_of()}\n"
    with contextlib.suppress(OSError):
        kept = cache.read_text(encoding="utf-8", errors="replace")
        if kept.startswith(first_line):
            return kept
    script = first_line + _made()
    from stablerep.run import write_text  # behind torch, which a script that was kept need not wait for

    with contextlib.suppress(OSError, UserError):  # who has no place for it gets it all the same
        write_text(cache, script)
    return script


def _made_of() -> str:
    """Digest of what determines the script: the package's files, by size and time, and the versions that it runs on."""
    files = sorted(path for path in Path(__file__).parent.rglob("*") if path.suffix in (".py", ".toml"))
    states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr((states, sys.version, version("tyro"))).encode()).hexdigest()[:16]


def _made() -> str:
    first = dict.fromkeys(words[0] for words in COMMANDS)
    return _SCRIPT.format(
        first=_quoted([*first, "help", "--help", "--version"]),
        groups="\n".join(_groups()),
        # Longer commands come first: `evaluate painter` is no `evaluate`.
        commands="\n".join(_command(words) for words in sorted(COMMANDS, key=len, reverse=True)),
    )


def _groups() -> Iterator[str]:
    """The second words of commands that have two."""
    firsts = dict.fromkeys(words[0] for words in COMMANDS if len(words) > 1)
    for first in firsts:
        seconds = [words[1] for words in COMMANDS if words[0] == first and len(words) > 1]
        yield f"      {first}) first={_quoted(seconds)} ;;"


def _command(words: tuple[str, ...]) -> str:
    config_class, _ = COMMANDS[words].load()
    parser = tyro.extras.get_parser(config_class, config=(tyro.conf.AvoidSubcommands,))
    actions = parser._actions  # argparse has no other way to ask
    options = [name for action in actions for name in action.option_strings if name.startswith("--")]
    chosen = {action: _values(action) for action in actions if action.choices}
    cases = [
        f"        {'|'.join(action.option_strings)}) values={_quoted(values)} ;;"
        for action, values in chosen.items()
        if action.option_strings
    ]
    cases.append(f"        --recipe) values={_quoted(recipe_names())} ;;")
    positional = [value for action, values in chosen.items() if not action.option_strings for value in values]
    if positional:
        cases.append(
            f"        *) if ((COMP_CWORD == {len(words) + 1})); then first={_quoted(positional)}; fi ;;"
        )
    many = [name for action in chosen if action.nargs in ("*", "+") for name in action.option_strings]
    pattern = f'"{words[0]} {words[1]}"' if len(words) > 1 else f'"{words[0]} "*'
    return "\n".join(
        [
            f"    {pattern})",
            f"      options={_quoted(dict.fromkeys([*options, *_SHARED]))} many={_quoted(many)}",
            '      case "$before" in',
            *cases,
            "      esac ;;",
        ]
    )


def _values(action: argparse.Action) -> list[str]:
    choices: Iterable[Any] = action.choices or ()
    return [str(choice) for choice in choices]


def _quoted(words: Iterable[str]) -> str:
    return shlex.quote(" ".join(words)) if list(words) else "''"
