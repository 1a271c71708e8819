"""Who reads the documentation: a folder with what its pages take for granted, and the hand that types their blocks."""

import contextlib
import dataclasses
import functools
import json
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kept
import pytest
import scripts
import smaller
import tyro
from not_run import NOT_RUN
from pages import ROOT, Block, Line, is_stablerep

from less import do_less, write_no_figures
from stablerep import api, cli, config
from stablerep.audit.attributes import read_attributes
from stablerep.audit.everything import AUDITS
from stablerep.captions import worlds
from stablerep.commands import COMMANDS
from stablerep.evaluation import scenes
from stablerep.evaluation.benchmarks import BENCHMARKS
from stablerep.generation.folders import read_defaults
from stablerep.generation.teacher import TEACHERS
from stablerep.learning.methods import METHODS
from stablerep.workflows import circle, compare, quickstart, recipe

SHIM = f"""#!{sys.executable}
from stablerep.cli import main
main()
"""

_SUBSTITUTION = re.compile(r"<\((stablerep [^)]+)\)")
"""What bash replaces by the name of a file that holds the output of the command."""


@dataclass
class Reader:
    """Runs blocks in a folder, one after the other, as they are printed."""

    folder: Path
    material: Path
    known: dict[str, Any] = field(default_factory=dict)
    """What Python blocks have defined; later ones of the page know it."""
    made: set[Path] = field(default_factory=set)
    """What the block at hand has made itself; what stood there before it is made anew."""

    def run(self, block: Block) -> None:
        """Do what a block says; what stands in ``NOT_RUN`` is left out."""
        self.made.clear()
        if block.language in RUNNERS:
            RUNNERS[block.language](self, block)
        for text in block.lines:
            if (str(block.page.relative_to(ROOT)), text) not in NOT_RUN:
                self.type(Line(block.page, text))

    def type(self, line: Line) -> None:
        """Type one line into a shell; ``stablerep`` runs in this process, where its configurations are made small."""
        first = line.words[0]
        if is_stablerep(line.text):
            with _variables(line.words):
                assert cli.run([*line.arguments, "--quiet"]) == 0, line.name
        elif first == "torchrun":
            launch(line)
        elif first == "python":
            scripts.run(line.words[1:])
        else:
            typed = ["bash", "-euo", "pipefail", "-c", _SUBSTITUTION.sub(self._output, line.text)]
            done = subprocess.run(typed, check=True, stderr=subprocess.PIPE, text=True)
            assert not done.stderr, line.name  # `source <(...)` succeeds even if what it reads does not

    def _output(self, found: re.Match[str]) -> str:
        """The name of a file with what a command in ``<(...)`` prints, which here as well runs in this process."""
        file = self.folder / "output.txt"
        with file.open("w", encoding="utf-8") as output, contextlib.redirect_stdout(output):
            assert cli.run([*found[1].split()[1:], "--quiet"]) == 0, found[0]
        return str(file)

    def made_small(self, config: Any) -> Any:
        """A configuration as it is carried out here, with its output out of the way if another block made it."""
        config = smaller.smaller(config, self.material)
        out = getattr(config, "out", None)
        if isinstance(out, Path) and not getattr(config, "repaint", False):
            path = self.folder / out
            if path not in self.made and path.exists():
                (shutil.rmtree if path.is_dir() else Path.unlink)(path)
            self.made.add(path)
        return config


@contextlib.contextmanager
def reading(folder: Path, material: Path, *, figures: bool = False) -> Iterator[Reader]:
    """A reader in a folder, whose every command and function of the interface does less.

    Figures are written where ``figures`` asks for them; that takes longer than all else.
    """
    reader = Reader(folder, material, known={"stablerep": __import__("stablerep")})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PATH", f"{folder / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("PYTHONPATH", str(ROOT / "src"))
        patch.syspath_prepend(str(folder))
        patch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, _: Path(path).is_file())
        patch.setattr("uvicorn.Server.run", answer_once)
        patch.setattr("stablerep.completion.CACHE", material / "completion.bash")
        for words, command in list(COMMANDS.items()):
            small = Command(" ".join(words), command.load, reader)
            patch.setitem(COMMANDS, words, type(command)(command.help, command.example, small))
        build = api._build
        patch.setattr(api, "_build", lambda *asked: reader.made_small(build(*asked)))
        patch.setattr(scenes, "_SIZES", {"train": 8, "validation": 4, "test": 4})
        do_less(patch)
        if not figures:
            write_no_figures(patch)
        patch.setattr(recipe, "config_module", _building(material))
        for workflow in (circle, compare, quickstart):
            for name in ("write_world", "evaluate_painter"):
                if hasattr(workflow, name):
                    patch.setattr(workflow, name, _with_less(getattr(workflow, name), material))
        for module, name in ((compare, "compare"), (worlds, "write_world")):  # as scripts call them
            patch.setattr(module, name, _with_less(getattr(module, name), material))
        with _forgetting(METHODS, AUDITS, BENCHMARKS, TEACHERS):
            yield reader


