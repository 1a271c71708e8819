"""The command line: parse, build, call. Every option is a field of a configuration dataclass; none is listed twice."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

import stablerep
from stablerep import config as config_module
from stablerep.console import Console
from stablerep.errors import UserError


@dataclasses.dataclass(frozen=True)
class Command:
    """A command: a sentence for the overview, an example, and a loader that imports only when the command is called."""

    help: str
    example: str
    load: Callable[[], tuple[type[Any], Callable[..., Any]]]


def _load_import() -> tuple[type[Any], Callable[..., Any]]:
    from stablerep.captions.sources import ImportConfig, import_captions

    return ImportConfig, import_captions


def _load_world() -> tuple[type[Any], Callable[..., Any]]:
    from stablerep.captions.worlds import WorldConfig, write_world

    return WorldConfig, write_world


def _load_generate() -> tuple[type[Any], Callable[..., Any]]:
    from stablerep.generation.execute import GenerateConfig, generate

    return GenerateConfig, generate


def _train_loader(method: str) -> Callable[[], tuple[type[Any], Callable[..., Any]]]:
    def load() -> tuple[type[Any], Callable[..., Any]]:
        from stablerep.learning.methods import METHODS, train

        return METHODS[method].config, lambda config, console: train(method, config, console=console)

    return load


def _load_evaluate() -> tuple[type[Any], Callable[..., Any]]:
    from stablerep.evaluation.protocols import EvaluateConfig, evaluate

    return EvaluateConfig, evaluate


def _load_fidelity() -> tuple[type[Any], Callable[..., Any]]:
    from stablerep.evaluation.painting import PainterConfig, evaluate_painter

    return PainterConfig, evaluate_painter


def _load_report() -> tuple[type[Any], Callable[..., Any]]:
    from stablerep.report import ReportConfig, write_report

    return ReportConfig, write_report


def _load_quickstart() -> tuple[type[Any], Callable[..., Any]]:
    from stablerep.workflows.quickstart import QuickstartConfig, quickstart

    return QuickstartConfig, quickstart


COMMANDS: dict[tuple[str, ...], Command] = {
    ("quickstart",): Command("the whole chain on the embedded world, on a CPU", "", _load_quickstart),
    ("captions", "import"): Command(
        "text, CSV, TSV, JSONL or Parquet files -> a caption table",
        "captions.txt --out captions.lance",
        _load_import,
    ),
    ("world",): Command(
        "the tables of an embedded world: icons or fashion", "icons --out icons", _load_world
    ),
    ("generate",): Command(
        "paint several images per caption", "captions.lance --teacher icons --num-images 4", _load_generate
    ),
    ("train", "stablerep"): Command(
        "learn from images, those of one caption attracting each other",
        "--recipe icons --out runs/stablerep --data.images images.lance",
        _train_loader("stablerep"),
    ),
    ("train", "simclr"): Command(
        "learn from images, two crops of one image attracting each other",
        "--recipe icons --out runs/simclr --data.images images.lance",
        _train_loader("simclr"),
    ),
    ("train", "autoencoder"): Command(
        "the picture autoencoder of a latent painter",
        "--recipe teacher-icons --out runs/autoencoder",
        _train_loader("autoencoder"),
    ),
    ("train", "text-to-image"): Command(
        "a small painter, exported as a diffusers folder",
        "--recipe teacher-icons --out runs/painter",
        _train_loader("text-to-image"),
    ),
    ("evaluate",): Command(
        "measure an encoder on real images", "runs/stablerep --world icons", _load_evaluate
    ),
    ("evaluate", "painter"): Command(
        "prompt fidelity of painted images", "images.lance --world icons --judge runs/simclr", _load_fidelity
    ),
    ("report",): Command("one self-contained HTML page from files on disk", "quickstart", _load_report),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``stablerep``: exit code 0 on success, 2 on a mistake of the user, a traceback on a bug."""
    try:
        sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))
    except BrokenPipeError:  # the reader of a pipe went away (`stablerep ... | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def run(arguments: list[str]) -> int:
    """Parse and execute one command line; returns the exit code."""
    words = _command_words(arguments)
    if words is None:
        return _overview(arguments)
    shared, rest = _shared_options(arguments[len(words) :])
    console = Console(quiet=shared.quiet)
    try:
        config_class, function = COMMANDS[words].load()
        config = _parse(words, config_class, shared.recipe, rest)
        summary = function(config, console=console)
    except UserError as error:
        print(f"stablerep {' '.join(words)}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    _show(summary, console, as_json=shared.json)
    return 0


def _command_words(arguments: list[str]) -> tuple[str, ...] | None:
    for length in (2, 1):
        words = tuple(arguments[:length])
        if words in COMMANDS:
            return words
    return None


def _overview(arguments: list[str]) -> int:
    if arguments == ["--version"]:
        print(f"stablerep {stablerep.__version__}")
        return 0
    lines = [f"  {' '.join(words):22} {command.help}" for words, command in COMMANDS.items()]
    text = (
        "usage: stablerep COMMAND [OPTIONS]\n\n"
        + "\n".join(lines)
        + "\n\nstablerep COMMAND --help explains its options."
    )
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        print(text)
        return 0
    print(f"stablerep: unknown command {' '.join(arguments[:2])!r}\n\n{text}", file=sys.stderr)
    return 2


def _shared_options(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quiet", action="store_true")
    return parser.parse_known_args(arguments)


def _parse(words: tuple[str, ...], config_class: type[Any], recipe: str | None, arguments: list[str]) -> Any:
    """The configuration: the class's defaults, the recipe over them, the command line over both."""
    default: Any = None
    if recipe is not None:
        table = config_module.recipe_table(config_module.read_recipe(recipe), words, recipe)
        default = config_module.build_partial(
            config_class, table, missing=tyro.MISSING, origin=f"recipe {recipe}"
        )
    try:
        return tyro.cli(
            config_class,
            prog=f"stablerep {' '.join(words)}",
            description=_description(words),
            args=arguments,
            default=default,
            config=(tyro.conf.AvoidSubcommands,),
        )
    except ValueError as error:  # a dataclass refuses a combination of settings
        raise UserError(str(error)) from error


def _description(words: tuple[str, ...]) -> str:
    command = COMMANDS[words]
    name = " ".join(words)
    return (
        f"{command.help[0].upper()}{command.help[1:]}.\n\nExample: stablerep {name} {command.example}\n\n"
        f"Every command also takes --recipe NAME|FILE ({', '.join(config_module.recipe_names())}), --json and --quiet."
    )


def _show(summary: Any, console: Console, *, as_json: bool) -> None:
    if as_json:
        console.json(summary.to_json() if hasattr(summary, "to_json") else dataclasses.asdict(summary))
    elif hasattr(summary, "show"):
        summary.show(console)
    else:
        rows = [(name.replace("_", " "), str(value)) for name, value in dataclasses.asdict(summary).items()]
        console.table("", ("", ""), rows)
