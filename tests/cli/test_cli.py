"""The command line in process: help, examples, recipes, and what goes to which stream."""

import json
import os
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from desk import TINY_MEASURING, TINY_PAINTING, TINY_TRAINING, WORDS, Capture

import stablerep
from stablerep import cli
from stablerep.cli import COMMANDS, run
from stablerep.models.encoder import load_encoder
from stablerep.store import CaptionTable, ImageTable

# -- help ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_every_command_explains_itself(words: tuple[str, ...], capsys: Capture) -> None:
    assert run([*words, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"usage: stablerep {' '.join(words)} " in out
    assert f"Example: stablerep {' '.join(words)} {COMMANDS[words].example}\n" in out
    for shared in ("--recipe NAME|FILE", "--json", "--quiet"):
        assert shared in out


@pytest.mark.parametrize(
    ("command", "recipes"),
    [
        (
            "train text-to-image",
            "--json and --quiet. Shipped recipes for it: teacher-fashion, teacher-icons. ",
        ),
        ("compare", "given as `stablerep compare NAME|FILE`; shipped: cc12m, "),
        ("doctor", ""),
    ],
)
def test_a_help_names_the_recipes_of_its_command(command: str, recipes: str, capsys: Capture) -> None:
    assert run([*command.split(), "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert recipes in said
    assert bool(recipes) == ("hipped" in said)


def test_the_lines_of_a_docstring_are_one_paragraph_of_the_help(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    assert run(["generate", "--help"]) == 0
    assert "such as 0.2 0.9; steps outside cost half. At all times" in capsys.readouterr().out


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_every_example_parses(words: tuple[str, ...], called: Callable[..., list[Any]]) -> None:
    configs = called(words)
    assert run([*words, *shlex.split(COMMANDS[words].example)]) == 0
    assert [type(config) for config in configs] == [COMMANDS[words].load()[0]]


@pytest.mark.parametrize("line", ["", "--help", "-h", "help"])
def test_the_overview_names_every_command(line: str, capsys: Capture) -> None:
    assert run(line.split()) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert max(map(len, out.splitlines())) <= 80
    for words, command in COMMANDS.items():
        assert f"  {' '.join(words)} " in out
        assert command.help in out


@pytest.mark.parametrize("line", ["train --help", "train -h", "help train"])
def test_half_a_command_lists_its_other_halves(line: str, capsys: Capture) -> None:
    assert run(line.split()) == 0
    out = capsys.readouterr().out
    assert "  train stablerep " in out
    assert "  train text-to-image " in out
    assert "generate" not in out


def test_help_before_and_after_a_command_are_the_same(capsys: Capture) -> None:
    assert run(["help", "captions", "import"]) == 0
    before = capsys.readouterr().out
    assert run(["captions", "import", "--help"]) == 0
    assert capsys.readouterr().out == before


def test_version(capsys: Capture) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr() == (f"stablerep {stablerep.__version__}\n", "")


def test_the_package_itself_is_the_command() -> None:
    command = [sys.executable, "-m", "stablerep", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"stablerep {stablerep.__version__}\n"


@pytest.mark.slow
def test_help_starts_at_once_and_without_torch() -> None:
    script = (
        "import sys; from stablerep import cli; cli.run(['--help']); cli.run(['generat']); "
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "tyro" in loaded
    assert not loaded & {
        "torch",
        "numpy",
        "cv2",
        "lance",
        "pyarrow",
        "PIL",
        "timm",
        "diffusers",
        "sklearn",
        "matplotlib",
    }
    assert min(seconds) < 0.5, "processor time, so that other work on the machine does not count"


# -- recipes -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_line_goes_over_the_recipe_and_the_recipe_over_the_defaults(
    desk: Path, called: Callable[..., list[Any]]
) -> None:
    (desk / "mine.toml").write_text("[generate]\nnum_images = 3\nseed = 5\n[train.simclr]\nnum_steps = 9\n")
    configs = called(("generate",))
    assert run(["generate", "c.lance", "--recipe", "mine.toml", "--seed", "7"]) == 0
    (config,) = configs
    assert (config.num_images, config.seed, config.quality) == (3, 7, 95)
    assert config.captions == Path("c.lance")


def test_a_recipe_may_speak_of_a_command_and_of_one_below_it(
    desk: Path, called: Callable[..., list[Any]]
) -> None:
    (desk / "mine.toml").write_text("[evaluate]\nseed = 5\n[evaluate.painter]\nseed = 6\n")
    encoders, painters = called(("evaluate",)), called(("evaluate", "painter"))
    assert run(["evaluate", "r", "--recipe", "mine.toml"]) == 0
    assert run(["evaluate", "painter", "i", "--world", "w", "--judge", "j", "--recipe", "mine.toml"]) == 0
    assert [config.seed for config in encoders + painters] == [5, 6]


def test_simclr_stays_simclr_under_a_recipe(called: Callable[..., list[Any]]) -> None:
    configs = called(("train", "simclr"))
    assert run(["train", "simclr", "--recipe", "icons", "--out", "r", "--data.images", "i"]) == 0
    assert configs[0].method.positives == "image"


@pytest.mark.parametrize(("given", "recipe"), [(["fashion"], "fashion"), ([], "icons")])
def test_a_comparison_is_called_by_its_recipe(
    given: list[str], recipe: str, called: Callable[..., list[Any]]
) -> None:
    configs = called(("compare",))
    assert run(["compare", *given, "--out", "x"]) == 0
    assert (configs[0].settings, configs[0].chosen_world) == (recipe, recipe)


# -- streams -------------------------------------------------------------------------------------------


def succeed(line: str, capsys: Capture) -> tuple[str, str]:
    capsys.readouterr()
    assert run(shlex.split(line)) == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err, "no colours where the output is piped"
    return out, err


COMMAND_LINES = {
    "captions import": "captions import ok.txt --out c.lance",
    "generate": shlex.join(
        ["generate", "captions.lance", "--teacher", "teacher", "--out", "i.lance", *TINY_PAINTING]
    ),
    "train": shlex.join(
        ["train", "stablerep", "--data.images", "images.lance", "--out", "r", *TINY_TRAINING]
    ),
    "evaluate": shlex.join(["evaluate", "run", "--out", "s", *TINY_MEASURING]),
    "report": "report run --out report/index.html",
    "captions synthesize": "captions synthesize --classes ok.txt --num 20 --out s.lance",
    "audit captions": "audit captions captions.lance",
    "audit quality": "audit quality images.lance",
    "sheet": "sheet images.lance --captions captions.lance --out sheet.png",
    "embed": "embed images.lance --encoder run -o f.npy",
    "convert": "convert images.lance shared --to imagefolder",
    "export": "export run --to safetensors --out exported",
    "doctor": "doctor images.lance run",
}


def _elsewhere(line: str) -> str:
    """The same with another place for what must not be there yet."""
    return line.replace(" shared", " shared-2").replace(" exported", " exported-2")


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize("name", COMMAND_LINES)
def test_results_on_stdout_and_the_rest_on_stderr(name: str, capsys: Capture) -> None:
    line = COMMAND_LINES[name]
    out, err = succeed(line, capsys)
    assert err != ""
    assert out != ""
    assert max(map(len, out.splitlines())) <= 80
    document, said = succeed(f"{_elsewhere(line)} --json --quiet", capsys)
    assert said == ""
    assert isinstance(json.loads(document), dict)
    assert "NaN" not in document


@pytest.mark.usefixtures("desk")
def test_a_quiet_command_still_has_a_result(capsys: Capture) -> None:
    out, said = succeed(f"{COMMAND_LINES['captions import']} --quiet", capsys)
    assert said == ""
    assert "c.lance" in out


@pytest.mark.slow
@pytest.mark.usefixtures("desk")
def test_a_table_of_scores_names_its_test_and_its_baselines(capsys: Capture) -> None:
    out, _ = succeed(COMMAND_LINES["evaluate"].replace(" --no-baselines", ""), capsys)
    assert "digits: test" in out
    assert "untrained encoder" in out
    document, _ = succeed(f"{COMMAND_LINES['evaluate']} --json", capsys)
    assert {record["protocol"] for record in json.loads(document)["records"]} == {"knn"}


def test_the_summary_of_a_world_is_readable(desk: Path, capsys: Capture) -> None:
    source = Path(__file__).parents[2] / "src" / "stablerep" / "data" / "icons.parquet"
    first_pictures(source, desk / "few.parquet", 30)
    out, _ = succeed("world icons --source few.parquet --out w", capsys)
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "name                icons" in lines
    assert "pictures            30" in lines
    assert any(line.startswith("pictures by split   t") for line in lines)
    assert "{" not in out


def first_pictures(source: Path, path: Path, count: int) -> None:
    """The first rows of the shipped pictures as a file of their own."""
    import pyarrow.parquet as pq

    pq.write_table(pq.read_table(source).slice(0, count), path)


@pytest.mark.usefixtures("desk")
def test_only_the_first_process_of_a_launcher_reports(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert succeed("captions import ok.txt --out c.lance --json", capsys) == ("", "")
    assert len(CaptionTable.open("c.lance")) == 2
    assert run(["captions", "import", "absent.txt"]) == 2
    assert "no such file" in capsys.readouterr().err


def test_what_the_commands_made_is_there(made: Path) -> None:
    assert len(ImageTable.open(made / "painted.lance")) == 3
    assert load_encoder(made / "run").dim == 24


def test_main_exits_with_the_code(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(sys, "argv", ["stablerep", "--version"])
    for arguments, code in ((None, 0), (["bogus"], 2)):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert caught.value.code == code
    assert "unknown command 'bogus'" in capsys.readouterr().err
