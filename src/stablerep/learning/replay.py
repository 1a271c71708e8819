"""What is left of a step whose loss was not finite: enough to take it again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from stablerep.errors import UserError
from stablerep.learning.data import ViewSource, identity_of
from stablerep.learning.method import Batch, Method, StepResult
from stablerep.learning.step import Encoding, compute_gradients
from stablerep.run import write_atomically

_MOST_PIXELS = 2**26  # bytes


@dataclass(frozen=True)
class Taken:
    """A step as it was taken."""

    step: int
    batch: Batch
    encoding: Encoding


def save_replay(path: Path, taken: Taken, method: Method, caption_ids: Sequence[str]) -> list[str]:
    """Save weights, step, seeds and batch to ``path``, and return which of the run's captions are in the batch.

    The images of a large batch are left out: ``ViewSource.batch`` gives them again from the step.
    """
    step, batch, encoding = taken.step, taken.batch, taken.encoding
    known = {identity_of(caption): caption for caption in caption_ids}
    captions = [known[identity] for identity in batch["caption_id"].tolist()]
    large = batch["image"].nbytes > _MOST_PIXELS
    num_parts = len(encoding.parts(batch))
    replay = {
        "step": step,
        "seed": encoding.seed,
        "precision": str(encoding.dtype).removeprefix("torch."),
        "micro_batch": encoding.micro_batch,
        "draw_seeds": [encoding.draw_seed(step, index) for index in range(num_parts)],
        "captions": captions,
        "batch": {name: tensor for name, tensor in batch.items() if name != "image" or not large},
        "method": method.state_dict(),
    }
    write_atomically(path, lambda temporary: torch.save(replay, temporary))
    return captions


def take_again(path: Path, method: Method, source: ViewSource | None = None) -> StepResult:
    """The saved step once more, with the weights that it began with: loss, and gradients in ``grad``.

    ``method`` is one of the same settings, ``source`` gives the images where the file left them out. In a process group
    every rank takes its own file. Raises ``UserError`` where images are needed and there is no source.
    """
    saved = torch.load(path, map_location="cpu", weights_only=True)
    method.load_state_dict(saved["method"])
    batch: Batch = saved["batch"]
    if "image" not in batch:
        if source is None:
            raise UserError(
                f"{path} holds no images, as the batch is large: give the source of the run's data"
            )
        batch["image"] = source.batch(saved["step"])["image"]
    encoding = Encoding(
        seed=saved["seed"], dtype=getattr(torch, saved["precision"]), micro_batch=saved["micro_batch"]
    )
    device = next(method.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    return compute_gradients(method, batch, encoding, saved["step"])
