"""The command line in process: help, examples, every kind of bad input, and what goes to which stream."""

import dataclasses
import errno
import hashlib
import io
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import stablerep
from generation import tiny_pipelines
from learning import tiny_training
from stablerep import cli
from stablerep.cli import COMMANDS, run
from stablerep.models.encoder import load_encoder
from stablerep.store import CaptionTable, ImageTable

WORDS = list(COMMANDS)
Capture = pytest.CaptureFixture[str]

TINY_TRAINING = shlex.split(
    "--num-steps 2 --no-compile --precision float32 --data.captions-per-batch 4 --data.images-per-caption 2 "
    "--data.view.image-size 16 --method.encoder.architecture vit_tiny_patch16_224 --method.encoder.image-size 16 "
    "--method.encoder.patch-size 8 --method.encoder.width 24 --method.encoder.depth 1 --method.encoder.num-heads 3 "
    "--method.head-hidden 16 --method.head-out 8"
)
TINY_PAINTING = shlex.split("--num-inference-steps 2 --num-images 1 --limit 3 --batch-size 3")
TINY_MEASURING = shlex.split("--benchmarks digits --protocols knn --no-baselines --num-bootstrap 20")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
    desk = tmp_path / "desk"
    shutil.copytree(made, desk)
    monkeypatch.chdir(desk)
    Path("ok.txt").write_text("a red cat\na blue dog\n")
    Path("empty.txt").write_text("")
    Path("garbage.txt").write_bytes(bytes(range(256)) * 20)
    Path("garbage.parquet").write_bytes(bytes(range(256)) * 20)
    Path("wrong.csv").write_text("a,b\n1,2\n")
    Path("latin.txt").write_bytes("café au lait\n".encode("latin-1"))
    Path("huge.txt").write_text("x" * 2**20 + "\n")
    Path("keys.toml").write_text('[generate]\nnum_imagez = 3\nstepz = 2\nnum_images = "x"\n')
    Path("tables.toml").write_text("seed = 1\n[generat]\na = 1\n[train.stablrep]\nb = 2\n[train]\nc = 3\n")
    Path("broken.toml").write_text("[generate\n")
    return desk


