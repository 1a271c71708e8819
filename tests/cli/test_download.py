"""Models that are only named: every command asks the hub to fetch them where it is told so, and never else."""

import shlex
from pathlib import Path

import pytest
from desk import Capture

from learning.tiny_training import autoencoder_config
from stablerep.cli import run
from stablerep.learning.autoencoder import Autoencoder
from workflows import tiny_drawings

TEACHER, ENCODER = "owner/name", "timm:vit_tiny_patch16_224.augreg_in21k"
TRAIN = (
    "--data.images images.lance --data.captions captions.lance --num-steps 1 --no-compile --precision float32 "
    "--device cpu --out"
)
PAINTER = (
    "--method.autoencoder autoencoder --method.vocabulary 64 --method.width 16 --method.depth 1 --method.num-heads 2 "
    "--method.text-width 8 --method.text-depth 1 --method.alignment.block 1 "
    "--method.alignment.encoder"
)
LINES = {
    f"generate captions.lance --teacher {TEACHER} --out painted.lance": "--download",
    f"edit {TEACHER} --out edited --remove cat": "--paint.download",
    f"embed images.lance --encoder {ENCODER}": "--download",
    f"evaluate {ENCODER} --benchmarks digits --out scores": "--download",
    f"evaluate painter {TEACHER} --world . --judge raw-pixels --out judged/scores.json": "--download",
    f"export {ENCODER} --to safetensors --out exported": "--download",
    f"train distillation --method.teacher {TEACHER} {TRAIN} few-steps": "--method.download",
    f"train lora --method.teacher {TEACHER} {TRAIN} lora": "--method.download",
    f"train text-to-image {PAINTER} {ENCODER} {TRAIN} painter": "--method.alignment.download",
    "compare own.toml --world . --arms stablerep:painted --num-captions 4 --out compare": "--download",
    f"circle --world . --teacher {TEACHER} --num-captions 4 --out circle": "--download",
    f"quickstart --teacher {TEACHER} --num-captions 8 --out quickstart": "--download",
}
"""A command line that loads a model by name, and its option to fetch it."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny world, an autoencoder, and a recipe whose teacher is only named."""
    folder = tiny_drawings.write_world(tmp_path_factory.mktemp("place"))
    Autoencoder(autoencoder_config()).export(folder)
    (folder / "own.toml").write_text(f'extends = "icons"\n[generate]\nteacher = "{TEACHER}"\n')
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES, ids=lambda line: line.partition(" -")[0])
def test_a_model_is_fetched_where_it_is_asked_for(
    line: str, place: Path, fetched: list[bool], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(
        "stablerep.workflows.quickstart.write_world", lambda asked: tiny_drawings.write_world(asked.out)
    )
    said = []
    for words in (shlex.split(line), [*shlex.split(line), LINES[line]]):
        assert run([*words, "--quiet"]) == 2
        said.append(capsys.readouterr().err)
    assert fetched == [False, True]
    assert f"add {LINES[line]} to fetch it" in said[0]
    assert "check the" in said[1]
