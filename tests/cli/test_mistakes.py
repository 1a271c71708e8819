"""Every kind of bad input: one sentence, exit code 2, nothing half-written."""

import errno
import io
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from desk import TINY_MEASURING, TINY_PAINTING, TINY_TRAINING, Capture, refused

from stablerep.cli import run

MISTAKES = {
    # commands and options
    "bogus": "stablerep: unknown command 'bogus'; stablerep --help lists the commands",
    "trian stablerep": "unknown command 'trian'; did you mean train stablerep?",
    "generat a.lance": "unknown command 'generat'; did you mean generate?",
    "train": "train is half a command; there are: train stablerep, train stablerep-plus, train simclr,",
    "train bogus": "unknown command 'train bogus'; there are: train stablerep, train stablerep-plus, train simclr,",
    "help bogus": "unknown command 'bogus'",
    "--json generate": "options such as '--json' come after the command",
    "generate --num-imags 3": "options: --num-imags, 3; perhaps you meant: --num-images (stablerep generate --help",
    "generate a b c": "unrecognized options: b, c",
    "generate --num-images x": "--num-images: invalid literal for int() with base 10: 'x'",
    "generate --num-images": "missing value for argument '--num-images'",
    "generate --num-images 0": "stablerep generate: num_images must be at least 1, got 0 (",
    "generate --limit 0": "stablerep generate: limit must be at least 1, got 0 (",
    "generate --format bmp": "invalid choice 'bmp' for argument '--format'. expected one of ('jpeg', 'png', 'webp')",
    "world mars --out x": "invalid choice 'mars' for argument 'name'",
    "world icons": "stablerep world: missing: --out (",
    "evaluate": "stablerep evaluate: missing: PATH (",
    "train stablerep --oot x": "missing: --out, --data.images; unrecognized options: --oot, x",
    "train stablerep --out x --data.images a": "say how long to train: --num-steps N or --num-epochs N",
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
    "train lora --recipe icons": "recipe icons has no table [train.lora], only those of stablerep, stablerep-plus,",
    "compare --recipe fashion": "recipe fashion says nothing of compare (no table [compare]); it is for the steps of "
    "compare: give it as `stablerep compare fashion`",
    "circle --recipe fashion": "give it as `stablerep circle --settings fashion`",
    "quickstart --recipe icons": "recipe icons says nothing of quickstart (no table [quickstart]); leave it out",
    "evaluate run --recipe cc12m": "(no table [evaluate]); leave it out, or give one that does (fashion, icons)",
    "evaluate run --recipe painters.toml": "recipe painters.toml says nothing of evaluate (no table [evaluate])",
    "compare cc12m --out x": "world must name icons, fashion, or a folder of captions and real pictures: recipe cc12m",
    "compare nope --out x": "unknown recipe 'nope'; shipped: cc12m, cc12m-2x,",
    "generate --recipe nope": "unknown recipe 'nope'; shipped: cc12m, cc12m-2x,",
    "generate --recipe icons --recipe nope": "--recipe takes one recipe, got icons, nope; give one, or a file of your",
    "generate --recipe nope.toml": "recipe nope.toml: No such file or directory",
    "generate --recipe broken.toml": "recipe broken.toml: Expected",
    "generate --recipe latin.toml": "recipe latin.toml: not UTF-8 text (byte 13)",
    "generate --recipe keys.toml": "unknown keys 'num_imagez', 'stepz'",
    "train stablerep --recipe tables.toml": "no command reads 'seed', 'generat', 'train.stablrep', 'train.c' (tables:",
    # tables, filters, teachers, encoders
    "generate absent.lance --out i.lance": "absent.lance: no caption table could be opened there (there is",
    "generate ok.txt --out i.lance": "it is a file, and a table is a folder; `stablerep captions import` makes one",
    "generate images.lance --out i.lance": "images.lance is not a table of captions: it has no column id, text, "
    "source; give one of captions",
    "generate captions.lance --teacher teacher --where 'split ==== 3' --out i.lance": "'split ==== 3' is not valid",
    "generate captions.lance --teacher teacher --where 'split = train' --out i.lance": "write texts in single quotes",
    "generate captions.lance --teacher teacher --where 'size = 3' --out i.lance": "'size = 3' is not valid",
    "generate captions.lance --teacher teacher --where \"split = 'x'\" --out i.lance": "leave the recipe out",
    "generate captions.lance --teacher nobody --out i.lance": "unknown teacher 'nobody'; shipped: ",
    "generate captions.lance --teacher owner/nobody --out i.lance": "teacher 'owner/nobody' is neither shipped",
    "generate captions.lance --teacher run --out i.lance": "is not a diffusers pipeline folder: it has no "
    "model_index.json; give one that save_pretrained of diffusers wrote",
    "train stablerep --recipe icons --out r --data.images absent.lance": "absent.lance: no image table",
    "train stablerep --recipe icons --out r --data.images run": "run: no image table could be opened there (it is "
    "a folder without a table; `stablerep convert` makes one of files of pictures)",
    "train simclr --recipe icons --out r --data.images images.lance --data.where 'a === b'": "'a === b' is not valid",
    "evaluate nobody --out s --benchmarks digits": "no encoder 'nobody': there is no such folder",
    "evaluate runs/nobody --world run": "there is no run or encoder at runs/nobody",
    "evaluate teacher --out s --benchmarks digits": "no encoder 'teacher'",
    "evaluate run --out s": "nothing to evaluate: benchmark icons: no folder was given; name its world with --world",
    "evaluate run --out s --world run": "run has no images.lance; give the folder that `stablerep world icons` wrote",
    "evaluate run --out s --benchmarks table --table painted.lance": "there are no labelled pictures for training, "
    "validation, test; those of a table are real, with a label and a split",
    "evaluate painter absent.lance --world run --judge raw-pixels": "run has no images.lance",
    "evaluate painter absent.lance --world run --judge raw-pixels --download": "run has no images.lance",
    "quickstart --teacher nobody --out q": "unknown teacher 'nobody'",
    "compare icons --out x --arms lora:painted": "stablerep, stablerep-plus, simclr, clip, supervised and a source",
    "convert absent x": "absent is not there; give an image table, or a file or folder of pictures",
    "report absent": "absent is neither a run (no run.json in it) nor a project",
    # outputs that hold something else
    "captions import ok.txt --out images.lance": "images.lance is not a table of captions",
    "captions import ok.txt --out run": "run exists and is not a table of captions",
    "generate captions.lance --teacher teacher --out run": "run exists and is not a table of images",
    "generate captions.lance --teacher teacher --out .": ". exists and is not a table of images; give another path",
    "generate captions.lance --teacher teacher --out captions.lance": "captions.lance is not a table of images",
    f"train stablerep --data.images images.lance --out teacher {shlex.join(TINY_TRAINING)}": "is not a run folder",
    "world icons --out .": ". already holds captions.lance and images.lance of something else",
}  # fmt: skip


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_sentence_and_touches_nothing(
    line: str, shared_desk: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shared_desk)
    assert MISTAKES[line].lower() in refused(line, shared_desk, capsys).lower()


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


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "captions import ok.txt --out ok.txt/c.lance",
        "world icons --out ok.txt/world",
        "generate captions.lance --teacher teacher --out ok.txt/i.lance --limit 1 --num-inference-steps 2",
        f"train stablerep --data.images images.lance --out ok.txt/run {shlex.join(TINY_TRAINING)}",
        f"evaluate run --out ok.txt/scores {shlex.join(TINY_MEASURING)}",
        "report run --out ok.txt/report/index.html",
        "report run --out ok.txt/index.html",
        "quickstart --out ok.txt/quickstart",
    ],
    ids=lambda line: line.split(" --")[0],
)
def test_a_place_that_cannot_be_written_is_refused(
    line: str, shared_desk: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path below a file, which not even an administrator can write to."""
    monkeypatch.chdir(shared_desk)
    assert "ok.txt" in refused(line, shared_desk, capsys)


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


def test_a_place_is_named_and_not_the_file_that_was_to_take_it(
    desk: Path, capsys: Capture, called: Callable[..., list[Any]]
) -> None:
    called(("report",), IsADirectoryError(errno.EISDIR, "Is a directory", ".run.1a2b", None, "run"))
    sentence = refused("report run --out run", desk, capsys)
    assert sentence == "stablerep report: run cannot be used (Is a directory); give another place"


@pytest.mark.parametrize(
    "bug", [RuntimeError("bug"), ValueError("bug"), FileNotFoundError(errno.ENOENT, "bug")]
)
def test_a_bug_keeps_its_traceback(bug: Exception, called: Callable[..., list[Any]]) -> None:
    called(("report",), bug)
    with pytest.raises(type(bug), match="bug"):
        run(["report", "x"])


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("generate x", "goes on from here"),
        ("world icons --out x", "goes on from here"),
        ("report x", "begins anew"),
        ("evaluate x", "begins anew"),
    ],
)
def test_an_interrupt_says_how_to_go_on(
    line: str, what: str, called: Callable[..., list[Any]], capsys: Capture
) -> None:
    command, *_ = words = line.split()
    called((command,), KeyboardInterrupt())
    assert run(words) == 130
    assert capsys.readouterr() == ("", f"stopped; the same command {what}\n")


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
