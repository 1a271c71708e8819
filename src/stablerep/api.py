"""What ``import stablerep`` offers: the commands as functions, with the options of the command line as keywords."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from stablerep import config as config_module
from stablerep.captions.entries import fault_of
from stablerep.cli import asked_by
from stablerep.embedding import EmbedConfig, Embedder, EmbedSummary
from stablerep.embedding import embed as _embed
from stablerep.errors import UserError
from stablerep.evaluation.protocols import EvaluateConfig
from stablerep.evaluation.protocols import evaluate as _evaluate
from stablerep.evaluation.scores import Scores
from stablerep.generation.execute import GenerateConfig, GenerateSummary
from stablerep.generation.execute import generate as _generate
from stablerep.interchange.convert import ConvertConfig, ConvertSummary
from stablerep.interchange.convert import convert as _convert
from stablerep.learning.methods import METHODS
from stablerep.learning.methods import train as _train
from stablerep.learning.trainer import TrainSummary
from stablerep.models.encoder import load_encoder
from stablerep.models.export import ExportConfig, ExportSummary
from stablerep.models.export import export as _export
from stablerep.store import CaptionTable, caption_id, normalise_text

__all__ = [
    "Embedder",
    "convert",
    "embed",
    "evaluate",
    "export",
    "generate",
    "load_encoder",
    "train",
    "write_captions",
]

T = TypeVar("T")


def write_captions(
    texts: Iterable[str], out: str | Path = "captions.lance", *, split: str | None = None
) -> Path:
    """Put texts into a caption table, which is created where there is none; equal ones are one caption.

    ``split`` is what their pictures are for, such as "train", which the recipes of the embedded worlds ask for.
    Raises ``UserError`` that names the first text which cannot be a caption; then nothing is written.
    """
    if isinstance(texts, str | Path):
        raise UserError(f"give a list of texts, not {str(texts)!r}; `stablerep captions import` reads files")
    rows: list[dict[str, Any]] = []
    for number, text in enumerate(texts):
        fault = fault_of(text) if isinstance(text, str) else f"not text but {type(text).__name__}"
        if fault:
            raise UserError(f"text {number} cannot be a caption: {fault}")
        identity = caption_id(text)
        row: dict[str, Any] = {"id": identity, "text": normalise_text(text), "split": split}
        rows.append(row | {"source": "python", "group": identity})
    CaptionTable.open_or_create(out).append(rows)
    return Path(out)


def generate(captions: str | Path, *, recipe: str | None = None, **settings: Any) -> GenerateSummary:
    """Paint the captions of a caption table; ``settings`` are the fields of ``GenerateConfig``.

    Raises ``UserError`` for wrong settings, naming all of them.
    """
    return _generate(_build(GenerateConfig, ("generate",), recipe, settings | {"captions": captions}))


def train(method: str, /, *, recipe: str | None = None, **settings: Any) -> TrainSummary:
    """Train a method by name; ``settings`` are the fields of its configuration, nested ones as dictionaries:
    ``train("stablerep", recipe="icons", out="runs/a", data={"images": ["images.lance"]}, method={"head_out": 64})``.

    Raises ``UserError`` for an unknown method and for wrong settings, naming all of them.
    """
    if method not in METHODS:
        raise UserError(f"unknown method {method!r}; there are: {', '.join(METHODS)}")
    return _train(method, _build(METHODS[method].config, ("train", method), recipe, settings))


def evaluate(run: str | Path, *, recipe: str | None = None, **settings: Any) -> Scores:
    """Measure the encoder of a run on real images; ``settings`` are the fields of ``EvaluateConfig``.

    Raises ``UserError`` for wrong settings, naming all of them.
    """
    return _evaluate(_build(EvaluateConfig, ("evaluate",), recipe, settings | {"run": run}))


def embed(
    source: str | Path, encoder: str | Path, *, recipe: str | None = None, **settings: Any
) -> EmbedSummary:
    """Write the features of a folder of pictures or an image table; ``settings`` are the fields of ``EmbedConfig``."""
    given = settings | {"source": source, "encoder": encoder}
    return _embed(_build(EmbedConfig, ("embed",), recipe, given))


def export(run: str | Path, to: str, *, recipe: str | None = None, **settings: Any) -> ExportSummary:
    """Write an encoder for another library; ``settings`` are the fields of ``ExportConfig``."""
    return _export(_build(ExportConfig, ("export",), recipe, settings | {"run": run, "to": to}))


def convert(
    source: str | Path, out: str | Path, *, recipe: str | None = None, **settings: Any
) -> ConvertSummary:
    """Turn image tables into what other programs read, or back; ``settings`` are the fields of ``ConvertConfig``."""
    return _convert(_build(ConvertConfig, ("convert",), recipe, settings | {"source": source, "out": out}))


def _build(
    config_class: type[T], words: tuple[str, ...], recipe: str | None, settings: Mapping[str, Any]
) -> T:
    """The class's defaults, the recipe over them, the keywords over both."""
    overlay = {} if recipe is None else asked_by(recipe, words)
    origin = f"stablerep.{words[0]}" + (f" with recipe {recipe}" if recipe else "")
    return config_module.build(config_class, overlay, settings, origin=origin)
