"""The completion script in a real bash: what the tab key offers at each place."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from desk import WORDS, Capture

from stablerep import completion as module
from stablerep.cli import run
from stablerep.completion import CompletionConfig, completion

BASH = shutil.which("bash")


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of its own for the script that is kept."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        yield home


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "stablerep.bash"
    path.write_text(bash_script(), encoding="utf-8")
    return path


def bash_script() -> str:
    return completion(CompletionConfig(shell="bash")).script


def offered(script: Path, line: str, folder: Path) -> set[str]:
    """What is offered for the last word of a line."""
    if BASH is None:
        pytest.skip("bash is not installed")
    words = line.split(" ")
    array = " ".join(f"'{word}'" for word in words)
    place = f"COMP_WORDS=({array}); COMP_CWORD={len(words) - 1}"
    ask = f"source {script}; {place}; _stablerep; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run([BASH, "-uc", ask], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.slow
def test_the_first_words_are_the_commands(script: Path, tmp_path: Path) -> None:
    assert offered(script, "stablerep ", tmp_path) == {words[0] for words in WORDS} | {
        "help",
        "--help",
        "--version",
    }
    assert offered(script, "stablerep ge", tmp_path) == {"generate"}


@pytest.mark.slow
def test_half_a_command_offers_its_other_halves(script: Path, tmp_path: Path) -> None:
    assert offered(script, "stablerep train stablerep", tmp_path) == {"stablerep", "stablerep-plus"}
    assert "painter" in offered(script, "stablerep evaluate pa", tmp_path)


def test_options_are_those_of_the_command(script: Path, tmp_path: Path) -> None:
    assert offered(script, "stablerep generate c.lance --num-im", tmp_path) == {"--num-images"}
    assert "--judge" in offered(script, "stablerep evaluate painter i.lance --j", tmp_path)
    assert "--judge" not in offered(script, "stablerep evaluate run --j", tmp_path)
    assert {"--json", "--quiet", "--recipe"} <= offered(script, "stablerep train clip --", tmp_path)


def test_values_are_those_of_the_option(script: Path, tmp_path: Path) -> None:
    assert {"webdataset", "parquet"} <= offered(script, "stablerep convert a b --to ", tmp_path)
    assert offered(script, "stablerep world i", tmp_path) == {"icons"}
    assert {"icons", "cc12m"} <= offered(script, "stablerep train clip --recipe ", tmp_path)


@pytest.mark.parametrize("line", ["stablerep report im", "stablerep generate c.lance --out im"])
def test_elsewhere_the_shell_offers_files(script: Path, tmp_path: Path, line: str) -> None:
    assert offered(script, line, tmp_path) == set()
    assert "complete -o default -F _stablerep stablerep\n" in script.read_text(encoding="utf-8")


def test_zsh_reads_it_through_its_own_bash_completion(capsys: Capture) -> None:
    assert run(["completion", "zsh"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.startswith("autoload") and "bashcompinit" in out.splitlines()[0]
    assert "complete -o default -F _stablerep stablerep\n" in out


@pytest.mark.slow
def test_a_script_that_is_kept_is_there_at_once(script: Path, home: Path) -> None:
    code = "import sys; from stablerep import cli; cli.run(['completion', 'bash']); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"HOME": str(home)}, capture_output=True, check=True
    )
    assert done.stdout.decode() == f"{script.read_text(encoding='utf-8')}False\n"


def test_a_script_is_kept_until_something_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    package = tmp_path / "package"
    package.mkdir()
    monkeypatch.setattr(module, "CACHE", tmp_path / "cache" / "completion.bash")
    monkeypatch.setattr(module, "__file__", str(package / "completion.py"))
    monkeypatch.setattr(module, "_made", lambda: made.append("") or f"script {len(made)}\n")
    assert bash_script() == bash_script()
    (package / "new.py").write_text("")
    assert "script 2" in bash_script()
    (package / "new.py").write_text("changed")
    assert "script 3" in bash_script()
    monkeypatch.setattr(module, "version", lambda _: "another")
    assert "script 4" in bash_script() == bash_script()
    monkeypatch.setattr(module, "CACHE", package / "new.py" / "completion.bash")
    assert "script 5" in bash_script(), "without a place it is made each time"
    assert "script 6" in bash_script()
