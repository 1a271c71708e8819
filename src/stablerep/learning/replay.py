"""What is left of a step whose loss was not finite: enough to take it again."""

from collections.abc import Sequence
from pathlib import Path

import torch

from stablerep.learning.data import identity_of
from stablerep.learning.method import Batch
from stablerep.learning.step import Encoding

_MOST_PIXELS = 2**26  # bytes


def save_replay(
    path: Path, step: int, batch: Batch, encoding: Encoding, caption_ids: Sequence[str]
) -> list[str]:
    """Save step, seeds and batch to ``path``, and return which of the run's captions are in the batch.

    The images of a large batch are left out: ``ViewSource.batch`` gives them again from the step.
    """
    known = {identity_of(caption): caption for caption in caption_ids}
    captions = [known[identity] for identity in batch["caption_id"].tolist()]
    large = batch["image"].nbytes > _MOST_PIXELS
    num_parts = len(encoding.parts(batch))
    replay = {
        "step": step,
        "seed": encoding.seed,
        "draw_seeds": [encoding.draw_seed(step, index) for index in range(num_parts)],
        "captions": captions,
        "batch": {name: tensor for name, tensor in batch.items() if name != "image" or not large},
    }
    torch.save(replay, path)
    return captions
