"""A user's working directory with everything at hand, and commands that only note what they were called with."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from desk import TINY_PAINTING, TINY_TRAINING

from generation import tiny_pipelines
from learning import tiny_training
from less import do_less, write_no_figures
from stablerep.cli import COMMANDS, run


@pytest.fixture(scope="module", autouse=True)
def always_one_thread(one_thread: None) -> None:
    """Every module of this folder computes on one thread."""


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "FORCE_COLOR", "RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny teacher, tables, painted pictures and a trained run, all but the teacher by commands."""
    folder = tmp_path_factory.mktemp("made")
    tiny_pipelines.pixart(folder / "teacher")
    tiny_training.write_world(folder)
    captions, teacher = f"{folder}/captions.lance", f"{folder}/teacher"
    assert (
        run(["generate", captions, "--teacher", teacher, "--out", f"{folder}/painted.lance", *TINY_PAINTING])
        == 0
    )
    images = ["--data.images", f"{folder}/images.lance", "--out", f"{folder}/run"]
    assert run(["train", "stablerep", *images, *TINY_TRAINING]) == 0
    return folder


@pytest.fixture
def desk(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a user with everything at hand, good and bad."""
    monkeypatch.chdir(furnished(tmp_path / "desk", made))
    do_less(monkeypatch)
    write_no_figures(monkeypatch)
    return tmp_path / "desk"


@pytest.fixture(scope="module")
def shared_desk(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests of a module that leave everything as it is."""
    return furnished(tmp_path_factory.mktemp("shared") / "desk", made)


def furnished(desk: Path, made: Path) -> Path:
    """A copy of what was made, with files to begin with and files that are wrong."""
    shutil.copytree(made, desk)
    (desk / "ok.txt").write_text("a red cat\na blue dog\n")
    (desk / "empty.txt").write_text("")
    (desk / "garbage.txt").write_bytes(bytes(range(256)) * 20)
    (desk / "garbage.parquet").write_bytes(bytes(range(256)) * 20)
    (desk / "wrong.csv").write_text("a,b\n1,2\n")
    (desk / "latin.txt").write_bytes("café au lait\n".encode("latin-1"))
    (desk / "latin.toml").write_bytes("# recipe: café\n".encode("latin-1"))
    (desk / "huge.txt").write_text("x" * 2**20 + "\n")
    (desk / "keys.toml").write_text('[generate]\nnum_imagez = 3\nstepz = 2\nnum_images = "x"\n')
    (desk / "tables.toml").write_text("seed = 1\n[generat]\na = 1\n[train.stablrep]\nb = 2\n[train]\nc = 3\n")
    (desk / "broken.toml").write_text("[generate\n")
    (desk / "painters.toml").write_text("[evaluate.painter]\nseed = 1\n")
    return desk


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Replace what a command does; returns the list of the configurations that it is called with."""

    def replace(words: tuple[str, ...], result: Any = Path("result")) -> list[Any]:
        config_class, _ = COMMANDS[words].load()
        configs: list[Any] = []

        def function(config: Any, *, console: Any) -> Any:
            del console
            configs.append(config)
            if isinstance(result, BaseException):
                raise result
            return result

        command = dataclasses.replace(COMMANDS[words], load=lambda: (config_class, function))
        monkeypatch.setitem(COMMANDS, words, command)
        return configs

    return replace