def snapshot(folder: Path) -> dict[str, str]:
    """Every folder, and every file with the hash of its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in folder.rglob("*")
    }


def refused(line: str, desk: Path, capsys: Capture) -> str:
    """The one sentence that a command line is refused with; nothing was printed, written or changed."""
    before = snapshot(desk)
    capsys.readouterr()
    code = run(shlex.split(line))
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    *said, sentence = err.splitlines()
    assert err.endswith("\n")
    assert sentence.startswith("stablerep")
    assert "Traceback" not in err
    assert all(not line.startswith("stablerep") for line in said)
    assert snapshot(desk) == before
    return sentence


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


# -- help ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_every_command_explains_itself(words: tuple[str, ...], capsys: Capture) -> None:
    assert run([*words, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"usage: stablerep {' '.join(words)} " in out
    assert f"Example: stablerep {' '.join(words)} {COMMANDS[words].example}\n" in out
    for shared in ("--recipe NAME|FILE", "--json", "--quiet", "teacher-icons"):
        assert shared in out


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
        "lance",
        "pyarrow",
        "PIL",
        "timm",
        "diffusers",
        "sklearn",
        "matplotlib",
    }
    assert min(seconds) < 0.5, "processor time, so that other work on the machine does not count"


# -- mistakes ------------------------------------------------------------------------------------------

MISTAKES = {
    # commands and options
    "bogus": "stablerep: unknown command 'bogus'; stablerep --help lists the commands",
    "trian stablerep": "unknown command 'trian'; did you mean train stablerep?",
    "generat a.lance": "unknown command 'generat'; did you mean generate?",
    "train": "train is half a command; there are: train stablerep, train simclr,",
    "train bogus": "unknown command 'train bogus'; there are: train stablerep, train simclr,",
    "help bogus": "unknown command 'bogus'",
    "--json generate": "options such as '--json' come after the command",
    "generate --num-imags 3": "options: --num-imags, 3; perhaps you meant: --num-images (stablerep generate --help",
    "generate a b c": "unrecognized options: b, c",
    "generate --num-images x": "--num-images: invalid literal for int() with base 10: 'x'",
    "generate --num-images": "missing value for argument '--num-images'",
    "generate --num-images 0": "stablerep generate: num_images must be at least 1, got 0 (",
    "generate --format bmp": "invalid choice 'bmp' for argument '--format'. expected one of ('jpeg', 'png', 'webp')",
    "world mars --out x": "invalid choice 'mars' for argument 'name'",
    "world icons": "stablerep world: missing: --out (",
    "evaluate": "stablerep evaluate: missing: PATH (",
    "train stablerep --oot x": "missing: --out, --data.images; unrecognized options: --oot, x",
    "train stablerep --out x --data.images a": "give exactly one of num_steps and num_epochs",
    "quickstart --num-images 1": "num_images must be at least 2, got 1",
    # caption files
    "captions import --out c.lance": "no caption files given",
    "captions import absent.txt --out c.lance": "absent.txt: no such file",
    "captions import empty.txt --out c.lance": "empty.txt is empty",
    "captions import garbage.txt --out c.lance": "garbage.txt is not text (NUL byte at 0)",
    "captions import garbage.parquet --out c.lance": "garbage.parquet: not readable as Parquet",
    "captions import wrong.csv --column text --out c.lance": "wrong.csv has no column 'text'; its columns are 'a', 'b'",
    "captions import latin.txt --out c.lance": "not valid UTF-8",
    "captions import huge.txt --out c.lance": "more than 10,000 characters",
    "captions import ok.txt empty.txt absent.txt --out c.lance": "empty.txt is empty; absent.txt: no such file",
    # recipes
    "generate --recipe": "argument --recipe: expected one argument",
    "generate --recipe nope": "unknown recipe 'nope'; shipped: icons, teacher-icons;",
    "generate --recipe nope.toml": "recipe nope.toml: No such file or directory",
    "generate --recipe broken.toml": "recipe broken.toml: Expected",
    "generate --recipe latin.toml": "recipe latin.toml: not UTF-8 text (byte 13)",
    "generate --recipe keys.toml": "unknown keys 'num_imagez', 'stepz'",
    "train stablerep --recipe tables.toml": "no command reads 'seed', 'generat', 'train.stablrep', 'train.c' (tables:",
    # tables, filters, teachers, encoders
    "generate absent.lance --out i.lance": "absent.lance: no caption table could be opened there",
    "generate ok.txt --out i.lance": "ok.txt: no caption table could be opened there",
    "generate images.lance --out i.lance": "images.lance is not a table of captions: it has no column id, text",
    "generate captions.lance --teacher teacher --where 'split ==== 3' --out i.lance": "'split ==== 3'",
    "generate captions.lance --teacher teacher --where 'size = 3' --out i.lance": "'size = 3'",
    "generate captions.lance --teacher teacher --where \"split = 'x'\" --out i.lance": "no caption matches",
    "generate captions.lance --teacher nobody --out i.lance": "unknown teacher 'nobody'; shipped: ",
    "generate captions.lance --teacher owner/nobody --out i.lance": "teacher 'owner/nobody' is neither shipped",
    "generate captions.lance --teacher run --out i.lance": "is not a diffusers pipeline folder",
    "train stablerep --recipe icons --out r --data.images absent.lance": "absent.lance: no image table",
    "train simclr --recipe icons --out r --data.images images.lance --data.where 'a === b'": "'a === b' is not valid",
    "evaluate nobody --out s --benchmarks digits": "no encoder 'nobody'",
    "evaluate teacher --out s --benchmarks digits": "no encoder 'teacher'",
    "evaluate run --out s": "nothing to evaluate: benchmark icons: no folder was given; name its world with --world",
    "evaluate run --out s --world run": "run has no images.lance",
    "evaluate painter absent.lance --world run --judge raw-pixels": "run has no images.lance",
    "report absent": "absent is neither a run (no run.json in it) nor a project",
    # outputs that hold something else
    "captions import ok.txt --out images.lance": "images.lance is not a table of captions",
    "captions import ok.txt --out run": "run exists and is not a table of captions",
    "generate captions.lance --teacher teacher --out run": "run exists and is not a table of images",
    "generate captions.lance --teacher teacher --out captions.lance": "captions.lance is not a table of images",
    f"train stablerep --data.images images.lance --out teacher {shlex.join(TINY_TRAINING)}": "is not a run folder",
    "world icons --out .": ". already holds captions.lance and images.lance of something else",
}  # fmt: skip


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_sentence_and_touches_nothing(line: str, desk: Path, capsys: Capture) -> None:
    Path("latin.toml").write_bytes("# recipe: caf\xe9\n".encode("latin-1"))
    assert MISTAKES[line].lower() in refused(line, desk, capsys).lower()


class Stdout(io.StringIO):
    """What tyro looks at before it draws: the encoding, and whether there is a terminal to colour."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_mistakes_read_the_same_on_a_terminal(
    desk: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (
        "generate --num-imags 3",
        "world icons",
        "generate --format bmp",
        "evaluate",
        "generate --num-images 0",
    )
    piped = [refused(line, desk, capsys) for line in lines]
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", Stdout())
    for line in lines:
        run(line.split())
    assert capsys.readouterr().err.splitlines() == piped


def test_all_wrong_keys_and_types_of_a_recipe_are_listed(desk: Path, capsys: Capture) -> None:
    sentence = refused("generate captions.lance --recipe keys.toml", desk, capsys)
    for part in ("'num_imagez'", "'stepz'", "'num_images' must be int, got 'x'", "recipe keys.toml"):
        assert part in sentence


