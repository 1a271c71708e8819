"""What the tests of the command line share."""

import hashlib
import shlex
from pathlib import Path

import pytest

from stablerep.cli import COMMANDS, run

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
