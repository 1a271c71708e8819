"""The card of a trained painter: what made it, what it learned from, how it paints, under which licence, its limits.

It is written when the run has ended, from the run's folder and the painter's: neither alone knows all of it. The same
run gives the same card to the byte, wherever its folder lies.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stablerep.models import card
from stablerep.run import Run, read_json, write_text

NAME = "README.md"
_UNMEASURED = (
    "Not measured when this card was written: `stablerep evaluate painter` measures prompt fidelity, the distance to "
    "real pictures, and near-copies of those it learned from."
)
_PAPERS = ("LICENSE", "LICENCE", "NOTICE")
_ASKED = {"num_inference_steps": "steps", "guidance_scale": "guidance scale"}
_SETTINGS = ("method", "optim", "seed")
_MADE = {
    "text-to-image": ", trained further from {parent}",
    "distillation": " that learned to take in few steps what {parent}, its teacher, takes in many with guidance",
    "lora": ", which is {parent} with low-rank adapters added into the weights of its attention",
}


@dataclass(frozen=True, kw_only=True)
class Parent:
    """The pipeline that a painter was trained from."""

    name: str
    """As the configuration says it: a shipped name, a path, or a hub id."""
    folder: Path


def write_painter_card(painter: Path, run: Path, parent: Parent | None, parts: Sequence[Parent] = ()) -> None:
    """Write ``README.md`` into a painter's folder, and beside it what those it has weights of say of licences in files.

    ``run`` is the folder of the finished run that exported the painter, ``parts`` are other pipelines of which it holds
    a component as it is, such as the autoencoder. An older card is replaced.
    """
    for source in (*parts, *([] if parent is None else [parent])):
        for path in _papers(source):
            write_text(painter / path.name, path.read_text(encoding="utf-8", errors="replace"))
    write_text(painter / NAME, painter_card(painter, run, parent, parts))


def painter_card(painter: Path, run: Path, parent: Parent | None, parts: Sequence[Parent] = ()) -> str:
    """The text of the card, with the header that the Hugging Face hub reads."""
    description = card.read_description(run)
    tables = card.tables_of(description)
    said = "" if parent is None else _read_card(parent.folder)
    sections = {
        f"# Painter, trained by `stablerep train {description['kind']}`": _what(painter, description, parent),
        "## Use": _use(painter, description),
        "## Data": card.data_section(description, tables),
        "## Training": _training(run, description),
        "## Scores": _UNMEASURED,
        "## Licence": _licence(parent, parts, card.licences_of_pictures(tables)),
        "## Limits": _limits(description),
    }
    return f"{_header(said)}\n{card.joined(sections)}\n"


def _header(said: str) -> str:
    licence = _named_licence(said)
    lines = ["---", "library_name: diffusers", *([f"license: {licence}"] if licence else [])]
    return "\n".join([*lines, "pipeline_tag: text-to-image", "tags:", "- stablerep", "---"])


def _what(painter: Path, description: Mapping[str, Any], parent: Parent | None) -> str:
    size, stock = _size(description), read_json(painter / "model_index.json")["_class_name"]
    how = "" if parent is None else _MADE[description["kind"]].format(parent=f"`{card.short(parent.name)}`")
    return (
        f"Paints pictures of {size} x {size} pixels from captions. A stock `{stock}` of diffusers{how}. Made by "
        f"stablerep {version('stablerep')}."
    )


def _use(painter: Path, description: Mapping[str, Any]) -> str:
    defaults = card.read_json_if_there(painter / "stablerep.json")
    margin, size = defaults.get("margin", 0), _size(description)
    given = ['"a caption"']
    given += [f"{name}={defaults[name]}" for name in _ASKED if defaults.get(name) is not None]
    if (painter / "transformer").is_dir():
        given.append("use_resolution_binning=False")
    crop = f".crop(({margin}, {margin}, {margin + size}, {margin + size}))" if margin else ""
    lines = [
        "```python",
        "from diffusers import DiffusionPipeline",
        "",
        'pipe = DiffusionPipeline.from_pretrained("FOLDER")',
        f"image = pipe({', '.join(given)}).images[0]{crop}",
        "```",
        "",
    ]
    return "\n".join([*lines, *(f"- {line}" for line in _ways(painter, defaults, margin))])


def _ways(painter: Path, defaults: Mapping[str, Any], margin: int) -> list[str]:
    """How it paints where nothing else is asked, one line each."""
    sampler = read_json(painter / "scheduler" / "scheduler_config.json")
    order = f" of order {sampler['solver_order']}" if "solver_order" in sampler else ""
    usual = [f"{word} {defaults[name]:g}" for name, word in _ASKED.items() if defaults.get(name) is not None]
    lines = [
        f"Sampler `{sampler['_class_name']}`{order}; {', '.join(usual) or 'steps and guidance as asked'}."
    ]
    if defaults.get("max_sequence_length"):
        lines.append(f"It reads the first {defaults['max_sequence_length']} tokens of a caption.")
    if defaults.get("styles"):
        lines.append(f"Ask for a style after a comma: {', '.join(defaults['styles'])}.")
    if margin:
        lines.append(f"{margin} pixels on every side are a black margin; `stablerep generate` cuts them off.")
    return lines


def _training(run: Path, description: Mapping[str, Any]) -> str:
    last = Run(run).metrics()[-1]
    settings = {name: description["config"][name] for name in _SETTINGS}
    return (
        f"{last['step']:,} steps, {last['images_seen']:,} pictures seen; loss at the last step {last['loss']:.4g}. "
        f"Settings:\n\n```json\n{json.dumps(_without_places(settings), indent=2, sort_keys=True)}\n```"
    )


def _licence(parent: Parent | None, parts: Sequence[Parent], of_pictures: str) -> str:
    own = f"Not stated for what was learned here: the person who trained it decides.\n\n{of_pictures}"
    bound = [] if parent is None else [_terms("It goes on from the weights of", parent)]
    return "\n\n".join([own, *bound, *(_terms("A part of it is as it was in", part) for part in parts)])


def _terms(how: str, parent: Parent) -> str:
    said = _read_card(parent.folder)
    section = re.search(r"^## Licen[cs]e\n+(.*?)(?=^## |\Z)", said, re.MULTILINE | re.DOTALL)
    terms = (
        section[1].strip() if section else _named_licence(said) or "Its folder has no card that states them."
    )
    quoted = "\n".join(f"> {line}".rstrip() for line in terms.splitlines())
    files = ", ".join(f"`{path.name}`" for path in _papers(parent))
    return f"{how} `{card.short(parent.name)}`, whose terms bind it too:\n\n{quoted}" + (
        f"\n\nIts own words: {files}." if files else ""
    )


def _limits(description: Mapping[str, Any]) -> str:
    lines = [
        f"It learned at {_size(description)} x {_size(description)} pixels; no other size was tried.",
        "Words that none of these captions holds were not taught here.",
        "It can repeat pictures that it learned from, and what is one-sided in them: `stablerep audit copies` and "
        "`stablerep audit bias` measure both on what it paints.",
    ]
    if description["kind"] == "distillation":
        lines.append("It learned to paint in the steps named above, without guidance, and in no other way.")
    if description["kind"] == "lora":
        lines.append("The limits of its parent are its own.")
    return "\n".join(f"- {line}" for line in lines)


def _size(description: Mapping[str, Any]) -> int:
    return int(description["config"]["data"]["view"]["image_size"])


def _papers(parent: Parent) -> list[Path]:
    """Files of the parent that go with its weights, such as LICENSE.md and NOTICE."""
    return sorted(
        path
        for path in parent.folder.iterdir()
        if path.is_file() and path.stem.split(".")[0].upper() in _PAPERS
    )


def _read_card(folder: Path) -> str:
    path = folder / NAME
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _named_licence(said: str) -> str | None:
    """The licence in the header of a card, by the hub's name for it."""
    header = re.search(r"^---\n(.*?)^---$", said, re.MULTILINE | re.DOTALL)
    named = re.search(r"^license: *(\S+) *$", header[1], re.MULTILINE) if header else None
    return named[1] if named else None


def _without_places(value: Any) -> Any:
    """The same settings, of paths no more than the last two parts."""
    if isinstance(value, Mapping):
        return {name: _without_places(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_places(inner) for inner in value]
    return card.short(value) if isinstance(value, str) and Path(value).is_absolute() else value
