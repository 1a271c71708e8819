"""Attributes that are really in the icons world, along the chain captions -> pictures -> an encoder's answers.

Skin tone and gender of persons, whether drawings of food and of animals have colours, and which. The pictures are
paintings of the captions of the training split (`stablerep generate icons/captions.lance --recipe icons`). A probe on
each encoder reads them, fitted and tested on real pictures of all splits, in halves by group:

    python experiments/bias_icons.py --world icons --images a-copy-of/images.lance --out bias \\
        --encoders runs/judge runs/clip-real

writes bias.json and bias.png into OUT/ENCODER, OUT/table.md with all of them, and the columns bias_* of the
last encoder beside the pictures. An attribute that an encoder cannot read as well as asked for is "not read".
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from mistakes import in_one_sentence
from stablerep.audit.bias import BiasAuditConfig, audit_bias
from stablerep.console import Console
from stablerep.run import write_text

COLUMNS = (
    "encoder", "attribute", "group, pictures", "value", "captions that state one, %", "their pictures, %",
    "captions to pictures", "all pictures, %", "answers, %", "reader: accuracy (worst value), left open, %",
)  # fmt: skip
HEADER = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which pictures, which readers."""

    world: Path
    """Folder of the world icons."""
    images: Path
    """Paintings of its captions; columns are added."""
    encoders: tuple[str, ...]
    """Runs whose encoders read."""
    attributes: Path = Path("icons")
    """Attributes file, by its path or a shipped name."""
    out: Path = Path("bias")
    """Where the findings go."""


def read(config: Config, encoder: str, folder: Path) -> dict[str, Any]:
    """What one encoder finds of every attribute."""
    audit_bias(
        BiasAuditConfig(
            images=config.images,
            captions=config.world / "captions.lance",
            attributes=config.attributes,
            reference=config.world / "images.lance",
            encoder=encoder,
            device="cpu",
            out=folder / "audit.json",
        ),
        console=Console(),
    )
    found: dict[str, Any] = json.loads((folder / "bias.json").read_text(encoding="utf-8"))
    return found


def lines(encoder: str, name: str, found: dict[str, Any]) -> list[str]:
    """Rows of the table: one for each group and value."""
    reader = found["reader"]
    if not found["groups"]:
        return [f"| {encoder} | {name} | not read | | | | | | | of {reader['test pictures']} tests |"]
    quality = (
        f"{percent(reader['accuracy of answers'])} ({percent(reader['worst value'])}), "
        f"{percent(1 - reader['answered'])} of {reader['test pictures']} tests"
    )
    rows = []
    for group, one in found["groups"].items():
        step = one["amplification"].get("captions to pictures")
        moved = (
            ""
            if step is None
            else f"{100 * step['value']:+.0f} [{100 * step['low']:+.0f}, {100 * step['high']:+.0f}]"
        )
        for value, share in one["shares"].items():
            interval = f"{percent(share['value'])} [{percent(share['low'])}, {percent(share['high'])}]"
            asked, shown, said = (
                percent(one[key] and one[key][value])
                for key in ("captions", "shares where captions state a value", "answers")
            )
            of_group = f"{group}, {one['pictures']:,}"
            cells = (encoder, name, of_group, value, asked, shown, moved, interval, said, quality)
            rows.append(f"| {' | '.join(cells)} |")
    return rows


def percent(share: float | None) -> str:
    """Of 1, in words."""
    return "" if share is None else f"{100 * share:.0f}"


def main(config: Config) -> None:
    """Read, write one table."""
    table = [HEADER]
    for encoder in config.encoders:
        name = Path(encoder).name
        for attribute, found in read(config, encoder, config.out / name).items():
            table += lines(name, attribute, found)
        write_text(config.out / "table.md", "\n".join(table) + "\n")
    Console().say(f"saved: {config.out / 'table.md'}")


if __name__ == "__main__":
    with in_one_sentence():
        main(tyro.cli(Config))
