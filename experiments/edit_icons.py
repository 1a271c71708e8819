"""Edits of the shipped icons teacher, measured: a removal, a replacement and a rebalance, each beside what else moved.

Every edit is audited with the same captions and seeds before and after, by an encoder that took no part in it:

    python experiments/edit_icons.py --world icons --judge runs/judge --out edits

    python experiments/edit_icons.py --world icons --judge runs/clip --out balanced --edits rebalance-heart

The second judge must tell red from blue, which an encoder trained with changed colours does not; it is tested first.
Each writes one folder per edit with its before-after.png, and OUT/edits.json with the bars that each edit should meet.
What is there already is neither edited nor painted again.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from mistakes import in_one_sentence
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.generation.editor import EditSettings
from stablerep.run import write_text
from stablerep.workflows.edit import EditConfig, edit
from stablerep.workflows.edit_balance import BalanceConfig
from stablerep.workflows.edit_plan import AuditConfig
from stablerep.workflows.edit_scores import EditAudit, EditedConcept

FALL, CHANGE, SHARE = 0.8, 0.03, 0.10  # the bars: at least, at most, at most

EDITS: dict[str, dict[str, Any]] = {
    "remove-heart": {"remove": ("heart",)},
    "remove-face": {"remove": ("face",)},
    "replace-heart-face": {"replace": ("heart=face",)},
    "rebalance-heart": {"rebalance": ("heart: red=0.5,blue=0.5",)},
    "rebalance-sign": {"rebalance": ("road sign: red=0.5,blue=0.5",)},
    "rebalance-officer": {"rebalance": ("police officer: woman=0.5,man=0.5",)},
}
# Captions that name a word in the sense that is edited: hearts on playing cards are cards.
MEANT = {"heart": "label = 'heart'", "face": "label LIKE '%face%' OR label LIKE 'Smileys%'"}
# Labels of which the teacher paints something recognisable: what it cannot paint cannot get worse.
PAINTED_WELL = (
    "heart", "face-smiling", "face-concerned", "transport-sign", "person-role", "person", "place-map", "game",
    "sky & weather", "office", "other-symbol",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which edits, and how large their audits are."""

    world: Path
    """Folder of the world icons."""
    judge: Path
    """Run that judges."""
    out: Path
    """Where the edited teachers go."""
    teacher: str = "icons"
    edits: tuple[str, ...] = tuple(EDITS)
    """Names of edits."""
    num_images: int = 64
    """Pictures of each caption."""
    num_edited: int = 6
    """Captions that name the concept."""
    num_preserved: int = 50
    """Captions that do not."""
    balance_images: int = 192
    """Pictures of each round of a rebalance."""
    search_copies: bool = True
    tokens: tuple[str, ...] = ("following",)
    """Which tokens are edited: every choice is tried."""
    strength: float = EditSettings.strength
    """How far removed and replaced concepts are sent."""
    preserved_weight: float = EditSettings.preserved_weight
    """What a preserved vector counts beside an edited one."""
    neutral: str = ""
    """What stands in place of a removed concept."""


def main(config: Config) -> None:
    """Edit, audit, and hold the outcome against the bars."""
    console = Console()
    captions = config.world / "captions.lance"
    labels = ", ".join(f"'{label}'" for label in PAINTED_WELL)
    found: dict[str, Any] = {}
    if unknown := sorted(set(config.edits) - EDITS.keys()):
        raise UserError(f"unknown edit {unknown[0]!r}; there are: {', '.join(EDITS)} (--edits)")
    for name in config.edits:
        for tokens in config.tokens:
            asked = EditConfig(
                **EDITS[name],
                teacher=config.teacher,
                out=config.out / (name if len(config.tokens) == 1 else f"{name}-{tokens}"),
                captions=captions,
                where="split = 'train'",
                judge=config.judge,
                world=config.world,
                verify_captions=captions,
                neutral=config.neutral,
                settings=EditSettings(
                    tokens=tokens,  # type: ignore[arg-type]
                    strength=config.strength,
                    preserved_weight=config.preserved_weight,
                ),
                balance=BalanceConfig(num_images=config.balance_images),
                audit=AuditConfig(
                    num_images=config.num_images,
                    num_edited=config.num_edited,
                    num_preserved=config.num_preserved,
                    edited_where=MEANT.get(name.split("-")[1]),
                    where=f"split = 'train' AND template = 'primary' AND label IN ({labels})",
                    search_copies=config.search_copies,
                ),
            )
            summary = edit(asked, console=console)
            assert summary.audit is not None
            console.show(summary)
            found[asked.out.name] = {"bars": bars(summary.audit), "audit": summary.audit.to_json()}
            write_text(config.out / "edits.json", json.dumps(found, indent=2) + "\n")
    rows = [(name, bar, value) for name, one in found.items() for bar, value in one["bars"].items()]
    console.table(str(config.out), ("edit", "bar", "reached"), rows)


def bars(audit: EditAudit) -> dict[str, str]:
    """What each bar asks, and whether it is met."""
    lines = {}
    for one in audit.edited:
        if one.wanted:
            error = max(abs(one.shares_after[name].value - share) for name, share in one.wanted.items())
            lines[f"{one.concept}: within {100 * SHARE:g} points of its shares"] = _said(
                error <= SHARE, f"{100 * error:.1f} points"
            )
        else:
            lines[f"{one.concept}: fidelity falls by {100 * FALL:g} %"] = _fell(one)
    change = audit.preserved.change
    lines[f"others: mean change within {100 * CHANGE:g} points"] = _said(
        abs(change.value) <= CHANGE, f"{change.in_percent(sign=True)} points"
    )
    return lines


def _fell(one: EditedConcept) -> str:
    if one.fall is None:
        return _said(False, "the teacher may never have painted it")
    above = None if one.control is None else one.control.fall_above
    beside = "" if above is None else f"; of what is above its control {above.in_percent()} %"
    return _said(one.fall.value >= FALL, f"{one.fall.in_percent()} %{beside}")


def _said(is_met: bool, value: str) -> str:
    return f"{'met' if is_met else 'MISSED'}: {value}"


if __name__ == "__main__":
    with in_one_sentence():
        main(tyro.cli(Config))
