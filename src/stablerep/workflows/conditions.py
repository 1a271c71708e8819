"""What must hold before anything is painted or compared: enough captions, the same for all, and as many pictures."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stablerep.errors import UserError
from stablerep.generation.settings import GenerateConfig
from stablerep.generation.wanted import read_captions
from stablerep.learning.data import DataConfig, ViewSource
from stablerep.row_keys import literal

_TOLERANCE = 0.05
"""By how much the pictures per step may differ: failed paintings take a few away."""


def captions_to_paint(config: GenerateConfig, at_least: int = 0) -> list[str]:
    """Ids of all captions that the filter leaves, in the order in which they are painted.

    Raises ``UserError`` where there are too few.
    """
    captions = [caption for caption, _ in read_captions(dataclasses.replace(config, limit=None))]
    if len(captions) < at_least:
        raise UserError(
            f"{config.captions}: {len(captions)} captions can be painted (where {config.where!r}), and num_captions "
            f"asks for {at_least}; lower it (--num-captions) or widen the filter of the recipe"
        )
    return captions


def usable_captions(data: DataConfig) -> frozenset[str]:
    """Ids of all captions with images that training may draw."""
    return frozenset(ViewSource(dataclasses.replace(data, num_captions=None), seed=0).caption_ids)


def had_by_all(having: Mapping[str, frozenset[str]]) -> list[str]:
    """The captions that are in every set, in the order of their ids."""
    return sorted(frozenset.intersection(*having.values()))


def refuse_too_few(having: Mapping[str, frozenset[str]], num: int, settings: str) -> None:
    """``UserError`` where fewer than ``num`` captions are in every set; it names one that is not, where some are."""
    shared = had_by_all(having)
    if len(shared) >= num:
        return
    found = [f"{name} {len(captions)}" for name, captions in having.items()]
    apart = sorted(frozenset.union(*having.values()).difference(shared))
    if apart:
        lacking = " and ".join(name for name, captions in having.items() if apart[0] not in captions)
        found.append(f"{lacking} has none of caption {apart[0]}")
    raise UserError(
        f"{len(shared)} captions have usable pictures in every arm ({', '.join(found)}), and num_captions asks for "
        f"{num}; lower it (--num-captions) or widen the filters (where, keep) of recipe {settings}"
    )


def without(data: DataConfig, captions: Sequence[str]) -> DataConfig:
    """The same data, but for these captions."""
    if not captions:
        return data
    condition = f"caption_id NOT IN ({', '.join(map(literal, captions))})"
    where = condition if data.where is None else f"({data.where}) AND {condition}"
    return dataclasses.replace(data, where=where)


@dataclass(frozen=True)
class Views:
    """The pictures of one step of training."""

    slots: int
    """Views in a batch."""
    share: float
    """Share of them that counts: where a caption has too few images, one is repeated, and stays out of the loss."""

    @property
    def counting(self) -> float:
        """Views of a step that count, on average."""
        return self.slots * self.share

    def __str__(self) -> str:
        return f"{self.slots}" if self.share == 1 else f"{self.counting:.4g} of {self.slots}"


def refuse_unequal(seen: Mapping[str, Views], settings: str) -> None:
    """``UserError`` where arms see different numbers of pictures per step that count."""
    counts = [views.counting for views in seen.values()]
    if counts and max(counts) > (1 + _TOLERANCE) * min(counts):
        listed = ", ".join(f"{arm} {views}" for arm, views in seen.items())
        raise UserError(
            f"the arms would see different numbers of pictures per step ({listed}); give recipe {settings} no more "
            "data.images_per_caption than captions have pictures, and equal products of captions_per_batch, "
            "images_per_caption and crops_per_image"
        )
