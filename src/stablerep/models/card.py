"""The card of an exported encoder: what it is, how to load it, what it learned from, how good it is."""

import collections
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stablerep.errors import UserError
from stablerep.models.encoder import Encoder
from stablerep.models.joint import ImageText
from stablerep.run import read_json
from stablerep.store import ImageTable

Tables = Sequence[tuple[str, ImageTable | None]]
"""Where image tables are said to lie, and the table, None where it is not there."""

_LIBRARIES = {"timm": "timm", "open_clip": "open_clip", "huggingface": "transformers", "onnx": "onnx"}
_SETTINGS = ("teacher", "num_inference_steps", "guidance_scale", "scheduler", "styles", "edit", "edits")
_CHOICES = ("origin", "where", "keep", "exclude_styles", "weight")
UNKNOWN = "Not recorded: the weights came without a run folder."


@dataclass(frozen=True, kw_only=True)
class About:
    """What a card says that the weights do not."""

    name: str
    run: Path
    """Where the encoder came from; a run folder says what it learned from and how it scored."""
    library: str
    licence: str | None
    usage: str
    """How to load it, in Markdown."""


def name_of(run: Path) -> str:
    """A name for the model: the last part of the path or name, without suffix and library."""
    last = str(run).rsplit("@", 1)[0].rsplit("/", 1)[-1].split(":")[-1]
    return Path(last).stem if last.endswith((".pth", ".pt", ".safetensors")) else last or "encoder"


def model_card(encoder: Encoder, joint: ImageText | None, about: About) -> str:
    """The README.md of an exported folder, with the header that the Hugging Face hub reads."""
    description = read_description(about.run)
    tables = tables_of(description)
    sections = {
        f"# {about.name}": _what(encoder, joint),
        "## Use": about.usage,
        "## Data": data_section(description, tables),
        "## Training": _training(description),
        "## Scores": _scores(about.run),
        "## Licence": _licence(about, tables),
    }
    return f"{_header(joint, about)}\n{joined(sections)}\n"


def joined(sections: Mapping[str, str]) -> str:
    """Headings and what stands below them, as one text."""
    return "\n\n".join(f"{heading}\n\n{text}" for heading, text in sections.items())


def _header(joint: ImageText | None, about: About) -> str:
    lines = ["---", f"library_name: {_LIBRARIES.get(about.library, 'stablerep')}"]
    if about.licence:
        lines.append(f"license: {about.licence.lower()}")
    task = "image-feature-extraction" if joint is None else "zero-shot-image-classification"
    return "\n".join([*lines, f"pipeline_tag: {task}", "tags:", "- stablerep", "- vision", "---"])


def _what(encoder: Encoder, joint: ImageText | None) -> str:
    config = encoder.config
    shape = encoder.attention_shape
    lines = [
        f"A vision transformer ({config.architecture}, {len(encoder.backbone.blocks)} blocks, {shape[0]} heads, "
        f"patches of {encoder.backbone.patch_embed.patch_size[0]} pixels) that maps a picture to {encoder.dim} "
        "features: the class token after the last LayerNorm.",
        f"Pictures are resized to {config.image_size} x {config.image_size} (bilinear, both sides alike), scaled to "
        f"[0, 1], and normalised with mean {_numbers(config.mean)} and standard deviation {_numbers(config.std)}.",
    ]
    if joint is not None:
        text = joint.text.config
        lines.append(
            f"Its text tower ({text.depth} blocks of width {text.width}, {text.num_tokens} tokens, "
            f"{joint.text.vocabulary.num_entries:,} entries) and two projections put pictures and texts into one space "
            f"of {text.joint_width} dimensions."
        )
    lines.append(f"Fingerprint `{encoder.fingerprint}`, written by stablerep {version('stablerep')}.")
    return "\n\n".join(lines)


