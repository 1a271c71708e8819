"""How many real pictures there are to learn from, caption by caption."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stablerep import config as config_module
from stablerep.learning.usable import allowed_positions
from stablerep.store import ImageTable


def usable_real(world: Path, recipe: Mapping[str, Any]) -> Counter[str]:
    """Real pictures of each caption that learners may see: of the training split, and not by a held-out hand.

    ``recipe``: that of the world, whose learners all leave out the same styles.
    """
    data = config_module.recipe_table(recipe, ("train", "stablerep", "data"), "of the world")
    table = ImageTable.open(world / "images.lance")
    positions = allowed_positions(
        table,
        origin="real",
        where="split = 'train'",
        keep=None,
        exclude_styles=data.get("exclude_styles", ()),
    )
    return Counter(table.read(["caption_id"])["caption_id"].take(positions).to_pylist())