@contextlib.contextmanager
def _forgetting(*registries: Any) -> Iterator[None]:
    """What the files that a page shows enter into registries, and the files as modules, are forgotten afterwards."""
    known = [set(registry) for registry in (*registries, sys.modules)]
    try:
        yield
    finally:
        shown = {path.stem for path in (ROOT / "docs" / "examples").glob("*.py")}
        for registry, names in zip(registries, known[:-1], strict=True):
            for name in set(registry) - names:
                del registry[name]
        for name in (set(sys.modules) - known[-1]) & shown:
            del sys.modules[name]


@dataclass(frozen=True)
class Command:
    """Loads a command that does less than it is asked."""

    words: str
    load: Callable[[], Any]
    reader: Reader

    def __call__(self) -> Any:
        config_class, function = self.load()

        def call(asked: Any, console: Any) -> Any:
            small = self.reader.made_small(asked)
            do = functools.partial(function, small, console=console)
            return kept.once(self.words, small, do, self.reader.material / "kept")

        return config_class, call


def _building(material: Path) -> Any:
    """The module that workflows build configurations with, which come out small."""

    def build(*asked: Any, **more: Any) -> Any:
        return smaller.smaller(config.build(*asked, **more), material)

    return SimpleNamespace(**vars(config) | {"build": build})


def _with_less(function: Callable[..., Any], material: Path) -> Callable[..., Any]:
    """The function of a workflow; its configuration is the last positional argument."""

    def call(*asked: Any, **more: Any) -> Any:
        small = smaller.smaller(asked[-1], material)
        do = functools.partial(function, *asked[:-1], small, **more)
        return kept.once("", small, do, material / "kept")

    return call


@contextlib.contextmanager
def _variables(words: list[str]) -> Iterator[None]:
    """What stands in front of a command as NAME=value, for the time of the command."""
    with pytest.MonkeyPatch.context() as patch:
        for word in words:
            name, sign, value = word.partition("=")
            if not sign:
                break
            patch.setenv(name, value)
        yield


def answer_once(server: Any, sockets: Any = None) -> None:
    """In place of serving until Ctrl-C: the page is asked for once, and the gallery ends."""
    from starlette.testclient import TestClient

    host = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    with TestClient(server.config.app, base_url=host) as client:
        password = os.environ.get("STABLEREP_GALLERY_PASSWORD")
        answer = client.get("/", auth=("reader", password) if password else None)
    sockets[0].close()
    assert answer.status_code == 200 and "gradio" in answer.text


def launch(line: Line) -> None:
    """A line of torchrun: read by torch's own parser, its module run as the one process of one machine."""
    from torch.distributed import run

    asked = run.parse_args(line.words[1:])
    assert asked.module, f"{line.name}: -m stablerep is what every environment has"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, str(value))
        patch.setattr(sys, "argv", [asked.training_script, *asked.training_script_args])
        with pytest.raises(SystemExit) as end:
            runpy.run_module(asked.training_script, run_name="__main__")
        assert end.value.code == 0, line.name


def run_python(reader: Reader, block: Block) -> None:
    """What Python blocks define, later ones of the page know."""
    exec(compile(block.text, block.name, "exec"), reader.known)


def run_shown_file(reader: Reader, block: Block) -> None:
    """A file that the page shows lies in the folder, and is imported."""
    source = ROOT / block.text.split('"')[1]
    shutil.copy(source, reader.folder)
    exec(f"import {source.stem}", reader.known)


def load_recipe(reader: Reader, block: Block) -> None:
    """A recipe is read by the command that its table names, as by ``--recipe mine.toml``; attributes by their audit."""
    recipe = reader.folder / "mine.toml"
    recipe.write_text(block.text, encoding="utf-8")
    content = tomllib.loads(block.text)
    if "attributes" in content:
        read_attributes(recipe)
        return
    named = [words for words in COMMANDS if _table(content, words)]
    assert named, f"{block.name}: no command reads this recipe"
    for words in named:
        config_class, _ = COMMANDS[words].load()
        settings = cli.recipe_settings(words, str(recipe))
        config.build_partial(config_class, settings, missing=tyro.MISSING, origin=block.name)


def _table(recipe: dict[str, Any], words: tuple[str, ...]) -> Any:
    """What a recipe says of a command itself, and not by what it extends."""
    found: Any = recipe
    for word in words:
        found = found.get(word) if isinstance(found, dict) else None
    return found


def load_defaults(reader: Reader, block: Block) -> None:
    """What a teacher is asked by default, beside its model_index.json."""
    (reader.folder / "model_index.json").write_text("{}")
    (reader.folder / "stablerep.json").write_text(block.text, encoding="utf-8")
    found = json.loads(json.dumps(dataclasses.asdict(read_defaults(reader.folder))))
    said = json.loads(block.text)
    assert {name: found[name] for name in said} == said


RUNNERS: dict[str, Callable[[Reader, Block], None]] = {
    "python": run_python,
    "include": run_shown_file,
    "toml": load_recipe,
    "json": load_defaults,
}
"""What is done with a block by its language, beside typing its lines."""
