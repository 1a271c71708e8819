"""A teacher that is no diffusers pipeline: it paints a disc in the colour that the prompt names."""

from collections.abc import Sequence
from typing import Any

import torch

from stablerep.generation.pictures import Painted, judge
from stablerep.generation.pipelines import Conditioning
from stablerep.generation.settings import PaintConfig
from stablerep.generation.teacher import TEACHERS

COLOURS = {"red": (0.9, 0.1, 0.1), "green": (0.1, 0.7, 0.2), "blue": (0.1, 0.3, 0.9)}
GREY = (0.5, 0.5, 0.5)


class Discs:
    """Discs of a random size at a random place. ``settings`` holds all that decides a pixel beside prompt and seed."""

    name = "discs"
    batch_size = 8
    styles: tuple[str, ...] = ()
    num_truncated = 0
    truncated_example: str | None = None

    def __init__(self, side: int = 32) -> None:
        self.side = side
        self.settings: dict[str, Any] = {
            "version": 1,
            "side": side,
            "num_inference_steps": 1,
            "guidance_scale": 1.0,
            "scheduler": {"class": "Discs"},
            "dtype": "float32",
            "device": "cpu",
        }

    def encode(self, prompts: Sequence[str]) -> list[Conditioning]:
        """The colour of each prompt."""
        named = [next((colour for word, colour in COLOURS.items() if word in text), GREY) for text in prompts]
        return [{"colour": torch.tensor(colour)} for colour in named]

    def paint(self, conditionings: Sequence[Conditioning], seeds: Sequence[int]) -> Painted:
        """One picture per seed; ``judge`` turns numbers into pixels and says which pictures are failures."""
        pairs = zip(conditionings, seeds, strict=True)
        return judge(torch.stack([self._disc(wanted["colour"], seed) for wanted, seed in pairs]), None)

    def _disc(self, colour: Any, seed: int) -> torch.Tensor:
        x, y, radius = torch.rand(3, generator=torch.Generator().manual_seed(seed))
        grid = torch.linspace(0, 1, self.side)
        distance = ((grid[None] - 0.3 - 0.4 * x) ** 2 + (grid[:, None] - 0.3 - 0.4 * y) ** 2).sqrt()
        inside = distance < 0.15 + 0.2 * radius
        return torch.where(inside, colour[:, None, None], torch.ones(3, 1, 1))


def discs(config: PaintConfig) -> Discs:
    """As `generate` asks for them; of its settings only the height means something here."""
    return Discs(config.height or 32)


TEACHERS["discs"] = discs