def data_section(description: Mapping[str, Any], tables: Tables) -> str:
    """The tables that a run learned from, with whose pictures they hold, and how many it might draw."""
    if not description:
        return UNKNOWN
    data = description["config"].get("data", {})
    lines = []
    for path, table in tables:
        lines.append(f"- `{short(path)}`: " + (_table(table) if table else "the table is no longer there."))
    chosen = {name: data[name] for name in _CHOICES if data.get(name, "any") not in ("any", [])}
    if chosen:
        lines.append("- Of these: " + "; ".join(f"{name} `{value}`" for name, value in chosen.items()) + ".")
    digest = description["resolved"].get("data")
    if digest:
        lines.append(
            f"- {digest.get('images', 0):,} pictures of {digest.get('captions', 0):,} captions, digest "
            f"`{digest.get('digest', '')}`."
        )
    return "\n".join(lines) or UNKNOWN


def _table(table: ImageTable) -> str:
    counts = collections.Counter(table.read(["origin"], "status = 'ok'")["origin"].to_pylist())
    known = table.origins()
    parts = []
    for origin, count in sorted(counts.items()):
        settings = known.get(origin, {})
        shown = ", ".join(f"{name} {settings[name]}" for name in _SETTINGS if settings.get(name))
        parts.append(
            f"{count:,} {'real' if origin == 'real' else f'painted (`{origin}`)'}{f': {shown}' if shown else ''}"
        )
    return "; ".join(parts) + "."


def _training(description: Mapping[str, Any]) -> str:
    if not description:
        return UNKNOWN
    settings = {name: value for name, value in description["config"].items() if name not in ("out", "data")}
    shown = json.dumps(settings, indent=2, sort_keys=True)
    return f"Method `{description['kind']}`:\n\n```json\n{shown}\n```"


def _scores(run: Path) -> str:
    scores = read_json_if_there(run / "scores.json")
    if not scores:
        return "Not measured: `stablerep evaluate` writes scores.json into the run folder."
    lines = [
        "Frozen features on real pictures; accuracy in per cent with 95 % intervals, settings chosen on validation.",
        "",
        "| benchmark | encoder | probe | per class | top-1 | pictures |",
        "|---|---|---|---|---|---|",
    ]
    for record in scores["records"]:
        cells = [f"{record['benchmark']}: {record['test']}", record["encoder"], record["protocol"]]
        cells += [_interval(record[metric]) for metric in ("mean_per_class", "top1")]
        lines.append(f"| {' | '.join([*cells, format(record['num_pictures'], ',')])} |")
    lines += [f"\nNot measured: {reason}" for reason in scores.get("skipped", {}).values()]
    return "\n".join(lines)


def _licence(about: About, tables: Tables) -> str:
    own = about.licence or "Not stated; the person who trained the encoder decides"
    return f"{own}.\n\n{licences_of_pictures(tables)}"


def licences_of_pictures(tables: Tables) -> str:
    """Under which licences the pictures stand that a model learned from."""
    counts: collections.Counter[str] = collections.Counter()
    for _, table in tables:
        if table is not None:
            licences = table.read(["licence"], "status = 'ok'")["licence"].to_pylist()
            counts.update(licence or "not stated" for licence in licences)
    of_data = ", ".join(f"{licence} ({count:,})" for licence, count in counts.most_common(12))
    return f"Licences of the pictures it learned from: {of_data or 'not known'}."


def short(path: str) -> str:
    """The last two parts of a path: where the rest of it leads is nobody's business."""
    return "/".join(Path(path).parts[-2:])


def tables_of(description: Mapping[str, Any]) -> Tables:
    """The image tables of a run, None for those that were moved or removed since."""
    tables: list[tuple[str, ImageTable | None]] = []
    for path in description.get("config", {}).get("data", {}).get("images", []):
        try:
            tables.append((path, ImageTable.open(path)))
        except UserError:
            tables.append((path, None))
    return tables


def read_description(run: Path) -> dict[str, Any]:
    """Kind and configuration of a run, with what it ``resolved``; empty where the folder is no run."""
    description = read_json_if_there(run / "run.json")
    return description and description | {"resolved": read_json_if_there(run / "resolved.json")}


def read_json_if_there(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no such file."""
    return read_json(path) if path.is_file() else {}


def _interval(stored: Mapping[str, float]) -> str:
    return f"{100 * stored['value']:.1f} [{100 * stored['low']:.1f}, {100 * stored['high']:.1f}]"


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
