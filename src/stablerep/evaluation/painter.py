"""A painter in place of its paintings: where it lies, what it is asked to paint, and where that goes."""

from collections.abc import Sequence
from pathlib import Path

from stablerep.errors import UserError
from stablerep.evaluation.asked import Asked
from stablerep.row_keys import literal
from stablerep.storage import is_table
from stablerep.store import OK, REAL, ImageTable

SCORES = "painter-scores.json"


def find_painter(path: Path, *, download: bool = False) -> str | None:
    """The painter that a path leads to, as ``generate`` takes it; None where it leads to none, as that of a table.

    ``path``: the run that trained it, a diffusers folder, a teacher by name, or the hub id of one, fetched only with
    ``download``. Raises ``UserError`` for a run without a painter, and for a hub id that is not in the cache.
    """
    if is_table(path):
        return None
    # Imported here because diffusers takes seconds, which tables need not wait for.
    from stablerep.generation.folders import INDEX, find_teacher, is_hub_id, shipped_teachers
    from stablerep.generation.teacher import TEACHERS

    if str(path) in (*TEACHERS, *shipped_teachers()):
        return str(path)
    for folder in (path, path / "teacher"):
        if (folder / INDEX).is_file():
            return str(folder)
    if (path / "run.json").is_file():
        raise UserError(
            f"{path} is a run without a painter: one that learns something else, such as an encoder, which `stablerep "
            "evaluate` measures, or one that has not come to its end, which the command that trains it takes there"
        )
    if path.exists() or path.suffix == ".lance" or not is_hub_id(str(path)):
        return None
    find_teacher(str(path), download=download)
    return str(path)


def scores_of(painter: Path, out: Path | None) -> Path:
    """Where the scores of a painter go, and its pictures beside them: ``out``, else its run.

    Raises ``UserError`` for a painter that is no run where no place is given.
    """
    if out is None and not (painter / "run.json").is_file():
        raise UserError(
            f"{painter} is a painter but no run, so its pictures and scores need a place: give --out, such as "
            f"--out judged/{SCORES}"
        )
    return out or painter / SCORES


def captions_to_paint(world: Path, asked: Asked, classes: Sequence[str]) -> list[str]:
    """Ids of captions whose label a judge knows and that have real pictures, so that all measures are of the same ones.

    In the order of ids, which are hashes: the first of them are a random but fixed choice. Raises ``UserError`` where
    there is none.
    """
    real = ImageTable.open(world / "images.lance").read(
        ["caption_id"], f"origin = {literal(REAL)} AND status = {literal(OK)}"
    )
    shown = set(real["caption_id"].to_pylist())
    known = set(classes)
    found = sorted(caption for caption, label in asked.labels.items() if label in known and caption in shown)
    if not found:
        raise UserError(
            f"{world}: of {len(asked.labels):,} captions that are judged none has a label that the judge knows and a "
            "real picture; give another world or split, or paint a table with `stablerep generate`"
        )
    return found