def test_another_runs_folder_is_refused_with_what_differs(desk: Path, capsys: Capture) -> None:
    train = ["train", "stablerep", "--data.images", f"{desk}/images.lance", "--out", "run", *TINY_TRAINING]
    assert "seed: 0 there, 7 asked" in refused(shlex.join([*train, "--seed", "7"]), desk, capsys)
    simclr = shlex.join([*train[:1], "simclr", *train[2:], "--data.crops-per-image", "2"])
    assert "kind: 'stablerep' there, 'simclr' asked" in refused(simclr, desk, capsys)


def test_pictures_of_another_seed_are_refused_with_what_differs(desk: Path, capsys: Capture) -> None:
    paint = ["generate", "captions.lance", "--teacher", "teacher", "--out", "painted.lance", *TINY_PAINTING]
    assert "seed: 0 there, 7 asked" in refused(shlex.join([*paint, "--seed", "7"]), desk, capsys)


def test_scores_never_go_into_the_folder_of_another_run(desk: Path, capsys: Capture) -> None:
    shutil.copytree("run", "other")
    line = shlex.join(["evaluate", "run", "--out", "other", *TINY_MEASURING])
    assert "other" in refused(line, desk, capsys)


def test_a_pickle_among_a_teachers_weights_is_refused(desk: Path, capsys: Capture) -> None:
    torch.save({"weight": torch.zeros(1)}, "teacher/transformer/diffusion_pytorch_model.bin")
    sentence = refused("generate captions.lance --teacher teacher --out i.lance", desk, capsys)
    assert "diffusion_pytorch_model.bin may be a pickle" in sentence


@pytest.mark.parametrize(
    "line",
    [
        "captions import ok.txt --out ok.txt/c.lance",
        "world icons --out ok.txt/world",
        "generate captions.lance --teacher teacher --out ok.txt/i.lance --limit 1 --num-inference-steps 1",
        f"train stablerep --data.images images.lance --out ok.txt/run {shlex.join(TINY_TRAINING)}",
        f"evaluate run --out ok.txt/scores {shlex.join(TINY_MEASURING)}",
        "report run --out ok.txt/report/index.html",
        "report run --out ok.txt/index.html",
        "quickstart --out ok.txt/quickstart",
    ],
    ids=lambda line: line.split(" --")[0],
)
def test_a_place_that_cannot_be_written_is_refused(line: str, desk: Path, capsys: Capture) -> None:
    """A path below a file, which not even an administrator can write to."""
    assert "ok.txt" in refused(line, desk, capsys)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_what_the_disk_refuses_is_a_sentence(
    number: int, desk: Path, capsys: Capture, called: Callable[..., list[Any]]
) -> None:
    called(("report",), OSError(number, os.strerror(number), "page\x1b[2J.html"))
    sentence = refused("report run", desk, capsys)
    assert (
        sentence
        == f"stablerep report: page[2J.html cannot be used ({os.strerror(number)}); give another place"
    )


@pytest.mark.parametrize(
    "bug", [RuntimeError("bug"), ValueError("bug"), FileNotFoundError(errno.ENOENT, "bug")]
)
def test_a_bug_keeps_its_traceback(bug: Exception, called: Callable[..., list[Any]]) -> None:
    called(("report",), bug)
    with pytest.raises(type(bug), match="bug"):
        run(["report", "x"])


def test_an_interrupt_says_how_to_go_on(called: Callable[..., list[Any]], capsys: Capture) -> None:
    called(("report",), KeyboardInterrupt())
    assert run(["report", "x"]) == 130
    assert capsys.readouterr() == ("", "stopped; the same command goes on from here\n")


def test_a_reader_that_goes_away_is_no_error() -> None:
    script = "from stablerep.cli import main; main(['--help'])"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait() == 1


# -- recipes -------------------------------------------------------------------------------------------


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
}


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize("name", COMMAND_LINES)
def test_results_on_stdout_and_the_rest_on_stderr(name: str, capsys: Capture) -> None:
    line = COMMAND_LINES[name]
    out, err = succeed(line, capsys)
    assert err != ""
    assert out != ""
    assert max(map(len, out.splitlines())) <= 80
    again, said = succeed(f"{line} --quiet", capsys)
    assert said == ""
    assert again != ""
    document, said = succeed(f"{line} --json --quiet", capsys)
    assert said == ""
    assert isinstance(json.loads(document), dict)
    assert "NaN" not in document


@pytest.mark.usefixtures("desk")
def test_a_table_of_scores_names_its_test_and_its_baselines(capsys: Capture) -> None:
    out, _ = succeed(COMMAND_LINES["evaluate"].replace(" --no-baselines", ""), capsys)
    assert "digits: test" in out
    assert "untrained encoder" in out
    document, _ = succeed(f"{COMMAND_LINES['evaluate']} --json", capsys)
    assert {record["protocol"] for record in json.loads(document)["records"]} == {"knn"}


def test_the_summary_of_a_world_is_readable(desk: Path, capsys: Capture) -> None:
    source = Path(__file__).parents[1] / "src" / "stablerep" / "data" / "icons.parquet"
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
