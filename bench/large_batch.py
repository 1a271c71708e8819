"""The published batch, 1,376 captions of 6 images at 224 px, on one device: train on it and print the peak of memory.

    python bench/large_batch.py --captions 1376 --micro-batch 8 --num-steps 2
    python bench/large_batch.py --captions 64 --micro-batch 4 --num-steps 1        # the same, shorter

Trains StableRep with ViT-S/16 through the whole of ``train``: tables, views, batches prepared ahead, checkpoints. With
``--out`` these stay, after every step, and the same command goes on there. The peak should stay below 20 GiB; it is
that of this process, which must have steps left to take.
"""

import argparse
import io
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from stablerep.config import build
from stablerep.console import Console
from stablerep.learning.methods import StableRepConfig, train
from stablerep.run import Run
from stablerep.store import OK, ImageTable, caption_id

IMAGES_PER_CAPTION = 6
MOST_GIGABYTES = 20


def image_rows(num_captions: int) -> Iterator[dict[str, Any]]:
    """Smooth noise of 256 px, another for every row."""
    generator = np.random.default_rng(0)
    for caption in range(num_captions):
        for index in range(IMAGES_PER_CAPTION):
            coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            encoded = io.BytesIO()
            coarse.resize((256, 256), Image.Resampling.BILINEAR).save(encoded, format="JPEG")
            yield {
                "origin": "bench",
                "caption_id": caption_id(str(caption)),
                "image_index": index,
                "image": encoded.getvalue(),
                "status": OK,
            }


def main() -> int:
    """Train, and print two lines; 1 where the bar is missed."""
    parser = argparse.ArgumentParser(description="train on the published batch and print the peak of memory")
    parser.add_argument("--captions", type=int, default=1376)
    parser.add_argument("--micro-batch", type=int, default=8, help="captions per forward pass")
    parser.add_argument("--num-steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--out", type=Path, help="keep pictures and checkpoints here, and go on here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() if options.out is None else nullcontext(options.out) as folder:
        return 0 if measure(Path(folder), options) else 1


def measure(folder: Path, options: argparse.Namespace) -> bool:
    """Fill the table where it is not there yet, train, and say what it took; whether the bar is kept."""
    images = ImageTable.open_or_create(folder / "images.lance")
    if not len(images):
        images.append(image_rows(options.captions))
    settings = {
        "out": folder / "run",
        "data": {
            "images": [folder / "images.lance"],
            "captions_per_batch": options.captions,
            "images_per_caption": IMAGES_PER_CAPTION,
            "view": {"image_size": options.image_size},
        },
        "method": {"encoder": {"image_size": options.image_size}},
        "num_steps": options.num_steps,
        "micro_batch": options.micro_batch,
        "compile": not options.no_compile,
        "log_every": 1,
        "save_every": 1,
    }
    taken = len(Run(folder / "run").metrics())  # one record a step
    begin = time.monotonic()
    summary = train("stablerep", build(StableRepConfig, settings, origin="bench"), console=Console())
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if taken >= summary.num_steps:
        print(f"FAILED: {folder} holds all {taken} steps, so that nothing was measured; give another --out")
        return False
    passed = gigabytes < MOST_GIGABYTES
    print(
        f"{options.captions} captions of {IMAGES_PER_CAPTION} images, {options.micro_batch} captions at a time: "
        f"{summary.num_steps - taken} steps in {time.monotonic() - begin:.0f} s ({time.process_time():.0f} s of CPU), "
        f"loss {summary.loss:.4f}\n"
        f"{'PASSED' if passed else 'FAILED'}: peak of memory {gigabytes:.2f} GiB (bar {MOST_GIGABYTES})"
    )
    return passed


if __name__ == "__main__":
    sys.exit(main())
