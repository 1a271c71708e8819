"""The commands: for each its sentence in the overview, an example, and what it imports when it is called."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Loaded = tuple[type[Any], Callable[..., Any]]
"""A configuration class, and the function ``f(config, *, console)`` that it configures."""


@dataclass(frozen=True)
class Command:
    """One command of ``stablerep``."""

    help: str
    """Its sentence in the overview."""
    example: str
    """What may follow its name; a test parses it."""
    load: Callable[[], Loaded]
    """Imports what the command needs, and nothing before it is called."""
    takes_recipe: str | None = None
    """How a command of several steps is given the recipe that they read, of which no table is its own."""


def _from(module: str, config: str, function: str) -> Callable[[], Loaded]:
    def load() -> Loaded:
        loaded = importlib.import_module(f"stablerep.{module}")
        return getattr(loaded, config), getattr(loaded, function)

    return load


def _training(method: str) -> Callable[[], Loaded]:
    def load() -> Loaded:
        from stablerep.learning.methods import METHODS, train

        return METHODS[method].config, lambda config, console: train(method, config, console=console)

    return load


COMMANDS: dict[tuple[str, ...], Command] = {
    ("quickstart",): Command(
        "the whole chain on the embedded world, on a CPU",
        "--out quickstart",
        _from("workflows.quickstart", "QuickstartConfig", "quickstart"),
    ),
    ("captions", "import"): Command(
        "captions from text, CSV, JSONL, Parquet or tar files",
        "captions.txt --out captions.lance",
        _from("captions.sources", "ImportConfig", "import_captions"),
    ),
    ("captions", "synthesize"): Command(
        "captions from class names: templates or a model",
        "--classes classes.txt --num 1000000",
        _from("captions.synthesis", "SynthesizeConfig", "synthesize"),
    ),
    ("world",): Command(
        "the tables of an embedded world: icons or fashion",
        "icons --out icons",
        _from("captions.worlds", "WorldConfig", "write_world"),
    ),
    ("generate",): Command(
        "paint several images per caption",
        "captions.lance --teacher icons --num-images 4",
        _from("generation.execute", "GenerateConfig", "generate"),
    ),
    ("audit", "all"): Command(
        "every audit of a table of pictures, and its keep mask",
        "images.lance --captions captions.lance --encoder runs/clip",
        _from("audit.everything", "AuditAllConfig", "audit_all"),
    ),
    ("audit", "bias"): Command(
        "shares of attributes in pictures beside a target",
        "images.lance --captions captions.lance --attributes attributes.toml "
        "--reference icons/images.lance --encoder runs/clip",
        _from("audit.bias", "BiasAuditConfig", "audit_bias"),
    ),
    ("audit", "captions"): Command(
        "addresses, numbers and protected names in captions",
        "captions.lance --protected names.txt",
        _from("audit.captions", "CaptionAuditConfig", "audit_captions"),
    ),
    ("audit", "copies"): Command(
        "painted pictures that repeat a real one, or each other",
        "images.lance --reference icons/images.lance",
        _from("audit.copies", "CopyAuditConfig", "audit_copies"),
    ),
    ("audit", "match"): Command(
        "pictures that do not show what their caption asked for",
        "images.lance --captions captions.lance --encoder runs/clip",
        _from("audit.match", "MatchAuditConfig", "audit_match"),
    ),
    ("audit", "quality"): Command(
        "blank, blurred, noisy, enlarged or repeated pictures",
        "images.lance --rules.reference icons/images.lance",
        _from("audit.quality", "QualityConfig", "audit_quality"),
    ),
    ("edit",): Command(
        "remove, replace or rebalance what a teacher paints",
        "icons --out edited --remove heart --captions captions.lance",
        _from("workflows.edit", "EditConfig", "edit"),
    ),
    ("train", "stablerep"): Command(
        "learn: images of one caption attract each other",
        "--recipe icons --data.images images.lance --out runs/stablerep",
        _training("stablerep"),
    ),
    ("train", "stablerep-plus"): Command(
        "learn: images of one caption attract, and their text",
        "--recipe icons --data.images images.lance --out runs/stablerep-plus",
        _training("stablerep-plus"),
    ),
    ("train", "simclr"): Command(
        "learn: two crops of one image attract each other",
        "--recipe icons --data.images images.lance --out runs/simclr",
        _training("simclr"),
    ),
    ("train", "clip"): Command(
        "learn: an image and the text of its caption attract",
        "--recipe icons --data.images icons/images.lance --out runs/clip",
        _training("clip"),
    ),
    ("train", "supervised"): Command(
        "learn: images of one label attract each other",
        "--recipe icons --data.images icons/images.lance --out runs/judge",
        _training("supervised"),
    ),
    ("train", "autoencoder"): Command(
        "the picture autoencoder of a latent painter",
        "--recipe teacher-icons --out runs/autoencoder",
        _training("autoencoder"),
    ),
    ("train", "text-to-image"): Command(
        "a small painter, exported as a diffusers folder",
        "--recipe teacher-icons --out runs/painter",
        _training("text-to-image"),
    ),
    ("train", "lora"): Command(
        "an existing pipeline, trained further by adapters",
        "--method.teacher stable-diffusion --data.images images.lance --data.captions captions.lance "
        "--num-steps 1000 --out runs/lora",
        _training("lora"),
    ),
    ("train", "distillation"): Command(
        "a painter of few steps, learned from one of many",
        "--recipe teacher-icons --method.teacher runs/painter/teacher --out runs/fast",
        _training("distillation"),
    ),
    ("evaluate",): Command(
        "measure an encoder on real images",
        "runs/stablerep --world icons",
        _from("evaluation.protocols", "EvaluateConfig", "evaluate"),
    ),
    ("evaluate", "painter"): Command(
        "fidelity, realism and near-copies of painted images",
        "images.lance --world icons --judge runs/judge",
        _from("evaluation.painting", "PainterConfig", "evaluate_painter"),
    ),
    ("embed",): Command(
        "pictures to features, as one array",
        "pictures --encoder runs/stablerep -o features.npy",
        _from("embedding", "EmbedConfig", "embed"),
    ),
    ("convert",): Command(
        "image tables to folders, tars or Parquet, and back",
        "images.lance shared --to webdataset",
        _from("interchange.convert", "ConvertConfig", "convert"),
    ),
    ("export",): Command(
        "an encoder for timm, open_clip, transformers or ONNX",
        "runs/stablerep --to timm --out exported",
        _from("models.export", "ExportConfig", "export"),
    ),
    ("sheet",): Command(
        "one PNG of captions with their pictures",
        "images.lance --captions captions.lance --out sheet.png",
        _from("evaluation.contact_sheet", "SheetConfig", "write_sheet"),
    ),
    ("compare",): Command(
        "methods and sources side by side under equal conditions",
        "icons --out compare --arms simclr:real stablerep:painted --num-captions 250 1000",
        _from("workflows.compare", "CompareConfig", "compare"),
        takes_recipe="compare {}",
    ),
    ("circle",): Command(
        "painter, encoder, next painter: turns, each measured",
        "--out circle --num-turns 2 --num-captions 500",
        _from("workflows.circle", "CircleConfig", "circle"),
        takes_recipe="circle --settings {}",
    ),
    ("gallery",): Command(
        "browse, search, mark a table of pictures in a browser",
        "images.lance --captions captions.lance --teacher icons",
        _from("gallery", "GalleryConfig", "serve_gallery"),
    ),
    ("doctor",): Command(
        "what is wrong with tables and runs, and repairs",
        "images.lance runs",
        _from("doctor", "DoctorConfig", "doctor"),
    ),
    ("completion",): Command(
        "a script: the tab key completes commands and options",
        "bash",
        _from("completion", "CompletionConfig", "completion"),
    ),
    ("report",): Command(
        "one self-contained HTML page from files on disk",
        "quickstart",
        _from("report", "ReportConfig", "write_report"),
    ),
}
