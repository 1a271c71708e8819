"""What training needs before its first batch: the index of all images by caption, beside a dict of lists of them.

    python bench/index_scale.py --num-rows 2000000

Time and memory above the start, each way in a process of its own, over the same table of rows without pictures to
speak of, ten of each caption; then both ways must give the same images of a thousand captions.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from resume_scale import CHUNK, write_images
from stablerep.learning.index import ImageIndex, ImageRef
from stablerep.store import ImageTable, caption_id

IMAGES_PER_CAPTION = 10
LEAST_GAIN = 2.0
"""So many times less memory than the plain way, at the peak."""

Found = tuple[float, float, list[list[ImageRef]]]


def columns(table: ImageTable) -> list[list[ImageRef]]:
    """As training does."""
    index = ImageIndex.read([table], [np.arange(len(table))], None, None)
    return [index.images_of(row) for row in range(1000)]


def plain(table: ImageTable) -> list[list[ImageRef]]:
    """One object an image."""
    names = ["caption_id", "origin", "image_index", "style", "label", "group"]
    rows = table.read(names)
    images: dict[str, list[ImageRef]] = {}
    for position, (caption, origin, image_index, *known) in enumerate(
        zip(*(rows[name].to_pylist() for name in names), strict=True)
    ):
        ref = ImageRef(0, position, caption, origin, image_index, *known)
        images.setdefault(caption, []).append(ref)
    return [
        sorted(images[caption], key=lambda ref: (ref.origin, ref.image_index))
        for caption in sorted(images)[:1000]
    ]


WAYS = {"columns": columns, "plain": plain}


def measure(way: str, path: str) -> Found:
    """Seconds, bytes above the start at the peak, and the images of the first captions."""
    table = ImageTable.open(path)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: importing has had a higher one
    before, begin = _memory("VmRSS"), time.monotonic()
    found = WAYS[way](table)
    return time.monotonic() - begin, _memory("VmHWM") - before, found


def _memory(name: str) -> float:
    """Bytes, as Linux counts them."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return float(line.split()[1]) * 1024


def main() -> int:
    """Print both ways; 1 where they differ or the index takes too much."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-rows", type=int, default=2_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "images.lance"
        ImageTable.open_or_create(path)
        ids = [caption_id(f"caption {index}") for index in range(arguments.num_rows // IMAGES_PER_CAPTION)]
        for start in range(0, len(ids), CHUNK):
            write_images(path, ids[start : start + CHUNK], IMAGES_PER_CAPTION)
        num_rows = len(ImageTable.open(path))
        found: dict[str, Found] = {}
        for way in WAYS:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found[way] = pool.apply(measure, (way, str(path)))
            seconds, size, _ = found[way]
            print(
                f"{way:8} {num_rows:,} rows: {seconds:6.1f} s, {size / num_rows:6.0f} bytes an image at the peak"
            )
    same = found["columns"][2] == found["plain"][2]
    gain = found["plain"][1] / found["columns"][1]
    is_good = same and gain >= LEAST_GAIN
    print(
        f"{'PASSED' if is_good else 'FAILED'}: {'the same images' if same else 'other images'}, {gain:.1f} times less "
        f"memory (at least {LEAST_GAIN:g})"
    )
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
