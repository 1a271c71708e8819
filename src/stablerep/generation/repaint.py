"""Painting again after an audit: which further image indices a caption needs until enough pictures are kept."""

from collections import defaultdict
from collections.abc import Sequence

import pyarrow as pa

from stablerep.errors import UserError
from stablerep.generation.plan import Asked, Caption, indices_with_repaints
from stablerep.generation.settings import GenerateConfig
from stablerep.row_keys import literal
from stablerep.store import OK, ImageTable


def require_mask(config: GenerateConfig) -> None:
    """Raise ``UserError`` where pictures are to be repainted and no audit has left a mask in the table."""
    if not config.repaint:
        return
    table = ImageTable.open(config.out)
    if config.keep not in table.dataset.schema.names or not pa.types.is_boolean(
        table.field(config.keep).type
    ):
        raise UserError(
            f"{config.out} has no mask {config.keep!r} of kept and rejected pictures: run `stablerep audit` on it "
            "first, or name another column with --keep"
        )


def images_asked(
    table: ImageTable | None, origin: str | None, captions: Sequence[Caption], config: GenerateConfig
) -> Asked:
    """What ``config`` asks for: the first K images of every caption, or with ``repaint`` as many that the mask keeps.

    Read at the newest version of the table, which must hold the mask.
    """
    if not config.repaint:
        return config.num_images
    judged: dict[str, dict[int, bool]] = defaultdict(dict)
    if table is not None and origin is not None:
        for caption, index, counts in _judged(table.reload(), origin, config.keep):
            judged[caption][index] = counts
    return {
        identity: indices_with_repaints(judged[identity], config.num_images, config.budget)
        for identity, _ in captions
    }


def _judged(table: ImageTable, origin: str, mask: str) -> list[tuple[str, int, bool]]:
    """(caption id, image index, whether it counts) of an origin's rows: failures and rejected pictures do not."""
    rows = table.read(["caption_id", "image_index", "status", mask], f"origin = {literal(origin)}")
    columns = (rows[name].to_pylist() for name in rows.column_names)
    return [
        (caption, index, status == OK and kept is not False)
        for caption, index, status, kept in zip(*columns, strict=True)
    ]
