"""The pictures of an audit: parent and edited teacher with the same captions and seeds, and controls.

An edit is W c = W_0 t: its pictures can at best be those that the parent paints of the target from the same noise. They
are the controls.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stablerep import cost
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.evaluation.contact_sheet import Block, save_sheet
from stablerep.features import TableImages
from stablerep.generation.execute import generate, local_devices
from stablerep.generation.plan import Key
from stablerep.generation.settings import GenerateConfig, PaintConfig
from stablerep.generation.teacher import load_teacher
from stablerep.generation.work import paint_captions
from stablerep.store import OK, CaptionTable, ImageTable, caption_id
from stablerep.workflows.edit_plan import Asked, AuditPlan

FOLDER = "audit"
SHEET = "before-after.png"
_SHOWN = 6
_SHOWN_CAPTIONS = 8


@dataclass(frozen=True)
class Pairs:
    """M pairs of pictures with the text of their caption, and K controls."""

    before: Sequence[bytes]
    after: Sequence[bytes]
    texts: np.ndarray
    """(M,)."""
    controls: Sequence[bytes]
    """What the parent paints with the seeds of some of the pairs where their target is asked for."""
    controlled: np.ndarray
    """(K,) the pairs that they belong to."""
    origins: tuple[str, str]
    num_failed: int


def paint_pairs(plan: AuditPlan, console: Console) -> Pairs:
    """Paint into ``audit/`` of the edited teacher what is not there yet; ``UserError`` where no pair comes out."""
    folder = plan.request.child / FOLDER
    CaptionTable.open_or_create(folder / "captions.lance").append(plan.asked.rows)
    tables, origins = [], []
    for name, teacher in (("before", plan.request.parent), ("after", str(plan.request.child))):
        config = _painting(plan, teacher, name)
        origins.append(generate(config, console=console).origin)
        tables.append(ImageTable.open(config.out))
    targets = plan.asked.targets(plan.request.edits)
    if targets:
        config = _painting(plan, plan.request.parent, "target")
        _paint_targets(config, targets, console)
        tables.append(ImageTable.open(config.out))
    return _matched(tables, (origins[0], origins[1]), plan.asked, plan.request.sizes.num_images)


def draw(plan: AuditPlan, pairs: Pairs) -> None:
    """``before-after.png``: side by side, edited captions first, then some that should have stayed."""
    shown = [*dict.fromkeys(text for part in plan.asked.edited.values() for text in part)]
    blocks = []
    for text in [*shown[:_SHOWN_CAPTIONS], *plan.asked.preserved[:_SHOWN_CAPTIONS]]:
        rows = np.flatnonzero(pairs.texts == text)[:_SHOWN]
        for name, images in (("before", pairs.before), ("after", pairs.after)):
            if len(rows):
                blocks.append(Block(tuple(images[row] for row in rows), f"{name}: {text}"))
    save_sheet(plan.request.child / SHEET, blocks, columns=2)


def _painting(plan: AuditPlan, teacher: str, name: str) -> GenerateConfig:
    request, folder = plan.request, plan.request.child / FOLDER
    ids = ", ".join(f"'{row['id']}'" for row in plan.asked.rows)
    paint: dict[str, Any] = {
        one.name: getattr(request.paint, one.name) for one in dataclasses.fields(PaintConfig)
    }
    return GenerateConfig(
        **paint,
        teacher=teacher,
        captions=folder / "captions.lance",
        out=folder / f"{name}.lance",
        where=f"id IN ({ids})",
        num_images=request.sizes.num_images,
        seed=request.seed,
        format="png",
    )


def _paint_targets(config: GenerateConfig, targets: dict[str, str], console: Console) -> None:
    """Under the identity of the caption, from which the seed follows, its target.

    On one device, however many there are: ``generate``, which shares captions out, paints each as it reads.
    """
    alone = dataclasses.replace(config, device=local_devices(config.device)[0])
    teacher = load_teacher(config.teacher, alone)
    # No picture of what the caption says: it must not pass for the parent's.
    teacher.settings["asked"] = "targets of an edit"
    items = sorted((caption_id(text), target) for text, target in targets.items())
    facts: dict[str, dict[str, Any]] = {identity: {} for identity, _ in items}
    with cost.metered("generate", cost.beside(config.out)):
        paint_captions(teacher, items, facts, alone, console)


def _matched(tables: Sequence[ImageTable], origins: tuple[str, str], asked: Asked, num_images: int) -> Pairs:
    """The pictures that both teachers painted, in the order of captions and image indices."""
    before, after, *rest = map(_positions, tables)
    keys = [
        (row["text"], (row["id"], index))
        for row in asked.rows
        for index in range(num_images)
        if (row["id"], index) in before and (row["id"], index) in after
    ]
    if not keys:
        raise UserError("parent or edited teacher painted no picture that could be compared")
    target = rest[0] if rest else {}
    controlled = [number for number, (_, key) in enumerate(keys) if key in target]
    return Pairs(
        before=TableImages(tables[0], [before[key] for _, key in keys])[:],
        after=TableImages(tables[1], [after[key] for _, key in keys])[:],
        texts=np.array([text for text, _ in keys], dtype=object),
        controls=TableImages(tables[-1], [target[keys[number][1]] for number in controlled])[:]
        if controlled
        else [],
        controlled=np.array(controlled, dtype=np.int64),
        origins=origins,
        num_failed=len(asked.rows) * num_images - len(keys),
    )


def _positions(table: ImageTable) -> dict[Key, int]:
    rows = table.read(["caption_id", "image_index", "status"]).to_pylist()
    return {
        (row["caption_id"], row["image_index"]): position
        for position, row in enumerate(rows)
        if row["status"] == OK
    }
